"""Evidence of stage 2 is gathered on the tokens of its transformer, at half resolution; fusion acts on the voxels."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, Int32
from torch import Tensor

from mvsam3d.errors import InvalidOption
from mvsam3d.geometry.cameras import centre, project, triangulated
from mvsam3d.geometry.visibility import cells_from_object, in_image, not_behind, on_mask, visible_voxels
from mvsam3d.geometry.voxels import centres as cell_centres
from mvsam3d.nn.sparse import SparseGrid
from mvsam3d.types import Camera, Photo, Voxels

TOLERANCE_GRID = 64  # cells along an edge in which tolerances are given, as in the public system
SAME_SHAPE = 1.15  # how much the aspect of a camera's image may differ from its photo's: depth maps are stretched by some per cent


@dataclass(frozen=True)
class Sight:
    """What keeps a camera from seeing a token: the object itself, and what is chosen beside it."""

    tolerance: float = 4.0
    """Tokens no farther than this from another do not hide it, in 64ths of the cube."""
    frustum: bool = False
    """Tokens outside the photo are not seen."""
    mask: bool = False
    """Tokens outside the photo's mask are not seen: something stands before them."""
    depth: bool = False
    """Tokens behind the measured depth are not seen; needs a depth or point map of every view."""
    margin: float = 1.0
    """How far a token's centre may project outside the photo or the mask, in sides of a token as seen from the camera."""
    depth_tolerance: float = 4.0
    """How far a token's centre may lie behind the measured depth, in 64ths of the cube."""


def tokens_of(voxels: Voxels) -> tuple[Int32[Tensor, "token 3"], Int[Tensor, " voxel"]]:
    """Tokens of the voxels, cells of twice the side sorted by x, y, z, and the token that holds each voxel."""
    coarse = SparseGrid.batched([voxels.coords]).coarse
    return coarse.grid.coords[:, 1:], coarse.index


def on_voxels(per_token: Float[Tensor, "view token"], token: Int[Tensor, " voxel"]) -> Float[Tensor, "view voxel"]:
    """What is known at tokens, at their voxels; a view's one value for all tokens stays one."""
    return per_token if per_token.shape[1] == 1 else per_token[:, token]


def cameras_in_object(
    cameras: Sequence[Camera],
    photos: Sequence[Photo],
    camera_from_object: Float[Tensor, "4 4"],
    *,
    reference: int = 0,
    same_units: bool,
) -> tuple[Camera, ...]:
    """The cameras of all views with the object frame as their world, from the object's pose in one of them.

    `camera_from_world` of the result is a similarity from the object frame; lengths in the camera stay those of the world that the
    cameras came with, so that depth maps of the same source fit.

    Args:
        cameras: in a world of their own, one for each photo.
        photos: tell where the object is, if the units differ.
        camera_from_object: similarity to the camera of view `reference`, by its predicted pose.
        reference: the view whose pose was predicted.
        same_units: lengths of the pose are those of the cameras' world (point maps and cameras of one source). If not, both must agree on
            how far the object is from the reference camera: in the world, that is where the rays through the masks' centres meet.
    Raises: InvalidOption: the rays are parallel, or a camera's image has another shape than its photo.
    """
    reference_from_world = cameras[reference].camera_from_world
    placed = camera_from_object.double().numpy().copy()
    if not same_units:
        zooms = [_zoom(c, p.mask.shape, f"the photo {p.name}") for c, p in zip(cameras, photos, strict=True)]
        pixels = [
            (np.argwhere(photo.mask).mean(0)[::-1] + 0.5) / zoom for photo, zoom in zip(photos, zooms, strict=True)
        ]
        met = _moved(reference_from_world, triangulated(cameras, np.stack(pixels)))
        placed[:3] *= np.linalg.norm(met) / np.linalg.norm(placed[:3, 3])
    world_from_object = np.linalg.inv(reference_from_world) @ placed
    return tuple(Camera(c.intrinsics, c.camera_from_world @ world_from_object, c.width, c.height) for c in cameras)


