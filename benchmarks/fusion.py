"""Does fusion help? Solid IoU of stage 1 on held-out generated objects: one view, several, several of which one shows another object.

python benchmarks/fusion.py CACHE [--model small] [--objects 100] [--first 0]
"""

import argparse
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from mvsam3d.generation.agreement import OUTLIER, disagreement
from mvsam3d.generation.weighting import ByEntropy
from mvsam3d.geometry.occupancy import occupancy_iou
from mvsam3d.models.bundle import Models
from mvsam3d.models.checkpoints import checkpoint_folder, load_checkpoint
from mvsam3d.pipeline import ReconstructionConfig, agreeing_views, occupancy_logits, shapes_alone, structure_latents
from mvsam3d.training.data import Shards
from mvsam3d.training.view_batch import drawn_views

Maps = dict[str, Float[Tensor, "view _ _ _"]]

WAYS = {
    "joint": ReconstructionConfig(fusion="joint", drop_outliers=False),
    "joint, outliers dropped": ReconstructionConfig(fusion="joint", drop_outliers=True),
    "velocity, plain mean": ReconstructionConfig(fusion="velocity", drop_outliers=False),
    "velocity, outliers dropped": ReconstructionConfig(fusion="velocity", drop_outliers=True),
    **{
        f"velocity, entropy alpha {alpha}": ReconstructionConfig(
            fusion="velocity", structure_weighting=ByEntropy(alpha), drop_outliers=False
        )
        for alpha in (10.0, 30.0, 60.0)
    },
    "joint, entropy alpha 30": ReconstructionConfig(
        fusion="joint", structure_weighting=ByEntropy(30.0), drop_outliers=False
    ),
}


def solid(models: Models, maps: Maps, config: ReconstructionConfig) -> Bool[Tensor, "x y z"]:
    kept = list(agreeing_views(models, maps, config))
    maps = {name: value[kept] for name, value in maps.items()}
    latents = structure_latents(models, maps, config, torch.Generator().manual_seed(0))
    return occupancy_logits(models, latents) > models.config.sampling.occupancy_threshold


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("cache", type=Path)
    parser.add_argument("--model", default="small")
    parser.add_argument("--objects", type=int, default=100)
    parser.add_argument("--first", type=int, default=0)
    arguments = parser.parse_args()
    models, _, _ = load_checkpoint(checkpoint_folder(arguments.model))
    shards = Shards(arguments.cache, ("held_out",))
    rows = np.arange(arguments.first, min(arguments.first + arguments.objects, len(shards)))
    truth = torch.from_numpy(shards.solid(rows, 32))
    sets = [drawn_views(shards, np.array([row]), np.arange(4)[None], pointmap=False, images=True).maps for row in rows]

    def of(maps: list[Maps], config: ReconstructionConfig) -> Float[Tensor, " object"]:
        return occupancy_iou(torch.stack([solid(models, one, config) for one in maps]), truth).solid

    def part(choose: Callable[[Tensor], Tensor]) -> list[Maps]:
        return [{name: choose(value) for name, value in maps.items()} for maps in sets]

    alone = torch.stack([of(part(lambda v, i=i: v[i : i + 1]), WAYS["joint"]) for i in range(4)])
    for views in (2, 4):
        first = alone[:views]
        print(f"{views} views: best single {first.amax(0).mean():.3f}, mean single {first.mean():.3f}", flush=True)
        for name, config in WAYS.items():
            print(f"{views} views, {name}: {of(part(lambda v, n=views: v[:n]), config).mean():.3f}", flush=True)
    # the last view of each set becomes the next object's
    spoilt = [
        {name: torch.cat([maps[name][:3], sets[(i + 1) % len(sets)][name][3:]]) for name in maps}
        for i, maps in enumerate(sets)
    ]
    print(f"one of 4 views of another object: best single {alone[:3].amax(0).mean():.3f}", flush=True)
    for name, config in WAYS.items():
        print(f"one of 4 views of another object, {name}: {of(spoilt, config).mean():.3f}", flush=True)
    copies = [{name: value[:1].repeat(4, 1, 1, 1) for name, value in maps.items()} for maps in sets]
    for name in ("joint", "velocity, plain mean"):
        print(
            f"4 copies of one view, {name}: {of(copies, WAYS[name]).mean():.3f}; that view {alone[0].mean():.3f}",
            flush=True,
        )
    marks = [disagreement(*shapes_alone(models, maps)) for maps in (*sets, *spoilt)]
    honest, odd = torch.stack(marks[: len(sets)]), torch.stack(marks[len(sets) :])
    dropped = (honest > OUTLIER).float().mean(), (odd[:, 3] > OUTLIER).float().mean()
    print(f"beyond the limit of {OUTLIER}: {dropped[0]:.3f} of honest views, {dropped[1]:.3f} of odd ones")
    shares = torch.tensor([0.5, 0.9, 0.99])
    print("quantiles .5 .9 .99 of honest:", honest.flatten().quantile(shares).tolist())
    print("quantiles .5 .1 .01 of odd:", odd[:, 3].quantile(1 - shares).tolist())


if __name__ == "__main__":
    main()
