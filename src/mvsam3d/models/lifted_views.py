"""What the cells of a cube know of photos along known cameras, and what is pooled of it over the views; `views.lifted` makes it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

# What each cell knows of each view: colour (3), of the object only; mask; distance inside the outline; in the photo; to the camera (3)
COLOUR, MASK, DISTANCE, IN_PHOTO = slice(0, 3), 3, 4, 5
VIEW_FEATURES = 9
STATISTICS = 3 + 3 + 1 + 1 + 1  # colour's mean and variance, distance's least and mean, mask's mean
POOLED_BY_HAND = STATISTICS + 3 + 1  # those, place, number of views

WINDOW = 96  # side of the square around the object that the photo network sees, in pixels
PHOTO_CELLS = WINDOW // 4  # side of what it answers
WINDOW_CHANNELS = 4  # colours, 0 off the object, and mask
FARTHEST = 4.0  # cells from the outline beyond which distances are cut, and their unit
# Cells inside the outline; of each, how many views have a cell further in
EDGES = (-1.0, -0.5, -0.25, 0.0, 0.25, 0.5, 1.0, 2.0)
EDGE_WIDTH = 0.1  # cells over which a view passes an edge
EDGE_FEATURES = len(EDGES) + 2 + 1  # those shares, the least two distances, and the number of views
# Of a cell of the half grid in a view: x and y in the window, [-1, 1]; depth from the cube's centre and size of the window, in cubes
SPOT = 4


@dataclass(frozen=True)
class LiftedViews:
    """What the network is given of the views of an object; `views.lifted` makes it."""

    features: Float[Tensor, "batch view x y z feature"]
    windows: Float[Tensor, "shown view channel h w"]  # of each of the batch, or of one if all are of the same photos
    spots: Float[Tensor, "batch view x2 y2 z2 spot"]

    def to(self, device: torch.device | str) -> LiftedViews:
        """The same there."""
        return LiftedViews(self.features.to(device), self.windows.to(device), self.spots.to(device))

    @staticmethod
    def joined(several: Sequence[LiftedViews]) -> LiftedViews:
        """One batch of several, all with as many views."""
        return LiftedViews(
            *(torch.cat([getattr(v, name) for v in several]) for name in ("features", "windows", "spots"))
        )


def statistics(
    features: Float[Tensor, "batch view x y z feature"],
) -> Float[Tensor, "batch x y z statistic"]:
    """Colour's mean and variance where the views show the object, least and mean distance inside the outlines, mean of the masks."""
    colour, mask, distance = features[..., COLOUR], features[..., MASK : MASK + 1], features[..., DISTANCE, None]
    shown = mask.sum(1).clamp(min=1e-3)
    mean = (colour * mask).sum(1) / shown
    variance = ((colour - mean[:, None]).square() * mask).sum(1) / shown
    return torch.cat([mean, variance, distance.amin(1), distance.mean(1), mask.mean(1)], -1)


def pooled(
    features: Float[Tensor, "batch view x y z feature"], learned: Float[Tensor, "batch view x y z channel"]
) -> Float[Tensor, "batch x y z pooled"]:
    """Statistics over the views that neither their order changes nor, but for the last, that all are given twice."""
    batch, views, *size, _ = features.shape
    axes = [torch.linspace(-1, 1, n, device=features.device, dtype=features.dtype) for n in size]
    place = torch.stack(torch.meshgrid(*axes, indexing="ij"), -1).expand(batch, -1, -1, -1, -1)
    number = features.new_full((batch, *size, 1), math.log2(views) / 4)
    return torch.cat([learned.mean(1), learned.amax(1), statistics(features), place, number], -1)


def edges(features: Float[Tensor, "batch view x y z feature"]) -> Float[Tensor, "batch x y z edge"]:
    """How the outlines run through each cell: shares of the views that have it further inside than each of `EDGES`, the least two distances
    as far as a cell, and the number of views."""
    distance = features[..., DISTANCE].float() * FARTHEST
    shares = [torch.sigmoid((distance - edge) / EDGE_WIDTH).mean(1) for edge in EDGES]
    least = distance.clamp(-1, 1).topk(min(2, distance.shape[1]), dim=1, largest=False).values
    number = torch.full_like(shares[0], math.log2(distance.shape[1]) / 4)
    return torch.stack([*shares, least[:, 0], least[:, -1], number], -1)
