from pathlib import Path

import numpy as np
import pytest
import torch

from mvsam3d.geometry.occupancy import iou, surface
from mvsam3d.models.lifted_views import DISTANCE, MASK, PHOTO_CELLS
from mvsam3d.models.lifting import LiftingConfig
from mvsam3d.training.cubes import LooseCubes, turned
from mvsam3d.training.data import DataConfig, ShardPlan, Shards, generated_object, make_shard
from mvsam3d.training.muon import Muon, orthogonalised
from mvsam3d.training.objects import solid_grid
from mvsam3d.training.tasks.lifting import (
    LiftingTask,
    LiftingTraining,
    hull_of,
    seen_in,
    surface_depths,
    surface_loss,
    views_of,
)
from mvsam3d.views.lifted import window_grid, window_of, window_size

TINY = LiftingConfig(
    view_channels=4, fine_channels=4, channels=(8, 8), fine_blocks=1, photo_channels=4, photo_widths=(8, 8)
)


DATA = DataConfig(classes=("mug", "table"), objects=3, views=3, cubes=LooseCubes(count=2))


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Shards:
    folder: Path = tmp_path_factory.mktemp("data")
    make_shard(ShardPlan("held_out", 0, DATA), folder)
    return Shards(folder, ("held_out",))


def test_lifted_views_and_target_lie_in_one_frame(shards: Shards) -> None:
    """In the object's own cube, turned and mirrored, and in the loose ones around it, the solid lies inside all outlines."""
    for row in range(3):
        own = (np.eye(4), shards.solid_grid(row))
        for cube, solid in (own, turned(*own, 1, mirrored=True), turned(*shards.cubes(row)[0], 3, mirrored=False)):
            features = seen_in(shards, row, np.arange(3), cube, 32).features[0].numpy()
            assert (features[..., MASK].min(0)[solid] > 0.5).mean() > 0.7  # masks err, and photos cut objects off
            assert (features[..., DISTANCE].max(0)[~solid] < 0.9).any()
            volume = solid.sum() * abs(np.linalg.det(cube[:3, :3]))
            assert volume == pytest.approx(own[1].sum(), rel=0.35)  # skins of cells of another size


@pytest.mark.parametrize(("quarters", "mirrored"), [(0, True), (1, False), (3, True)])
def test_a_turned_cube_is_the_cube_of_the_turned_frame(shards: Shards, quarters: int, mirrored: bool) -> None:
    """Law: cells that are turned and those made anew in the turned frame are the same; a mirror is the mirrored grid."""
    thing = generated_object(int(shards.rows(np.array([1]), "seed")[0]), DATA)
    cube, solid = shards.cubes(1)[1]
    placed, cells = turned(cube, solid, quarters, mirrored=mirrored)
    if mirrored:
        placed, cells = placed @ np.diag([-1.0, 1, 1, 1]), cells[::-1]
    assert (solid_grid(thing, 32, placed) == cells).mean() > 0.9999  # but for rounding
    assert 0.005 < cells.mean() < 0.5


def test_wrong_cameras_are_wrong_in_the_features_only(shards: Shards) -> None:
    moved = np.eye(4)
    moved[0, 3] = 0.1
    right, wrong = (seen_in(shards, 0, np.arange(2), np.eye(4), 32, off) for off in (None, [moved, np.eye(4)]))
    for kind in ("features", "spots"):
        assert torch.equal(getattr(right, kind)[0, 1], getattr(wrong, kind)[0, 1])
        assert not torch.allclose(getattr(right, kind)[0, 0], getattr(wrong, kind)[0, 0])
    assert torch.equal(right.windows, wrong.windows)


def test_depths_to_learn_are_on_the_surface(shards: Shards) -> None:
    """Points at the depths that the windows' spots have lie on the solid's surface, by the cameras."""
    for row in range(3):
        solid = np.pad(shards.solid_grid(row), 1)
        beside = np.zeros_like(solid)
        for shift in np.ndindex(3, 3, 3):
            beside |= np.roll(solid, np.array(shift) - 1, (0, 1, 2))
        _, masks, cameras = views_of(shards, row, np.arange(3))
        depths = surface_depths(shards, row, np.arange(3))
        for found, mask, camera in zip(depths, masks, cameras, strict=True):
            known = np.isfinite(found)
            assert 0.05 < known.mean() < 0.95
            size = window_size(camera, window_of(mask))
            depth = found[known] * size + camera.camera_from_world[2, 3]
            rays = np.concatenate([window_grid(window_of(mask), PHOTO_CELLS)[known], np.ones((known.sum(), 1))], 1)
            points = rays @ np.linalg.inv(camera.intrinsics).T * depth[:, None]
            back = np.linalg.inv(camera.camera_from_world)
            cells = np.floor((points @ back[:3, :3].T + back[:3, 3] + 0.5) * 32).astype(int) + 1
            assert beside[tuple(np.clip(cells, 0, 33).T)].mean() > 0.95


