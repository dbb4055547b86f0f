"""What to do in stage 1 with a shape that cameras show: ways of guidance on held-out generated objects, true cameras.

python benchmarks/guidance.py CACHE [--first 0] [--objects 40] [--views 2 4] [--model small] [--out table.json]

The known shape is what the lifting network (and the hull) make of the photos, in the object's own frame, so that nothing here depends on
finding that frame. Every way starts from the same noise; the threshold is the model's own. Ways that end with "+ odds" add the log odds of
the known shape to the decoded ones, as `mvsam3d reconstruct` does.
"""

import argparse
import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from fusion import Case, load_case
from torch import Tensor

from mvsam3d.evaluation.metrics import paired_difference
from mvsam3d.generation.steering import Steering, climbed, constant, pulled
from mvsam3d.geometry.hull import Cube, soft_hull
from mvsam3d.geometry.occupancy import occupancy_iou
from mvsam3d.geometry.voxels import resampled
from mvsam3d.io.runs import write_whole
from mvsam3d.models.bundle import Models
from mvsam3d.models.checkpoints import ENCODERS, checkpoint_folder, load_checkpoint, load_strictly, read_weights
from mvsam3d.models.structure_vae import StructureEncoder, grid_from_tokens, tokens_from_grid
from mvsam3d.nn.precision import use_fast_exact_matmul
from mvsam3d.options import ReconstructionConfig
from mvsam3d.pipeline import occupancy_logits, structure_latents
from mvsam3d.posing.known_shape import agreed_chance, lifted_probability

OBJECT = Cube(np.zeros(3), 1.0)
LIMIT = 4.0  # of the model's log odds
SHARE = 1.0  # of them beside those of the known shape, whose frame is right here
BASELINE = "model, 1 step + odds"


@dataclass(frozen=True)
class Guided:
    """What is known of one object, and the networks that use it."""

    models: Models
    case: Case
    views: int
    chance: Tensor  # of occupancy, [x y z] in the object frame
    latents: Tensor  # of the encoder

    def solid_logits(self, steering: Steering | None, steps: int) -> Tensor:
        photos, config = self.case.photos.part(range(self.views)), ReconstructionConfig(structure_steps=steps)
        noise = torch.Generator().manual_seed(self.case.number)
        return occupancy_logits(
            self.models, structure_latents(self.models, photos.maps, config, noise, steering=steering)
        )

    @property
    def odds(self) -> Tensor:
        return torch.logit(self.chance.clamp(1e-3, 1 - 1e-3))

    def decoded(self, shape: Tensor) -> Tensor:
        patch = self.models.config.structure.vae.token_patch
        out: Tensor = self.models.structure_decoder(grid_from_tokens(shape, patch))[0, 0].float()
        return out


Way = Callable[[Guided], Tensor]  # logits of the solid


def plain(known: Guided, steps: int) -> Tensor:
    return known.solid_logits(None, steps)


def begun(known: Guided, steps: int, start: float) -> Tensor:
    return known.solid_logits(Steering(known.latents, start), steps)


def pull(known: Guided, steps: int, share: float, until: float = 1.0) -> Tensor:
    corrected = partial(pulled, known=known.latents, share=constant(share, until))
    return known.solid_logits(Steering(corrected=corrected), steps)


def climb(known: Guided, steps: int, rate: float) -> Tensor:
    corrected = partial(climbed, decoder=known.decoded, chance=known.chance, rate=constant(rate))
    return known.solid_logits(Steering(corrected=corrected), steps)


def with_odds(known: Guided, way: Way) -> Tensor:
    return known.odds + SHARE * way(known).clamp(-LIMIT, LIMIT)


