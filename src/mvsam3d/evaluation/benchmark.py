"""A model on held-out objects, beside two yardsticks -> Table.

Each object takes the shipped path of stage 1, one object at a time and with the model's own sampling: no cameras, no point maps. Its
occupied cells are compared with the true solid in the object frame as they stand, without any alignment.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from mvsam3d.errors import InvalidOption
from mvsam3d.evaluation.metrics import Score, filled_iou, score
from mvsam3d.evaluation.yardsticks import Gallery, gallery, mean_shapes
from mvsam3d.geometry.occupancy import OccupancyIou
from mvsam3d.models.bundle import Models
from mvsam3d.models.checkpoints import checkpoint_folder, load_checkpoint
from mvsam3d.models.config import ModelConfig, SamplingDefaults
from mvsam3d.nn.precision import use_fast_exact_matmul
from mvsam3d.options import ReconstructionConfig
from mvsam3d.pipeline import occupancy_logits, structure_latents
from mvsam3d.training.data import MESH_CLASS, ShardPlan, Shards, make_shards
from mvsam3d.training.objects import CLASS_NAMES
from mvsam3d.training.recipes import SMALL_RECIPE, held_out_plans
from mvsam3d.training.view_batch import drawn_views
from mvsam3d.types import StructureLatents

log = logging.getLogger(__name__)

Data = Literal["generated", "meshes"]
Fusion = Literal["joint", "velocity"]
Progress = Callable[[str, int, int], None]  # (what is measured, objects done, objects in all)


@dataclass(frozen=True)
class Row:
    """One way to answer, on one set of objects."""

    data: Data
    method: str
    views: int | None  # photos that the answer is made from; None: it looks at none
    solid: Score
    surface: Score
    objects: int
    seconds: float | None = None  # of stage 1, per object


@dataclass(frozen=True)
class ClassRow:
    """IoU of the solids of one class of generated objects."""

    name: str
    objects: int
    one_view: Score
    four_views: Score
    mean_shape: Score | None  # None: no training object of this class


@dataclass(frozen=True)
class Table:
    """All that was measured."""

    model: str
    resolution: int
    sampling: SamplingDefaults
    training_objects: int  # that the yardsticks are made of; 0: there were none, and no yardsticks
    rows: tuple[Row, ...]
    classes: tuple[ClassRow, ...]


@dataclass(frozen=True)
class Yardsticks:
    """What the training objects say without a reconstruction."""

    by_class: dict[int, Bool[Tensor, "x y z"]]
    of_all: Bool[Tensor, "x y z"]
    gallery: Gallery


def evaluate_model(model: str, data: Path, meshes: Path | None, progress: Progress | None = None) -> Table:
    """Measure a model on the held-out generated objects, and on the val split of `meshes`.

    Args:
        model: small, or the folder of a checkpoint.
        data: folder of the shards; held-out ones that are missing are made, those of training serve the yardsticks.
        meshes: folder (or zip) of meshes with index.json; None leaves them out.
        progress: told after each object.
    Raises: CheckpointMismatch; InvalidOption: the shards were made for another model or by another recipe.
    """
    use_fast_exact_matmul()
    models, config, _ = load_checkpoint(checkpoint_folder(model))
    _check_fit(config)
    names: tuple[Data, ...] = ("generated", "meshes")
    sets = {name: _held_out(plan, data) for name, plan in zip(names, held_out_plans(SMALL_RECIPE, meshes))}
    return measured(models, model, sets, Shards(data, ("generated", "mesh")), progress)


@torch.no_grad()
def measured(
    models: Models, name: str, sets: dict[Data, Shards], training: Shards, progress: Progress | None = None
) -> Table:
    """The table of a model on sets of held-out objects."""
    resolution = grid_side(models.config)
    yardsticks = _yardsticks(models, training, resolution) if len(training) else None
    if yardsticks is None:
        log.warning("no training shards in %s: the yardsticks are left out", training.folder)
    rows: list[Row] = []
    classes: tuple[ClassRow, ...] = ()
    for data, shards in sets.items():
        answers = _answers(models, shards, yardsticks, progress or (lambda what, done, of: None))
        rows += [answer.row(data) for answer in answers]
        if data == "generated":
            classes = _class_rows(shards.rows(np.arange(len(shards)), "class"), answers)
    return Table(name, resolution, models.config.sampling, len(training), tuple(rows), classes)


def grid_side(config: ModelConfig) -> int:
    """Cells along a side of the model's structure grid."""
    vae = config.structure.vae
    return config.structure.flow.grid * vae.token_patch * vae.factor


def predicted_solid(
    models: Models, maps: dict[str, Float[Tensor, "view _ _ _"]], fusion: Fusion | None, noise: torch.Generator
) -> Bool[Tensor, "x y z"]:
    """Cells that the model holds occupied, inside included: what `pipeline.occupied` prunes to the voxels of stage 2."""
    latents: StructureLatents = structure_latents(models, maps, ReconstructionConfig(fusion=fusion), noise)
    return occupancy_logits(models, latents) > models.config.sampling.occupancy_threshold


