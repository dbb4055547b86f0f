"""Which voxels of an object a camera sees: a ray from the camera to each, through every cell on its way.

Lengths are in cells: cell i of an axis covers [i, i + 1), the grid [0, resolution]. `cells_from_object` leads there from the object frame.
Then, in pixels: which projected points lie in an image, on a mask, or not behind a measured depth.
Source: Amanatides and Woo 1987, with the tolerance of MV-SAM3D.
"""

from __future__ import annotations

import math

import numpy as np
from jaxtyping import Bool, Float, Int

from mvsam3d.geometry.compiled import compiled

PAST_THE_WALL = 1e-3  # cells a ray from outside starts inside the grid
SHORTEST = 1e-8  # cells; a camera at a voxel's centre sees it
PARALLEL = 1e-10  # a direction's share along an axis below which it never leaves the cell that way


def visible_voxels(
    coords: Int[np.ndarray, "voxel 3"],
    resolution: int,
    cameras_cells: Float[np.ndarray, "view 3"],
    *,
    tolerance: float = 4.0,
) -> Bool[np.ndarray, "view voxel"]:
    """Whether nothing of the object itself stands between each camera and each voxel.

    Args:
        coords: active voxels, in [0, resolution).
        resolution: cells along an edge.
        cameras_cells: camera centres, in cells; they may lie outside the grid.
        tolerance: cells; active voxels no farther than this from the one looked at do not hide it, for surfaces are some voxels thick.
    """
    active = np.zeros((resolution,) * 3, np.bool_)
    active[tuple(coords.T)] = True
    return _visible(
        np.ascontiguousarray(coords, np.int64),
        active,
        np.ascontiguousarray(cameras_cells, np.float64),
        float(tolerance) ** 2,
    )


def cells_on_ray(
    start_cells: Float[np.ndarray, " 3"], end_cells: Float[np.ndarray, " 3"], resolution: int
) -> Int[np.ndarray, "cell 3"]:
    """Cells from `start` to `end`, the centre of a cell, in order, both ends included."""
    cells = np.empty((3 * resolution, 3), np.int64)
    count = _march(np.asarray(start_cells, np.float64), np.asarray(end_cells, np.float64), resolution, cells)
    return cells[:count]


def cells_from_object(points_object: Float[np.ndarray, "*rows 3"], resolution: int) -> Float[np.ndarray, "*rows 3"]:
    """Object frame -> cells, not rounded."""
    points: Float[np.ndarray, "*rows 3"] = (points_object + 0.5) * resolution
    return points


def in_image(
    pixels: Float[np.ndarray, "point 2"],
    depth: Float[np.ndarray, " point"],
    width: int,
    height: int,
    margin: Float[np.ndarray, " point"],
) -> Bool[np.ndarray, " point"]:
    """Whether points before the camera project into its image, or outside by no more than their margin, in pixels."""
    with np.errstate(invalid="ignore"):
        beyond = np.maximum(-pixels, pixels - [width, height])
        inside: Bool[np.ndarray, " point"] = (depth > 0) & (beyond <= margin[:, None]).all(1)
    return inside


