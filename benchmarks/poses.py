"""Poses of generated held-out objects: how far off the predicted ones and the ones found by looking are.

python benchmarks/poses.py CACHE [--model small] [--objects 25] [--first 0] [--colour 0.5]

Angles are between the true and the found rotation; for an object that looks alike from several sides, another of these counts as wrong.
"""

import argparse
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from mvsam3d.errors import NothingFound
from mvsam3d.generation.pose import camera_from_object
from mvsam3d.models.checkpoints import checkpoint_folder, load_checkpoint
from mvsam3d.options import ReconstructionConfig
from mvsam3d.pipeline import reconstruct
from mvsam3d.posing.search import PoseSearch
from mvsam3d.training.data import Shards
from mvsam3d.types import Photo


def turn_between(a: np.ndarray, b: np.ndarray) -> float:
    r, q = (m[:3, :3] / np.cbrt(np.linalg.det(m[:3, :3])) for m in (a, b))
    return math.degrees(math.acos(np.clip((np.trace(r @ q.T) - 1) / 2, -1, 1)))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("cache", type=Path)
    parser.add_argument("--model", default="small")
    parser.add_argument("--objects", type=int, default=25)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--colour", type=float, default=PoseSearch().colour)
    arguments = parser.parse_args()
    models, _, _ = load_checkpoint(checkpoint_folder(arguments.model))
    shards = Shards(arguments.cache, ("held_out",))
    search = replace(PoseSearch(), colour=arguments.colour)
    off: dict[str, list[float]] = {"predicted": [], "found": []}
    seconds = 0.0
    for row in range(arguments.first, min(arguments.first + arguments.objects, len(shards))):
        number = np.array([row])
        size = shards.tensors[0]["rgb"].shape[2]
        pictures = zip(shards.rows(number, "rgb")[0], shards.masks(number, size)[0], strict=True)
        photos = [Photo(str(i), rgb, mask) for i, (rgb, mask) in enumerate(pictures)]
        truth = shards.rows(number, "camera_from_object")[0]
        for name in off:
            config = ReconstructionConfig(search_poses=name == "found", pose_search=search, drop_outliers=False)
            try:
                result = reconstruct(photos, models, config, torch.Generator().manual_seed(0))
            except NothingFound as problem:
                print(f"object {row} left out: {problem}")
                break
            off[name] += [
                turn_between(camera_from_object(pose).numpy(), true)
                for pose, true in zip(result.poses, truth, strict=True)
            ]
            seconds += result.seconds["poses"]
    for name, angles in off.items():
        values = np.array(angles)
        near = ", ".join(f"{(values < limit).mean():.2f} within {limit}" for limit in (15, 30, 45))
        print(f"{name}: median {np.median(values):.0f} degrees, {near} ({len(values)} views)")
    print(f"{seconds / max(len(off['found']), 1):.2f} s a view")


if __name__ == "__main__":
    main()