@dataclass(frozen=True)
class _Answer:
    """One way to answer, and how well it does on each object; NaN where it has no answer."""

    method: str
    views: int | None
    iou: OccupancyIou
    seconds: float | None = None

    def row(self, data: Data) -> Row:
        known = ~self.iou.solid.isnan()
        solid, surface = score(self.iou.solid[known]), score(self.iou.surface[known])
        return Row(data, self.method, self.views, solid, surface, int(known.sum()), self.seconds)


MODEL, CLASS_MEAN = "model", "mean shape of the right class"


def _answers(models: Models, shards: Shards, yardsticks: Yardsticks | None, progress: Progress) -> list[_Answer]:
    ways: list[tuple[int, Fusion | None]] = [(1, None), (2, None), (4, None)]
    if models.config.joint_views:
        ways.append((4, "velocity"))
    answers = [_of_model(models, shards, views, fusion, progress) for views, fusion in ways]
    if yardsticks is not None:
        answers += _of_yardsticks(yardsticks, shards, grid_side(models.config))
    return answers


def _of_model(models: Models, shards: Shards, views: int, fusion: Fusion | None, progress: Progress) -> _Answer:
    default: Fusion = "joint" if models.config.joint_views else "velocity"
    method = MODEL if views == 1 else f"{MODEL}, {fusion or default} fusion"
    solids, seconds = [], 0.0
    for i in range(len(shards)):
        maps = drawn_views(shards, np.array([i]), np.arange(views)[None], pointmap=False, images=True).maps
        noise = torch.Generator().manual_seed(i)  # a draw for each object, so that the mean is over noise too
        start = time.perf_counter()
        solids.append(predicted_solid(models, maps, fusion, noise))
        seconds += time.perf_counter() - start
        progress(f"{method}, {views} views", i + 1, len(shards))
    iou = filled_iou(torch.stack(solids), _truth(shards, grid_side(models.config)))
    return _Answer(method, views, iou, seconds / len(shards))


def _of_yardsticks(yardsticks: Yardsticks, shards: Shards, resolution: int) -> list[_Answer]:
    rows, truth = np.arange(len(shards)), _truth(shards, resolution)
    nearest = filled_iou(yardsticks.gallery.nearest(shards, rows, resolution), truth)
    of_all = filled_iou(yardsticks.of_all.expand_as(truth), truth)
    answers = [
        _Answer("nearest training object by image features", 1, nearest),
        _Answer("mean shape of all training objects", None, of_all),
    ]
    classes = shards.rows(rows, "class")
    known = torch.tensor([int(c) in yardsticks.by_class for c in classes])
    if known.any():
        means = torch.stack([yardsticks.by_class.get(int(c), yardsticks.of_all) for c in classes])
        iou = filled_iou(means, truth)
        solid, surface = (value.where(known, torch.nan) for value in (iou.solid, iou.surface))
        answers.append(_Answer(CLASS_MEAN, None, OccupancyIou(solid, surface)))
    return answers


def _class_rows(classes: np.ndarray, answers: Sequence[_Answer]) -> tuple[ClassRow, ...]:
    """The classes that occur, by name, from the model's own way of fusing views."""
    one, four = (next(a.iou.solid for a in answers if a.method.startswith(MODEL) and a.views == v) for v in (1, 4))
    mean = next((a.iou.solid for a in answers if a.method == CLASS_MEAN), torch.full_like(one, torch.nan))
    rows = []
    for index in np.unique(classes):
        of_class = torch.from_numpy(classes == index)
        known = not bool(mean[of_class].isnan().any())
        scores = score(one[of_class]), score(four[of_class]), score(mean[of_class]) if known else None
        rows.append(ClassRow(CLASS_NAMES[int(index)], int(of_class.sum()), *scores))
    return tuple(sorted(rows, key=lambda row: row.name))


def _yardsticks(models: Models, training: Shards, resolution: int) -> Yardsticks:
    rows = np.arange(len(training))
    classes = training.rows(rows, "class").astype(np.int64)
    generated = rows[classes != MESH_CLASS]
    by_class = mean_shapes(training, generated, classes[generated], resolution)
    of_all = mean_shapes(training, rows, np.zeros_like(rows), resolution)[0]
    return Yardsticks(by_class, of_all, gallery(models.structure_condition, training))


def _truth(shards: Shards, resolution: int) -> Bool[Tensor, "object x y z"]:
    return torch.from_numpy(shards.solid(np.arange(len(shards)), resolution))


def _held_out(plan: ShardPlan, folder: Path) -> Shards:
    """The shard of a plan, made if it is missing. Raises: InvalidOption: one of that name is of another size."""
    (path,) = make_shards([plan], folder, workers=0)
    shards = Shards(folder, (plan.kind,), only=[path.name])
    views = shards.tensors[0]["rgb"].shape[1]
    if len(shards) != plan.config.objects or views < plan.config.views:
        raise InvalidOption(
            f"{path} holds {len(shards)} objects with {views} views, the benchmark has {plan.config.objects} with "
            f"{plan.config.views}: it belongs to another recipe; give another --data folder"
        )
    return shards


def _check_fit(config: ModelConfig) -> None:
    data = SMALL_RECIPE.data
    if (grid_side(config), config.image_size) != (data.resolution, data.size):
        raise InvalidOption(
            f"the model makes grids of {grid_side(config)} cells a side from crops of {config.image_size} pixels, the benchmark's "
            f"objects have {data.resolution} and {data.size}: it measures models of the small size"
        )
