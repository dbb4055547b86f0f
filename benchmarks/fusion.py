"""Does fusion help? Held-out generated objects from 2, 4 and 8 photos: IoU of the solid, colour error at the visible surface.

python benchmarks/fusion.py CACHE [--model small] [--first 0] [--objects 100] [--views 2 4 8] [--ways WAY ...] [--steps N] [--laws 5]
    [--out table.json]
python benchmarks/fusion.py --merge a.json b.json [--out table.json]

Photos are made from the objects' seeds, as for training, and kept in CACHE/fusion. Every way starts from the same noise. A way's second
stage, and so its colour, goes on from its own structure. True cameras come with the object's true pose, so that what they see is exact.
Colour is measured where one of the photos at hand shows the true surface (`evaluation.metrics`: `points_seen`, `colour_errors`).
The best single view is an oracle: of each object the view that turns out best, by each measure for itself.
"""

import argparse
import hashlib
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32
from pydantic import TypeAdapter, ValidationError
from torch import Tensor

from mvsam3d.errors import BadFile, InvalidOption, NothingFound
from mvsam3d.evaluation.benchmark import grid_side
from mvsam3d.evaluation.metrics import colour_errors, paired_difference, points_seen
from mvsam3d.generation.agreement import OUTLIER, disagreement
from mvsam3d.generation.pose import pose_from_camera
from mvsam3d.generation.weighting import ByEntropy, ByVisibility, Mixed, PlainMean, needs_visibility
from mvsam3d.geometry.occupancy import iou
from mvsam3d.io.runs import write_whole
from mvsam3d.models.bundle import Models
from mvsam3d.models.checkpoints import WEIGHTS, checkpoint_folder, load_checkpoint
from mvsam3d.nn.precision import use_fast_exact_matmul
from mvsam3d.nn.sparse import SparseGrid, SparseTensor
from mvsam3d.options import ReconstructionConfig, check_config
from mvsam3d.pipeline import (
    agreeing_views,
    occupancy_logits,
    occupied,
    seen_by_cameras,
    shapes_alone,
    structure_latents,
    structured_latents,
)
from mvsam3d.training.data import ShardPlan, Shards, generated_object, make_shard
from mvsam3d.training.objects import signed_distance
from mvsam3d.training.recipes import SMALL_RECIPE
from mvsam3d.training.view_batch import drawn_views
from mvsam3d.types import Camera, GaussianCloud, Photo, Slat, StructureLatents, Voxels

DATA = replace(SMALL_RECIPE.data, views=8, objects=1, samples=4096)  # a shard for each object
OFF_SURFACE = 0.005  # of the cube's edge: what kept points may be off the surface of the object that their seed gives
BEST, MEAN, PLAIN = "best single view", "mean single view", "velocity, plain mean"
COPIES, SPOILT = 4, 4  # views of the laws
NEAR_BEST = 0.02  # IoU that a spoilt set may fall below its best single view
SLAT_SEED = 1_000_000  # more than a seed of stage 1, so that both stages' noise differs

ALONE = ReconstructionConfig(drop_outliers=False)
VELOCITY, JOINT = replace(ALONE, fusion="velocity"), replace(ALONE, fusion="joint")


def by_entropy(config: ReconstructionConfig, alpha: float) -> ReconstructionConfig:
    return replace(config, structure_weighting=ByEntropy(alpha), slat_weighting=ByEntropy(alpha))


WAYS = {
    "joint": JOINT,
    "joint, outliers dropped": replace(JOINT, drop_outliers=True),
    "joint, entropy alpha 30": by_entropy(JOINT, 30.0),
    PLAIN: VELOCITY,
    "velocity, outliers dropped": replace(VELOCITY, drop_outliers=True),
    **{f"velocity, entropy alpha {alpha:.0f}": by_entropy(VELOCITY, alpha) for alpha in (10.0, 30.0, 60.0)},
    # of these two stage 1 is the plain mean: it has no voxels yet that cameras could see
    "velocity, visibility (true cameras)": replace(VELOCITY, slat_weighting=ByVisibility()),
    "velocity, mixed (true cameras)": replace(VELOCITY, slat_weighting=Mixed()),
}


