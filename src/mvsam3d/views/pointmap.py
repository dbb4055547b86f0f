"""Normalise point maps, and stand in for their scale and shift where there is no depth.

Point maps here are in the p3d camera frame (x left, y up, z forward), 3 x h x w, NaN where missing.
normalised = (p - shift) / scale; every strategy but `Disparity` (which first takes (x, y, z) to (x/z, y/z, log z)).
Source: SAM 3D Objects, point-map normalisers.
"""

from dataclasses import dataclass
from typing import Literal, assert_never

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from mvsam3d.errors import InvalidOption
from mvsam3d.geometry.cameras import centred_intrinsics
from mvsam3d.geometry.frames import p3d_from_camera
from mvsam3d.views.crop import Box, resized_nearest

PointMap = Float[Tensor, "3 h w"]


@dataclass(frozen=True)
class Moments:
    """Scale and shift of a point map: p = normalised * scale + shift."""

    scale: Float[Tensor, "*batch 3"]
    shift: Float[Tensor, "*batch 3"]


@dataclass(frozen=True)
class ObjectCentric:
    """Origin at the object's median point: the public model's way."""

    scale: Literal["scene", "object-quantiles", "object-median"] = "scene"
    """Unit length: median of max(|x|, |y|, |z|) over the whole photo; twice the range between two quantiles of the
    object points' distances; or their median distance."""
    dropped_quantile: float = 0.1
    """Distances below this quantile and above one minus it do not count (object-quantiles)."""
    scale_factor: float = 1.0
    """Multiplies the unit length."""
    clip: float | None = None
    """Points farther than this from the origin, in units of the scale, are dropped."""


@dataclass(frozen=True)
class SceneMean:
    """Origin on the axis at the scene's median depth, unit length the mean absolute coordinate."""


@dataclass(frozen=True)
class ApparentSize:
    """Origin at the camera, unit length the median depth: of the scene, or of the object."""

    of_scene: bool = True


@dataclass(frozen=True)
class Disparity:
    """(x/z, y/z, log z), less the median log z of the scene or of the object."""

    of_scene: bool = True


Normaliser = ObjectCentric | SceneMean | ApparentSize | Disparity


def all_or_nothing(pointmap: PointMap) -> PointMap:
    """Points with any coordinate that is not finite become NaN in all three."""
    return torch.where(pointmap.isfinite().all(0, keepdim=True), pointmap, torch.nan)


def pointmap_p3d(pointmap_camera: PointMap) -> PointMap:
    """A depth model's point map (OpenCV camera, infinite where it found none) as the networks take it."""
    return all_or_nothing(p3d_from_camera(pointmap_camera.permute(1, 2, 0)).permute(2, 0, 1))


def clipped(pointmap: PointMap, alpha: Float[Tensor, "1 rows columns"], limit: float | None) -> PointMap:
    """Points with |z| beyond `limit` times the object's median z become NaN; None leaves all."""
    if limit is None:
        return pointmap
    median = _object_points(pointmap, alpha)[2].nanmedian()
    return torch.where(pointmap[2:].abs() > limit * median, torch.nan, pointmap)


def normalised(pointmap: PointMap, moments: Moments, how: Normaliser) -> PointMap:
    """The point map in the strategy's units."""
    space = _disparity(pointmap) if isinstance(how, Disparity) else pointmap
    points = all_or_nothing((space - moments.shift[:, None, None]) / moments.scale[:, None, None])
    if isinstance(how, ObjectCentric) and how.clip is not None:
        return torch.where(points.norm(dim=0, keepdim=True) > how.clip, torch.nan, points)
    return points


def moments_of(pointmap: PointMap, alpha: Float[Tensor, "1 rows columns"], how: Normaliser) -> Moments:
    """Scale and shift by the chosen strategy.

    Args:
        pointmap: infinite coordinates count as such in the medians, NaN ones do not count.
        alpha: the object's mask at any size; object pixels are those > 0.5 after nearest resizing.
        how: the strategy.
    """
    match how:
        case ObjectCentric():
            return _object_centric(pointmap, _object_points(pointmap, alpha), how)
        case SceneMean():
            shift = torch.stack([*pointmap.new_zeros(2), pointmap[2].nanmedian()])
            return Moments((pointmap - shift[:, None, None]).abs().nanmean().expand(3), shift)
        case ApparentSize(of_scene):
            depths = pointmap[2] if of_scene else _object_points(pointmap, alpha)[2]
            return Moments(depths.nanmedian().expand(3), pointmap.new_zeros(3))
        case Disparity(of_scene):
            depths = (pointmap if of_scene else _object_points(pointmap, alpha))[2].log()
            return Moments(pointmap.new_ones(3), torch.stack([*pointmap.new_zeros(2), depths.nanmedian()]))
        case _:
            assert_never(how)


def crop_plane(box: Box, width: int, height: int, focal: float | None = None) -> Moments:
    """Scale and shift for a photo without depth, so that pose latents keep a meaning.

    A pinhole is assumed: focal length `focal`, or 1.2 * the longer side, in pixels, principal point at the photo's
    centre. Scale 1; shift is the point on the ray through the centre of the crop box at the depth where the box is one
    unit wide. A decoded pose with zero translation and scale latents thus puts a unit cube where the crop shows it, and
    all lengths are in units of that cube: without depth, size and distance are known up to a common factor only.

    Raises: InvalidOption: the focal length is not positive.
    """
    if focal is not None and focal <= 0:
        raise InvalidOption(f"focal = {focal}, but a focal length in pixels must be positive: give another or none")
    intrinsics = centred_intrinsics(width, height, focal)
    f, cx, cy = intrinsics[0, 0], intrinsics[0, 2], intrinsics[1, 2]
    x1, y1, x2, y2 = box
    side = max(x2 - x1, y2 - y1)
    centre_camera = torch.tensor([((x1 + x2) / 2 - cx) / side, ((y1 + y2) / 2 - cy) / side, f / side])
    return Moments(torch.ones(3), p3d_from_camera(centre_camera.float()))


def _object_points(pointmap: PointMap, alpha: Float[Tensor, "1 rows columns"]) -> Float[Tensor, "3 point"]:
    inside: Bool[Tensor, "h w"] = resized_nearest(alpha, *pointmap.shape[-2:])[0] > 0.5
    return pointmap[:, inside]


def _object_centric(pointmap: PointMap, points: Float[Tensor, "3 point"], how: ObjectCentric) -> Moments:
    if not points.isfinite().all(0).any():  # nothing seen of the object: leave the scene where it is
        return Moments(pointmap.new_full((3,), how.scale_factor), pointmap.new_zeros(3))
    shift = points.nanmedian(1).values
    if how.scale == "scene":
        scale = (pointmap - shift[:, None, None]).abs().amax(0).nanmedian()
    else:
        distances = (points - shift[:, None]).norm(dim=0)
        scale = _object_scale(distances[distances.isfinite()], how)
    return Moments((scale * how.scale_factor).expand(3), shift)


def _object_scale(distances: Float[Tensor, " point"], how: ObjectCentric) -> Float[Tensor, ""]:
    if how.scale == "object-median":
        return distances.median()
    kept = distances.new_tensor([how.dropped_quantile, 1 - how.dropped_quantile])
    low, high = distances.quantile(kept).unbind()
    return 2 * (high - low)


def _disparity(pointmap: PointMap) -> PointMap:
    x, y, z = pointmap
    return torch.stack([x / z, y / z, z.log()])
