import logging
from dataclasses import replace

import numpy as np
import pytest

from mvsam3d.errors import InvalidOption
from mvsam3d.geometry.frames import OPENGL_FROM_CAMERA
from mvsam3d.posing.camera_check import coarse_agreement, fitting_views
from mvsam3d.training.objects import look_at
from mvsam3d.types import Camera, Photo
from tests.posing.test_placement import scene


@pytest.fixture(scope="module")
def views() -> tuple[list[Photo], list[Camera]]:
    shift = np.eye(4)
    shift[:3, 3] = [0.4, -0.3, 0.2]
    return scene(shift)


def test_right_cameras_fit(views: tuple[list[Photo], list[Camera]]) -> None:
    photos, cameras = views
    assert fitting_views(photos, cameras) == tuple(range(8))
    assert fitting_views(photos[:1], cameras[:1]) == (0,)


@pytest.mark.parametrize("views_wrong", [3, 0])
def test_one_wrong_camera_is_named(
    views: tuple[list[Photo], list[Camera]], views_wrong: int, caplog: pytest.LogCaptureFixture
) -> None:
    """One camera 40 degrees off around the object."""
    photos, cameras = views
    turned = look_at(45.0 * views_wrong + 40, 25.0 - 10 * (views_wrong % 2), 2.4)
    shift = np.eye(4)
    shift[:3, 3] = [-0.4, 0.3, -0.2]
    cameras = [replace(c, camera_from_world=turned @ shift) if i == views_wrong else c for i, c in enumerate(cameras)]
    with caplog.at_level(logging.WARNING):
        kept = fitting_views(photos, cameras)
    assert kept == tuple(i for i in range(8) if i != views_wrong)
    assert f"view {views_wrong}: its camera or its mask" in caplog.text


def test_cameras_of_other_photos_tell_nothing(
    views: tuple[list[Photo], list[Camera]], caplog: pytest.LogCaptureFixture
) -> None:
    photos, cameras = views
    with caplog.at_level(logging.WARNING):
        assert fitting_views(photos, [cameras[(3 * i + 2) % 8] for i in range(8)]) == ()
    assert "the cameras do not fit the masks" in caplog.text


@pytest.mark.parametrize("inverted", [False, True])
@pytest.mark.parametrize("opengl", [False, True])
def test_other_conventions_are_named(views: tuple[list[Photo], list[Camera]], opengl: bool, inverted: bool) -> None:
    photos, cameras = views
    matrices = [c.camera_from_world for c in cameras]
    if opengl:
        matrices = [OPENGL_FROM_CAMERA @ m for m in matrices]
    if inverted:
        matrices = [np.linalg.inv(m) for m in matrices]
    given = [replace(c, camera_from_world=m) for c, m in zip(cameras, matrices)]
    if not opengl and not inverted:
        assert coarse_agreement([p.mask for p in photos], given).min() > 0.7
        return
    expected = {
        (True, False): "OpenGL's",
        (False, True): "camera to world: give the inverse",
        (True, True): "transforms.json",
    }
    with pytest.raises(InvalidOption, match=expected[opengl, inverted]):
        fitting_views(photos, given)