def ways() -> dict[str, Way]:
    sampled: dict[str, Way] = {
        "model, 1 step": partial(plain, steps=1),
        "model, 4 steps": partial(plain, steps=4),
        "noised known shape at t = 0.3, 4 steps": partial(begun, steps=4, start=0.3),
        "noised known shape at t = 0.6, 4 steps": partial(begun, steps=4, start=0.6),
        "end pulled by 0.3, 1 step": partial(pull, steps=1, share=0.3),
        "end pulled by 0.6, 1 step": partial(pull, steps=1, share=0.6),
        "end pulled by 0.6, 4 steps": partial(pull, steps=4, share=0.6),
        "end pulled by 0.6 until t = 0.6, 4 steps": partial(pull, steps=4, share=0.6, until=0.6),
        "end climbs by 0.3, 1 step": partial(climb, steps=1, rate=0.3),
        "end climbs by 0.6, 1 step": partial(climb, steps=1, rate=0.6),
        "end climbs by 0.3, 4 steps": partial(climb, steps=4, rate=0.3),
    }
    return {
        "known shape alone": lambda known: known.odds,
        **sampled,
        **{f"{name} + odds": partial(with_odds, way=way) for name, way in sampled.items()},
    }


def known_of(models: Models, encoder: StructureEncoder, case: Case, views: int) -> Guided:
    photos, size = case.photos.part(range(views)), len(case.solid)
    masks = [photo.mask for photo in photos.photos]
    hull = soft_hull(photos.cameras, masks, OBJECT, size)
    if models.lifting is None:
        chance = hull
    else:
        said = lifted_probability(photos.photos, photos.cameras, OBJECT, models.lifting)
        chance = agreed_chance(resampled(said, size) if len(said) != size else said, hull)
    grid = torch.from_numpy(chance).float()
    latents = tokens_from_grid(encoder(grid[None, None]).mean, models.config.structure.vae.token_patch)
    return Guided(models, case, views, grid, latents)


@torch.no_grad()
def measure(arguments: argparse.Namespace) -> dict[str, dict[str, list[list[float]]]]:
    use_fast_exact_matmul()
    folder = checkpoint_folder(arguments.model)
    models, _, _ = load_checkpoint(folder)
    weights = {key.removeprefix("structure_encoder."): value for key, value in read_weights(folder / ENCODERS).items()}
    with torch.device("meta"):
        encoder = StructureEncoder(models.config.structure.vae)
    load_strictly(encoder, {key: weights[key] for key in encoder.state_dict()}, str(folder / ENCODERS))
    threshold = models.config.sampling.occupancy_threshold
    found: dict[str, dict[str, list[list[float]]]] = {str(v): {name: [] for name in ways()} for v in arguments.views}
    for number in range(arguments.first, arguments.first + arguments.objects):
        case = load_case(arguments.cache / "fusion", number)
        for views in arguments.views:
            known = known_of(models, encoder, case, views)
            for name, way in ways().items():
                score = occupancy_iou(way(known)[None] > threshold, case.solid[None])
                found[str(views)][name].append([float(score.solid), float(score.surface)])
        print(f"object {number}", flush=True)
        if arguments.out:
            write_whole(arguments.out, (json.dumps(found) + "\n").encode())
    return found


def as_markdown(found: dict[str, dict[str, list[list[float]]]]) -> str:
    lines = []
    for views, table in found.items():
        baseline = torch.tensor(table[BASELINE])
        lines += [
            f"| {views} views, {len(baseline)} objects | solid IoU | against {BASELINE} | surface IoU |",
            "|---|---|---|---|",
        ]
        for name, scores in table.items():
            values = torch.tensor(scores)
            apart = paired_difference(values[:, 0], baseline[:, 0], torch.Generator().manual_seed(0))
            interval = f"{apart.mean:+.3f} [{apart.low:+.3f}, {apart.high:+.3f}]"
            lines.append(f"| {name} | {values[:, 0].mean():.3f} | {interval} | {values[:, 1].mean():.3f} |")
        lines.append("")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cache", type=Path)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--objects", type=int, default=40)
    parser.add_argument("--views", type=int, nargs="+", default=[2, 4])
    parser.add_argument("--model", default="small")
    parser.add_argument("--out", type=Path)
    print(as_markdown(measure(parser.parse_args())))


if __name__ == "__main__":
    main()
