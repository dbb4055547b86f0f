"""Features on a grid of active voxels, and changes of resolution."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int32
from torch import Tensor

from mvsam3d.nn.sparse.grid import SparseGrid


@dataclass(frozen=True)
class SparseTensor:
    """One row of features per active voxel."""

    feats: Float[Tensor, "voxel *channel"]
    grid: SparseGrid

    def __post_init__(self) -> None:
        assert len(self.feats) == len(self.grid), f"{len(self.feats)} rows of features on {len(self.grid)} voxels"

    @property
    def coords(self) -> Int32[Tensor, "voxel 4"]:
        """Batch index, x, y, z of each row."""
        return self.grid.coords

    def replace(self, feats: Float[Tensor, "voxel *other"]) -> SparseTensor:
        """Other features on the same grid, whose maps stay shared."""
        return SparseTensor(feats, self.grid)


def downsample(x: SparseTensor) -> SparseTensor:
    """Half resolution: sum of the children / (their number + 1). The + 1 is part of the trained public model."""
    coarse = x.grid.coarse
    total = x.feats.new_zeros((len(coarse.grid), *x.feats.shape[1:]), dtype=torch.float32)
    total = total.index_add(0, coarse.index, x.feats.float())
    count = (coarse.children + 1).view(-1, *[1] * (x.feats.dim() - 1))
    return SparseTensor((total / count).to(x.feats.dtype), coarse.grid)


def upsample(x: SparseTensor, grid: SparseGrid) -> SparseTensor:
    """Back to the grid whose `coarse.grid` is this tensor's: each fine voxel takes its cell's features."""
    assert grid.coarse.grid is x.grid, "upsample leads back to the grid that the tensor was downsampled from"
    return SparseTensor(x.feats.index_select(0, grid.coarse.index), grid)


def subdivide(x: SparseTensor) -> SparseTensor:
    """Double resolution: eight children per voxel, each with its features."""
    return SparseTensor(x.feats.repeat_interleave(8, dim=0), x.grid.fine)
