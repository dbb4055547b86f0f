import math

import numpy as np
import pytest
import torch

from mvsam3d.evaluation.metrics import colour_errors, filled, filled_iou, paired_difference, points_seen, score
from mvsam3d.geometry.cameras import centred_intrinsics
from mvsam3d.types import Camera, GaussianCloud


def shell(side: int = 6, resolution: int = 8) -> torch.Tensor:
    grid = torch.zeros(1, resolution, resolution, resolution, dtype=torch.bool)
    grid[:, :side, :side, :side] = True  # reaches the border of the grid
    grid[:, 1 : side - 1, 1 : side - 1, 1 : side - 1] = False
    return grid


def test_a_closed_shell_is_filled_and_an_open_one_is_not() -> None:
    assert filled(shell()).sum() == 6**3
    opened = shell()
    opened[:, 0, 2, 2] = False  # a hole in the wall at the border of the grid: outside begins behind it
    torch.testing.assert_close(filled(opened), opened)


def test_a_gap_at_an_edge_does_not_open_a_shell() -> None:  # closed to paths through faces, though corners touch
    gap = shell()
    gap[:, 0, 0, 2] = False
    assert filled(gap).sum() == 6**3 - 1


def test_a_shell_is_worth_its_solid() -> None:
    scores = filled_iou(shell(), filled(shell()))
    assert scores.solid.item() == 1
    assert scores.surface.item() == 1


def test_score() -> None:  # closed form: deviations 1, 0, 1; variance 2 / (3 - 1), over 3 objects
    result = score(torch.tensor([1.0, 2.0, 3.0]))
    assert result.mean == 2
    assert result.error == pytest.approx(1 / math.sqrt(3))
    assert score(torch.tensor([1.0])).error is None


def test_interval_of_a_paired_difference() -> None:
    noise = torch.Generator().manual_seed(0)
    differences = torch.randn(400, generator=noise)
    baseline = 100 * torch.randn(
        400, generator=noise
    )  # objects differ much more than the ways do: pairing takes that out
    found = paired_difference(baseline + differences, baseline, noise)
    assert found.mean == pytest.approx(differences.mean().item(), abs=1e-4)  # float32 sums of about 100
    half = 1.96 * differences.std().item() / math.sqrt(400)  # closed form: the normal distribution's 95 % of a mean
    assert found.low == pytest.approx(
        found.mean - half, abs=0.1 * half
    )  # 4000 draws fix a 2.5 % quantile to some per cent
    assert found.high == pytest.approx(found.mean + half, abs=0.1 * half)


RADIUS, DISTANCE = 0.3, 1.5


def ball_from_the_left() -> tuple[np.ndarray, np.ndarray, Camera]:
    """Points of a ball, their normals, and a camera on the negative x axis that looks along +x (z up)."""
    normals = torch.nn.functional.normalize(torch.randn(2000, 3, generator=torch.Generator().manual_seed(0))).numpy()
    camera_from_world = np.array([[0.0, -1, 0, 0], [0, 0, -1, 0], [1, 0, 0, DISTANCE], [0, 0, 0, 1]])
    return RADIUS * normals, normals, Camera(centred_intrinsics(64, 64), camera_from_world, 64, 64)


def ball(points: np.ndarray) -> np.ndarray:
    away: np.ndarray = np.linalg.norm(points, axis=1) - np.float32(RADIUS)
    return away


def test_a_camera_sees_the_near_cap_of_a_ball() -> None:
    points, normals, camera = ball_from_the_left()
    seen = points_seen(points, normals, camera, np.ones((64, 64), np.bool_), ball)
    away = np.array([-DISTANCE, 0, 0]) - points
    cosine = (normals * away).sum(1) / np.linalg.norm(
        away, axis=1
    )  # closed form: the ball hides nothing with cosine > 0
    np.testing.assert_array_equal(seen, cosine > 0.1)


def test_what_stands_before_a_point_hides_it() -> None:
    points, normals, camera = ball_from_the_left()

    def behind_a_screen(at: np.ndarray) -> np.ndarray:  # a sheet 0.01 thick at x = -0.4, over y > 0
        sheet = np.stack([np.abs(at[:, 0] + 0.4) - np.float32(0.005), -at[:, 1]]).max(0)
        nearest: np.ndarray = np.minimum(ball(at), sheet)
        return nearest

    every = np.ones((64, 64), np.bool_)
    seen, before = (
        points_seen(points, normals, camera, every, behind_a_screen),
        points_seen(points, normals, camera, every, ball),
    )
    hidden = (
        points[:, 1] * (DISTANCE - 0.4) / (DISTANCE + points[:, 0]) > 0.01
    )  # where the ray crosses the sheet; off its edge by a bit
    free = points[:, 1] < 0
    assert not seen[hidden].any()
    np.testing.assert_array_equal(seen[free], before[free])


def test_points_outside_the_mask_or_the_photo_are_not_seen() -> None:
    points, normals, camera = ball_from_the_left()
    upper = np.zeros((64, 64), np.bool_)
    upper[:32] = True
    seen = points_seen(points, normals, camera, upper, ball)
    assert seen.any()
    assert points[seen, 2].min() >= 0  # image rows go down, z up
    for shift in (-100, 100):  # pixels, all points beyond a border
        moved = camera.intrinsics + np.array([[0, 0, shift], [0, 0, 0], [0, 0, 0]])
        aside = Camera(moved, camera.camera_from_world, 64, 64)
        assert not points_seen(points, normals, aside, np.ones((64, 64), np.bool_), ball).any()


def test_colour_error_is_of_the_nearest_gaussian_in_255ths() -> None:  # closed form: (0 + 0 + 1) / 3 and .2
    count = 4
    cloud = GaussianCloud(
        means=torch.cat([torch.eye(3), torch.tensor([[1.1, 0, 0]])]),  # the last, right at a point, is nearly clear
        scales=torch.full((count, 3), 0.01),
        rotations=torch.tensor([[1.0, 0, 0, 0]]).repeat(count, 1),
        opacities=torch.tensor([0.9, 0.5, 0.2, 0.05]),
        sh_dc=(torch.tensor([[0, 0, 1], [0.5] * 3, [1] * 3, [0] * 3]) - 0.5) * 2 * math.sqrt(math.pi),
    )
    points = np.array([[1.1, 0, 0], [0, 0.8, 0.1]], np.float32)
    colours = np.array([[0, 0, 0], [0.7] * 3], np.float32)
    np.testing.assert_allclose(colour_errors(cloud, points, colours), [85, 51], rtol=1e-5)  # rounding of float32