def centres_in_object(
    cameras: Sequence[Camera],
    photos: Sequence[Photo],
    camera_from_object: Float[Tensor, "4 4"],
    *,
    reference: int = 0,
    same_units: bool,
) -> Float[np.ndarray, "view 3"]:
    """Where the cameras of all views stand in the object frame; arguments and errors as of `cameras_in_object`."""
    found = cameras_in_object(cameras, photos, camera_from_object, reference=reference, same_units=same_units)
    return np.stack([centre(camera) for camera in found])


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


def tokens_seen(
    voxels: Voxels,
    cameras_object: Sequence[Camera],
    sight: Sight,
    *,
    masks: Sequence[Bool[np.ndarray, "_ _"]] | None = None,
    depths: Sequence[Float[np.ndarray, "_ _"]] | None = None,
) -> Float[Tensor, "view token"]:
    """Whether each camera sees each token of the voxels, by all that `sight` asks for: 1 or 0.

    Args:
        voxels: active voxels.
        cameras_object: of `cameras_in_object`.
        sight: what hides a token; its defaults give `visibility`.
        masks: of the photos, for `sight.mask`; any size, but of the whole image of their camera.
        depths: along the optical axis, for `sight.depth`, in the cameras' units, NaN where unknown; any size, likewise.
    Raises: InvalidOption: masks or depths are needed and not given, or have another shape than the camera's image.
    """
    for wanted, given, what in ((sight.mask, masks, "a mask"), (sight.depth, depths, "a depth map")):
        if wanted and (given is None or len(given) != len(cameras_object)):
            raise InvalidOption(
                f"visibility by {what.split()[1]} needs {what} for each of {len(cameras_object)} views, and there "
                f"{'are none' if given is None else f'are {len(given)}'}: give them, or leave that test out"
            )
    seen = visibility(voxels, np.stack([centre(camera) for camera in cameras_object]), sight.tolerance)
    tokens, _ = tokens_of(voxels)
    side = voxels.resolution // 2
    points = cell_centres(tokens, side).cpu().double().numpy()
    for view, camera in enumerate(cameras_object):
        pixels, depth = project(camera, points)
        length = float(np.linalg.norm(camera.camera_from_world[:3, 0]))  # of the cube's edge, in the camera's units
        with np.errstate(divide="ignore"):
            margin = sight.margin * np.sqrt(camera.intrinsics[0, 0] * camera.intrinsics[1, 1]) * length / side / depth
        kept = np.ones(len(points), np.bool_)
        if sight.frustum:
            kept &= in_image(pixels, depth, camera.width, camera.height, margin)
        if sight.mask and masks is not None:
            zoom = _zoom(camera, masks[view].shape, f"the mask of view {view}")
            kept &= on_mask(masks[view], pixels * zoom, depth, margin * zoom.mean())
        if sight.depth and depths is not None:
            zoom = _zoom(camera, depths[view].shape, f"the depth map of view {view}")
            kept &= not_behind(depths[view], pixels * zoom, depth, sight.depth_tolerance / TOLERANCE_GRID * length)
        seen[view] *= torch.from_numpy(kept)
    return seen


def _moved(target_from_source: Float[np.ndarray, "4 4"], point: Float[np.ndarray, " 3"]) -> Float[np.ndarray, " 3"]:
    moved: Float[np.ndarray, " 3"] = target_from_source[:3, :3] @ point + target_from_source[:3, 3]
    return moved


def _zoom(camera: Camera, shape: tuple[int, int], what: str) -> Float[np.ndarray, " 2"]:
    """Pixels of a map of the whole image per pixel of its camera, across and down."""
    zoom = np.array([shape[1] / camera.width, shape[0] / camera.height])
    if max(zoom) > SAME_SHAPE * min(zoom):
        raise InvalidOption(
            f"{what} has {shape[1]} x {shape[0]} pixels, the image of its camera {camera.width} x {camera.height}: they are not of one "
            "photo, or one of them was cut. Give cameras of the whole photos"
        )
    return zoom
