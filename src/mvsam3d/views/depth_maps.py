"""Depth maps of a set -> point maps and cameras of its photos, pixel by pixel in place.

Depth Anything 3 resizes each photo so that its longest side has `process_res` pixels, rounds each side to a multiple of 14 (which
stretches the photo a little), and, where that leaves the photos of a set at different sizes, cuts all of them around their centre to the
smallest width and height. Its maps then show only the middle of a photo. Source: Depth Anything 3, input processor.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Float32
from torch import Tensor

from mvsam3d.errors import BadFile
from mvsam3d.io.depth import PATCH, DepthViews
from mvsam3d.types import Camera, Photo
from mvsam3d.views.crop import resized_nearest
from mvsam3d.views.pointmap import pointmap_p3d

Size = tuple[int, int]  # width, height in pixels

LEAST_SHARE = 0.25  # of a side of the photo that a cut map still shows; less is another process_res


@dataclass(frozen=True)
class Placement:
    """Where a depth map lies in its photo. `whole` is the photo resized as the network saw it, before the cut."""

    photo: Size
    whole: Size
    left: int  # columns of `whole` cut off before the map's first
    top: int


def placement(photo: Size, map_: Size, process_res: int, *, name: str = "the photo") -> Placement:
    """Where the map of a photo lies. Raises: BadFile: the map was not made of a photo of that size."""
    whole = resized(photo, process_res)
    for side, kept in zip(whole, map_, strict=True):
        if not LEAST_SHARE * side <= kept <= side or (side - kept) % 2:
            raise BadFile(
                f"{name}: a depth map of {map_[0]} x {map_[1]} pixels was not made of a photo of {photo[0]} x {photo[1]}, which "
                f"process_res = {process_res} resizes to {whole[0]} x {whole[1]}: run mvsam3d depth on the photos as they are "
                "now (it turns them upright by their EXIF orientation, other tools may not)"
            )
    return Placement(photo, whole, (whole[0] - map_[0]) // 2, (whole[1] - map_[1]) // 2)


def resized(photo: Size, process_res: int) -> Size:
    """The size at which the network sees a photo of its own: longest side `process_res`, then multiples of 14, ties upward."""
    zoom = process_res / max(photo)
    width, height = (max(1, round(side * zoom)) for side in photo)
    return max(PATCH, (width + PATCH // 2) // PATCH * PATCH), max(PATCH, (height + PATCH // 2) // PATCH * PATCH)


def pointmap_in_photo(
    pointmap_camera: Float32[np.ndarray, "rows columns 3"], place: Placement
) -> Float[Tensor, "3 h w"]:
    """A map's points (OpenCV camera) at the photo's pixels, p3d camera, nearest; NaN outside the map and where it has none.

    The third channel is the depth of the photo's pixels: z is the same in both frames.
    """
    rows, columns, _ = pointmap_camera.shape
    whole = torch.full((3, place.whole[1], place.whole[0]), torch.nan)
    points = pointmap_p3d(torch.from_numpy(pointmap_camera).permute(2, 0, 1))
    whole[:, place.top : place.top + rows, place.left : place.left + columns] = points
    return resized_nearest(whole, place.photo[1], place.photo[0])


def camera_of_photo(camera: Camera, place: Placement) -> Camera:
    """The camera of a whole photo from that of its map: the same ray through the same spot."""
    zoom = np.array([place.photo[0] / place.whole[0], place.photo[1] / place.whole[1]])
    photo_from_map = np.array([[zoom[0], 0, zoom[0] * place.left], [0, zoom[1], zoom[1] * place.top], [0, 0, 1]])
    return Camera(photo_from_map @ camera.intrinsics, camera.camera_from_world, *place.photo)


def photo_pointmaps(views: DepthViews, photos: Sequence[Photo]) -> tuple[Float[Tensor, "3 _ _"], ...]:
    """Point maps (p3d camera) of the photos, found by name, each at its photo's size. Raises: BadFile."""
    chosen = views.select([photo.name for photo in photos])
    rows = zip(chosen.pointmaps_camera, _placements(chosen, photos), strict=True)
    return tuple(pointmap_in_photo(points, place) for points, place in rows)


def photo_cameras(views: DepthViews, photos: Sequence[Photo]) -> tuple[Camera, ...]:
    """Cameras of the whole photos, found by name, in the units of their point maps. Raises: BadFile."""
    chosen = views.select([photo.name for photo in photos])
    rows = zip(chosen.cameras, _placements(chosen, photos), strict=True)
    return tuple(camera_of_photo(camera, place) for camera, place in rows)


def _placements(views: DepthViews, photos: Sequence[Photo]) -> list[Placement]:
    _, rows, columns = views.depth.shape
    sizes = [(photo.mask.shape[1], photo.mask.shape[0]) for photo in photos]
    return [
        placement(size, (columns, rows), views.process_res, name=f"{views.path or 'depth'}, {photo.name}")
        for size, photo in zip(sizes, photos, strict=True)
    ]
