"""Cameras around objects, what their photos show, and photos that are kept."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mvsam3d.errors import BadFile, InvalidOption
from mvsam3d.evaluation import rigs
from mvsam3d.evaluation.pictures import LAMP, SKY, STRENGTH, TOP, pictured
from mvsam3d.evaluation.rigs import (
    EscherNetGso,
    RandomSphere,
    Rig,
    Ring,
    Trajectory,
    captured,
    content_hash,
    rig_cameras,
)
from mvsam3d.evaluation.subjects import Subject
from mvsam3d.geometry.cameras import centre, project
from mvsam3d.geometry.hull import Cube, carved
from mvsam3d.types import Mesh
from tests.evaluation.shapes import ball, box, letter, turned

RIGS: list[Rig] = [Ring(), RandomSphere(), EscherNetGso(), Trajectory()]


def subject(mesh: Mesh) -> Subject:
    return Subject("it", mesh, None, "it.glb")


@pytest.mark.parametrize("rig", RIGS, ids=lambda rig: type(rig).__name__)
def test_cameras_look_at_the_middle_upright(rig: Rig) -> None:
    mesh = box((10, 20, 30), (14, 22, 31))  # somewhere, longest side 4
    for camera in rig_cameras(rig, mesh, 100):
        pixels, depth = project(camera, np.array([[12.0, 21.0, 30.5], [12.0, 21.0, 30.6]]))
        np.testing.assert_allclose(pixels[0], [50, 50], atol=1e-9)
        assert pixels[1, 1] < 50 + 1e-9  # up in the world is up in the picture
        away = depth[0] / 4
        assert away == pytest.approx(2.6) or (isinstance(rig, EscherNetGso) and 1.5 <= away <= 2.2)
        rotation = camera.camera_from_world[:3, :3]
        np.testing.assert_allclose(rotation @ rotation.T, np.eye(3), atol=1e-12)
        assert np.linalg.det(rotation) == pytest.approx(1)


def directions(rig: Rig) -> np.ndarray:
    places = np.stack([centre(camera) for camera in rig_cameras(rig, box(), 64)])
    return places / np.linalg.norm(places, axis=1, keepdims=True)


def test_a_ring() -> None:  # closed form
    found = directions(Ring(views=4, elevation=30.0, azimuth=0.0))
    side, up = math.cos(math.radians(30)), 0.5
    np.testing.assert_allclose(found, [[0, -side, up], [side, 0, up], [0, side, up], [-side, 0, up]], atol=1e-9)


@pytest.mark.parametrize(
    "rig", [Ring(), RandomSphere(), EscherNetGso(), Trajectory()], ids=lambda rig: type(rig).__name__
)
def test_the_first_view_is_the_same_however_many_there_are(rig: Rig) -> None:
    np.testing.assert_allclose(directions(replace(rig, views=1))[0], directions(replace(rig, views=4))[0], atol=1e-12)


def test_random_directions_are_uniform_over_their_belt() -> None:
    found = directions(RandomSphere(views=4000, lowest=-30.0, highest=90.0))
    assert found[:, 2].min() >= -0.5 - 1e-9
    assert found[:, 2].mean() == pytest.approx(0.25, abs=0.03)  # closed form: heights are uniform over [-0.5, 1]
    assert np.abs(found[:, :2].mean(axis=0)).max() < 0.05
    assert not np.allclose(found[0], directions(RandomSphere(views=1, seed=1, lowest=-30.0, highest=90.0))[0])


def test_eschernet_views_are_slices_of_the_same_25() -> None:
    every = directions(EscherNetGso(views=25))
    np.testing.assert_array_equal(directions(EscherNetGso(views=15, first=10)), every[10:])
    with pytest.raises(InvalidOption, match="choose fewer"):
        rig_cameras(EscherNetGso(views=20, first=10), box(), 64)


def test_a_trajectory_climbs_and_goes_around() -> None:
    found = directions(Trajectory(views=9, turns=1.0, lowest=0.0, highest=60.0, azimuth=0.0))
    np.testing.assert_allclose(found[:, 2], np.sin(np.radians(np.linspace(0, 60, 9))), atol=1e-9)
    step = np.degrees(np.arctan2(found[1, 0], -found[1, 1]))
    assert step == pytest.approx(40)


def test_the_whole_object_is_in_every_picture() -> None:
    for rig in (Ring(elevation=35.3, azimuth=45.0), RandomSphere(views=20), Trajectory()):
        for photo in captured(subject(box()), rig, 64).photos:
            edge = np.ones((64, 64), bool)
            edge[1:-1, 1:-1] = False
            assert photo.mask.any()
            assert not (photo.mask & edge).any()


def test_masks_and_cameras_agree() -> None:  # law: the hull of the outlines holds the object and little more
    mesh = turned(letter(), np.diag([2.0, 2, 2, 1]))
    capture = captured(subject(mesh), RandomSphere(views=30, lowest=-90.0, highest=90.0), 128)
    hull = carved(capture.cameras, [photo.mask for photo in capture.photos], Cube(np.zeros(3), 2.4), 48, margin=0.0)
    corners = np.argwhere(hull) * 2.4 / 48 - 1.2
    low, high = mesh.vertices.min(axis=0), mesh.vertices.max(axis=0)
    np.testing.assert_allclose(corners.min(axis=0), low, atol=0.1)
    np.testing.assert_allclose(corners.max(axis=0), high, atol=0.1)


# light


def test_light_of_a_face() -> None:  # closed form: a grey box seen from above
    grey = replace(box(), vertex_colours=np.full((8, 3), 0.5))
    above = rig_cameras(Ring(views=1, elevation=89.9), grey, 64)
    rgb, cover = next(pictured(grey, above, lit=True))
    linear = ((0.5 + 0.055) / 1.055) ** 2.4 * (SKY + TOP + STRENGTH * LAMP[2])
    np.testing.assert_allclose(rgb[32, 32], 1.055 * linear ** (1 / 2.4) - 0.055, atol=1e-3)
    assert cover[32, 32] == 1
    np.testing.assert_array_equal(rgb[0, 0], 1)
    plain, _ = next(pictured(grey, above, lit=False))
    np.testing.assert_allclose(plain[32, 32], 0.5, atol=1e-6)


def test_light_does_not_ask_for_the_winding() -> None:
    inward = replace(ball(), faces=ball().faces[:, ::-1])
    cameras = rig_cameras(Ring(), ball(), 64)
    for (a, _), (b, _) in zip(pictured(ball(), cameras, lit=True), pictured(inward, cameras, lit=True), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


def test_light_stands_still_around_the_object() -> None:
    """The brightest side of a ball is the lamp's, from wherever it is seen."""
    towards = math.degrees(math.atan2(LAMP[0], -LAMP[1]))
    ring = captured(subject(ball()), Ring(views=4, azimuth=towards), 64).photos
    shades = [float(photo.rgb[photo.mask].mean()) for photo in ring]
    assert shades[0] == max(shades)
    assert shades[2] == min(shades)


