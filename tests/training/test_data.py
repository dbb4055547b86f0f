"""Shards: the same from any process, whole or absent, read back row by row."""

from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from mvsam3d.generation.pose import camera_from_object
from mvsam3d.training import data, objects
from mvsam3d.training.data import (
    DataConfig,
    Picture,
    ShardPlan,
    Shards,
    generated_object,
    make_shard,
    make_shards,
    mapped,
    plans,
)
from mvsam3d.training.slat_data import LATTICE, SlatShards, make_slat_shard, shell
from mvsam3d.training.view_batch import drawn_views, with_strangers

CONFIG = DataConfig(views=2, size=48, resolution=16, samples=64, objects=3, classes=("mug", "table"))
PLAN = ShardPlan("generated", 1, CONFIG)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shards")
    for plan in (PLAN, ShardPlan("held_out", 0, CONFIG)):
        make_shard(plan, folder)
    make_slat_shard(PLAN, folder)
    return folder


def test_the_same_plan_gives_the_same_bytes(folder: Path, tmp_path: Path) -> None:
    list(make_shards([PLAN], tmp_path, workers=0))
    assert (folder / PLAN.name).read_bytes() == (tmp_path / PLAN.name).read_bytes()


def test_no_seed_is_both_trained_on_and_held_out(folder: Path) -> None:
    train, held = (Shards(folder, (kind,)) for kind in ("generated", "held_out"))
    seeds = [set(s.rows(np.arange(len(s)), "seed").tolist()) for s in (train, held)]
    assert not seeds[0] & seeds[1]
    assert min(seeds[1]) > max(seeds[0])


def test_rows_come_back_in_the_order_asked_for(folder: Path) -> None:
    shards = Shards(folder, ("generated", "held_out"))
    order = np.array([4, 0, 2])
    whole = shards.rows(np.arange(6), "seed")
    assert (shards.rows(order, "seed") == whole[order]).all()
    for row, solid in zip(order, shards.solid(order, CONFIG.resolution), strict=True):
        assert (solid == shards.solid(np.array([row]), CONFIG.resolution)[0]).all()


def test_new_shards_are_appended(tmp_path: Path) -> None:
    make_shard(PLAN, tmp_path)
    shards = Shards(tmp_path, ("generated",), {"double": lambda t: {"double": t["seed"] * 2}})
    before = shards.rows(np.arange(len(shards)), "seed")
    make_shard(ShardPlan("generated", 0, CONFIG), tmp_path)  # sorts before the known one
    shards.refresh()
    assert (shards.rows(np.arange(3), "seed") == before).all()
    assert (shards.rows(np.arange(6), "double") == 2 * shards.rows(np.arange(6), "seed")).all()
    assert (mapped((tmp_path / PLAN.name).with_suffix(".double"))["double"] == before * 2).all()


def test_mesh_shards_are_spread_evenly() -> None:
    kinds = [plan.kind for plan in plans(DataConfig(mesh_share=0.25), 8, Path("meshes"))]
    assert kinds.count("mesh") == 2
    assert {plan.name for plan in plans(DataConfig(mesh_share=0.25), 8, Path("meshes"))} == {
        *(f"generated-{i:05d}.safetensors" for i in range(6)),
        *(f"mesh-{i:05d}.safetensors" for i in range(2)),
    }


def test_poses_put_the_surface_into_the_mask(folder: Path) -> None:
    """The target pose, seen through the crop's lens, covers the mask: two independent ways of the same view."""
    shards = Shards(folder, ("generated",))
    rows = np.arange(3)
    batch = drawn_views(shards, rows, np.tile([1, 0], (3, 1)), pointmap=False, images=True)
    assert batch.maps["image"].shape == (6, 3, 48, 48)
    surface = torch.from_numpy(shards.rows(rows, "points").astype(np.float32))
    for i in rows:
        placed = surface[i] @ camera_from_object(batch.poses[i])[:3, :3].T + camera_from_object(batch.poses[i])[:3, 3]
        k = torch.from_numpy(shards.rows(rows, "intrinsics")[i, 1])
        pixel = (placed @ k.T)[:, :2] / placed[:, 2:]
        inside = batch.maps["mask"][2 * i, 0][pixel[:, 1].long().clamp(0, 47), pixel[:, 0].long().clamp(0, 47)]
        assert float(inside.mean()) > 0.8  # masks have flaws of up to two pixels, photos cut things off