def on_mask(
    mask: Bool[np.ndarray, "h w"],
    pixels: Float[np.ndarray, "point 2"],
    depth: Float[np.ndarray, " point"],
    margin: Float[np.ndarray, " point"],
) -> Bool[np.ndarray, " point"]:
    """Whether points before the camera project onto a mask, or no farther than their margin from it, in pixels.

    Distances are those from the centre of the pixel that holds the point (of the image's nearest one, plus the way there) to the
    centre of the nearest pixel of the mask.
    """
    import cv2

    height, width = mask.shape
    far = cv2.distanceTransform((~mask).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    column, row, inside, beyond = _pixel_of(pixels, depth, width, height)
    distance = np.where(mask[row, column], 0.0, far[row, column]) + beyond
    near: Bool[np.ndarray, " point"] = inside & (distance <= margin)
    return near


def not_behind(
    depth_map: Float[np.ndarray, "h w"],
    pixels: Float[np.ndarray, "point 2"],
    depth: Float[np.ndarray, " point"],
    tolerance: float,
) -> Bool[np.ndarray, " point"]:
    """Whether points are no deeper than what was measured at their pixel, plus a tolerance.

    Nothing is said (True) where there is no measurement: outside the map, behind the camera, or where the map is NaN.
    """
    height, width = depth_map.shape
    column, row, inside, beyond = _pixel_of(pixels, depth, width, height)
    measured = depth_map[row, column]
    free: Bool[np.ndarray, " point"] = ~(
        inside & (beyond == 0) & (depth > measured + tolerance)
    )  # NaN compares as False
    return free


def _pixel_of(
    pixels: Float[np.ndarray, "point 2"], depth: Float[np.ndarray, " point"], width: int, height: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Column and row of the image's nearest pixel, whether the point is before the camera, and how far outside it lies."""
    before = depth > 0
    safe = np.where(before[:, None], pixels, 0.0)
    nearest = np.clip(safe, 0, [width, height])
    column, row = np.minimum(nearest.astype(np.int64), [width - 1, height - 1]).T
    return column, row, before, np.linalg.norm(safe - nearest, axis=1)


@compiled
def walls(start: np.ndarray, direction: np.ndarray, resolution: int) -> tuple[float, float]:
    """Distances at which a line enters and leaves the cube [0, resolution]^3, negative behind its start; NaN if it never does."""
    enter, leave = -math.inf, math.inf
    for axis in range(3):
        if abs(direction[axis]) < PARALLEL:
            if start[axis] < 0 or start[axis] > resolution:
                return math.nan, math.nan
            continue
        low, high = -start[axis] / direction[axis], (resolution - start[axis]) / direction[axis]
        enter, leave = max(enter, min(low, high)), min(leave, max(low, high))
    return (enter, leave) if enter <= leave else (math.nan, math.nan)


@compiled
def _march(start: np.ndarray, end: np.ndarray, resolution: int, cells: np.ndarray) -> int:
    """Write the cells of a segment to `cells` [3 resolution, 3]; returns how many."""
    direction = end - start
    length = math.sqrt((direction**2).sum())
    if length < SHORTEST:
        return 0
    direction = direction / length
    position = start.copy()
    if (start < 0).any() or (start >= resolution).any():
        enter, _ = walls(start, direction, resolution)
        if math.isnan(enter) or enter > length:
            return 0
        position = start + direction * (max(enter, 0.0) + PAST_THE_WALL)
    cell, last, step = np.empty(3, np.int64), np.empty(3, np.int64), np.zeros(3, np.int64)
    to_next, between = np.full(3, math.inf), np.full(3, math.inf)
    for axis in range(3):
        cell[axis] = min(max(math.floor(position[axis]), 0), resolution - 1)
        last[axis] = min(max(math.floor(end[axis]), 0), resolution - 1)
        if abs(direction[axis]) >= PARALLEL:
            step[axis] = 1 if direction[axis] > 0 else -1
            to_next[axis] = (cell[axis] + (step[axis] > 0) - position[axis]) / direction[axis]
            between[axis] = 1 / abs(direction[axis])
    count = 0
    while count < 3 * resolution:
        cells[count] = cell
        count += 1
        if (cell == last).all():
            break
        axis = int(np.argmin(to_next))
        cell[axis] += step[axis]
        if cell[axis] < 0 or cell[axis] >= resolution:
            break
        to_next[axis] += between[axis]
    return count


@compiled
def _visible(coords: np.ndarray, active: np.ndarray, cameras: np.ndarray, tolerance2: float) -> np.ndarray:
    resolution = active.shape[0]
    seen = np.ones((len(cameras), len(coords)), np.bool_)
    for voxel in range(len(coords)):
        cells, target = np.empty((3 * resolution, 3), np.int64), coords[voxel]
        for view in range(len(cameras)):
            for i in range(_march(cameras[view], target + 0.5, resolution, cells)):
                x, y, z = cells[i]
                if active[x, y, z]:
                    apart = (x - target[0]) ** 2 + (y - target[1]) ** 2 + (z - target[2]) ** 2
                    if apart > tolerance2:
                        seen[view, voxel] = False
                        break
    return seen
