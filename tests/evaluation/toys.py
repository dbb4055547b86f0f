"""Small shards of made-up objects: boxes, each with photos in a colour of its own."""

from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from mvsam3d.training.data import Kind, Shards


def box(side: int, resolution: int = 32) -> np.ndarray:
    grid = np.zeros((resolution,) * 3, bool)
    grid[:side, :side, :side] = True
    return grid


def photos(seed: int, views: int, size: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    noise = rng.integers(0, 64, (views, size, size, 3))
    return (noise + rng.integers(0, 192, 3)).astype(np.uint8)


def toy_shards(
    folder: Path, kind: Kind, solids: list[np.ndarray], classes: list[int], photo_seeds: list[int], *, views: int = 4
) -> Shards:
    """A shard of given solids; objects with the same photo seed look alike."""
    size, count = 112, len(solids)
    mask = np.zeros((size, size), bool)
    mask[20:90, 20:90] = True
    camera, intrinsics = np.eye(4, dtype=np.float32), np.diag([150, 150, 1]).astype(np.float32)
    camera[2, 3], intrinsics[:2, 2] = 2, size / 2
    tensors = {
        "seed": np.arange(count),
        "class": np.array(classes, np.int16),
        "solid": np.stack([np.packbits(solid.reshape(-1)) for solid in solids]),
        "rgb": np.stack([photos(seed, views, size) for seed in photo_seeds]),
        "mask": np.tile(np.packbits(mask.reshape(-1)), (count, views, 1)),
        "intrinsics": np.tile(intrinsics, (count, views, 1, 1)),
        "camera_from_object": np.tile(camera, (count, views, 1, 1)),
    }
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / f"{kind}-00000.safetensors")
    return Shards(folder, (kind,))