def test_strangers_are_views_of_the_next_object(folder: Path) -> None:
    shards = Shards(folder, ("generated",))
    batch = drawn_views(shards, np.arange(3), np.tile([1, 0], (3, 1)), pointmap=False, images=True)
    mixed = with_strangers(batch, np.array([True, False, True]), 1)
    for name, maps in mixed.maps.items():
        own = batch.maps[name].unflatten(0, (3, 2))
        seen = maps.unflatten(0, (3, 2))
        assert (seen[:, 0] == own[:, 0]).all()  # reference views
        assert (seen[:, 1] == own[[1, 1, 0], 1]).all()
    assert mixed.poses is batch.poses


def test_point_maps_and_poses_share_their_units(folder: Path) -> None:
    shards = Shards(folder, ("generated",))
    batch = drawn_views(shards, np.arange(3), np.zeros((3, 1), np.int64), pointmap=True)
    for i in range(3):
        points = batch.maps["pointmap"][i].flatten(1).T
        points = points[points.isfinite().all(1)]
        metric = points * batch.moments.scale[i] + batch.moments.shift[i]  # p3d camera
        pose = camera_from_object(batch.poses[i])
        camera = metric * torch.tensor([-1.0, -1.0, 1.0])
        thing = (camera - pose[:3, 3]) @ torch.linalg.inv(pose[:3, :3]).T
        assert float(thing.abs().max()) < 0.55  # on the object, which fills [-0.5, 0.5]; half floats of depth


def test_slat_targets_sit_on_the_shell(folder: Path) -> None:
    targets = SlatShards([folder / PLAN.name.replace(".safetensors", ".slat")])
    solid = Shards(folder, ("generated",)).solid(np.arange(3), 16)
    assert len(targets) == 3
    for i in range(3):
        assert (targets[i].coords == shell(solid[i])).all()
        assert targets[i].sdf.shape == (len(targets[i].coords), LATTICE**3)
        assert (targets[i].sdf.min(1) < 0.4).all()  # every active voxel is solid: some of it lies inside or nearly


def test_shell_of_a_cube() -> None:  # closed form: 5^3 - 3^3, also at the border of the grid
    solid = np.zeros((8, 8, 8), bool)
    solid[:5, 2:7, 3:] = True
    assert len(shell(solid)) == 5**3 - 3**3


@pytest.mark.parametrize(("rings", "spread"), [(0.0, (25, 135)), (1.0, (2, 10))])
def test_a_ring_lies_at_one_height(rings: float, spread: tuple[int, int]) -> None:
    """Law: cameras of a ring stand within 10 degrees of height of one another, all others anywhere."""
    config = replace(CONFIG, rings=rings, views=8)
    thing = generated_object(PLAN.seed(0), config)
    for seed in range(3):
        seen = data._views(partial(objects.render, thing), thing.hull, np.random.default_rng(seed), config)
        away = [-view.camera_from_object[:3, :3].T @ view.camera_from_object[:3, 3] for view in seen]
        # cameras look past the centre by a twentieth of the object at most
        heights = np.degrees([np.arcsin(place[2] / np.linalg.norm(place)) for place in away])
        assert spread[0] < np.ptp(heights) < spread[1] + 5


def test_faultless_masks_and_one_light(tmp_path: Path) -> None:
    """Without flaws a mask is what the surface covers; under one light, equal cameras see equal colours, under their own lights not."""
    plain = replace(CONFIG, flaws=0.0, same_light=1.0, resolution=32)
    make_shard(ShardPlan("generated", 1, plain), tmp_path)
    shards = Shards(tmp_path, ("generated",))
    bits = np.unpackbits(shards.rows(np.arange(1), "solid")[0])
    assert (shards.solid_grid(0) == bits.reshape(32, 32, 32)).all()
    thing = generated_object(ShardPlan("generated", 1, plain).seed(0), plain)
    camera = objects.sample_camera(thing.hull, 48, np.random.default_rng(0))
    lights: list[list[objects.Light]] = [[], []]
    for seen, share in zip(lights, (1.0, 0.0), strict=True):

        def render(
            k: np.ndarray, pose: np.ndarray, size: int, light: objects.Light, seen: list[objects.Light] = seen
        ) -> Picture:
            seen.append(light)
            return objects.render(thing, *camera, size, light)

        data._views(render, thing.hull, np.random.default_rng(3), replace(plain, same_light=share))
    assert all(light is lights[0][0] for light in lights[0])
    assert lights[1][0] is not lights[1][1]
