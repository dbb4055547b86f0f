"""What depth maps tell of a shape: nothing stands between a camera and the surface that it sees, and something begins there.

The inverse sensor model of occupancy grids (Moravec and Elfes 1985): log odds of views add up.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float
from scipy.ndimage import binary_erosion

from mvsam3d.errors import InvalidOption
from mvsam3d.geometry.cameras import project, resized
from mvsam3d.geometry.hull import Cube
from mvsam3d.types import Camera

FREE = -3.0  # log odds of a cell that a ray goes through
HIT = 1.5  # of a cell at the surface
DEEP = 2.0  # cells behind the surface over which that fades: how thick things are, depth does not tell
MOST = 6.0  # of all views together
ERROR = 0.01  # of a depth, as a share of it


def depth_odds(
    cameras: Sequence[Camera],
    depths: Sequence[Float[np.ndarray, "_ _"]],
    masks: Sequence[Bool[np.ndarray, "_ _"]],
    cube: Cube,
    resolution: int,
    *,
    error: float = ERROR,
) -> Float[np.ndarray, "x y z"]:
    """Log odds of each cell being inside, by what depth maps see in front of it and at it; 0 behind, and where no depth is known.

    Args:
        cameras: one for each view, of images of the masks' shape.
        depths: along the optical axis in the units of the cameras' world, NaN or infinite where unknown; any size, of the whole image.
        masks: of the object. Only depths whose neighbours are on it too count: at an outline depth maps blur two surfaces.
        cube: where the grid lies.
        resolution: cells along its edges.
        error: of a depth that is forgiven, as a share of it, beside half a cell.
    Raises: InvalidOption: not one depth map and mask for each camera, or a camera whose world scales.
    """
    if not len(cameras) == len(depths) == len(masks):
        raise InvalidOption(
            f"{len(cameras)} cameras, {len(depths)} depth maps, {len(masks)} masks: give one of each per view"
        )
    points, cell = cube.cell_centres(resolution), cube.side / resolution
    odds = np.zeros(points.shape[:3])
    for i, (camera, depth, mask) in enumerate(zip(cameras, depths, masks, strict=True)):
        scale = np.cbrt(abs(np.linalg.det(camera.camera_from_world[:3, :3])))
        if abs(scale - 1) > 1e-3:
            raise InvalidOption(f"camera {i} scales its world by {scale:.3g}: depths are in units of the world")
        seen, there = _looked_up(camera, _trusted(depth, mask), points)
        with np.errstate(invalid="ignore"):
            behind = (there - seen) / cell  # cells behind the surface, negative in front
            slack = 0.5 + error * seen / cell
            free = FREE * np.clip(-behind - slack, 0.0, 1.0)
            hit = HIT * np.where(behind >= -slack, np.clip(1 - behind / (DEEP + slack), 0.0, 1.0), 0.0)
        odds += np.where(np.isfinite(seen), free + hit, 0.0)
    return np.clip(odds, -MOST, MOST)


def _trusted(depth: Float[np.ndarray, "h w"], mask: Bool[np.ndarray, "_ _"]) -> Float[np.ndarray, "h w"]:
    """The depths on the mask, without those at its outline; NaN elsewhere."""
    h, w = depth.shape
    rows = ((np.arange(h) + 0.5) * mask.shape[0] / h).astype(np.int64)
    columns = ((np.arange(w) + 0.5) * mask.shape[1] / w).astype(np.int64)
    kept = binary_erosion(mask[np.ix_(rows, columns)], np.ones((3, 3)), border_value=1)
    return np.where(kept & np.isfinite(depth) & (depth > 0), depth, np.nan)


def _looked_up(
    camera: Camera, depth: Float[np.ndarray, "h w"], points: Float[np.ndarray, "*rows 3"]
) -> tuple[Float[np.ndarray, "*rows"], Float[np.ndarray, "*rows"]]:
    """Of each point: the depth at its pixel, NaN where there is none, and its own."""
    h, w = depth.shape
    pixels, own = project(resized(camera, w, h), points)
    inside = (own > 0) & (pixels >= 0).all(-1) & (pixels[..., 0] < w) & (pixels[..., 1] < h)
    columns, rows = (np.where(inside, pixels[..., axis], 0).astype(np.int64) for axis in (0, 1))
    return np.where(inside, depth[rows, columns], np.nan), own
