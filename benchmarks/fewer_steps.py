"""Fewer evaluations of stage 1: what carrying velocities on between steps costs and saves, on held-out generated objects.

python benchmarks/fewer_steps.py CACHE [--objects 20] [--steps 12 25] [--every 1 2 3] [--views 2] [--model small]

Distance of the structure latents from those of the full run (relative, root mean square), IoU of both solids, IoU with the
truth, and time of stage 1 beside the full run's. Ordinary runs of the small model take one step: this measures the method.
"""

import argparse
import time
from pathlib import Path

import torch
from fusion import Case, load_case

from mvsam3d.geometry.occupancy import iou
from mvsam3d.models.bundle import Models
from mvsam3d.models.checkpoints import checkpoint_folder, load_checkpoint
from mvsam3d.nn.precision import use_fast_exact_matmul
from mvsam3d.options import ReconstructionConfig
from mvsam3d.pipeline import occupancy_logits, structure_latents


def solid_of(
    models: Models, case: Case, views: int, steps: int, every: int
) -> tuple[torch.Tensor, torch.Tensor, float]:
    config = ReconstructionConfig(structure_steps=steps, structure_every=every)
    photos, noise = case.photos.part(range(views)), torch.Generator().manual_seed(case.number)
    start = time.perf_counter()
    latents = structure_latents(models, photos.maps, config, noise)
    seconds = time.perf_counter() - start
    return latents.shape, occupancy_logits(models, latents) > models.config.sampling.occupancy_threshold, seconds


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cache", type=Path)
    parser.add_argument("--objects", type=int, default=20)
    parser.add_argument("--steps", type=int, nargs="+", default=[12, 25])
    parser.add_argument("--every", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--views", type=int, default=2)
    parser.add_argument("--model", default="small")
    arguments = parser.parse_args()
    use_fast_exact_matmul()
    models, _, _ = load_checkpoint(checkpoint_folder(arguments.model))
    cases = [load_case(arguments.cache / "fusion", number) for number in range(arguments.objects)]
    print(
        "| steps | asked in every | latents off | IoU with the full run | IoU with the truth | time |\n|---|---|---|---|---|---|"
    )
    for steps in arguments.steps:
        full = [solid_of(models, case, arguments.views, steps, 1) for case in cases]
        for every in arguments.every:
            rows = []
            for case, (latents, solid, seconds) in zip(cases, full, strict=True):
                other, found, spent = solid_of(models, case, arguments.views, steps, every)
                off = float((other - latents).square().mean().sqrt() / latents.square().mean().sqrt())
                alike, true = float(iou(found[None], solid[None])), float(iou(found[None], case.solid[None]))
                rows.append([off, alike, true, spent / seconds])
            off, alike, true, share = torch.tensor(rows).mean(0).tolist()
            print(f"| {steps} | {every} | {off:.3f} | {alike:.3f} | {true:.3f} | {share:.2f} |", flush=True)


if __name__ == "__main__":
    main()
