import numpy as np
import pytest
import torch

from mvsam3d.generation.latents import PUBLIC_NAMES
from mvsam3d.generation.pose import (
    ROTATION_MEAN,
    ROTATION_STD,
    camera_from_object,
    decode_poses,
    encode_poses,
    placed,
    pose_from_camera,
    relative_pose,
)
from mvsam3d.geometry.cameras import centred_intrinsics, project
from mvsam3d.geometry.frames import camera_from_p3d, object_from_glb
from mvsam3d.geometry.rotations import matrix_from_quaternion
from mvsam3d.geometry.transforms import rigid, transformed
from mvsam3d.types import Camera, Pose, StructureLatents
from mvsam3d.views.pointmap import crop_plane
from tests.generation.test_solver import noise
from tests.parity import fixture

ROUNDING = {"rtol": 1e-4, "atol": 1e-5}  # quaternions and exp and back in float32


def test_recorded_decoding() -> None:
    f = fixture("stage1", "pose_decoder")
    latents = StructureLatents(
        shape=torch.zeros(len(f.inputs["scale"]), 1, 8),
        **{ours: f.inputs[public][:, 0] for public, ours in PUBLIC_NAMES.items() if public != "shape"},
    )
    poses = decode_poses(latents, f.inputs["scene_scale"][:, 0], f.inputs["scene_shift"][:, 0])
    plain = decode_poses(latents, torch.ones(len(poses), 3), torch.zeros(len(poses), 3))
    for name in ("translation", "rotation", "scale"):
        f.check(name, torch.stack([getattr(pose, name) for pose in poses])[:, None])
        f.check(f"{name}_no_scene", getattr(plain[0], name)[None])
    f.check("points_in_camera", torch.stack([placed(pose, f.inputs["object_points"]) for pose in poses]))
    torch.testing.assert_close(torch.tensor(f.meta["rotation_6d_mean"]), torch.tensor(ROTATION_MEAN))
    torch.testing.assert_close(torch.tensor(f.meta["rotation_6d_std"]), torch.tensor(ROTATION_STD))


def test_recorded_encoding() -> None:
    f = fixture("stage1", "pose_encoder")
    poses = [
        relative_pose(Pose(*row[:3]), row[3], row[4])
        for row in zip(
            f.inputs["instance_quaternion_l2c"][:, 0],
            f.inputs["instance_position_l2c"][:, 0],
            f.inputs["instance_scale_l2c"][:, 0],
            f.inputs["scene_scale"],
            f.inputs["scene_shift"],
            strict=True,
        )
    ]
    f.check("x_instance_scale", torch.stack([pose.scale for pose in poses])[:, None])
    f.check("x_instance_rotation", torch.stack([pose.rotation for pose in poses])[:, None])
    f.check("x_instance_translation", torch.stack([pose.translation for pose in poses])[:, None])
    f.check("x_scene_scale", f.inputs["scene_scale"])
    f.check("x_scene_center", f.inputs["scene_shift"])
    targets = encode_poses(poses, torch.ones(len(poses), 3), torch.zeros(len(poses), 3), torch.zeros(len(poses), 1, 8))
    f.check("x_translation_scale", targets.translation_scale.exp())  # recorded before the logarithm


def test_encoding_undoes_decoding() -> None:
    scale, shift = torch.full((6, 3), 0.7), torch.randn(6, 3)
    poses = decode_poses(noise(2, batch=6), scale, shift)
    shape = torch.randn(6, 8, 4)
    latents = encode_poses(poses, scale, shift, shape)
    assert torch.equal(latents.shape, shape)
    for before, after in zip(poses, decode_poses(latents, scale, shift), strict=True):
        torch.testing.assert_close(vars(before), vars(after), **ROUNDING)


def test_voxel_factor_scales() -> None:
    latents, ones, zeros = noise(), torch.ones(1, 3), torch.zeros(1, 3)
    fine, coarse = (decode_poses(latents, ones, zeros, voxel_factor=k)[0] for k in (1.0, 2.0))
    torch.testing.assert_close(coarse.scale, 2 * fine.scale)


def random_pose(seed: int) -> Pose:
    generator = torch.Generator().manual_seed(seed)
    q = torch.nn.functional.normalize(torch.randn(4, generator=generator), dim=0)
    return Pose(
        q if q[0] > 0 else -q, torch.randn(3, generator=generator), torch.rand(1, generator=generator).expand(3)
    )


@pytest.mark.parametrize("seed", range(5))
def test_matrix_places_points_where_the_public_convention_does(seed: int) -> None:
    pose, points = random_pose(seed), torch.rand(20, 3) - 0.5
    torch.testing.assert_close(
        transformed(camera_from_object(pose), points), camera_from_p3d(placed(pose, points)), **ROUNDING
    )


@pytest.mark.parametrize("seed", range(5))
def test_pose_of_a_known_camera_places_points_there(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    rotation = matrix_from_quaternion(torch.randn(4, generator=generator))
    known, size = rigid(rotation, torch.tensor([0.1, -0.2, 3.0])), 1.7
    points = torch.rand(20, 3, generator=generator) - 0.5
    pose = pose_from_camera(known, size)
    torch.testing.assert_close(
        transformed(camera_from_object(pose), points), transformed(known, points * size), **ROUNDING
    )
    again = pose_from_camera(rigid(camera_from_object(pose)[:3, :3] / size, camera_from_object(pose)[:3, 3]), size)
    torch.testing.assert_close(vars(again), vars(pose), **ROUNDING)


def test_upright_object_before_the_camera() -> None:  # closed form: +z of the object is up, -y of OpenCV
    looking_along_y = torch.tensor([[1.0, 0, 0, 0], [0, 0, -1, 0], [0, 1, 0, 3], [0, 0, 0, 1]])
    pose = pose_from_camera(looking_along_y)
    top_p3d = placed(pose, torch.tensor([0.0, 0, 0.5]))
    torch.testing.assert_close(top_p3d, torch.tensor([0.0, 0.5, 3.0]), **ROUNDING)  # p3d: y up, z forward


def test_render_to_training_target_and_back_to_pixels() -> None:
    """The whole way of a training target without depth: known camera -> pose -> latents -> pose -> same pixels."""
    intrinsics, size = centred_intrinsics(320, 240), (320, 240)
    known = rigid(matrix_from_quaternion(torch.tensor([0.9, 0.3, -0.2, 0.1])), torch.tensor([0.2, 0.1, 2.5]))
    moments = crop_plane((100, 60, 220, 180), *size)
    scale, shift = moments.scale[None], moments.shift[None]
    latents = encode_poses([pose_from_camera(known)], scale, shift, torch.zeros(1, 1, 8))
    pose = decode_poses(latents, scale, shift)[0]
    points = (np.random.default_rng(0).random((10, 3)) - 0.5).astype(np.float32)
    straight, _ = project(Camera(intrinsics, known.numpy(), *size), points)
    around, _ = project(Camera(intrinsics, camera_from_object(pose).numpy(), *size), points)
    np.testing.assert_allclose(around, straight, atol=0.01)  # pixels; float32 poses


def test_recorded_chain_from_glb_to_camera() -> None:
    f = fixture("multiview", "object_to_camera")
    config = f.meta["config"]
    pose = Pose(
        torch.tensor(config["rotation_wxyz"]), torch.tensor(config["translation"]), torch.full((3,), config["scale"])
    )
    canonical = object_from_glb(f.inputs["glb_vertices"])
    f.check("canonical", canonical)
    f.check("camera_p3d", placed(pose, canonical))
    f.check("camera_opencv", transformed(camera_from_object(pose), canonical))
