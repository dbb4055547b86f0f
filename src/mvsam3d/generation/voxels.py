"""Occupancy of stage 1 -> the voxels that stage 2 works on."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int32
from torch import Tensor

from mvsam3d.types import Voxels

PUBLIC_LIMIT = 42_000  # the public mesh decoder's compiled convolutions index with 31 bits: 64 * 768 * voxels < 2^31


@dataclass(frozen=True)
class VoxelsConfig:
    """How occupancy becomes voxels. Nothing limits their number."""

    threshold: float = 0.0
    """Logit above which a cell is occupied."""
    prune_distance: int | None = 1
    """Drop voxels whose neighbourhood of this many cells to each side is full; None keeps the inside."""


def occupied_voxels(logits: Float[Tensor, "r r r"], config: VoxelsConfig) -> Voxels:
    """Cells with a logit above the threshold, without those deep inside."""
    voxels = Voxels((logits > config.threshold).nonzero().int(), logits.shape[0])
    return voxels if config.prune_distance is None else prune_inside(voxels, config.prune_distance)


def prune_inside(voxels: Voxels, distance: int) -> Voxels:
    """Keep a voxel unless the (2 distance + 1)^3 cells around it are all occupied; outside the grid all is empty."""
    empty = torch.ones((voxels.resolution + 2 * distance,) * 3, device=voxels.coords.device)
    place = (voxels.coords.long() + distance).unbind(1)
    empty[place] = 0.0
    size = 2 * distance + 1
    near_empty = F.max_pool3d(empty[None, None], size, stride=1, padding=distance)[0, 0]
    return Voxels(voxels.coords[near_empty[place] > 0], voxels.resolution)


def limit_voxels(voxels: Voxels, most: int, noise: torch.Generator, *, factor: int = 2) -> tuple[Voxels, int]:
    """At most `most` voxels, by shrinking and then by leaving out, and the factor by which the object is to be scaled.

    Only for comparison with the public system: it loses detail. Shrinking goes towards the centre of the bounding box;
    should that not do, a random subset remains, in random order.

    Args:
        noise: CPU generator of the subset.
    Returns: the voxels, and 1 (nothing changed) or `factor`, to multiply the predicted scale with.
    Source: SAM 3D Objects, downsample_sparse_structure.
    """
    if len(voxels.coords) <= most:
        return voxels, 1
    coords = _shrunk(voxels.coords, factor)
    if len(coords) > most:
        coords = coords[torch.randperm(len(coords), generator=noise)[:most].to(coords.device)]
    return Voxels(coords, voxels.resolution), factor


def _shrunk(coords: Int32[Tensor, "voxel 3"], factor: int) -> Int32[Tensor, "rest 3"]:
    low, high = coords.amin(dim=0), coords.amax(dim=0)
    size = (high - low + 1).float()
    target = size / factor
    start = low + (size - target) / 2
    relative = (coords - low) / (high - low).clamp(min=1)  # an extent of one cell stays at the start
    placed = (relative * (target - 1) + start).round()
    end = start + (target - 1).clamp(min=0)
    unique: Tensor = torch.unique(placed.int().clamp(start.int(), end.int()), dim=0)
    return unique