def test_batches_depend_on_their_seed_alone(shards: Shards) -> None:
    task = LiftingTask(TINY, shards, {}, LiftingTraining())
    first, again, other = (task.draw(2, np.random.default_rng(seed)) for seed in (5, 5, 6))
    assert torch.equal(first.views.features, again.views.features)
    assert torch.equal(first.views.windows, again.views.windows)
    assert torch.equal(first.solid, again.solid)
    assert not torch.equal(first.views.windows[:, 0], other.views.windows[:, 0])


def test_the_surface_that_is_learnt_is_the_one_that_is_measured(shards: Shards) -> None:
    """Law: of sure answers, the loss is what Dice of both surfaces lacks to 1; of two sheets a cell apart it is that of disjoint ones."""
    rng = np.random.default_rng(0)
    answers = [torch.from_numpy(np.stack([shards.solid_grid(row) for row in (0, 1)])) for _ in range(2)]
    answers[1] = answers[1] ^ torch.from_numpy(rng.random(answers[1].shape) < 0.02)
    ours, true = (surface(solid) for solid in answers)
    dice = [2 * (a & b).sum() / (a.sum() + b.sum()) for a, b in zip(ours, true, strict=True)]
    loss = surface_loss(torch.where(answers[0], 50.0, -50.0), answers[1].float())
    assert float(loss) == pytest.approx(1 - float(sum(dice)) / 2, abs=1e-3)
    sheet = torch.zeros(1, 8, 8, 8)
    sheet[:, 2] = 1
    assert float(surface_loss(100 * sheet.roll(1, 1) - 50, sheet)) > 0.98
    assert float(surface_loss(100 * sheet - 50, sheet)) < 1e-3


def test_it_learns_three_objects(shards: Shards) -> None:
    """A few steps bring the loss down, and what it says near the truth. The rate is low enough that rounding decides nothing."""
    torch.manual_seed(0)
    three_views = LiftingTraining(own_cube=1.0, wrong_cameras=0.0, views=(0.0, 0.0, 1.0))
    task = LiftingTask(TINY, shards, {"seen": shards}, three_views)
    noise = torch.Generator()
    optimiser = torch.optim.Adam(task.networks.parameters(), lr=8e-3)
    losses = []
    for step in range(100):
        optimiser.zero_grad()
        loss, parts = task.loss(task.draw(2, np.random.default_rng(step)), noise)
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    assert set(parts) == {"entropy", "dice", "surface", "depth"}
    assert np.mean(losses[-5:]) < 0.8 * losses[0]
    scores = task.evaluate(task.networks)
    hull = torch.from_numpy(np.stack([hull_of(shards, row, np.arange(3), 32) for row in range(3)]))
    expected = iou(hull, torch.from_numpy(shards.solid(np.arange(3), 32))).mean()
    assert scores["seen_hull_iou_3"] == pytest.approx(float(expected), rel=1e-5)
    assert scores["seen_iou_3"] > 0.25


def test_muon_takes_a_convolution_as_a_matrix() -> None:
    """Plain twin: the step of a convolution is that of its kernel, flattened."""
    torch.manual_seed(0)
    kernel = torch.nn.Parameter(torch.randn(4, 3, 2, 2, 2))
    matrix = torch.nn.Parameter(kernel.detach().flatten(1).clone())
    gradient = torch.randn_like(kernel)
    for parameter, grad in ((kernel, gradient), (matrix, gradient.flatten(1))):
        parameter.grad = grad.clone()
        Muon([parameter], 0.1).step()
    assert torch.allclose(kernel.flatten(1), matrix, atol=1e-6)
    u = orthogonalised(torch.randn(4, 24), steps=8)
    assert torch.linalg.svdvals(u).min() > 0.5
