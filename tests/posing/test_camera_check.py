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


@pytest.mark.parametrize("degrees", [40.0, 25.0])
@pytest.mark.parametrize("views_wrong", [3, 0])
def test_one_wrong_camera_is_named(
    views: tuple[list[Photo], list[Camera]], views_wrong: int, degrees: float, caplog: pytest.LogCaptureFixture
) -> None:
    """One camera so far off around the object; by 25 degrees the others lose little, but all of it by that one."""
    photos, cameras = views
    turned = look_at(45.0 * views_wrong + degrees, 25.0 - 10 * (views_wrong % 2), 2.4)
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
        assert coarse_agreement([p.mask for p in photos], given).min() > 0.95
        return
    expected = {
        (True, False): "OpenGL's",
        (False, True): "camera to world: give the inverse",
        (True, True): "transforms.json",
    }
    with pytest.raises(InvalidOption, match=expected[opengl, inverted]):
        fitting_views(photos, given)


def corkscrew(points: np.ndarray) -> np.ndarray:
    """Three bars, each at right angles to the last: unlike its mirror image from every side."""
    inside = np.zeros(points.shape[:-1], bool)
    for low, high in (
        ((-0.45, -0.45, -0.45), (-0.25, 0.45, -0.25)),
        ((-0.45, 0.25, -0.45), (0.45, 0.45, -0.25)),
        ((0.25, 0.25, -0.45), (0.45, 0.45, 0.45)),
    ):
        inside |= ((points >= low) & (points <= high)).all(-1)
    return inside


def test_mirrored_photos_are_named(caplog: pytest.LogCaptureFixture) -> None:
    photos, cameras = scene(np.eye(4), corkscrew)
    mirrored = [replace(p, rgb=p.rgb[:, ::-1].copy(), mask=p.mask[:, ::-1].copy()) for p in photos]
    with caplog.at_level(logging.WARNING):
        kept = fitting_views([mirrored[2] if i == 2 else photo for i, photo in enumerate(photos)], cameras)
    assert kept == (0, 1, 3, 4, 5, 6, 7)
    assert "mirrored, the photo would fit" in caplog.text
    with pytest.raises(InvalidOption, match="all photos are turned left to right"):
        fitting_views(mirrored, cameras)


def test_the_unit_of_the_cameras_does_not_matter(views: tuple[list[Photo], list[Camera]]) -> None:
    photos, cameras = views
    for unit in (1000.0, 1e-3):  # millimetres, kilometres
        moved = []
        for camera in cameras:
            matrix = camera.camera_from_world.copy()
            matrix[:3, 3] *= unit
            moved.append(replace(camera, camera_from_world=matrix))
        assert fitting_views(photos, moved) == tuple(range(8))


def test_photos_of_two_objects_tell_nothing_together(views: tuple[list[Photo], list[Camera]]) -> None:
    """Half of the masks are of a flat thing that lies elsewhere."""
    photos, cameras = views
    other = np.zeros_like(photos[0].mask)
    other[-other.shape[0] // 4 :, : other.shape[1] // 3] = True
    assert fitting_views([replace(p, mask=other) if i % 2 else p for i, p in enumerate(photos)], cameras) == ()


def plate(points: np.ndarray) -> np.ndarray:
    """A wing: thinner than a cell of the coarse hull."""
    return (np.abs(points) <= (0.48, 0.2, 0.012)).all(-1)


def test_a_thin_thing_with_right_cameras_is_believed() -> None:
    """Its hull is thicker than itself by more than half, whatever the cameras; what counts is that it covers the masks."""
    photos, cameras = scene(np.eye(4), plate)
    assert min(photo.mask.sum() for photo in photos) > 100
    assert fitting_views(photos, cameras) == tuple(range(8))
    assert fitting_views(photos, [cameras[i] for i in (0, 4, 1, 6, 2, 7, 3, 5)]) == ()
