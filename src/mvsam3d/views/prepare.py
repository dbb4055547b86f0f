"""Photos -> Views: what the networks of both stages see."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from mvsam3d.errors import BadPhoto
from mvsam3d.types import Photo, View
from mvsam3d.views.crop import (
    Box,
    at_photo_size,
    cropped,
    object_box,
    padded_to_square,
    resized_nearest,
    resized_smooth,
)
from mvsam3d.views.pointmap import (
    Moments,
    Normaliser,
    ObjectCentric,
    clipped,
    crop_plane,
    moments_of,
    normalised,
)


@dataclass(frozen=True)
class ViewConfig:
    """How photos become views; the defaults are the public model's."""

    size: int = 518
    """Side of the square maps, in pixels."""
    box_factor: float = 1.2
    """Side of the crop, in units of the mask's longer extent."""
    padding_factor: float = 0.0
    """Margin around the crop, as a part of its side."""
    normaliser: Normaliser = field(default_factory=ObjectCentric)
    """Units of the point maps."""
    normalise_pointmap: bool = True
    """False passes point maps on as they are; scale and shift are still measured."""
    object_points: bool = False
    """Point maps show the object alone: for a model that has not seen what is around one."""
    pointmap_clip: float | None = None
    """Points deeper than this many times the object's median depth are dropped."""


def prepare_views(
    photos: Sequence[Photo],
    config: ViewConfig,
    pointmaps_p3d: Sequence[Float[Tensor, "3 rows columns"]] | None = None,
) -> tuple[View, ...]:
    """The views of all photos, in their order. Raises: BadPhoto, naming the photo."""
    pointmaps = [None] * len(photos) if pointmaps_p3d is None else pointmaps_p3d
    return tuple(prepare_view(photo, points, config) for photo, points in zip(photos, pointmaps, strict=True))


def prepare_view(
    photo: Photo,
    pointmap_p3d: Float[Tensor, "3 rows columns"] | None,
    config: ViewConfig,
    *,
    focal: float | None = None,
) -> View:
    """The view of one photo.

    Args:
        photo: the photo and its mask, of one size.
        pointmap_p3d: p3d camera frame, any size, NaN or infinite where missing; None without depth.
        config: sizes and units.
        focal: focal length in pixels, used only without a point map (see `crop_plane`).
    Raises: BadPhoto: the mask is empty or too small.
    """
    rgb = torch.from_numpy(photo.rgb.copy()).permute(2, 0, 1) / 255.0
    alpha = torch.from_numpy(photo.mask.copy())[None].float()
    try:
        return prepare_maps(rgb, alpha, pointmap_p3d, config, focal=focal)
    except BadPhoto as error:
        raise BadPhoto(f"{photo.path or photo.name}: {error}") from error


def prepare_maps(
    rgb: Float[Tensor, "3 h w"],
    alpha: Float[Tensor, "1 h w"],
    pointmap_p3d: Float[Tensor, "3 rows columns"] | None,
    config: ViewConfig,
    *,
    focal: float | None = None,
) -> View:
    """`prepare_view` on tensors in [0, 1]; a soft alpha stays soft. Raises: BadPhoto."""
    box = object_box(alpha, config.box_factor)
    crop_map, full_map, moments = _point_maps(pointmap_p3d, alpha, box, config, focal)
    return View(
        image=_smooth(cropped(rgb, box, padding=config.padding_factor), config.size),
        mask=_nearest(cropped(alpha, box, padding=config.padding_factor), config.size),
        rgb_image=_smooth(padded_to_square(rgb), config.size),
        rgb_image_mask=_nearest(padded_to_square(alpha), config.size),
        pointmap=crop_map,
        rgb_pointmap=full_map,
        pointmap_scale=moments.scale,
        pointmap_shift=moments.shift,
        crop_box=box,
    )


def _point_maps(
    pointmap_p3d: Float[Tensor, "3 rows columns"] | None,
    alpha: Float[Tensor, "1 h w"],
    box: Box,
    config: ViewConfig,
    focal: float | None,
) -> tuple[Float[Tensor, "3 size size"] | None, Float[Tensor, "3 size size"] | None, Moments]:
    """The point map of the crop, of the whole photo, and their common scale and shift."""
    h, w = alpha.shape[-2:]
    if pointmap_p3d is None:
        return None, None, crop_plane(box, w, h, focal)
    points = clipped(pointmap_p3d, alpha, config.pointmap_clip)
    if config.object_points:
        points = torch.where(resized_nearest(alpha, *points.shape[-2:]) > 0.5, points, torch.nan)
    moments = moments_of(points, alpha, config.normaliser)
    units = normalised(points, moments, config.normaliser) if config.normalise_pointmap else points
    crop = cropped(at_photo_size(units, h, w), box, padding=config.padding_factor, fill=torch.nan)
    # Zeros outside the photo and in the bars, not NaN: the public model saw them as points at the object's median.
    return _nearest(crop, config.size), _nearest(padded_to_square(units), config.size), moments


def _smooth(square: Float[Tensor, "channel side side"], size: int) -> Float[Tensor, "channel {size} {size}"]:
    return resized_smooth(square, size, size)


def _nearest(square: Float[Tensor, "channel side side"], size: int) -> Float[Tensor, "channel {size} {size}"]:
    return resized_nearest(square, size, size)
