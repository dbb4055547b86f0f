"""Evidence of stage 2 is gathered on the tokens of its transformer, at half resolution; fusion acts on the voxels."""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float, Int, Int32
from torch import Tensor

from mvsam3d.geometry.cameras import centre, triangulated
from mvsam3d.geometry.transforms import inverse, transformed
from mvsam3d.geometry.visibility import cells_from_object, visible_voxels
from mvsam3d.nn.sparse import SparseGrid
from mvsam3d.types import Camera, Photo, Voxels

TOLERANCE_GRID = 64  # cells along an edge in which tolerances are given, as in the public system


def tokens_of(voxels: Voxels) -> tuple[Int32[Tensor, "token 3"], Int[Tensor, " voxel"]]:
    """Tokens of the voxels, cells of twice the side sorted by x, y, z, and the token that holds each voxel."""
    coarse = SparseGrid.batched([voxels.coords]).coarse
    return coarse.grid.coords[:, 1:], coarse.index


def on_voxels(per_token: Float[Tensor, "view token"], token: Int[Tensor, " voxel"]) -> Float[Tensor, "view voxel"]:
    """What is known at tokens, at their voxels; a view's one value for all tokens stays one."""
    return per_token if per_token.shape[1] == 1 else per_token[:, token]


def centres_in_object(
    cameras: Sequence[Camera],
    photos: Sequence[Photo],
    camera_from_object: Float[Tensor, "4 4"],
    *,
    reference: int = 0,
    same_units: bool,
) -> Float[np.ndarray, "view 3"]:
    """Where the cameras of all views stand in the object frame, from the object's pose in one of them.

    Args:
        cameras: in a world of their own, one for each photo.
        photos: tell where the object is, if the units differ.
        camera_from_object: similarity to the camera of view `reference`, by its predicted pose.
        reference: the view whose pose was predicted.
        same_units: lengths of the pose are those of the cameras' world (point maps and cameras of one source). If not, both must agree on
            how far the object is from the reference camera: in the world, that is where the rays through the masks' centres meet.
    Raises: InvalidOption: the rays are parallel.
    """
    reference_from_world = torch.from_numpy(cameras[reference].camera_from_world)
    centres = transformed(reference_from_world, torch.from_numpy(np.stack([centre(camera) for camera in cameras])))
    if not same_units:
        pixels = np.stack([np.argwhere(photo.mask).mean(0)[::-1] + 0.5 for photo in photos])
        zoom = [
            np.array([c.width / p.mask.shape[1], c.height / p.mask.shape[0]])
            for c, p in zip(cameras, photos, strict=True)
        ]
        met = transformed(reference_from_world, torch.from_numpy(triangulated(cameras, pixels * np.stack(zoom))))
        centres = centres * (camera_from_object[:3, 3].norm() / met.norm())
    return transformed(inverse(camera_from_object.double()), centres).numpy()


def visibility(
    voxels: Voxels, centres_object: Float[np.ndarray, "view 3"], tolerance: float
) -> Float[Tensor, "view token"]:
    """Whether each camera sees each token of the voxels past the other tokens: 1 or 0.

    Args:
        voxels: active voxels.
        centres_object: camera centres, in the object frame.
        tolerance: see `visible_voxels`, in 64ths of the cube.
    """
    tokens, _ = tokens_of(voxels)
    side = voxels.resolution // 2
    cells = cells_from_object(centres_object, side)
    seen = visible_voxels(tokens.cpu().numpy(), side, cells, tolerance=tolerance * side / TOLERANCE_GRID)
    return torch.from_numpy(seen).float()
