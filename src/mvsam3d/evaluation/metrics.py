"""Measures of a reconstruction over many objects, pure functions."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float
from scipy.ndimage import label
from torch import Tensor

from mvsam3d.geometry.occupancy import OccupancyIou, occupancy_iou


@dataclass(frozen=True)
class Score:
    """A mean over objects."""

    mean: float
    error: float | None  # standard error of the mean; a single object has none


def score(values: Float[Tensor, " object"]) -> Score:
    """Mean and standard error of independent values."""
    error = float(values.std()) / math.sqrt(len(values)) if len(values) > 1 else None
    return Score(float(values.mean()), error)


def filled(occupied: Bool[Tensor, "batch x y z"]) -> Bool[Tensor, "batch x y z"]:
    """Each grid with its cavities: the empty cells from which no path through faces leads outside."""
    return torch.from_numpy(np.stack([_filled(grid) for grid in occupied.numpy()]))


def _filled(occupied: Bool[np.ndarray, "x y z"]) -> Bool[np.ndarray, "x y z"]:
    parts, _ = label(np.pad(~occupied, 1, constant_values=True))  # 0 in occupied cells
    enclosed: Bool[np.ndarray, "x y z"] = parts != parts[0, 0, 0]
    return enclosed[1:-1, 1:-1, 1:-1]


def filled_iou(predicted: Bool[Tensor, "batch x y z"], truth: Bool[Tensor, "batch x y z"]) -> OccupancyIou:
    """IoU of the solids that two sets of occupied cells enclose, and of their outer surface cells."""
    return occupancy_iou(filled(predicted), filled(truth))
