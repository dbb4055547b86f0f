"""Small random grids for the tests of sparse networks."""

from collections.abc import Sequence

import torch

from mvsam3d.nn.sparse import SparseGrid


def random_grid(counts: Sequence[int], resolution: int, seed: int = 0) -> SparseGrid:
    """One element per count, distinct cells in a random order."""
    noise = torch.Generator().manual_seed(seed)
    elements = []
    for count in counts:
        cell = torch.randperm(resolution**3, generator=noise)[:count]
        axes = [cell // resolution**2, cell // resolution % resolution, cell % resolution]
        elements.append(torch.stack(axes, dim=1).int())
    return SparseGrid.batched(elements)


def shell_grid(voxels: int, resolution: int) -> SparseGrid:
    """The cells nearest to a sphere: what a surface looks like to the networks."""
    axis = torch.arange(resolution)
    cells = torch.cartesian_prod(axis, axis, axis)
    distance = ((cells - (resolution - 1) / 2).norm(dim=1) - 0.45 * resolution).abs()
    chosen = distance.argsort()[:voxels].sort().values
    return SparseGrid.batched([cells[chosen].int()])
