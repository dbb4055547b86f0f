"""A pose is found again from a picture drawn with it."""

import math

import numpy as np
import pytest
import torch
import trimesh

from mvsam3d.generation.pose import camera_from_object, pose_from_similarity
from mvsam3d.geometry.cameras import centred_intrinsics
from mvsam3d.geometry.rotations import matrix_from_quaternion
from mvsam3d.geometry.transforms import similarity
from mvsam3d.posing.search import PoseSearch, searched_pose
from mvsam3d.rendering.meshes import render_mesh
from mvsam3d.types import Camera, Mesh, Photo

SIZE = 160


def two_boxes() -> Mesh:
    """A long box with a small one on one end, in two colours: no symmetry."""
    parts = [trimesh.creation.box((0.9, 0.4, 0.3)), trimesh.creation.box((0.2, 0.3, 0.4))]
    parts[1].apply_translation((0.3, 0.05, 0.3))
    whole = trimesh.util.concatenate(parts).subdivide()
    colours = 0.5 + np.clip(whole.vertices, -0.45, 0.45)  # every side of its own colour
    return Mesh(np.asarray(whole.vertices, np.float32), np.asarray(whole.faces), colours.astype(np.float32))


def seen_from(azimuth: float, elevation: float, target: tuple[float, float]) -> np.ndarray:
    """A camera 2.5 away, turned about its own axes so that the object is not in the middle."""
    flat = math.cos(elevation)
    forward = -np.array([flat * math.cos(azimuth), flat * math.sin(azimuth), math.sin(elevation)])
    right = np.array([-math.sin(azimuth), math.cos(azimuth), 0.0])
    out = np.eye(4)
    out[:3, :3] = 0.8 * np.stack([right, np.cross(forward, right), forward])
    out[:3, 3] = (*target, 2.5)
    return out


def drawn(mesh: Mesh, pose: np.ndarray) -> tuple[Photo, tuple[int, int, int, int]]:
    rgb, cover, _ = render_mesh(mesh, centred_intrinsics(SIZE, SIZE), pose, SIZE, SIZE, shade=False, samples=2)
    mask = cover > 0.5
    rows, columns = np.nonzero(mask)
    half = int(max(np.ptp(rows), np.ptp(columns)) * 0.6)
    x, y = int(columns.mean()), int(rows.mean())
    return Photo("0", (rgb * 255).astype(np.uint8), mask), (x - half, y - half, x + half, y + half)


def turn_between(a: np.ndarray, b: np.ndarray) -> float:
    r, q = (m[:3, :3] / np.cbrt(np.linalg.det(m[:3, :3])) for m in (a, b))
    return math.degrees(math.acos(np.clip((np.trace(r @ q.T) - 1) / 2, -1, 1)))


@pytest.mark.parametrize(("azimuth", "elevation"), [(0.4, 0.3), (2.2, 0.9), (4.0, 0.1), (5.5, -0.2)])
def test_a_drawn_pose_is_found_again(azimuth: float, elevation: float) -> None:
    mesh = two_boxes()
    true = seen_from(azimuth, elevation, (0.15, -0.1))
    photo, box = drawn(mesh, true)
    wrong = seen_from(azimuth + 2.0, elevation + 0.4, (0.0, 0.0))
    wrong[:3, :3] *= 1.3
    camera = Camera(centred_intrinsics(SIZE, SIZE), wrong, SIZE, SIZE)
    found = searched_pose(mesh, photo, camera, box, PoseSearch())
    assert found.fit > 0.85 > found.predicted_fit
    assert turn_between(found.camera_from_object, true) < 6
    np.testing.assert_allclose(found.camera_from_object[:2, 3], true[:2, 3], atol=0.06)


def test_a_right_pose_is_kept_or_bettered() -> None:
    mesh = two_boxes()
    true = seen_from(1.0, 0.4, (0.1, 0.0))
    photo, box = drawn(mesh, true)
    camera = Camera(centred_intrinsics(SIZE, SIZE), true, SIZE, SIZE)
    found = searched_pose(mesh, photo, camera, box, PoseSearch())
    assert found.fit >= found.predicted_fit > 0.9
    assert turn_between(found.camera_from_object, true) < 3


def test_pose_of_a_similarity() -> None:
    turn = matrix_from_quaternion(torch.randn(4, dtype=torch.float64))
    matrix = similarity(turn, torch.randn(3, dtype=torch.float64), torch.tensor(0.4, dtype=torch.float64))
    torch.testing.assert_close(camera_from_object(pose_from_similarity(matrix)), matrix)
