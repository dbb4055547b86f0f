"""Occupancy -> voxels: recorded rows of the public system, and laws."""

from itertools import product

import pytest
import torch
from torch import Tensor

from mvsam3d.generation.voxels import PUBLIC_LIMIT, VoxelsConfig, limit_voxels, occupied_voxels, prune_inside
from mvsam3d.types import Voxels
from tests.parity import Fixture, fixture

KEEP_ALL = VoxelsConfig(prune_distance=None)


def noise() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def voxels_of(rows: Tensor) -> Voxels:
    """Recorded rows (batch, x, y, z), all of one object."""
    assert not rows[:, 0].any()
    return Voxels(rows[:, 1:], max(64, int(rows.max()) + 1))


def assert_rows(actual: Voxels, data: Fixture, name: str) -> None:
    assert torch.equal(actual.coords, data.outputs[name][:, 1:])


def test_recorded_prune_and_downsample() -> None:
    data = fixture("stage2", "coords_prune_downsample")
    config = data.meta["config"]
    pruned = prune_inside(voxels_of(data.inputs["coords"]), config["max_neighbor_axes_dist"])
    assert_rows(pruned, data, "pruned")
    limited, factor = limit_voxels(pruned, config["max_coords"], noise(), factor=config["downsample_factor"])
    assert_rows(limited, data, "downsampled")
    assert factor == int(data.outputs["factor"])


def test_recorded_structure_coords() -> None:
    data = fixture("stage1", "sparse_structure_coords")
    functions = data.meta["config"]["functions"]
    voxels = voxels_of(data.inputs["coords"])
    for distance in functions["prune_sparse_structure"]["max_neighbor_axes_dist"]:
        assert_rows(prune_inside(voxels, distance), data, f"pruned_dist{distance}")
    pruned = prune_inside(voxels, 1)
    options = functions["downsample_sparse_structure"]
    limits = {"downsampled": options["max_coords"], "not_downsampled": PUBLIC_LIMIT}
    for name, most in limits.items():
        limited, factor = limit_voxels(pruned, most, noise(), factor=options["downsample_factor"])
        assert_rows(limited, data, name)
        assert factor == data.meta["factors"][name]


def prune_plain(voxels: Voxels, distance: int) -> Voxels:
    occupied = {tuple(c) for c in voxels.coords.tolist()}
    steps = list(product(range(-distance, distance + 1), repeat=3))

    def full(c: list[int]) -> bool:
        return all((c[0] + x, c[1] + y, c[2] + z) in occupied for x, y, z in steps)

    keep = torch.tensor([not full(c) for c in voxels.coords.tolist()])
    return Voxels(voxels.coords[keep], voxels.resolution)


@pytest.mark.parametrize("distance", [1, 2])
def test_prune_equals_its_plain_twin(distance: int) -> None:
    logits = torch.rand(9, 9, 9, generator=noise()) - 0.05  # nearly full
    logits[1:, :, :6] = 1.0
    voxels = occupied_voxels(logits, KEEP_ALL)
    pruned = prune_inside(voxels, distance)
    assert torch.equal(pruned.coords, prune_plain(voxels, distance).coords)
    assert len(pruned.coords) < len(voxels.coords)


def test_full_grid_keeps_its_skin() -> None:
    voxels = occupied_voxels(torch.ones(6, 6, 6), VoxelsConfig())
    assert len(voxels.coords) == 6**3 - 4**3


def test_occupied_cells_are_sorted_and_above_the_threshold() -> None:
    logits = torch.randn(5, 5, 5, generator=noise())
    voxels = occupied_voxels(logits, VoxelsConfig(threshold=0.5, prune_distance=None))
    assert torch.equal(voxels.coords, voxels.coords.unique(dim=0))
    assert (logits[tuple(voxels.coords.long().T)] > 0.5).all()
    assert len(voxels.coords) == int((logits > 0.5).sum())


@pytest.mark.parametrize("count", [42_001, 60_000])
def test_no_number_of_voxels_is_cut_by_default(count: int) -> None:
    logits = torch.full((64**3,), -1.0)
    logits[torch.randperm(64**3, generator=noise())[:count]] = 1.0
    assert len(occupied_voxels(logits.reshape(64, 64, 64), VoxelsConfig()).coords) == count


def test_random_subset_when_shrinking_is_not_enough() -> None:
    voxels = occupied_voxels(torch.ones(8, 8, 8), KEEP_ALL)
    shrunk, _ = limit_voxels(voxels, 511, noise())
    subset, factor = limit_voxels(voxels, 10, noise())
    assert factor == 2
    assert len(subset.coords) == 10
    rows = {tuple(c) for c in shrunk.coords.tolist()}
    assert {tuple(c) for c in subset.coords.tolist()} < rows
    assert torch.equal(subset.coords, limit_voxels(voxels, 10, noise())[0].coords)


def test_shrinking_a_flat_object() -> None:
    logits = torch.zeros(8, 8, 8)
    logits[:, 3, :] = 1.0
    shrunk, _ = limit_voxels(occupied_voxels(logits, KEEP_ALL), 20, noise())
    assert shrunk.coords.unique(dim=0).shape == (16, 3)
    assert set(shrunk.coords[:, 1].tolist()) == {3}
