"""Figures of how values spread, a panel or a box a view."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float

from mvsam3d.exports.colours import STRETCH, view_colours

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DPI = 150
BINS = 50


def histograms(
    path: Path,
    title: str,
    names: Sequence[str],
    values: Float[np.ndarray, "view latent"],
    label: str,
    mark: float | None,
) -> None:
    """A panel a view on common axes. `mark`: a value to compare with."""
    columns = min(len(names), 4)
    rows = math.ceil(len(names) / columns)
    figure = _figure(2.9 * columns + 0.6, 2.3 * rows + 0.7)
    figure.suptitle(title)
    low, high = float(values.min()), float(values.max())
    if high - low < 1e-6:
        low, high = low - 0.5e-3, high + 0.5e-3
    panels = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    for i, axes in enumerate(panels.flat):
        if i >= len(names):
            axes.axis("off")
            continue
        axes.hist(values[i], bins=BINS, range=(low, high), color=view_colours(len(names))[i])
        axes.axvline(values[i].mean(), color="black", linewidth=1, label=f"mean {values[i].mean():.3f}")
        if mark is not None:
            axes.axvline(mark, color="grey", linewidth=1, linestyle="--", label=f"all alike {mark:.3f}")
        axes.set_title(f"view {names[i]}", fontsize=9)
        axes.legend(fontsize=7)
        axes.tick_params(labelsize=7)
    figure.supxlabel(label, fontsize=9)
    figure.supylabel("latents", fontsize=9)
    _save(figure, path)


def boxes(
    path: Path, names: Sequence[str], stages: Sequence[tuple[str, Float[np.ndarray, "view _"]]], label: str
) -> None:
    """A box a view (median, quartiles, 2nd and 98th percentile), a panel a stage."""
    figure = _figure(max(4.5, 1.0 + 0.8 * len(names)) * len(stages), 3.6)
    for axes, (title, values) in zip(figure.subplots(1, len(stages), squeeze=False)[0], stages, strict=True):
        drawn = axes.boxplot(list(values), whis=STRETCH, showfliers=False, patch_artist=True, widths=0.6)
        for box, colour in zip(drawn["boxes"], view_colours(len(names)), strict=True):
            box.set_facecolor(colour)
        for line in drawn["medians"]:
            line.set_color("black")
        axes.set_xticks(range(1, len(names) + 1), list(names), rotation=30 if max(map(len, names)) > 6 else 0)
        axes.set_title(title, fontsize=10)
        axes.set_xlabel("view")
        axes.grid(axis="y", alpha=0.3)
        axes.set_ylabel(label, fontsize=8)
    _save(figure, path)


def _figure(width: float, height: float) -> Figure:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _save(figure: Figure, path: Path) -> None:
    figure.savefig(path, dpi=DPI, metadata={"Software": None})  # the version would change the bytes
