"""Stage-2 targets of generated objects: what the surface is like inside each active voxel.

Every active voxel carries a lattice of signed distances and colours: 5^3 points for a mesh decoder that quarters voxels, of which every
other one, 3^3, is what the SLAT encoder is shown. Objects have different voxel counts, so a shard stores rows end to end with offsets.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float32, Int32, Int64

from mvsam3d.training import objects
from mvsam3d.training.data import ShardPlan, generated_object, mapped, save_whole

SUBDIVISION = 4  # the mesh decoder's cells along a voxel's edge
LATTICE = SUBDIVISION + 1
REACH = 2.0  # signed distances are stored up to this many voxels


@dataclass(frozen=True)
class VoxelTargets:
    """The surface inside the active voxels of one object; lattice points in x, y, z order, ends shared with the neighbours."""

    coords: Int32[np.ndarray, "voxel 3"]
    sdf: Float32[np.ndarray, "voxel point"]  # in voxels, negative inside, clamped to +-REACH
    colour: Float32[np.ndarray, "voxel point 3"]  # sRGB in [0, 1]; 0 a voxel or more from the surface


def shell(solid: Bool[np.ndarray, "x y z"]) -> Int32[np.ndarray, "voxel 3"]:
    """Solid cells with an empty cell (or the outside) among their 26 neighbours, sorted: the active voxels of a solid."""
    padded = np.pad(solid, 1)
    inner = padded.copy()
    for axis in range(3):  # separable erosion by one cell; the padding is empty, so nothing wraps round
        inner = inner & np.roll(inner, 1, axis) & np.roll(inner, -1, axis)
    return np.argwhere(solid & ~inner[1:-1, 1:-1, 1:-1]).astype(np.int32)


def lattice(coords: Int32[np.ndarray, "voxel 3"]) -> Int64[np.ndarray, "voxel point 3"]:
    """Each voxel's lattice points, counted in fine cells from the corner of the grid."""
    steps = np.stack(np.meshgrid(*[np.arange(LATTICE)] * 3, indexing="ij"), -1).reshape(-1, 3)
    return coords[:, None].astype(np.int64) * SUBDIVISION + steps


def voxel_targets(thing: objects.GeneratedObject, resolution: int) -> VoxelTargets:
    """Targets of a generated object. Lattice points shared by voxels are evaluated once."""
    coords = shell(objects.solid_grid(thing, resolution))
    side = resolution * SUBDIVISION + 1
    fine = lattice(coords)
    index = (fine[..., 0] * side + fine[..., 1]) * side + fine[..., 2]
    wanted = np.zeros(side**3, bool)
    wanted[index] = True
    flat = np.flatnonzero(wanted)
    row = np.empty(side**3, np.int32)
    row[flat] = np.arange(len(flat), dtype=np.int32)
    points = np.stack([flat // side**2, flat // side % side, flat % side], 1) / (side - 1) - 0.5
    points = np.ascontiguousarray(points, dtype=np.float32)
    sdf = np.clip(objects.signed_distance(thing, points) * resolution, -REACH, REACH)
    near = np.abs(sdf) < 1
    colour = np.zeros_like(points)
    colour[near] = objects.surface_colour(thing, np.ascontiguousarray(points[near]))
    rows = row[index]
    return VoxelTargets(coords, sdf[rows].astype(np.float32), colour[rows].astype(np.float32))


def make_slat_shard(plan: ShardPlan, folder: Path) -> Path:
    """Write the voxel targets of a generated shard's objects beside it, as `<shard>.slat`."""
    path = folder / plan.name.replace(".safetensors", ".slat")
    if path.exists():
        return path
    config = plan.config
    things = (generated_object(plan.seed(i), config) for i in range(config.objects))
    targets = [voxel_targets(thing, config.resolution) for thing in things]
    counts = np.array([len(t.coords) for t in targets], dtype=np.int64)
    tensors: dict[str, np.ndarray] = {
        "offsets": np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
        "coords": np.concatenate([t.coords for t in targets]).astype(np.uint8),
        "sdf": np.round(np.concatenate([t.sdf for t in targets]) * (127 / REACH)).astype(np.int8),
        "colour": np.round(np.concatenate([t.colour for t in targets]).clip(0, 1) * 255).astype(np.uint8),
    }
    save_whole(tensors, path)
    return path


class SlatShards:
    """Voxel targets of the objects of some generated shards, in the shards' order."""

    def __init__(self, files: list[Path]) -> None:
        self.tensors = [mapped(path) for path in files]
        self.starts = np.cumsum([0] + [len(t["offsets"]) - 1 for t in self.tensors])

    def __len__(self) -> int:
        return int(self.starts[-1])

    def __getitem__(self, number: int) -> VoxelTargets:
        shard = int(np.searchsorted(self.starts, number, side="right") - 1)
        tensors, row = self.tensors[shard], number - int(self.starts[shard])
        start, stop = (int(o) for o in tensors["offsets"][row : row + 2])
        return VoxelTargets(
            tensors["coords"][start:stop].astype(np.int32),
            tensors["sdf"][start:stop].astype(np.float32) * np.float32(REACH / 127),
            tensors["colour"][start:stop].astype(np.float32) / np.float32(255),
        )
