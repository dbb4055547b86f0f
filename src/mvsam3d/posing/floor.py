"""Where an object stands: cameras that look down never see what is below it, and outlines leave a cone there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from jaxtyping import Bool

from mvsam3d.geometry.cameras import centre
from mvsam3d.geometry.hull import Cube, uncovered
from mvsam3d.posing.known_shape import KnownShape, log_odds
from mvsam3d.types import Camera

BESIDE = 0.5  # cells from the shape's outline beyond which a pixel of a mask is left out by it
COST = 0.002  # of the masks that what stands on the floor may leave out more than the whole
LOWER = 2  # layers by which the floor lies below the lowest place that the masks need: they are sure of it to so much
BELOW = 3.0  # log odds against cells below the floor; what the shape says with more certainty than that stays


def standing(shape: KnownShape, cameras: Sequence[Camera], masks: Sequence[Bool[np.ndarray, "_ _"]]) -> KnownShape:
    """The shape on its floor: less is thought to lie below the lowest layer that any mask needs.

    COST and LOWER are the best for 44 training objects photographed in rings. On 60 others, with 4 and 8 views, the solid's IoU goes from
    .684 to .687 and from .699 to .702: at best by .28, where a cone goes, at worst by -.09, where something thin that the photos look down
    on does.

    Args:
        shape: in a cube whose third axis is up.
        cameras: of the photos' pixels, with the shape's world as theirs.
        masks: theirs.
    Returns: the same shape if a camera stands below its middle.
    """
    if min(float(centre(camera)[2]) for camera in cameras) < shape.cube.centre[2]:
        return shape
    floor = floor_layer(shape.probability > 0.5, shape.cube, cameras, masks)
    odds = log_odds(shape.probability)
    odds[:, :, :floor] -= BELOW
    return replace(shape, probability=1 / (1 + np.exp(-odds)))


def floor_layer(
    solid: Bool[np.ndarray, "x y z"], cube: Cube, cameras: Sequence[Camera], masks: Sequence[Bool[np.ndarray, "_ _"]]
) -> int:
    """The layer that a solid stands on: all layers below it can go, and the rest still covers the masks as well."""

    def left_out(below: int) -> float:
        kept = solid.copy()
        kept[:, :, :below] = False
        return float(uncovered(kept, cube, cameras, masks, BESIDE).mean())

    layers = np.flatnonzero(solid.any((0, 1)))
    if len(layers) == 0:
        return 0
    low, high = int(layers[0]), int(layers[-1])  # layers below `low` can go, those below `high` can not
    whole = left_out(low)
    while high - low > 1:
        middle = (low + high) // 2
        if left_out(middle) - whole <= COST:
            low = middle
        else:
            high = middle
    return max(low - LOWER, 0)