@dataclass(frozen=True)
class Fit:
    """An answer to one object."""

    object: int
    views: int
    answer: str
    iou: float  # of the solid
    colour: float | None  # of the splat, sRGB, 255ths; None: no voxel was occupied


@dataclass(frozen=True)
class SpoiltFit:
    """An answer from three views of an object and one of the next."""

    object: int
    answer: str
    iou: float


@dataclass(frozen=True)
class Change:
    """How far latents move, at most, when they should not: in standard deviations of what they were."""

    object: int
    answer: str
    law: str
    structure: float
    slat: float


@dataclass(frozen=True)
class Marks:
    """Disagreement of each of four views of an object, and of the fourth if it is of the next object."""

    object: int
    honest: list[float]
    odd: float


@dataclass(frozen=True)
class Table:
    """All that was measured, object by object."""

    model: str
    weights: str  # sha256 of the file
    steps: int | None  # of both stages; None: the model's own
    fits: list[Fit] = field(default_factory=list)
    spoilt: list[SpoiltFit] = field(default_factory=list)
    changes: list[Change] = field(default_factory=list)
    marks: list[Marks] = field(default_factory=list)

    def and_(self, other: "Table") -> "Table":
        """Both. Raises: InvalidOption: they are of other weights or steps, or measured the same object twice."""
        if (self.weights, self.steps) != (other.weights, other.steps):
            raise InvalidOption(
                f"a table of {self.model} ({self.weights[:12]}, {self.steps} steps) and one of {other.model} "
                f"({other.weights[:12]}, {other.steps} steps) cannot be merged: measure both with the same model and --steps"
            )
        mine, theirs = ({(fit.object, fit.views, fit.answer) for fit in table.fits} for table in (self, other))
        if mine & theirs:
            raise InvalidOption(f"both tables hold {sorted(mine & theirs)[0]}: merge tables of different objects")
        return replace(
            self,
            fits=self.fits + other.fits,
            spoilt=self.spoilt + other.spoilt,
            changes=self.changes + other.changes,
            marks=self.marks + other.marks,
        )


@dataclass(frozen=True)
class Photos:
    """Photos of one object, cut out as the networks see them, with the cameras of the crops; their world is the object frame."""

    maps: dict[str, Float[Tensor, "view _ _ _"]]
    photos: tuple[Photo, ...]
    cameras: tuple[Camera, ...]

    def __len__(self) -> int:
        return len(self.photos)

    def part(self, chosen: Sequence[int]) -> "Photos":
        """Some of them, in this order."""
        maps = {name: value[list(chosen)] for name, value in self.maps.items()}
        return Photos(maps, tuple(self.photos[i] for i in chosen), tuple(self.cameras[i] for i in chosen))

    def spoilt_by(self, other: "Photos") -> "Photos":
        """Of the first views, the last is another object's."""
        honest, odd = self.part(range(SPOILT - 1)), other.part([SPOILT - 1])
        maps = {name: torch.cat([honest.maps[name], odd.maps[name]]) for name in honest.maps}
        return Photos(maps, honest.photos + odd.photos, honest.cameras + odd.cameras)


@dataclass(frozen=True)
class Case:
    """A held-out object: its photos and its truth, in the object frame."""

    number: int
    photos: Photos
    solid: Bool[Tensor, "x y z"]
    points: Float32[np.ndarray, "point 3"]
    colours: Float32[np.ndarray, "point 3"]  # sRGB, [0, 1]
    seen: Bool[np.ndarray, "view point"]


