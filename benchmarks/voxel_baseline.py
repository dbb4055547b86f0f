"""The voxel baseline and the small model on the same held-out objects, and the difference object by object.

python benchmarks/voxel_baseline.py CACHE WEIGHTS [--model small] [--objects N]
"""

import argparse
from pathlib import Path

import numpy as np
import torch

from mvsam3d.evaluation.benchmark import predicted_solid
from mvsam3d.evaluation.metrics import filled_iou, paired_difference, score
from mvsam3d.models.bundle import Models
from mvsam3d.models.checkpoints import checkpoint_folder, load_checkpoint
from mvsam3d.models.voxel_baseline import VoxelBaseline, occupied, read_baseline
from mvsam3d.nn.precision import use_fast_exact_matmul
from mvsam3d.training.data import Shards
from mvsam3d.training.tasks.voxel_baseline import THRESHOLDS, predicted
from mvsam3d.training.view_batch import drawn_views

VIEWS = (1, 2, 4)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("cache", type=Path)
    parser.add_argument("weights", type=Path)
    parser.add_argument("--model", help="also measure this model, and the difference")
    parser.add_argument("--objects", type=int)
    arguments = parser.parse_args()
    use_fast_exact_matmul()
    network, card = read_baseline(arguments.weights)
    models = load_checkpoint(checkpoint_folder(arguments.model))[0] if arguments.model else None
    print(f"{sum(p.numel() for p in network.parameters()):,} parameters, threshold {network.config.threshold}, {card}")
    for kind in ("held_out", "held_out_mesh"):
        shards = Shards(arguments.cache, (kind,))
        rows = np.arange(min(arguments.objects or len(shards), len(shards)))
        for views in VIEWS if len(rows) else ():
            compare(network, models, shards, rows, views)


def compare(network: VoxelBaseline, models: Models | None, shards: Shards, rows: np.ndarray, views: int) -> None:
    """The first views of each object, as `evaluation/benchmark.py` takes them, and its measure."""
    truth = torch.from_numpy(shards.solid(rows, network.config.resolution))
    logits = predicted(network, shards, rows, np.tile(np.arange(views), (len(rows), 1)))
    by = {t: filled_iou(occupied(logits, t), truth) for t in sorted({*THRESHOLDS, network.config.threshold})}
    chosen = by[network.config.threshold]
    solid, surface = score(chosen.solid), score(chosen.surface)
    others = ", ".join(f"{float(iou.solid.mean()):.3f} at {t:g}" for t, iou in by.items())
    print(
        f"{shards.kinds[0]}, {views} views, {len(rows)} objects: solid {solid.mean:.3f} +- {solid.error or 0:.3f}, "
        f"surface {surface.mean:.3f} ({others})",
        flush=True,
    )
    if models is None:
        return
    ours = filled_iou(torch.stack([of_model(models, shards, int(row), views) for row in rows]), truth)
    gain = paired_difference(ours.solid, chosen.solid, torch.Generator().manual_seed(0))
    print(
        f"  the model {score(ours.solid).mean:.3f}, surface {score(ours.surface).mean:.3f}; it is better by {gain.mean:.3f} "
        f"({gain.low:.3f} to {gain.high:.3f})",
        flush=True,
    )


def of_model(models: Models, shards: Shards, row: int, views: int) -> torch.Tensor:
    maps = drawn_views(shards, np.array([row]), np.arange(views)[None], pointmap=False, images=True).maps
    return predicted_solid(models, maps, None, torch.Generator().manual_seed(row))


if __name__ == "__main__":
    torch.set_grad_enabled(False)
    main()