# pictures that are kept


def test_pictures_are_taken_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = captured(subject(letter()), Ring(), 48, tmp_path)
    monkeypatch.setattr(rigs, "pictured", None)  # no more photos are taken
    again = captured(subject(letter()), Ring(), 48, tmp_path)
    for a, b in zip(first.photos, again.photos, strict=True):
        np.testing.assert_array_equal(a.rgb, b.rgb)
        np.testing.assert_array_equal(a.mask, b.mask)
    assert len(list(tmp_path.iterdir())) == 1


def test_the_hash_tells_objects_rigs_and_sizes_apart() -> None:
    mesh = replace(letter(), uv=np.zeros((len(letter().vertices), 2)), texture=np.zeros((2, 2, 3), np.uint8))
    others = [
        (replace(mesh, vertices=mesh.vertices + 1e-9), Ring(), 64),
        (replace(mesh, faces=mesh.faces[:, ::-1]), Ring(), 64),
        (replace(mesh, texture=np.ones((2, 2, 3), np.uint8)), Ring(), 64),
        (replace(mesh, uv=None), Ring(), 64),
        (mesh, Ring(views=3), 64),
        (mesh, RandomSphere(seed=1), 64),
        (mesh, RandomSphere(seed=2), 64),
        (mesh, Ring(), 65),
    ]
    assert len({content_hash(mesh, Ring(), 64), *(content_hash(*other) for other in others)}) == 9
    assert content_hash(replace(mesh), Ring(), 64) == content_hash(mesh, Ring(), 64)


def test_kept_pictures_of_another_kind_are_refused(tmp_path: Path) -> None:
    captured(subject(letter()), Ring(), 48, tmp_path)
    (path,) = tmp_path.iterdir()
    np.savez(path, rgb=np.zeros((4, 48, 48, 3), np.uint8), mask=np.zeros((4, 48, 47), bool))
    with pytest.raises(BadFile, match="remove it"):
        captured(subject(letter()), Ring(), 48, tmp_path)


def test_an_object_that_no_pixel_shows_is_an_error() -> None:
    thread = box((-0.5, -1e-5, -1e-5), (0.5, 1e-5, 1e-5))
    with pytest.raises(BadFile, match="thinner than a pixel"):
        captured(subject(thread), Ring(), 32)


def test_no_views_are_no_photos() -> None:
    assert captured(subject(box()), RandomSphere(views=0), 64).photos == ()
