import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from mvsam3d.errors import InvalidOption
from mvsam3d.models.voxel_baseline import VoxelBaselineConfig, read_baseline
from mvsam3d.training import recipes
from mvsam3d.training.data import DataConfig, ShardPlan, Shards, make_shard
from mvsam3d.training.loop import LoopConfig, train
from mvsam3d.training.recipes import BASELINE_RECIPE, BASELINE_WEIGHTS, RunOptions, export_run, train_recipe
from mvsam3d.training.tasks.voxel_baseline import (
    THRESHOLDS,
    VoxelBaselineTask,
    VoxelBaselineTraining,
    shown,
    threshold_scores,
)

TINY = VoxelBaselineConfig(widths=(8, 8, 8, 8), narrow=4, volumes=(16, 8, 8, 8))
DATA = DataConfig(classes=("mug", "table"), objects=4, views=2)
LOOP = LoopConfig(steps=4, batch=2, lr=3e-3, warmup=1, evaluate_every=0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made: Path = tmp_path_factory.mktemp("data")
    make_shard(ShardPlan("generated", 0, DATA), made)
    make_shard(ShardPlan("held_out", 0, replace(DATA, objects=2)), made)
    return made


def task_on(folder: Path) -> VoxelBaselineTask:
    torch.manual_seed(0)
    train_on, held_out = Shards(folder, ("generated",)), {"generated": Shards(folder, ("held_out",))}
    return VoxelBaselineTask(TINY, train_on, held_out, VoxelBaselineTraining(views=(0.5, 0.5)))


def test_views_and_solid_are_of_the_same_object(folder: Path) -> None:
    shards = Shards(folder, ("generated",))
    batch = shown(shards, np.array([2, 0]), np.array([[1, 0], [0, 1]]))
    rgb, masks = shards.rows(np.array([2, 0]), "rgb"), shards.masks(np.array([2, 0]), 112)
    for crop, (row, view) in zip(batch.rgba, [(0, 1), (0, 0), (1, 0), (1, 1)], strict=True):
        np.testing.assert_allclose(crop[:3].permute(1, 2, 0) * 255, rgb[row, view], atol=1e-3)
        np.testing.assert_array_equal(crop[3].bool(), masks[row, view])
    np.testing.assert_array_equal(batch.solid, shards.solid(np.array([2, 0]), 32))


def test_batches_depend_on_their_seed_alone(folder: Path) -> None:
    task = task_on(folder)
    first, again = (task.draw(2, np.random.default_rng(5)) for _ in range(2))
    assert torch.equal(first.rgba, again.rgba)
    assert {task.draw(2, np.random.default_rng(seed)).views for seed in range(12)} == {1, 2}


def test_it_learns_four_objects(folder: Path) -> None:
    """A few steps bring the loss down, what it says near the truth, and a sensible threshold out."""
    task = task_on(folder)
    optimiser = torch.optim.Adam(task.networks.parameters(), lr=1e-2)
    losses = []
    for step in range(60):
        optimiser.zero_grad()
        loss, parts = task.loss(task.draw(4, np.random.default_rng(step)), torch.Generator())
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    assert np.mean(losses[-5:]) < 0.25 * losses[0]
    scores = threshold_scores(task.networks.eval(), task.train, seed=0)
    assert tuple(scores) == THRESHOLDS
    assert max(scores.values()) > 0.4
    assert float(parts["iou"]) > 0.4
    measured = task.evaluate(task.networks)
    assert set(measured) == {f"generated_{what}_{views}" for what in ("iou", "surface") for views in (1, 2)}


def test_resuming_gives_the_bits_of_an_unbroken_run(folder: Path, tmp_path: Path) -> None:
    whole = train(task_on(folder), LOOP, tmp_path / "whole")
    half = replace(LOOP, decay=0.0)
    for name, steps in (("parts", (2, 4)), ("twin", (4,))):
        for upto in steps:
            train(task_on(folder), replace(half, steps=upto), tmp_path / name)
    states = [torch.load(tmp_path / name / "state.pt", weights_only=True) for name in ("parts", "twin")]
    for part in ("networks", "averaged"):
        assert all(torch.equal(states[0][part][key], value) for key, value in states[1][part].items())
    rows = [json.loads(line) for line in (tmp_path / "whole" / "metrics.jsonl").read_text().splitlines()]
    assert whole.step == 4
    assert 0 <= rows[-1]["generated_iou_2"] <= 1


def test_other_files_keep_up_with_checkpoints(folder: Path, tmp_path: Path) -> None:
    seen: list[int] = []
    train(task_on(folder), replace(LOOP, checkpoint_minutes=0.0), tmp_path, saved=lambda run: seen.append(run.step))
    assert seen == [1, 2, 3, 4, 4]


def test_the_recipe_writes_weights_that_can_be_read(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = replace(BASELINE_RECIPE, data=DATA, shards=1, held_out=2, loops={"voxel_baseline": LOOP}, baseline=TINY)
    monkeypatch.setitem(recipes.RECIPES, "baseline", replace(recipe, baseline=TINY))
    options = RunOptions(run=tmp_path, data=folder)
    for steps in (1, 2):  # views of up to four are asked for, the shards have two
        train_recipe("baseline", replace(options, steps=steps), lambda *_: None)
    network, card = read_baseline(tmp_path / "voxel_baseline" / BASELINE_WEIGHTS)
    state = torch.load(tmp_path / "voxel_baseline" / "state.pt", weights_only=True)
    assert all(torch.equal(value, state["averaged"][key]) for key, value in network.state_dict().items())
    assert (card["steps"], card["samples_seen"], card["training_objects"]) == (2, 4, 4)
    best = max(card["training_iou_by_threshold"].items(), key=lambda item: item[1])
    assert network.config == replace(TINY, threshold=float(best[0]))
    with pytest.raises(InvalidOption, match=BASELINE_WEIGHTS):
        export_run("baseline", options, tmp_path / "checkpoint")
    with pytest.raises(InvalidOption, match="the recipe baseline has voxel_baseline"):
        train_recipe("baseline", replace(options, part="lifting"), lambda *_: None)
