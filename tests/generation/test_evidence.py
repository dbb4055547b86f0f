"""Cameras -> where they stand in the object frame -> which tokens they see."""

import math

import numpy as np
import pytest
import torch

from mvsam3d.errors import InvalidOption
from mvsam3d.generation.evidence import centres_in_object, visibility
from mvsam3d.generation.pose import camera_from_object
from mvsam3d.geometry.cameras import centred_intrinsics, project, triangulated
from mvsam3d.geometry.rotations import matrix_from_quaternion
from mvsam3d.geometry.transforms import similarity
from mvsam3d.types import Camera, Photo, Pose, Voxels
from tests.parity import fixture


def test_recorded_cameras_and_what_they_see() -> None:
    f = fixture("multiview", "visibility_cameras")
    config = f.meta["config"]
    pose = Pose(
        torch.tensor(config["rotation_wxyz"]), torch.tensor(config["translation"]), torch.full((3,), config["scale"])
    )
    cameras = []
    for extrinsics in f.inputs["extrinsics"].numpy():
        full = np.eye(4)
        full[:3] = extrinsics
        cameras.append(Camera(centred_intrinsics(64, 64), full, 64, 64))
    centres = centres_in_object(cameras, (), camera_from_object(pose), same_units=True)
    f.check("camera_voxel_consistent", torch.from_numpy((centres + 0.5) * 64))
    f.check("visible_consistent_half", visibility(Voxels(f.inputs["coords"][:, 1:], 64), centres, config["tolerance"]))


def looking_at(position: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Rigid camera_from_world, OpenCV axes, +Z up in the world."""
    forward = (target - position) / np.linalg.norm(target - position)
    right = np.cross(forward, [0, 0, 1])
    right /= np.linalg.norm(right)
    rotation = np.stack([right, np.cross(forward, right), forward])
    out = np.eye(4)
    out[:3, :3], out[:3, 3] = rotation, -rotation @ position
    return out


def test_units_of_the_world_are_found_from_the_masks() -> None:
    """Law: a scene in other units, turned and moved, has the same cameras in the object frame."""
    rng = np.random.default_rng(0)
    angle = np.arange(5) * 1.1
    centres = np.stack([2 * np.cos(angle), 2 * np.sin(angle), 0.5 + 0 * angle], 1)
    object_cameras = [looking_at(centre, np.array([0.05, 0.0, 0.0])) for centre in centres]
    turn = matrix_from_quaternion(torch.from_numpy(rng.normal(size=4)))
    object_from_world = similarity(turn, torch.from_numpy(rng.normal(size=3)), torch.tensor(0.23)).numpy()
    cameras, photos = [], []
    for rigid in object_cameras:
        full = rigid @ object_from_world
        full[:3] /= 0.23  # rigid again: the camera's own lengths are the world's
        camera = Camera(centred_intrinsics(200, 160, 300.0), full, 200, 160)
        pixel, _ = project(camera, np.linalg.inv(object_from_world)[:3, 3])  # the object frame's origin
        mask = np.zeros((80, 100), bool)  # a photo of half the size of the camera file's
        rows, columns = np.indices(mask.shape) + 0.5
        mask[np.hypot(columns - pixel[0] / 2, rows - pixel[1] / 2) < 9] = True
        cameras.append(camera)
        photos.append(Photo("x", np.zeros((80, 100, 3), np.uint8), mask))
    for reference in (0, 3):
        pose = torch.from_numpy(object_cameras[reference])
        found = centres_in_object(cameras, photos, pose, reference=reference, same_units=False)
        np.testing.assert_allclose(found, centres, atol=0.02)  # masks are whole pixels


def test_rays_that_never_meet() -> None:
    camera = Camera(centred_intrinsics(10, 10), np.eye(4), 10, 10)
    with pytest.raises(InvalidOption, match="view from the side"):
        triangulated([camera, camera], np.full((2, 2), 5.0))


def test_rays_meet() -> None:  # closed form
    target = np.array([0.3, -0.1, 0.2])
    cameras = [
        Camera(
            centred_intrinsics(64, 48),
            looking_at(np.array([3 * math.cos(a), 3 * math.sin(a), 1.0]), np.zeros(3)),
            64,
            48,
        )
        for a in (0.0, 0.4, 2.0)
    ]
    pixels = np.stack([project(camera, target)[0] for camera in cameras])
    np.testing.assert_allclose(triangulated(cameras, pixels), target, atol=1e-9)
