"""How well two occupancy grids agree: of their solids, and of their surface cells."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor


@dataclass(frozen=True)
class OccupancyIou:
    """Intersection over union of each object's grid, in [0, 1]."""

    solid: Float[Tensor, " batch"]
    surface: Float[Tensor, " batch"]


def surface(solid: Bool[Tensor, "batch x y z"]) -> Bool[Tensor, "batch x y z"]:
    """Solid cells with an empty cell, or the outside of the grid, among their 26 neighbours."""
    empty = F.pad(~solid, (1, 1, 1, 1, 1, 1), value=True)
    return solid & (F.max_pool3d(empty.float(), 3, stride=1) > 0)


def iou(a: Bool[Tensor, "batch x y z"], b: Bool[Tensor, "batch x y z"]) -> Float[Tensor, " batch"]:
    """Intersection over union; 1 where both are empty."""
    either = (a | b).sum((1, 2, 3))
    return torch.where(either > 0, (a & b).sum((1, 2, 3)) / either.clamp(min=1), 1.0)


def occupancy_iou(predicted: Bool[Tensor, "batch x y z"], truth: Bool[Tensor, "batch x y z"]) -> OccupancyIou:
    """IoU of the solids and of their surface cells."""
    return OccupancyIou(iou(predicted, truth), iou(surface(predicted), surface(truth)))
