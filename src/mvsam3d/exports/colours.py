"""Values -> colours, the same way in all figures."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

STRETCH = (2.0, 98.0)  # percentiles between which colours change
TOLD_APART = 10  # views that have a colour of matplotlib's tab10


@dataclass(frozen=True)
class Scale:
    """How values become colours."""

    colours: str  # matplotlib's name
    low: float
    high: float
    label: str

    def __call__(self, values: Float[np.ndarray, " cell"]) -> Float[np.ndarray, "cell 3"]:
        """sRGB, [0, 1]."""
        from matplotlib import colormaps

        share = (np.clip(values, self.low, self.high) - self.low) / (self.high - self.low)
        return np.asarray(colormaps[self.colours](share)[:, :3])


def stretched(values: Float[np.ndarray, "view latent"], label: str, colours: str = "viridis") -> Scale:
    """Colours that change between two percentiles of all views' values, so that views compare."""
    low, high = (float(edge) for edge in np.percentile(values, STRETCH))
    if high - low < 1e-6:  # all alike: the colour in the middle
        low, high = low - 0.5e-3, high + 0.5e-3
    return Scale(colours, low, high, label)


def view_colours(views: int) -> Float[np.ndarray, "view 3"]:
    """A colour for each view, the same in all figures: told apart up to 10."""
    from matplotlib import colormaps

    if views <= TOLD_APART:
        return np.asarray(colormaps["tab10"](np.arange(views))[:, :3])
    return np.asarray(colormaps["hsv"](np.arange(views) / views)[:, :3])
