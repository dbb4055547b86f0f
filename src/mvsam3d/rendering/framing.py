"""What a picture shows: the square around a mask, the lens for it, a camera that goes around the object."""

import math

import numpy as np
from jaxtyping import Bool, Float

Box = tuple[float, float, float]  # left, top, side: a square in pixels of the photo, may reach outside


def square_around(mask: Bool[np.ndarray, "h w"], margin: float) -> Box:
    """The square around a mask, its side in sides of the mask's box; the whole photo for an empty one."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not len(rows):
        return 0.0, 0.0, float(max(mask.shape))
    top, bottom, left, right = rows[0], rows[-1] + 1, columns[0], columns[-1] + 1
    side = margin * max(bottom - top, right - left)
    return float(left + right - side) / 2, float(top + bottom - side) / 2, float(side)


def square_intrinsics(intrinsics: Float[np.ndarray, "3 3"], box: Box, side: int) -> Float[np.ndarray, "3 3"]:
    """The lens of the square alone, drawn with `side` pixels, from that of the photo."""
    left, top, length = box
    zoom = side / length
    tile_from_photo = np.array([[zoom, 0, -zoom * left], [0, zoom, -zoom * top], [0, 0, 1]])
    return np.asarray(tile_from_photo @ intrinsics)


def turn_camera(azimuth: float, elevation: float, distance: float) -> Float[np.ndarray, "4 4"]:
    """camera_from_object of a camera that looks at the origin, angles in degrees: azimuth 0 sees the front from -Y, 90 the +X side."""
    a, e = math.radians(azimuth), math.radians(elevation)
    away = np.array([math.sin(a) * math.cos(e), -math.cos(a) * math.cos(e), math.sin(e)])
    right = np.array([math.cos(a), math.sin(a), 0.0])
    camera_from_object = np.eye(4)
    camera_from_object[:3, :3] = np.stack([right, np.cross(-away, right), -away])
    camera_from_object[2, 3] = distance
    return camera_from_object
