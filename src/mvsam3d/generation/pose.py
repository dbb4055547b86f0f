"""Pose latents <-> Pose <-> camera_from_object.

Conventions of the public model (SAM 3D Objects, ScaleShiftInvariant), easy to get wrong:
    Points are rows: p_p3d = (p_object * scale) @ R(q) + translation. On columns, as everywhere else in this package,
    the rotation is R(q) transposed.
    The camera is PyTorch3D's (x left, y up), not OpenCV's.
    With S and D the scale and shift of the view's point map: scale = S exp(latent), translation = S latent + D; the
    rotation latent is the first two columns of R(q), normalised. `translation_scale` is 0 in training, unused after.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from mvsam3d.geometry.cameras import centred_intrinsics
from mvsam3d.geometry.frames import camera_from_p3d, p3d_from_camera
from mvsam3d.geometry.rotations import (
    matrix_from_6d,
    matrix_from_quaternion,
    quaternion_from_matrix,
    vector_6d_from_matrix,
)
from mvsam3d.geometry.transforms import similarity
from mvsam3d.types import Camera, Photo, Pose, StructureLatents

# Mean and standard deviation of the 6D rotations that the public model was trained on.
ROTATION_MEAN = (
    -0.06366084883674913,
    0.008438224692279752,
    0.00017084786438302483,
    0.0007126610473540038,
    -0.0030916726538816417,
    0.5166093753457688,
)
ROTATION_STD = (
    0.6656971967514863,
    0.6787012271867754,
    0.30345010594844524,
    0.4394504420678794,
    0.39817973931717104,
    0.6176286868761914,
)


def decode_poses(
    latents: StructureLatents,
    pointmap_scale: Float[Tensor, "batch 3"],
    pointmap_shift: Float[Tensor, "batch 3"],
    *,
    voxel_factor: float = 1.0,
) -> tuple[Pose, ...]:
    """The pose of each row of the batch, in the camera of the view whose scale and shift stand in that row.

    `voxel_factor`: how many times coarser the voxel grid was made, 1 if not.
    """
    mean, std = latents.rotation_6d.new_tensor(ROTATION_MEAN), latents.rotation_6d.new_tensor(ROTATION_STD)
    rotations = quaternion_from_matrix(matrix_from_6d(latents.rotation_6d[:, 0] * std + mean))
    translations = latents.translation[:, 0] * pointmap_scale + pointmap_shift
    scales = latents.scale[:, 0].exp() * pointmap_scale
    scales = scales.mean(1, keepdim=True).expand_as(scales) * voxel_factor
    return tuple(Pose(*pose) for pose in zip(rotations, translations, scales, strict=True))


def relative_pose(pose: Pose, pointmap_scale: Float[Tensor, " 3"], pointmap_shift: Float[Tensor, " 3"]) -> Pose:
    """The pose in the units of a view's normalised point map, its quaternion with w >= 0."""
    return Pose(
        rotation=torch.where(pose.rotation[:1] < 0, -pose.rotation, pose.rotation),
        translation=(pose.translation - pointmap_shift) / pointmap_scale,
        scale=pose.scale / pointmap_scale,
    )


def encode_poses(
    poses: Sequence[Pose],
    pointmap_scale: Float[Tensor, "batch 3"],
    pointmap_shift: Float[Tensor, "batch 3"],
    shape: Float[Tensor, "batch latent channel"],
) -> StructureLatents:
    """Training target of stage 1: the pose latents of `poses`, beside the structure latents `shape`."""
    relative = [relative_pose(*row) for row in zip(poses, pointmap_scale, pointmap_shift, strict=True)]
    vectors = vector_6d_from_matrix(matrix_from_quaternion(torch.stack([pose.rotation for pose in relative])))
    mean, std = vectors.new_tensor(ROTATION_MEAN), vectors.new_tensor(ROTATION_STD)
    scales = torch.stack([pose.scale for pose in relative]).log()
    return StructureLatents(
        shape=shape,
        rotation_6d=((vectors - mean) / std)[:, None],
        translation=torch.stack([pose.translation for pose in relative])[:, None],
        scale=scales[:, None],
        translation_scale=torch.zeros_like(scales[:, None, :1]),
    )


def placed(pose: Pose, points_object: Float[Tensor, "*rows 3"]) -> Float[Tensor, "*rows 3"]:
    """Points of the object in the p3d camera frame, by the public convention (three scales may differ)."""
    return (points_object * pose.scale) @ matrix_from_quaternion(pose.rotation) + pose.translation


def camera_from_object(pose: Pose) -> Float[Tensor, "4 4"]:
    """Similarity from the object frame to the OpenCV camera, on column vectors."""
    p3d_from_object = matrix_from_quaternion(pose.rotation).T
    columns = camera_from_p3d(p3d_from_object.T).T  # the frame change acts on each column
    return similarity(columns, camera_from_p3d(pose.translation), pose.scale.mean())


def placed_camera(photo: Photo, pose: Pose) -> Camera:
    """The photo's camera with the object frame as the world, by the object's pose; the lens is assumed (see `crop_plane`)."""
    height, width = photo.mask.shape
    return Camera(centred_intrinsics(width, height), camera_from_object(pose).double().numpy(), width, height)


def pose_from_similarity(camera_from_object: Float[Tensor, "4 4"]) -> Pose:
    """Inverse of `camera_from_object`, for a matrix that scales too."""
    scale = float(torch.linalg.det(camera_from_object[:3, :3])) ** (1 / 3)
    rigid_ = camera_from_object.clone()
    rigid_[:3, :3] /= scale
    return pose_from_camera(rigid_, scale)


def pose_from_camera(camera_from_object: Float[Tensor, "4 4"], scale: float = 1.0) -> Pose:
    """The pose of an object seen by a known camera: inverse of `camera_from_object`.

    Args:
        camera_from_object: rigid, to the OpenCV camera, on column vectors. It acts on points already of true size.
        scale: true size of the unit cube that the object fills in its own frame.
    """
    p3d_from_object = p3d_from_camera(camera_from_object[:3, :3].T).T
    return Pose(
        rotation=quaternion_from_matrix(p3d_from_object.T),
        translation=p3d_from_camera(camera_from_object[:3, 3]),
        scale=camera_from_object.new_full((3,), scale),
    )
