"""Stage 1 by steps, guidance, start and threshold on held-out shards: what the small model's sampling defaults come from.

python benchmarks/structure_views.py CACHE [--model small] [--objects 100]
"""

import argparse
from pathlib import Path

import numpy as np
import torch

from mvsam3d.generation.guidance import Guidance, guided, without_condition
from mvsam3d.generation.latents import combine, structure_noise
from mvsam3d.generation.schedule import shortcut_times
from mvsam3d.generation.solver import solve
from mvsam3d.generation.structure_stage import network_velocity
from mvsam3d.geometry.occupancy import occupancy_iou
from mvsam3d.models.checkpoints import checkpoint_folder, load_checkpoint
from mvsam3d.models.structure_vae import grid_from_tokens
from mvsam3d.training.data import Shards
from mvsam3d.training.view_batch import drawn_views

THRESHOLDS = (-1.0, -0.5, 0.0, 0.5, 1.0)


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("cache", type=Path)
    parser.add_argument("--model", default="small")
    parser.add_argument("--objects", type=int, default=100)
    arguments = parser.parse_args()
    models, config, _ = load_checkpoint(checkpoint_folder(arguments.model))
    flow, patch = config.structure.flow, config.structure.vae.token_patch
    velocity = network_velocity(models.structure_flow, predicts_data=config.prediction == "data")
    for kind in ("held_out", "held_out_mesh"):
        shards = Shards(arguments.cache, (kind,))
        if not len(shards):
            continue
        rows = np.arange(min(arguments.objects, len(shards)))
        truth = torch.from_numpy(shards.solid(rows, 32))
        for views in (1, 4):
            batch = drawn_views(shards, rows, np.tile(np.arange(views), (len(rows), 1)), pointmap=False, images=True)
            conditions = models.structure_condition(batch.maps, views)
            empty = without_condition(conditions)
            for steps, strength, scale in (
                (1, 0.0, 0.0),
                (1, 0.5, 0.0),
                (1, 1.0, 0.0),
                (1, 0.0, 1.0),
                (4, 0.0, 1.0),
                (10, 0.0, 1.0),
                (10, 2.0, 1.0),
            ):
                noise = structure_noise(
                    flow.grid**3, flow.latent_channels, torch.Generator().manual_seed(0), batch=len(rows)
                )
                x = combine(lambda latent, s=scale: latent * s, noise)
                field = guided(
                    lambda x, t, c=conditions: velocity(x, t, c),
                    lambda x, t, c=empty: velocity(x, t, c),
                    Guidance(strength),
                )
                x = solve(field, x, shortcut_times(steps, 1.0))
                logits = models.structure_decoder(grid_from_tokens(x.shape, patch))[:, 0]
                scores = [float(occupancy_iou(logits > t, truth).solid.mean()) for t in THRESHOLDS]
                line = "  ".join(f"{t:+.1f}: {s:.3f}" for t, s in zip(THRESHOLDS, scores, strict=True))
                print(
                    f"{kind} {views} view(s), {steps} step(s), guidance {strength}, noise {scale}:  {line}", flush=True
                )


if __name__ == "__main__":
    main()
