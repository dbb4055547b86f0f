"""Cut the object out of a photo, pad to a square, resize: maps as the public model saw them in training.

A map is an image, a mask or a point map, channels first. Source: SAM 3D Objects, preprocessing of both stages.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from mvsam3d.errors import BadPhoto

Box = tuple[int, int, int, int]  # x1, y1, x2, y2 in pixels, may reach outside; x2, y2 exclusive


def resized_smooth(image: Float[Tensor, "channel h w"], h: int, w: int) -> Float[Tensor, "channel {h} {w}"]:
    """Bilinear, with antialiasing where it shrinks."""
    return F.interpolate(image[None], (h, w), mode="bilinear", align_corners=False, antialias=True)[0]


def resized_nearest(image: Float[Tensor, "channel h w"], h: int, w: int) -> Float[Tensor, "channel {h} {w}"]:
    """Source pixel floor(target * in / out): masks keep their values and point maps their NaN."""
    return F.interpolate(image[None], (h, w), mode="nearest")[0]


def padded_to_square(image: Float[Tensor, "channel h w"], fill: float = 0.0) -> Float[Tensor, "channel size size"]:
    """The shorter side padded on both ends; an odd pixel goes to the bottom or right."""
    h, w = image.shape[-2:]
    size = max(h, w)
    top, left = (size - h) // 2, (size - w) // 2
    return F.pad(image, (left, size - w - left, top, size - h - top), value=fill)


def object_box(alpha: Float[Tensor, "1 h w"], factor: float) -> Box:
    """Square around all pixels with alpha > 0, `factor` times their longer extent.

    Corners are truncated toward zero, so beside a photo's border the box can be one pixel narrower.

    Raises: BadPhoto: the mask is empty, or spans fewer than 3 pixels in one direction.
    """
    rows, columns = (alpha[0] > 0).nonzero(as_tuple=True)
    if len(rows) == 0:
        raise BadPhoto("the mask is empty: no pixel belongs to the object. Draw the mask again, or leave this view out")
    (x_min, x_max), (y_min, y_max) = ((int(i.min()), int(i.max())) for i in (columns, rows))
    w, h = x_max - x_min, y_max - y_min
    if min(w, h) < 2:
        raise BadPhoto(
            f"the mask spans {w + 1} x {h + 1} pixels, but the object must span at least 3 both ways: "
            "give a larger photo or another mask"
        )
    size = int(max(w, h) * factor)
    x, y = (x_min + x_max) / 2, (y_min + y_max) / 2
    return int(x - size // 2), int(y - size // 2), int(x + size // 2), int(y + size // 2)


def cropped(
    image: Float[Tensor, "channel h w"], box: Box, *, padding: float = 0.0, fill: float = 0.0
) -> Float[Tensor, "channel size size"]:
    """The box cut out, as a square.

    Args:
        image: the map to cut.
        box: where; outside the photo every map is 0, point maps too.
        padding: margin on each side, as a part of the square's side.
        fill: value of what is added to make the box square, and of the margin.
    """
    x1, y1, x2, y2 = box
    h, w = image.shape[-2:]
    inside = F.pad(
        image[:, max(y1, 0) : y2, max(x1, 0) : x2], (max(-x1, 0), max(x2 - w, 0), max(-y1, 0), max(y2 - h, 0))
    )
    square = padded_to_square(inside, fill)
    margin = int(square.shape[-1] * padding)
    return F.pad(square, (margin, margin, margin, margin), value=fill)


def at_photo_size(pointmap: Float[Tensor, "3 rows columns"], h: int, w: int) -> Float[Tensor, "3 {h} {w}"]:
    """A point map brought to the size of its photo: points smooth, missing ones (NaN) nearest."""
    if tuple(pointmap.shape[-2:]) == (h, w):
        return pointmap
    missing = pointmap.isnan().any(0, keepdim=True)
    points = resized_smooth(pointmap.nan_to_num(nan=0.0), h, w)
    return torch.where(resized_nearest(missing.float(), h, w) > 0.5, torch.nan, points)
