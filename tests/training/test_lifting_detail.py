from pathlib import Path

import numpy as np
import pytest
import torch

from mvsam3d.models.lifting import LiftingConfig, LiftingNetwork
from mvsam3d.models.lifting_detail import DetailNetwork, refined
from mvsam3d.training.cubes import LooseCubes
from mvsam3d.training.data import DataConfig, ShardPlan, Shards, generated_object, make_shard
from mvsam3d.training.objects import solid_grid
from mvsam3d.training.tasks.lifting import LiftingTraining, in_cube
from mvsam3d.training.tasks.lifting_detail import (
    CUT,
    LiftingDetailTask,
    cube_from_part,
    part_with_surface,
    refined_parts,
    whole_sight,
)
from mvsam3d.views.lifted import lifted

FINE = 64
TINY = LiftingConfig(view_channels=4, fine_channels=4, channels=(8, 8), detail_channels=8, detail_blocks=1)
DATA = DataConfig(classes=("mug", "table"), objects=3, views=3, cubes=LooseCubes(count=2), fine_resolution=FINE)


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Shards:
    folder: Path = tmp_path_factory.mktemp("data")
    make_shard(ShardPlan("held_out", 0, DATA), folder)
    return Shards(folder, ("held_out",))


def task_of(shards: Shards, training: LiftingTraining) -> LiftingDetailTask:
    torch.manual_seed(0)
    lifting = LiftingNetwork(TINY)
    with torch.no_grad():
        lifting.out_layer[2].bias.fill_(-2.0)
    return LiftingDetailTask(TINY, lifting, shards, {"seen": shards}, training)


def test_finer_grids_are_of_the_same_cubes(shards: Shards) -> None:
    """In each cube the finer grid is that of the object there, and holds about the same volume."""
    thing = generated_object(int(shards.rows(np.array([2]), "seed")[0]), DATA)
    assert np.array_equal(shards.solid_grid(2, fine=True), solid_grid(thing, FINE))
    for (cube, solid), (same, coarse) in zip(shards.cubes(2, fine=True), shards.cubes(2), strict=True):
        assert np.array_equal(cube, same)
        assert solid.shape == (FINE,) * 3
        assert (solid == solid_grid(thing, FINE, cube)).mean() > 0.9999  # cubes are kept in single precision
        assert 0.5 < solid.mean() / coarse.mean() < 1.0  # skins of half the width


@pytest.mark.parametrize("corner", [(0, 0, 0), (24, 6, 12)])
def test_a_part_is_lifted_as_the_whole_is(shards: Shards, corner: tuple[int, int, int]) -> None:
    """Law: what cells of a part know of the views is what the same cells of the whole grid do."""
    x, y, z = corner
    whole = lifted(*in_cube(shards, 0, np.arange(3), np.eye(4)), FINE)
    part = lifted(*in_cube(shards, 0, np.arange(3), cube_from_part(corner, FINE)), CUT)
    assert np.allclose(part, whole[:, x : x + CUT, y : y + CUT, z : z + CUT], atol=1e-4)


def test_parts_are_refined_as_the_whole_is() -> None:
    """Law: so are the grids of the coarser network, at the grid's rim too."""
    grids, corners = torch.randn(2, 3, FINE // 2, FINE // 2, FINE // 2), [(0, 6, 24), (24, 0, 2)]
    parts = refined_parts(grids, corners)
    for grid, part, (x, y, z) in zip(refined(grids), parts, corners, strict=True):
        assert torch.allclose(part, grid[:, x : x + CUT, y : y + CUT, z : z + CUT], atol=1e-6)


@torch.no_grad()
def test_cells_that_count_have_the_answers_of_the_whole(shards: Shards) -> None:
    """Law: where a part shows all that the network sees, its answers are those of the whole grid, and elsewhere they are not."""
    torch.manual_seed(0)
    network = DetailNetwork(2, 8, blocks=2)
    for parameter in network.parameters():
        parameter.add_(0.1 * torch.randn_like(parameter))
    features = torch.from_numpy(lifted(*in_cube(shards, 0, np.arange(2), np.eye(4)), FINE))[None]
    known = torch.randn(1, 3, FINE, FINE, FINE)
    whole = network(known[:, 0], known[:, 1:], features)[0]
    for corner in ((0, 24, 10), (8, 0, 24)):
        x, y, z = (slice(first, first + CUT) for first in corner)
        part = network(known[:, 0, x, y, z], known[:, 1:, x, y, z], features[:, :, x, y, z])[0]
        counts = torch.from_numpy(whole_sight(corner, FINE, network.reach))
        off = (part - whole[x, y, z]).abs()
        assert off[counts].max() < 1e-4 < off[~counts].max()


def test_parts_hold_surface_wherever_the_object_lies() -> None:
    """One solid cell in a corner, in the middle, or none: even first cells within the grid, and the cell in every part."""
    rng = np.random.default_rng(0)
    for place in ((0, 0, 63), (31, 32, 33), None):
        solid = np.zeros((FINE,) * 3, bool)
        if place is not None:
            solid[place] = True
        corners = {part_with_surface(solid, rng) for _ in range(60)}
        for x, y, z in corners:
            assert all(first % 2 == 0 and 0 <= first <= FINE - CUT for first in (x, y, z))
            assert place is None or solid[x : x + CUT, y : y + CUT, z : z + CUT].any()
        assert len(corners) > 20 or place == (0, 0, 63)


def test_it_learns_what_the_coarser_network_does_not_say(shards: Shards) -> None:
    """A coarser network that says nothing is refined to something near the objects, and stays as it is itself."""
    task = task_of(shards, LiftingTraining(own_cube=1.0, wrong_cameras=0.0, views=(0.0, 0.0, 1.0)))
    before = {key: value.clone() for key, value in task.lifting.state_dict().items()}
    optimiser = torch.optim.Adam(task.networks.parameters(), lr=1e-2)
    losses = []
    for step in range(40):
        optimiser.zero_grad()
        loss, parts = task.loss(task.draw(2, np.random.default_rng(step)), torch.Generator())
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    assert set(parts) == {"entropy", "dice", "surface"}
    assert np.mean(losses[-5:]) < 0.85 * losses[0]
    assert all(torch.equal(value, before[key]) for key, value in task.lifting.state_dict().items())
    scores = task.evaluate(task.networks)
    assert scores["seen_iou_3"] > scores["seen_coarse_iou_3"] + 0.05
    assert scores["seen_surface_3"] > scores["seen_coarse_surface_3"] + 0.05


def test_batches_depend_on_their_seed_alone(shards: Shards) -> None:
    task = task_of(shards, LiftingTraining())
    first, again, other = (task.draw(2, np.random.default_rng(seed)) for seed in (5, 5, 6))
    assert first.corners == again.corners
    assert torch.equal(first.finer, again.finer)
    assert torch.equal(first.solid, again.solid)
    assert first.corners != other.corners