def load_case(folder: Path, number: int) -> Case:
    """The held-out object of a number; its photos are made if they are missing. Raises: BadFile: they are of another generator."""
    folder.mkdir(parents=True, exist_ok=True)
    plan, row = ShardPlan("held_out", number, DATA), np.zeros(1, np.int64)
    path = make_shard(plan, folder)
    shard = Shards(folder, (plan.kind,), only=[path.name])
    one = {key: shard.rows(row, key)[0] for key in ("rgb", "points", "normals", "colours")}
    points, normals = one["points"].astype(np.float32), one["normals"].astype(np.float32) / 127
    thing = generated_object(plan.seed(0), DATA)
    off = float(np.median(np.abs(signed_distance(thing, points))))
    if len(one["rgb"]) != DATA.views or off > OFF_SURFACE:
        raise BadFile(
            f"{path}: {len(one['rgb'])} photos and points {off:.3f} off the object that its seed gives now: the benchmark or the "
            "generator has changed since it was made, delete the folder"
        )
    size = DATA.size
    known = (shard.rows(row, "intrinsics")[0], shard.rows(row, "camera_from_object")[0])
    cameras = tuple(
        Camera(k.astype(np.float64), pose.astype(np.float64), size, size) for k, pose in zip(*known, strict=True)
    )
    masks = shard.masks(row, size)[0]
    photos = tuple(Photo(str(i), rgb, mask) for i, (rgb, mask) in enumerate(zip(one["rgb"], masks, strict=True)))
    seen = [
        points_seen(points, normals, camera, mask, lambda at: signed_distance(thing, at))
        for camera, mask in zip(cameras, masks, strict=True)
    ]
    return Case(
        number,
        Photos(drawn_views(shard, row, np.arange(DATA.views)[None], pointmap=False, images=True).maps, photos, cameras),
        torch.from_numpy(shard.solid(row, DATA.resolution)[0]),
        points,
        one["colours"].astype(np.float32) / 255,
        np.stack(seen),
    )


def structure(models: Models, photos: Photos, config: ReconstructionConfig, seed: int) -> StructureLatents:
    return structure_latents(models, photos.maps, config, torch.Generator().manual_seed(seed))


def appearance(models: Models, photos: Photos, voxels: Voxels, config: ReconstructionConfig, seed: int) -> Slat:
    """Stage 2; weights by visibility know the true cameras, and the true pose of the object in the first of them."""
    seen = None
    if needs_visibility(config.slat_weighting):
        pose = pose_from_camera(torch.from_numpy(photos.cameras[0].camera_from_world).float())
        seen, _ = seen_by_cameras(voxels, photos.cameras, photos.photos, pose, 0, config, None, same_units=True)
    noise = torch.Generator().manual_seed(SLAT_SEED + seed)
    return structured_latents(models, photos.maps, voxels, config, noise, visibility=seen)


def splat(models: Models, slat: Slat) -> GaussianCloud:
    """Its colours are those of the mesh, without the mesh's sixteenfold cells."""
    (cloud,) = models.gaussian_decoder(SparseTensor(slat.features, SparseGrid.batched([slat.voxels.coords])))
    return GaussianCloud(**{name: value.float() for name, value in vars(cloud).items()})


def solid_iou(models: Models, latents: StructureLatents, case: Case) -> float:
    solid = occupancy_logits(models, latents) > models.config.sampling.occupancy_threshold
    return float(iou(solid[None], case.solid[None]))


class Answers:
    """Reconstructions of one object. What ways have in common is made once: stage 1, and everything where no view is dropped."""

    def __init__(self, models: Models, case: Case, *, colour: bool = True) -> None:
        """`colour`: measure it too, which takes most of the time."""
        self.models, self.case, self.colour = models, case, colour
        self._latents: dict[object, StructureLatents] = {}
        self._answers: dict[object, tuple[float, Float[np.ndarray, " point"] | None]] = {}

    def answer(
        self, chosen: Sequence[int], config: ReconstructionConfig
    ) -> tuple[float, Float[np.ndarray, " point"] | None]:
        """IoU of the solid, and the colour error at each point of the true surface, if there is a voxel."""
        agreed = agreeing_views(self.models, self.case.photos.part(chosen).maps, config)
        kept, config = tuple(chosen[i] for i in agreed), replace(config, drop_outliers=False)
        if (kept, config) not in self._answers:
            self._answers[kept, config] = self._made(kept, config)
        return self._answers[kept, config]

    def _made(
        self, kept: tuple[int, ...], config: ReconstructionConfig
    ) -> tuple[float, Float[np.ndarray, " point"] | None]:
        models, case, photos = self.models, self.case, self.case.photos.part(kept)
        first = replace(config, slat_weighting=PlainMean())
        if (kept, first) not in self._latents:
            self._latents[kept, first] = structure(models, photos, first, case.number)
        latents = self._latents[kept, first]
        overlap = solid_iou(models, latents, case)
        if not self.colour:
            return overlap, None
        try:
            voxels = occupied(models, latents)
        except NothingFound:
            return overlap, None
        cloud = splat(models, appearance(models, photos, voxels, config, case.number))
        return overlap, colour_errors(cloud, case.points, case.colours)


