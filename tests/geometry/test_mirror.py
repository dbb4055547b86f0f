import numpy as np
import pytest

from mvsam3d.geometry.cameras import project
from mvsam3d.geometry.hull import Cube
from mvsam3d.geometry.mirror import MirrorPlane, mirrored_photo
from mvsam3d.types import Photo
from tests.geometry.test_hull import AROUND, cameras

PLANE = MirrorPlane(np.array([0.6, 0.0, 0.8]), 0.3)


def moved(matrix: np.ndarray, points: np.ndarray) -> np.ndarray:
    return np.asarray(points @ matrix[:3, :3].T + matrix[:3, 3])


def test_a_reflection_is_its_own_inverse_and_keeps_the_plane() -> None:
    """Closed form: a point is as far behind the plane as it was before it; points of the plane stay."""
    reflection = PLANE.reflection()
    assert np.allclose(reflection @ reflection, np.eye(4))
    assert np.linalg.det(reflection[:3, :3]) == pytest.approx(-1)
    points = np.random.default_rng(0).normal(size=(20, 3))
    assert np.allclose(moved(reflection, points) @ PLANE.normal - 0.3, -(points @ PLANE.normal - 0.3))
    on_it = points - (points @ PLANE.normal - 0.3)[:, None] * PLANE.normal
    assert np.allclose(moved(reflection, on_it), on_it)


def test_a_plane_goes_along_with_its_points() -> None:
    """Law: to mirror and to change the frame may be done in either order."""
    points = np.random.default_rng(1).normal(size=(20, 3))
    turn = np.linalg.qr(np.random.default_rng(2).normal(size=(3, 3)))[0]
    similarity = np.eye(4)
    similarity[:3, :3], similarity[:3, 3] = 2.5 * turn, [1.0, -2.0, 0.5]
    there = moved(similarity, points)
    assert np.allclose(
        moved(PLANE.moved(similarity).reflection(), there), moved(similarity, moved(PLANE.reflection(), points))
    )
    cube = Cube(np.array([1.0, 2.0, 3.0]), 4.0)
    assert np.allclose(PLANE.out_of(cube).reflection(), PLANE.moved(cube.world_from_cube()).reflection())


def test_a_mirrored_photo_is_one_of_the_mirrored_world() -> None:
    """Law: what a photo shows in a column, the mirrored one shows of its mirror image in the same column from the other side."""
    camera = cameras(*AROUND)[1]
    camera.intrinsics[0, 2] += 7.0  # the middle is not special
    camera.intrinsics[0, 1] = 2.0
    rng = np.random.default_rng(3)
    mask = rng.random((camera.height, camera.width)) > 0.5
    photo = Photo("1", rng.integers(0, 256, (*mask.shape, 3)).astype(np.uint8), mask)
    other, seen = mirrored_photo(photo, camera, PLANE)
    assert np.linalg.det(seen.camera_from_world[:3, :3]) == pytest.approx(
        np.linalg.det(camera.camera_from_world[:3, :3])
    )
    points = rng.normal(size=(20, 3)) * 0.2
    before, depth = project(camera, points)
    after, other_depth = project(seen, moved(PLANE.reflection(), points))
    assert np.allclose(other_depth, depth)
    assert np.allclose(after[:, 1], before[:, 1])
    assert np.allclose(after[:, 0], camera.width - before[:, 0])
    assert (other.mask == mask[:, ::-1]).all()
    assert (other.rgb == photo.rgb[:, ::-1]).all()
