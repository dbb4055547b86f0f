"""Cameras found from generated photos, the frame they are put into, and what is said when there are none."""

import importlib.util
import sys
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pytest

from mvsam3d.errors import MissingExtra, NoCameras
from mvsam3d.geometry.cameras import centre
from mvsam3d.geometry.hull import cube_around
from mvsam3d.perception import structure_from_motion
from mvsam3d.perception.camera_gate import Solution, Way
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
def test_a_ring_that_folds_is_refused_for_its_masks() -> None:
    """Texture that repeats after half a turn puts photos from opposite sides onto each other, all of them, below a pixel."""
    photos, _ = scene([45.0 * i for i in range(8)], repeats=True)
    with pytest.raises(
        NoCameras, match=r"whole photos \(8 of 8 photos.* 0\.\d\d pixels off.*the masks contradict the cameras in"
    ):
        find_cameras(photos, replace(QUICK, focals=(1.2,)))


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


class Pretended(structure_from_motion._Mapper):
    """Finds a given solution, and explains a given share of matches by any cameras."""

    def __init__(self, found: Solution, share: float) -> None:
        self.found, self.share = found, share

    def solution(self, focal: float, way: Way) -> Solution:
        return self.found

    def explained(self, cameras: Mapping[str, Camera]) -> float:
        return self.share


def pretended(cameras: list[Camera], share: float) -> Pretended:
    named = {str(i): camera for i, camera in enumerate(cameras)}
    points = {name: 30 + (name != "4") for name in named}
    return Pretended(Solution("photo", named, points, 0.3, 0.0, 0.9), share)


def test_what_the_object_shows_must_be_explained_by_cameras_from_its_surroundings() -> None:
    photos, true = scene([45 * i for i in range(8)], side=128)
    for share, believed in ((0.9, True), (0.05, False)):
        found = structure_from_motion._best(
            pretended(true, 0.9), pretended(true, share), "photo", photos, CameraSearch(focals=(1.2,))
        )
        assert found is not None
        assert found[0].explained == share
        assert ("the cameras explain 5% of the matches only" in str(found[1].reasons)) != believed


def test_a_view_that_the_masks_contradict_is_left_out() -> None:
    photos, true = scene([45 * i for i in range(8)], side=128)
    wrong = [*true[:4], true[1], *true[5:]]  # the view with the fewest points
    mapper = pretended(wrong, 0.9)
    found = structure_from_motion._best(mapper, mapper, "photo", photos, CameraSearch(focals=(1.2,)))
    assert found is not None
    assert found[1].reasons == ()
    assert list(found[0].cameras) == ["0", "1", "2", "3", "5", "6", "7"]


def test_the_pinhole_nearest_to_a_bent_lens() -> None:  # by definition: least squares of f' r = f r (1 + k r²)
    pycolmap = pytest.importorskip("pycolmap")
    lens = pycolmap.Camera(model="SIMPLE_RADIAL", width=100, height=100, params=[120.0, 50, 50, 0.3])
    radius = np.linspace(0.01, 0.4, 50)
    bent = 120 * radius * (1 + 0.3 * radius**2)
    expected = np.linalg.lstsq(radius[:, None], bent, rcond=None)[0][0]
    assert structure_from_motion._Mapper._pinhole(lens, radius) == pytest.approx(expected)


def test_joined_points_keep_their_matches() -> None:
    a = MatchedPoints((np.zeros((3, 2)), np.zeros((2, 2))), {(0, 1): np.array([[2, 1]])})
    b = MatchedPoints((np.ones((4, 2)), np.ones((5, 2))), {(0, 1): np.array([[0, 4], [3, 0]])})
    both = a.joined(b)
    assert [len(points) for points in both.points] == [7, 7]
    assert both.pairs[0, 1].tolist() == [[2, 1], [3, 6], [6, 2]]
    assert both.points[0][3:].all()
    assert not both.points[0][:3].any()
