"""Visibility as the public system computes it, mistakes included: for comparison with it only.

`generation.evidence` does it consistently. Poses are rows here: p_p3d = (p_object * s) @ R(q) + t. Source: MV-SAM3D, the weighting callback
of its inference script and the export of latent visibility.
"""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from mvsam3d.generation.evidence import tokens_of
from mvsam3d.geometry.cameras import centre
from mvsam3d.geometry.frames import p3d_from_camera
from mvsam3d.geometry.rotations import matrix_from_quaternion
from mvsam3d.geometry.visibility import cells_from_object, visible_voxels
from mvsam3d.types import Camera, Pose, Voxels


def weighting_cells(cameras: Sequence[Camera], pose: Pose, resolution: int) -> Float[np.ndarray, "view 3"]:
    """Camera centres in cells as public weighting has them.

    Centres in the cameras' world are taken for centres in the p3d camera of view 0: neither the change to that camera nor that of axes
    is made. The pose is undone by the inverse of the wrong rotation, and a turn between upward axes is put in: (x, -z, y).
    """
    turned = _turned_back(np.stack([centre(camera) for camera in cameras]), pose)
    return cells_from_object(np.stack([turned[:, 0], -turned[:, 2], turned[:, 1]], 1) / _scale(pose), resolution)


def public_visibility(
    voxels: Voxels, cameras: Sequence[Camera], pose: Pose, tolerance: float
) -> Float[Tensor, "view token"]:
    """Whether each camera sees each token, as public weighting has it: 1 or 0.

    Tokens have half the resolution of the voxels, but are looked at in the grid of the voxels, so they fill one corner of it.

    Args:
        voxels: active voxels.
        cameras: of Depth Anything 3, in its world.
        pose: of the object in view 0.
        tolerance: in voxels, not halved.
    """
    tokens, _ = tokens_of(voxels)
    cells = weighting_cells(cameras, pose, voxels.resolution)
    seen = visible_voxels(tokens.cpu().numpy(), voxels.resolution, cells, tolerance=tolerance)
    return torch.from_numpy(seen).float()


def exported_cells(
    cameras: Sequence[Camera], pose: Pose, resolution: int, *, reference: int = 0
) -> Float[np.ndarray, "view 3"]:
    """Camera centres in cells as public pictures of visibility have them: right but for the inverse of the wrong rotation.

    `reference`: the view whose pose it is.
    """
    reference_from_world = cameras[reference].camera_from_world
    world = np.stack([centre(camera) for camera in cameras])
    in_reference = world @ reference_from_world[:3, :3].T + reference_from_world[:3, 3]
    return cells_from_object(_turned_back(p3d_from_camera(in_reference), pose) / _scale(pose), resolution)


def exported_visibility(
    voxels: Voxels, cameras: Sequence[Camera], pose: Pose, tolerance: float, *, reference: int = 0
) -> Float[Tensor, "view voxel"]:
    """Whether each camera sees each voxel, as the public export of visibility draws it: 1 or 0. Arguments as above."""
    cells = exported_cells(cameras, pose, voxels.resolution, reference=reference)
    seen = visible_voxels(voxels.coords.cpu().numpy(), voxels.resolution, cells, tolerance=tolerance)
    return torch.from_numpy(seen).float()


def _turned_back(centres: Float[np.ndarray, "view 3"], pose: Pose) -> Float[np.ndarray, "view 3"]:
    """R(q)ᵀ (c - t) on columns: the inverse of R(q) (c - t), while a pose of rows is undone by R(q) (c - t)."""
    rotation = matrix_from_quaternion(pose.rotation.double()).numpy()
    turned: Float[np.ndarray, "view 3"] = (centres - pose.translation.double().numpy()) @ rotation
    return turned


def _scale(pose: Pose) -> float:
    return float(pose.scale.double().mean())
