"""Work of the public order of evaluation and of ours: operations at full size by formula, seconds with a checkpoint in one run.

python benchmarks/schedules.py [--model small] [--views 4] [--steps 10] [--no-time]
"""

import argparse
import time
from collections.abc import Callable
from dataclasses import replace

import torch

from mvsam3d.generation import slat_stage, structure_stage
from mvsam3d.generation.budget import MemoryBudget
from mvsam3d.generation.cost import SlatCost, StructureCost, slat_run, structure_run
from mvsam3d.generation.guidance import Guidance
from mvsam3d.generation.public_schedule import public_slat, public_structure
from mvsam3d.generation.running_weights import Recording
from mvsam3d.generation.slat_stage import SlatSampling, SlatStatistics, sample_slat
from mvsam3d.generation.structure_stage import StructureSampling, sample_structure
from mvsam3d.generation.weighting import ByEntropy
from mvsam3d.models.checkpoints import checkpoint_folder, load_checkpoint
from mvsam3d.models.config import SAM3D
from mvsam3d.types import Conditions, Span, Voxels

# Of the public model: 20,000 voxels on a surface, 4,500 tokens of the transformer; 17 neighbours of a voxel, 15 of a token.
STRUCTURE = StructureCost(SAM3D.structure.flow, keys=7528, patches=1369)
SLAT = SlatCost(SAM3D.slat.flow, keys=5496, patches=1369, rows=(20_000, 4_500), pairs=(340_000, 67_500))


def operations() -> None:
    print("| views | public, TFLOP | ours | ratio | without kept keys and values | stage 1 | stage 2 |\n|" + "---|" * 7)
    for views in (1, 2, 4, 8, 16):
        one, two = structure_run(views), slat_run(views)
        public = STRUCTURE.public(one), SLAT.public(two)
        ours = STRUCTURE.ours(one), SLAT.ours(two)
        anew = STRUCTURE.ours(one, kept=False) + SLAT.ours(two, kept=False)
        ratios = sum(ours) / sum(public), anew / sum(public), ours[0] / public[0], ours[1] / public[1]
        numbers = f"{sum(public) / 1e12:.0f} | {sum(ours) / 1e12:.0f}"
        print(f"| {views} | {numbers} | " + " | ".join(f"{ratio:.3f}" for ratio in ratios) + " |")


def timed(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


@torch.no_grad()
def seconds(model: str, views: int, steps: int) -> None:
    """Both orders of work, in turns; random condition tokens and voxels of a sphere: time does not depend on what they say."""
    models, size, _ = load_checkpoint(checkpoint_folder(model))
    generator = torch.Generator().manual_seed(0)
    data = size.prediction == "data"

    def conditions(channels: int, tokens: int) -> Conditions:
        return Conditions(torch.randn(views, tokens, channels, generator=generator), (Span("image", 0, tokens // 2),))

    def noise() -> torch.Generator:
        return torch.Generator().manual_seed(1)

    flow = size.structure.flow
    block = Recording(min(6, flow.blocks - 1))
    one = StructureSampling(steps, guidance=Guidance(2.0), weighting=ByEntropy(), recording=block)
    two = SlatSampling(steps, guidance=Guidance(1.0), weighting=ByEntropy(), recording=block, noise_compat=True)
    seen_one, seen_two = conditions(flow.cond_channels, 64), conditions(size.slat.flow.cond_channels, 64)
    side = size.slat.flow.resolution
    cells = torch.cartesian_prod(*[torch.arange(side, dtype=torch.int32)] * 3)
    radius = (cells + 0.5 - side / 2).norm(dim=1)
    voxels = Voxels(cells[(radius < side * 0.45) & (radius > side * 0.45 - 2)], side)
    statistics = SlatStatistics(size.slat.mean, size.slat.std)
    step_size = 0.0 if flow.step_embedding else None

    def ours(budget: MemoryBudget) -> None:
        velocity = structure_stage.network_velocity(models.structure_flow, predicts_data=data, step_size=step_size)
        chunks = structure_stage.view_chunks(models.structure_flow, seen_one, one, budget)
        sample_structure(velocity, chunks, (flow.grid**3, flow.latent_channels), one, noise())
        velocity = slat_stage.network_velocity(models.slat_flow, predicts_data=data)
        chunks = slat_stage.view_chunks(models.slat_flow, seen_two, voxels, two, budget)
        show = slat_stage.network_attention(models.slat_flow)
        sample_slat(velocity, chunks, voxels, statistics, two, noise(), show_attention=show)

    def public() -> None:
        public_structure(models.structure_flow, seen_one, one, noise(), predicts_data=data)
        public_slat(models.slat_flow, seen_two, voxels, statistics, two, noise(), predicts_data=data)

    budget = MemoryBudget()
    ways = {
        "public": public,
        "ours": lambda: ours(budget),
        "ours, one view at a time": lambda: ours(replace(budget, activations=1)),
    }
    taken: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(4):
        for name, way in ways.items():
            spent = timed(way)
            if turn:  # the first is for warming up
                taken[name].append(spent)
    best = {name: min(times) for name, times in taken.items()}
    for name, spent in best.items():
        print(
            f"{views} views, {steps} steps, {len(voxels.coords)} voxels, {name}: {spent:.2f} s, ratio {spent / best['public']:.2f}"
        )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", default="small")
    parser.add_argument("--views", type=int, default=8)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--no-time", action="store_true")
    arguments = parser.parse_args()
    operations()
    if not arguments.no_time:
        seconds(arguments.model, arguments.views, arguments.steps)


if __name__ == "__main__":
    main()