def fits(answers: Answers, ways: dict[str, ReconstructionConfig], alone: ReconstructionConfig, views: int) -> list[Fit]:
    """Every way's answer from the first views, and what the views say alone."""
    case = answers.case
    shown = case.seen[:views].any(0)

    def measured(chosen: Sequence[int], config: ReconstructionConfig) -> tuple[float, float | None]:
        overlap, errors = answers.answer(chosen, config)
        return overlap, None if errors is None or not shown.any() else float(errors[shown].mean())

    overlaps, colours = zip(*(measured([view], alone) for view in range(views)), strict=True)
    known = [colour for colour in colours if colour is not None]
    found = [
        Fit(case.number, views, BEST, max(overlaps), min(known, default=None)),
        Fit(case.number, views, MEAN, sum(overlaps) / views, sum(known) / len(known) if known else None),
    ]
    for name, config in ways.items():
        found.append(Fit(case.number, views, name, *measured(range(views), config)))
    return found


def spoilt_fits(
    answers: Answers, odd: Photos, ways: dict[str, ReconstructionConfig], alone: ReconstructionConfig
) -> list[SpoiltFit]:
    """Stage 1 of the ways if one of four views shows another object; the best single view is one of the three honest ones."""
    models, case = answers.models, answers.case
    single = [answers.answer([view], alone)[0] for view in range(SPOILT - 1)]
    found = [SpoiltFit(case.number, BEST, max(single))]
    for name, config in ways.items():
        if not needs_visibility(config.slat_weighting):  # whose stage 1 is the plain mean
            photos = odd.part(agreeing_views(models, odd.maps, config))
            found.append(
                SpoiltFit(case.number, name, solid_iou(models, structure(models, photos, config, case.number), case))
            )
    return found


def changes(models: Models, case: Case, ways: dict[str, ReconstructionConfig]) -> list[Change]:
    """What copies of a view change in comparison with that view, and another order of the views; stage 2 on the same voxels."""
    comparisons = {"copies": ([0], [0] * COPIES), "order": ([0, 1, 2, 3], [2, 0, 3, 1])}
    found = []
    for name, config in ways.items():
        if config.drop_outliers:
            continue
        for law, sets in comparisons.items():
            one, other = (case.photos.part(chosen) for chosen in sets)
            latents = [structure(models, photos, config, case.number) for photos in (one, other)]
            voxels = occupied(models, latents[0])
            slats = [appearance(models, photos, voxels, config, case.number) for photos in (one, other)]
            shapes, features = [latent.shape for latent in latents], [slat.features for slat in slats]
            found.append(Change(case.number, name, law, _moved(*shapes), _moved(*features)))
    return found


def _moved(before: Tensor, after: Tensor) -> float:
    return float((after - before).abs().max() / before.std())


def marks(models: Models, case: Case, odd: Photos) -> Marks:
    honest, spoilt = (
        disagreement(*shapes_alone(models, photos.maps)) for photos in (case.photos.part(range(SPOILT)), odd)
    )
    return Marks(case.number, honest.tolist(), float(spoilt[-1]))


def as_markdown(table: Table) -> str:
    steps = "the model's own steps" if table.steps is None else f"{table.steps} steps"
    parts = [
        f"Model {table.model} ({table.weights[:12]}), {steps}; 95 % intervals by paired bootstrap over the objects."
    ]
    for views in sorted({fit.views for fit in table.fits}):
        parts.append(_fit_table(views, [fit for fit in table.fits if fit.views == views]))
    return "\n\n".join(part for part in (*parts, _spoilt_table(table), _change_table(table), _mark_line(table)) if part)


