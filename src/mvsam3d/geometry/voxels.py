"""Indices of a cubic grid <-> coordinates of the object frame: cell i covers [i, i + 1) / resolution - 0.5."""

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, Int32
from torch import Tensor


def all_cells(resolution: int) -> Int32[Tensor, "voxel 3"]:
    """Every cell, z fastest: the order of the structure latents."""
    axis = torch.arange(resolution, dtype=torch.int32)
    return torch.cartesian_prod(axis, axis, axis)


def centres(coords: Int[Tensor, "voxel 3"], resolution: int) -> Float[Tensor, "voxel 3"]:
    """Centre of each cell, in (-0.5, 0.5)."""
    return (coords.float() + 0.5) / resolution - 0.5


def lower_corners(coords: Int[Tensor, "voxel 3"], resolution: int) -> Float[Tensor, "voxel 3"]:
    """Corner of least x, y, z of each cell: the position that the public system shows."""
    return coords.float() / resolution - 0.5


def cells(points_object: Float[Tensor, "voxel 3"], resolution: int) -> Int32[Tensor, "voxel 3"]:
    """The cell that holds each point; points outside the cube go to the nearest cell."""
    return ((points_object + 0.5) * resolution).floor().clamp(0, resolution - 1).to(torch.int32)


def resampled(values: Float[np.ndarray, "x y z"], resolution: int) -> Float[np.ndarray, "x2 y2 z2"]:
    """Values at the middles of cells -> at those of another grid of the same cube, trilinear."""
    grid = torch.from_numpy(values)[None, None]
    out = F.interpolate(grid, size=(resolution,) * 3, mode="trilinear", align_corners=False)
    other: Float[np.ndarray, "x2 y2 z2"] = out[0, 0].numpy()
    return other
