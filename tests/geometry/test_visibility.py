import math
import sys
import time

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mvsam3d.geometry.visibility import cells_from_object, cells_on_ray, visible_voxels, walls
from tests.parity import fixture


def test_recorded_rays() -> None:
    f = fixture("multiview", "visibility_dda")
    size = f.meta["config"]["grid_size"]
    starts, ends = f.inputs["ray_start"].numpy(), f.inputs["ray_end"].numpy()
    longest = f.outputs["ray_voxels"].shape[1]
    cells = np.full((len(starts), longest, 3), -1)
    boxes, lengths = [], []
    for row, (start, end) in enumerate(zip(starts, ends)):
        found = cells_on_ray(start, end, size)
        cells[row, : len(found)] = found
        lengths.append(len(found))
        way = end.astype(np.float64) - start
        length = float(np.linalg.norm(way))
        boxes.append(walls(start.astype(np.float64), way / length, size) if length > 0 else (math.nan, math.nan))
    f.check("ray_len", torch.tensor(lengths))
    f.check("ray_voxels", torch.from_numpy(cells))
    f.check("ray_box_t", torch.tensor(boxes))


def test_recorded_visibility() -> None:
    f = fixture("multiview", "visibility_dda")
    cameras = f.inputs["cameras_voxel"].numpy()
    coords, half = (f.inputs[name][:, 1:].numpy() for name in ("coords", "coords_half"))

    def check(name: str, *arguments: object, tolerance: float) -> None:
        f.check(name, torch.from_numpy(visible_voxels(*arguments, tolerance=float(tolerance))))  # type: ignore[arg-type]

    for tolerance in f.meta["config"]["tolerances"]:
        check(f"visible_tol{tolerance}", coords, 64, cameras, tolerance=tolerance)
    for tolerance in (0, 4):
        check(f"visible_half_on64_tol{tolerance}", half, 64, cameras, tolerance=tolerance)
        check(f"visible_half_on32_tol{tolerance // 2}", half, 32, cameras / 2, tolerance=tolerance / 2)


def test_wall_hides_what_is_behind_it() -> None:
    """Closed form: a plate of voxels at x = 20 between the camera and x = 40."""
    plate = np.argwhere(np.ones((1, 21, 21))) + np.array([20, 10, 10])
    behind = np.array([[40, 20, 20], [40, 40, 40]])  # the second looks past the plate
    coords = np.concatenate([plate, behind])
    seen = visible_voxels(coords, 64, np.array([[-30.0, 20.5, 20.5], [94.0, 20.5, 20.5]]), tolerance=0.5)
    assert seen[0].tolist() == [True] * len(plate) + [False, True]
    assert seen[1, -2:].all()  # from the other side
    assert not seen[1, len(plate) // 2]  # the plate's middle, behind the voxel at 40
    assert visible_voxels(coords, 64, np.array([[-30.0, 20.5, 20.5]]), tolerance=21.0).all()


points = st.tuples(*[st.floats(-40, 72, width=32)] * 3)


@settings(max_examples=150, deadline=None)
@given(
    points, st.tuples(*[st.integers(0, 31).map(lambda cell: cell + 0.5)] * 3)
)  # voxels are looked at in their centres
def test_cells_are_those_of_dense_samples(start: tuple[float, ...], end: tuple[float, ...]) -> None:
    """Twin: the cells of densely spaced points, but for corners cut by less than a hundredth; each next cell touches the last."""
    a, b = np.array(start), np.array(end)
    cells = cells_on_ray(a, b, 32)
    assert (np.abs(np.diff(cells, axis=0)).sum(1) == 1).all()
    if np.linalg.norm(b - a) < 1:
        return
    samples = a + (b - a) * np.linspace(0, 1, 4000)[:, None]
    clear = (np.abs(samples - np.round(samples)) > 0.01).all(1) & (samples > 0).all(1) & (samples < 32).all(1)
    sampled = {tuple(cell) for cell in np.floor(samples[clear]).astype(int)}
    listed = {tuple(cell) for cell in cells}
    assert sampled <= listed
    assert all(segment_to_cell(a, b, np.array(cell)) < 0.02 for cell in listed - sampled)


def segment_to_cell(a: np.ndarray, b: np.ndarray, cell: np.ndarray) -> float:
    """Least distance of a segment's points from a cell."""
    samples = a + (b - a) * np.linspace(0, 1, 20_000)[:, None]
    return float(np.linalg.norm(np.maximum(np.maximum(cell - samples, samples - cell - 1), 0), axis=1).min())


def test_cells_of_the_cube() -> None:  # closed form: corner, centre, corner
    corners = cells_from_object(np.array([[-0.5] * 3, [0.0] * 3, [0.5] * 3]), 64)
    assert corners.tolist() == [[0] * 3, [32] * 3, [64] * 3]


def test_speed(capsys: pytest.CaptureFixture[str]) -> None:
    """20k voxels of a shell, 8 cameras; printed, not judged: machines differ."""
    grid = np.stack(np.meshgrid(*[np.arange(64)] * 3, indexing="ij"), -1).reshape(-1, 3)
    radius = np.linalg.norm(grid + 0.5 - 32, axis=1)
    coords = grid[np.argsort(np.abs(radius - 28))[:20_000]]
    angle = np.arange(8) * math.tau / 8
    cameras = np.stack([np.cos(angle), np.sin(angle), 0 * angle + 0.4], 1) * 90 + 32
    visible_voxels(coords[:10], 64, cameras)  # compile
    began = time.perf_counter()
    seen = visible_voxels(coords, 64, cameras)
    with capsys.disabled():
        sys.stdout.write(f" 20k voxels x 8 cameras: {time.perf_counter() - began:.2f} s\n")
    assert seen.any(0).mean() > 0.6
    assert (seen.mean(1) < 0.7).all()  # no camera sees the far side
