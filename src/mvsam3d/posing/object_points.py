"""Which points of a scene belong to the object: those that some view sees, at their depth, inside the object's mask.

A pose is refined against them (`pose_refinement`). Source: MV-SAM3D, target points of its refinement.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Shaped
from PIL import Image
from scipy import ndimage

from mvsam3d.errors import InvalidOption, NothingFound
from mvsam3d.geometry.cameras import project, unproject
from mvsam3d.types import Camera


@dataclass(frozen=True)
class PointChoice:
    """Which points count as the object's."""

    mask_erosion: int = 3
    """Side, in pixels of the depth map, of the box that masks are shrunk by; 0 leaves them as they are."""
    depth_tolerance: float = 0.1
    """A point farther than this from the map's depth, as a share of it, is another one that the pixel does not see."""
    most: int = 100_000
    """Of more points, as many are drawn by chance."""


@dataclass(frozen=True)
class DepthView:
    """A depth map with its camera and the object's mask, all in the map's pixels."""

    camera: Camera  # maps whose pixel centres lie at integers have 0.5 less in cx and cy than we count: add it
    depth: Float[np.ndarray, "h w"]  # camera z; not finite or not positive where unknown
    mask: Bool[np.ndarray, "h w"]


def depth_view(camera: Camera, depth: Float[np.ndarray, "h w"], mask: Bool[np.ndarray, "h2 w2"]) -> DepthView:
    """A view whose mask may come in another size, as the photo's does: it is brought to the map's, nearest pixel.

    Raises: InvalidOption: the camera is not the map's.
    """
    height, width = depth.shape
    if (camera.height, camera.width) != (height, width):
        raise InvalidOption(
            f"the camera is for {camera.width} x {camera.height} pixels and the depth map has {width} x {height}: "
            "scale the intrinsics to the map"
        )
    if mask.shape != depth.shape:
        mask = np.asarray(Image.fromarray(mask).resize((width, height), Image.Resampling.NEAREST))
    return DepthView(camera, depth, mask)


def eroded(mask: Bool[np.ndarray, "h w"], side: int) -> Bool[np.ndarray, "h w"]:
    """Pixels with nothing but mask in the box around them; beyond the border all counts as mask.

    Raises: InvalidOption: a negative side.
    """
    if side < 0:
        raise InvalidOption(f"the masks cannot be shrunk by a box of {side} pixels: give 0 or more")
    if side <= 1:
        return mask
    return np.asarray(ndimage.minimum_filter(mask, size=side, mode="constant", cval=True))


def belongs(
    points_world: Float[np.ndarray, "point 3"], views: Sequence[DepthView], choice: PointChoice
) -> Bool[np.ndarray, " point"]:
    """Whether any view sees a point inside its (shrunk) mask at the map's depth."""
    found = np.zeros(len(points_world), bool)
    for view in views:
        height, width = view.depth.shape
        mask = eroded(view.mask, choice.mask_erosion)
        pixels, z = project(view.camera, points_world)
        inside = (pixels >= 0).all(axis=1) & (pixels[:, 0] < width) & (pixels[:, 1] < height)
        columns, rows = pixels[inside].astype(np.int64).T
        depth = view.depth[rows, columns]
        near = (
            np.abs(depth - z[inside]) < choice.depth_tolerance * depth
        )  # false where the depth is NaN, and behind the camera
        found[inside] |= mask[rows, columns] & near
    return found


def object_points(
    points_world: Float[np.ndarray, "point 3"],
    views: Sequence[DepthView],
    generator: torch.Generator,
    choice: PointChoice | None = None,
) -> Float[np.ndarray, "kept 3"]:
    """The object's points among those of a scene, at most `choice.most` of them.

    Args:
        points_world: the scene, in the world of the views' cameras.
        generator: draws where there are too many.
    Raises: NothingFound: none belongs to the object.
    """
    choice = choice or PointChoice()
    return limited(_some(points_world[belongs(points_world, views, choice)], views), choice.most, generator)


def depth_points(
    views: Sequence[DepthView], generator: torch.Generator, choice: PointChoice | None = None
) -> Float[np.ndarray, "kept 3"]:
    """The object's points straight from the depth maps, in the world: one per pixel of the (shrunk) masks with a depth.

    Raises: NothingFound: there is none.
    """
    choice = choice or PointChoice()
    found = [np.zeros((0, 3))]
    for view in views:
        known = np.isfinite(view.depth) & (view.depth > 0) & eroded(view.mask, choice.mask_erosion)
        rows, columns = np.nonzero(known)
        centres = np.stack([columns, rows], axis=1) + 0.5
        found.append(unproject(view.camera, centres, view.depth[known].astype(np.float64)))
    return limited(_some(np.concatenate(found), views), choice.most, generator)


def _some(points: Float[np.ndarray, "point 3"], views: Sequence[DepthView]) -> Float[np.ndarray, "point 3"]:
    if len(points) == 0:
        raise NothingFound(
            f"no point with a depth lies on the object in any of {len(views)} views with masks: check that the masks and "
            "the depth belong to the same photos, or shrink the masks less"
        )
    return points


def limited(rows: Shaped[np.ndarray, "row 3"], most: int, generator: torch.Generator) -> Shaped[np.ndarray, "kept 3"]:
    """All rows, or `most` of them by chance, in their order."""
    if len(rows) <= most:
        return rows
    kept: Shaped[np.ndarray, "kept 3"] = rows[
        torch.randperm(len(rows), generator=generator)[:most].sort().values.numpy()
    ]
    return kept


def in_camera(reference: Camera, points_world: Float[np.ndarray, "point 3"]) -> Float[np.ndarray, "point 3"]:
    """World points in the (OpenCV) frame of a reference camera: the one whose photo the pose belongs to."""
    camera_from_world = reference.camera_from_world
    points: Float[np.ndarray, "point 3"] = points_world @ camera_from_world[:3, :3].T + camera_from_world[:3, 3]
    return points


def seen_from(reference: Camera, cameras: Sequence[Camera]) -> tuple[Camera, ...]:
    """The cameras with the reference camera's frame as their world."""
    world_from_reference = np.linalg.inv(reference.camera_from_world)
    return tuple(
        Camera(camera.intrinsics, camera.camera_from_world @ world_from_reference, camera.width, camera.height)
        for camera in cameras
    )