def _fit_table(views: int, rows: Sequence[Fit]) -> str:
    overlaps, colours = _by_answer(rows, lambda fit: fit.iou), _by_answer(rows, lambda fit: fit.colour)
    lines = [
        f"| {views} views | objects | solid IoU | against the plain mean | colour error | against the plain mean |",
        "|---|---|---|---|---|---|",
    ]
    for name, overlap in overlaps.items():
        colour = colours[name]
        shade = f"{_mean(colour):.2f}" if colour else "none"
        if len(colour) < len(overlap):
            shade += f" ({len(colour)} objects)"
        against = _against(overlap, overlaps[PLAIN], 3), _against(colour, colours[PLAIN], 2)
        apart = ("", "") if name == PLAIN else against
        lines.append(f"| {name} | {len(overlap)} | {_mean(overlap):.3f} | {apart[0]} | {shade} | {apart[1]} |")
    return "\n".join(lines)


Row = TypeVar("Row", Fit, SpoiltFit)


def _by_answer(rows: Sequence[Row], value: Callable[[Row], float | None]) -> dict[str, dict[int, float]]:
    """Values by answer and object, where there are any."""
    found: dict[str, dict[int, float]] = {row.answer: {} for row in rows}
    for row in rows:
        if (known := value(row)) is not None:
            found[row.answer][row.object] = known
    return found


def _mean(values: dict[int, float]) -> float:
    return sum(values.values()) / len(values)


def _against(values: dict[int, float], baseline: dict[int, float], digits: int) -> str:
    """Mean difference of the objects that both have, and its interval."""
    both = sorted(values.keys() & baseline.keys())
    if not both:
        return ""
    mine, theirs = (torch.tensor([of[number] for number in both]) for of in (values, baseline))
    found = paired_difference(mine, theirs, torch.Generator().manual_seed(0))
    return f"{found.mean:+.{digits}f} [{found.low:+.{digits}f}, {found.high:+.{digits}f}]"


def _spoilt_table(table: Table) -> str:
    overlaps = _by_answer(table.spoilt, lambda fit: fit.iou)
    if not overlaps:
        return ""
    lines = [
        f"| {SPOILT} views, one of another object | solid IoU | against the best single view | worse by more than {NEAR_BEST} |",
        "|---|---|---|---|",
    ]
    best = overlaps[BEST]
    for name, overlap in overlaps.items():
        worse = sum(best[number] - value > NEAR_BEST for number, value in overlap.items()) / len(overlap)
        apart = "| |" if name == BEST else f"| {_against(overlap, best, 3)} | {worse:.2f} |"
        lines.append(f"| {name} | {_mean(overlap):.3f} {apart}")
    return "\n".join(lines)


def _change_table(table: Table) -> str:
    if not table.changes:
        return ""
    laws = list(dict.fromkeys(change.law for change in table.changes))
    objects = len({change.object for change in table.changes})
    heads = "".join(f" {law}: stage 1 | {law}: stage 2 |" for law in laws)
    lines = [f"| largest change, standard deviations, {objects} objects |{heads}", "|---|" + "---|" * (2 * len(laws))]
    for name in dict.fromkeys(change.answer for change in table.changes):
        cells = []
        for law in laws:
            own = [change for change in table.changes if (change.answer, change.law) == (name, law)]
            cells += [f"{max(c.structure for c in own):.1e}", f"{max(c.slat for c in own):.1e}"]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _mark_line(table: Table) -> str:
    if not table.marks:
        return ""
    honest, odd = [mark for row in table.marks for mark in row.honest], [row.odd for row in table.marks]
    beyond = [sum(mark > OUTLIER for mark in group) / len(group) for group in (honest, odd)]
    return f"Beyond the outlier limit of {OUTLIER}: {beyond[0]:.3f} of honest views, {beyond[1]:.3f} of odd ones."


def read_table(path: Path) -> Table:
    try:
        return TypeAdapter(Table).validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
        raise BadFile(f"{path} is no table of this benchmark: {error}") from error


