from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mvsam3d.geometry.cameras import centred_intrinsics, project, unproject, widest_angle
from mvsam3d.training.objects import look_at
from mvsam3d.types import Camera


def camera(seed: int = 0, width: int = 640, height: int = 480, scale: float = 1.0) -> Camera:
    rng = np.random.default_rng(seed)
    rotation, _ = np.linalg.qr(rng.normal(size=(3, 3)))
    camera_from_world = np.eye(4)
    camera_from_world[:3, :3] = rotation * np.sign(np.linalg.det(rotation)) * scale
    camera_from_world[:3, 3] = rng.normal(size=3)
    return Camera(centred_intrinsics(width, height), camera_from_world, width, height)


def test_point_on_the_axis_and_beside_it() -> None:  # closed form: f * x / z right of the centre, f = 1.2 * 640
    plain = Camera(centred_intrinsics(640, 480), np.eye(4), 640, 480)
    pixels, depth = project(plain, np.array([[0.0, 0, 2], [0.5, 0.25, 2]]))
    np.testing.assert_allclose(pixels, [[320, 240], [320 + 768 * 0.25, 240 + 768 * 0.125]])
    np.testing.assert_allclose(depth, [2, 2])


def test_the_widest_angle_is_that_between_the_farthest_two() -> None:  # closed form, whatever the distances and scales
    cameras = [
        replace(camera(), camera_from_world=np.diag([scale, scale, scale, 1.0]) @ look_at(turn, 0.0, distance))
        for turn, distance, scale in ((0.0, 2.0, 1.0), (30.0, 5.0, 0.5), (-45.0, 1.0, 2.0))
    ]
    assert widest_angle(cameras) == pytest.approx(75)
    assert widest_angle(cameras[:1]) == pytest.approx(0, abs=1e-5)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**31), st.floats(0.1, 50), st.floats(0.2, 5))
def test_unproject_then_project(seed: int, depth: float, scale: float) -> None:
    pixels = np.random.default_rng(seed).uniform(-100, 800, (7, 2))
    view = camera(seed, scale=scale)
    again, depths = project(view, unproject(view, pixels, np.full(7, depth)))
    np.testing.assert_allclose(again, pixels, rtol=1e-8, atol=1e-6)
    np.testing.assert_allclose(depths, depth, rtol=1e-9)
