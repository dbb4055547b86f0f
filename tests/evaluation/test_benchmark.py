import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from mvsam3d.errors import InvalidOption
from mvsam3d.evaluation import benchmark
from mvsam3d.evaluation.benchmark import Row, Table, evaluate_model, grid_side, measured, predicted_solid
from mvsam3d.evaluation.metrics import filled
from mvsam3d.evaluation.report import as_table, write_table
from mvsam3d.generation.voxels import prune_inside
from mvsam3d.geometry.occupancy import occupancy_iou
from mvsam3d.models.bundle import Models
from mvsam3d.models.checkpoints import save_checkpoint
from mvsam3d.models.config import SMALL
from mvsam3d.options import ReconstructionConfig
from mvsam3d.pipeline import occupied, structure_latents
from mvsam3d.training.data import Shards
from mvsam3d.training.objects import CLASS_NAMES
from mvsam3d.training.recipes import SMALL_RECIPE
from mvsam3d.training.view_batch import drawn_views
from mvsam3d.types import Voxels
from tests.evaluation.toys import box, toy_shards

SIDES = [20, 24, 28]  # boxes that the model's answers overlap with


@pytest.fixture(scope="module")
def models() -> Models:
    """The small networks with random weights everywhere, so that no branch is silent."""
    torch.manual_seed(0)
    models = Models(SMALL).eval().requires_grad_(False)
    for parameter in models.parameters():
        parameter.add_(0.05 * torch.randn_like(parameter))
    return models


def held_out(folder: Path) -> Shards:
    return toy_shards(folder, "held_out", [box(side) for side in SIDES], [3, 4, 5], [0, 1, 2])


def training(folder: Path) -> Shards:
    """Copies of the held-out objects 2, 1 and 0, but none of class 5."""
    toy_shards(folder, "generated", [box(side) for side in SIDES[::-1]], [4, 4, 3], [2, 1, 0])
    return Shards(folder, ("generated", "mesh"))


def find(table: Table, method: str, views: int | None) -> Row:
    (row,) = (row for row in table.rows if row.method.startswith(method) and row.views == views)
    return row


def test_solid_is_what_the_pipeline_prunes(models: Models, tmp_path: Path) -> None:  # twin: the shipped path
    maps = drawn_views(held_out(tmp_path), np.array([1]), np.arange(3)[None], pointmap=False, images=True).maps
    for fusion in ("joint", "velocity"):
        latents = structure_latents(models, maps, ReconstructionConfig(fusion), torch.Generator().manual_seed(5))
        solid = predicted_solid(models, maps, fusion, torch.Generator().manual_seed(5))
        assert 0 < solid.sum() < solid.numel()
        expected = occupied(models, latents).coords
        torch.testing.assert_close(prune_inside(Voxels(solid.nonzero().int(), 32), 1).coords, expected)


def test_table_of_toy_objects(models: Models, tmp_path: Path) -> None:
    shards = held_out(tmp_path)
    told: list[int] = []
    table = measured(models, "toy", {"generated": shards}, training(tmp_path), lambda what, done, of: told.append(done))
    assert (table.training_objects, table.resolution, told) == (3, 32, [1, 2, 3] * 4)
    assert {(row.method, row.views) for row in table.rows if row.method.startswith("model")} == {
        ("model", 1),
        ("model, joint fusion", 2),
        ("model, joint fusion", 4),
        ("model, velocity fusion", 4),
    }

    nearest = find(table, "nearest", 1)  # every photo is in the gallery, with its own solid
    assert (nearest.solid.mean, nearest.surface.mean, nearest.objects) == (1, 1, 3)
    by_class = find(table, "mean shape of the right class", None)
    assert by_class.objects == 2  # nothing is known of class 5
    # Class 3 is one box, class 4 a box and a larger one: its mean cuts at 0.5 of two, so the larger or the smaller one fits alike
    # well and the first threshold, which keeps all cells of both, is taken: 24^3 cells of 28^3.
    assert by_class.solid.mean == pytest.approx((1 + (24 / 28) ** 3) / 2)
    assert [row.name for row in table.classes] == sorted(CLASS_NAMES[c] for c in (3, 4, 5))
    assert {row.name: row.mean_shape is None for row in table.classes}[CLASS_NAMES[5]]

    # A row of the table by hand: four views of each object, joint.
    rows = find(table, "model, joint", 4)
    solids = []
    for i in range(3):
        maps = drawn_views(shards, np.array([i]), np.arange(4)[None], pointmap=False, images=True).maps
        solids.append(predicted_solid(models, maps, "joint", torch.Generator().manual_seed(i)))
    truth = torch.from_numpy(np.stack([box(side) for side in SIDES]))
    by_hand = occupancy_iou(filled(torch.stack(solids)), truth)
    assert rows.solid.mean == pytest.approx(float(by_hand.solid.mean()))
    assert rows.surface.mean == pytest.approx(float(by_hand.surface.mean()))
    of_class = {row.name: row.four_views.mean for row in table.classes}
    assert of_class[CLASS_NAMES[4]] == pytest.approx(float(by_hand.solid[1]))


def test_a_checkpoint_without_training_data(models: Models, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_checkpoint(tmp_path / "model", SMALL, models, {})
    held_out(tmp_path / "data")
    monkeypatch.setattr(benchmark, "SMALL_RECIPE", replace(SMALL_RECIPE, held_out=3))
    table = evaluate_model(str(tmp_path / "model"), tmp_path / "data", None)
    assert table.training_objects == 0
    assert len(table.rows) == 4
    text = as_table(table)
    assert "no yardsticks" in text
    assert f"{table.rows[0].solid.mean:.3f} ± {table.rows[0].solid.error:.3f}" in text
    assert all(name in text for name in (CLASS_NAMES[3], "model, velocity fusion"))

    write_table(table, tmp_path / "out" / "table.json")
    content = json.loads((tmp_path / "out" / "table.json").read_text())
    assert content["rows"][1]["solid"] == vars(table.rows[1].solid)
    assert content["classes"][0]["one_view"]["error"] is None  # of one object there is none
    assert content["sampling"] == vars(SMALL.sampling)

    monkeypatch.setattr(benchmark, "SMALL_RECIPE", replace(SMALL_RECIPE, held_out=4))
    with pytest.raises(InvalidOption, match=r"3 objects .* has 4 .* another --data"):
        evaluate_model(str(tmp_path / "model"), tmp_path / "data", None)


def test_models_of_another_grid_are_refused() -> None:
    flow = replace(SMALL.structure.flow, grid=8)
    larger = replace(SMALL, structure=replace(SMALL.structure, flow=flow))
    assert (grid_side(SMALL), grid_side(larger)) == (32, 64)
    with pytest.raises(InvalidOption, match="64 cells"):
        benchmark._check_fit(larger)
