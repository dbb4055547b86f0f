"""Cameras found from generated photos, the frame they are put into, and what is said when there are none."""

import importlib.util
import sys
from dataclasses import replace

import numpy as np
import pytest

from mvsam3d.errors import MissingExtra, NoCameras
from mvsam3d.geometry.cameras import centre
from mvsam3d.geometry.hull import cube_around
from mvsam3d.perception.matching import FeatureOptions
from mvsam3d.perception.structure_from_motion import (
    CameraSearch,
    FoundCameras,
    MatchedPoints,
    around_object,
    cut_out,
    find_cameras,
)
from mvsam3d.types import Camera, Photo
from tests.perception.textured_scene import FOCAL, scene

needs_pycolmap = pytest.mark.skipif(importlib.util.find_spec("pycolmap") is None, reason="pycolmap is not installed")
ARC = [20.0 * i for i in range(8)]
QUICK = CameraSearch(
    around=FeatureOptions(most=400, copies=((1.0, 0.0), (1.5, 90.0))),
    object=FeatureOptions(most=400, contrast=0.01, copies=((1.0, 0.0), (1.5, 0.0))),
)


def turn(axis: int, degrees: float) -> np.ndarray:
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    i, j = ((1, 2), (2, 0), (0, 1))[axis]
    matrix = np.eye(3)
    matrix[i, i], matrix[i, j], matrix[j, i], matrix[j, j] = c, -s, s, c
    return matrix


def rotation_errors(found: FoundCameras, true: list[Camera]) -> np.ndarray:
    """Degrees of each camera, after the turn of the world that fits best."""
    turns = [c.camera_from_world[:3, :3].T @ true[int(n)].camera_from_world[:3, :3] for n, c in found.cameras.items()]
    u, _, v = np.linalg.svd(np.sum(turns, axis=0))
    world = u @ np.diag([1, 1, np.linalg.det(u @ v)]) @ v
    cosines = [(np.trace(world.T @ t) - 1) / 2 for t in turns]
    return np.degrees(np.arccos(np.clip(cosines, -1, 1)))


@needs_pycolmap
def test_cameras_of_an_object_that_stands_still(capfd: pytest.CaptureFixture[str]) -> None:
    photos, true = scene(ARC)
    found = find_cameras(photos, QUICK)
    assert found.way == "photo"
    assert list(found.cameras) == [photo.name for photo in photos]
    assert rotation_errors(found, true).max() < 0.5  # degrees; 0.04 was measured
    assert abs(found.cameras["0"].intrinsics[0, 0] / FOCAL - 1) < 0.02
    where = np.stack([centre(found.cameras[photo.name]) for photo in photos])
    there = np.stack([centre(camera) for camera in true])
    apart, apart_true = (np.linalg.norm(x[:, None] - x[None], axis=-1) for x in (where, there))
    assert np.allclose(apart / apart.max(), apart_true / apart_true.max(), atol=0.01)  # up to a scale
    assert min(found.report.silhouettes.values()) > 0.9
    assert len(found.lines()) == len(photos) + 1
    printed = capfd.readouterr()
    assert printed.out == printed.err == ""  # COLMAP is held quiet


@needs_pycolmap
def test_a_turntable_is_told_by_the_object_alone() -> None:
    """The floor stays where it is in the photo, as a room does behind a turntable; the object turns."""
    turned, true = scene(ARC[:5], floor=False)
    still, _ = scene([0.0])
    photos = [replace(photo, rgb=np.where(photo.mask[..., None], photo.rgb, still[0].rgb)) for photo in turned]
    found = find_cameras(photos, replace(QUICK, object=FeatureOptions(most=800, contrast=0.01)))
    assert found.way == "object"
    assert rotation_errors(found, true).max() < 0.5
    assert any("the whole photos" in refused for refused in found.report.refused)


@needs_pycolmap
def test_plain_photos_have_no_cameras_and_it_is_said_why() -> None:
    photos, _ = scene(ARC[:4], floor=False, side=128)
    plain = [replace(photo, rgb=np.repeat(photo.mask[..., None] * np.uint8(150), 3, axis=2)) for photo in photos]
    with pytest.raises(NoCameras, match=r"the object alone: no 3 photos hang together.*What helps: photos all around"):
        find_cameras(plain, QUICK)


def test_two_photos_are_too_few() -> None:
    photos, _ = scene([0, 30], side=64)
    with pytest.raises(NoCameras, match="cannot be told from 2 photos: give 3 or more"):
        find_cameras(photos)


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    photos, _ = scene([0, 30, 60], side=64)
    monkeypatch.setitem(sys.modules, "pycolmap", None)
    with pytest.raises(MissingExtra, match=r'pip install "mvsam3d\[pose\]"'):
        find_cameras(photos)


def test_the_world_is_put_around_the_object_and_upright() -> None:
    photos, cameras = scene([30, 120, 210, 300], side=160)
    move = np.eye(4)  # the same cameras in a world that is turned, moved and larger
    move[:3, :3], move[:3, 3] = turn(0, 70) @ turn(2, 33), [4.0, -2.0, 7.0]
    lost = {}
    for photo, camera in zip(photos, cameras):
        pose = camera.camera_from_world @ np.linalg.inv(move)
        pose[:3, 3] *= 5.0
        lost[photo.name] = Camera(camera.intrinsics, pose, camera.width, camera.height)
    found = around_object(lost, photos)
    placed = [found[photo.name] for photo in photos]
    cube = cube_around(placed, [photo.mask for photo in photos])
    assert np.abs(cube.centre).max() < 0.03  # of the hull's side, 1: the cells with which the cube is found
    assert abs(cube.side - 1) < 0.05
    for camera, true in zip(placed, cameras):
        turned = true.camera_from_world[:3, :3] @ turn(2, 30)  # the first camera stood at azimuth 30, and stands at 0
        angle = np.degrees(np.arccos((np.trace(camera.camera_from_world[:3, :3] @ turned.T) - 1) / 2))
        assert angle < 2  # elevations alternate, so the mean of the ups leans a little
    assert np.allclose(centre(placed[0])[0], 0, atol=0.1)
    assert centre(placed[0])[1] < -1


def test_cut_outs_are_told_from_photos() -> None:
    photos, _ = scene([0.0], side=128)
    cut, _ = scene([0.0], side=128, floor=False)
    assert not cut_out(photos[0])
    assert cut_out(cut[0])
    white = np.where(photos[0].mask[..., None], photos[0].rgb, 250).astype(np.uint8)
    assert cut_out(Photo("w", white, photos[0].mask))


def test_joined_points_keep_their_matches() -> None:
    a = MatchedPoints((np.zeros((3, 2)), np.zeros((2, 2))), {(0, 1): np.array([[2, 1]])})
    b = MatchedPoints((np.ones((4, 2)), np.ones((5, 2))), {(0, 1): np.array([[0, 4], [3, 0]])})
    both = a.joined(b)
    assert [len(points) for points in both.points] == [7, 7]
    assert both.pairs[0, 1].tolist() == [[2, 1], [3, 6], [6, 2]]
    assert both.points[0][3:].all()
    assert not both.points[0][:3].any()