def chosen_ways(names: Sequence[str], steps: int | None) -> dict[str, ReconstructionConfig]:
    """The ways of these names and the plain mean, to compare with."""
    unknown = [name for name in names if name not in WAYS]
    if unknown:
        raise InvalidOption(f"no way {unknown[0]!r}: there are {', '.join(map(repr, WAYS))}")
    return {name: in_steps(config, steps) for name, config in WAYS.items() if name in names or name == PLAIN}


def in_steps(config: ReconstructionConfig, steps: int | None) -> ReconstructionConfig:
    return replace(config, structure_steps=steps, slat_steps=steps)


def check(models: Models, ways: dict[str, ReconstructionConfig], views: Sequence[int], case: Case) -> None:
    """Raises: InvalidOption: the model cannot do a way, is of another size, or there are not that many views."""
    size = models.config
    if (grid_side(size), size.image_size) != (DATA.resolution, DATA.size):
        raise InvalidOption(
            f"the objects have {DATA.resolution} cells and {DATA.size} pixels a side, the model has others"
        )
    for count in views:
        if not 2 <= count <= len(case.photos):
            raise InvalidOption(f"{count} views: there are 2 to {len(case.photos)}")
        for config in ways.values():
            check_config(config, size, count, case.photos.cameras[:count])


@torch.no_grad()
def measure(arguments: argparse.Namespace) -> Table:
    use_fast_exact_matmul()
    folder = checkpoint_folder(arguments.model)
    models, _, _ = load_checkpoint(folder)
    digest = hashlib.sha256((folder / WEIGHTS).read_bytes()).hexdigest()
    table = Table(arguments.model, digest, arguments.steps)
    ways, alone = chosen_ways(arguments.ways, arguments.steps), in_steps(ALONE, arguments.steps)
    kept = arguments.cache / "fusion"
    following = load_case(kept, arguments.first)
    check(models, ways, arguments.views, following)
    for number in range(arguments.first, arguments.first + arguments.objects):
        start = time.perf_counter()
        case, following = following, load_case(kept, number + 1)
        answers, odd = Answers(models, case, colour=not arguments.no_colour), case.photos.spoilt_by(following.photos)
        table.fits.extend(fit for views in arguments.views for fit in fits(answers, ways, alone, views))
        table.spoilt.extend(spoilt_fits(answers, odd, ways, alone))
        table.marks.append(marks(models, case, odd))
        if number < arguments.first + arguments.laws:
            table.changes.extend(changes(models, case, ways))
        if arguments.out is not None:
            write_table(table, arguments.out)
        print(f"object {number}: {time.perf_counter() - start:.1f} s", flush=True)
    return table


def write_table(table: Table, path: Path) -> None:
    write_whole(path, (json.dumps(asdict(table), indent=1, allow_nan=False) + "\n").encode())


def merged(paths: Sequence[Path]) -> Table:
    table, *others = map(read_table, paths)
    for other in others:
        table = table.and_(other)
    return table


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("cache", type=Path, nargs="?")
    parser.add_argument("--model", default="small")
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--objects", type=int, default=100)
    parser.add_argument("--views", type=int, nargs="+", default=[2, 4, 8])
    parser.add_argument(
        "--ways", nargs="+", default=list(WAYS), help="names in quotes; the plain mean is always among them"
    )
    parser.add_argument("--steps", type=int, help="sample in so many steps, from the same noise in all ways")
    parser.add_argument("--laws", type=int, default=5, help="objects on which copies and order of the views are tried")
    parser.add_argument("--no-colour", action="store_true", help="structure alone: a third of the time")
    parser.add_argument("--out", type=Path, help="written after each object")
    parser.add_argument("--merge", type=Path, nargs="+", help="tables of different objects")
    arguments = parser.parse_args()
    if (arguments.cache is None) == (arguments.merge is None):
        parser.error("give the folder in which photos are kept, or tables to --merge")
    if arguments.merge is None:
        table = measure(arguments)
    else:
        table = merged(arguments.merge)
        if arguments.out is not None:
            write_table(table, arguments.out)
    print(as_markdown(table))


if __name__ == "__main__":
    main()
