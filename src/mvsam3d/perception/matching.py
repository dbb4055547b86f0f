"""Photos -> points that two of them show: SIFT, compared as RootSIFT, matched both ways and only where no other point comes near.

A table seen at 40 degrees is squeezed to 64 % of its height, and from the next side squeezed along another line of the table: SIFT, which
takes turns and sizes in its stride, loses such points beyond 30 degrees of travel. So a photo may be looked at stretched as well, by
factors that undo the squeeze; points of all its copies are matched together. Source: Lowe 2004 (SIFT, ratio); Arandjelović & Zisserman
2012 (RootSIFT); Morel & Yu 2009 (copies that simulate tilts, of which these are the few that tables and walls need).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Float32, Int, UInt8

from mvsam3d.geometry.compiled import compiled

Array = np.ndarray

ROWS = 1024  # of points compared at once, which bounds the memory
ROOM = 32  # pixels around the object that its points may look at
TINY = 1e-7  # sum of a descriptor below which it is of no picture at all


@dataclass(frozen=True)
class FeatureOptions:
    """Which points of a photo to describe."""

    most: int = 4000
    """Points per copy of the photo, those of most contrast."""
    contrast: float = 0.02
    """Least contrast of a point; 0.04 is usual, and leaves too few on plain objects."""
    copies: tuple[tuple[float, float], ...] = ((1.0, 0.0),)
    """Of the photo, each stretched by a factor along a direction, degrees from the rows."""
    border: int = 3
    """Pixels beside the mask's outline where no point is looked for."""


@dataclass(frozen=True)
class Features:
    """Points of one photo and what they look like."""

    points: Float32[np.ndarray, "feature 2"]  # pixels, the first pixel's centre at (0.5, 0.5)
    descriptors: Float32[np.ndarray, "feature 128"]  # RootSIFT, of length 1


def photo_features(
    rgb: UInt8[np.ndarray, "h w 3"], mask: Bool[np.ndarray, "h w"], options: FeatureOptions, *, inside: bool
) -> Features:
    """Points of the object (`inside`), described as if its colours went on beyond its outline, or of all that is around it."""
    import cv2

    size = 2 * options.border + 1
    where = cv2.erode((mask == inside).astype(np.uint8) * 255, np.ones((size, size), np.uint8))
    grey, corner = cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY), np.zeros(2)
    if inside:
        rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
        room = (slice(max(rows[0] - ROOM, 0), rows[-1] + ROOM), slice(max(columns[0] - ROOM, 0), columns[-1] + ROOM))
        where, grey, corner = where[room], _spread(grey[room], mask[room]), np.array([room[1].start, room[0].start])
    # Without the precise upscaling all points lie a quarter of a pixel off.
    detector = cv2.SIFT_create(  # type: ignore[attr-defined]
        nfeatures=options.most, contrastThreshold=options.contrast, enable_precise_upscale=True
    )
    points, descriptors = [np.zeros((0, 2), np.float32)], [np.zeros((0, 128), np.float32)]
    for stretch, degrees in options.copies:
        copy_from_photo, (width, height) = _stretched(grey.shape, stretch, degrees)
        copy = cv2.warpAffine(grey, copy_from_photo, (width, height), borderMode=cv2.BORDER_REPLICATE)
        within = cv2.warpAffine(where, copy_from_photo, (width, height), flags=cv2.INTER_NEAREST)
        found, described = detector.detectAndCompute(copy, within)
        if found:
            pixels = np.array([point.pt for point in found])
            back = np.linalg.inv(copy_from_photo[:, :2])
            points.append(((pixels - copy_from_photo[:, 2]) @ back.T + corner + 0.5).astype(np.float32))
            descriptors.append(root_sift(described))
    return Features(np.concatenate(points), np.concatenate(descriptors))


def _stretched(
    shape: tuple[int, int], stretch: float, degrees: float
) -> tuple[Float[np.ndarray, "2 3"], tuple[int, int]]:
    """Map from pixels (centres at integers) of a photo to those of its copy, stretched along a direction, and the copy's size."""
    along = np.array([math.cos(math.radians(degrees)), math.sin(math.radians(degrees))])
    linear = np.eye(2) + (stretch - 1) * np.outer(along, along)
    corners = np.array([[0, 0], [shape[1] - 1, 0], [0, shape[0] - 1], [shape[1] - 1, shape[0] - 1]]) @ linear.T
    low, high = np.floor(corners.min(0)), np.ceil(corners.max(0))
    width, height = (high - low).astype(int) + 1
    return np.concatenate([linear, -low[:, None]], axis=1), (int(width), int(height))


def root_sift(descriptors: Float32[np.ndarray, "feature 128"]) -> Float32[np.ndarray, "feature 128"]:
    """Square roots of the shares of each entry: their dot product is the Hellinger kernel of the histograms, 1 for equal ones."""
    shares = descriptors / np.maximum(descriptors.sum(axis=1, keepdims=True), TINY)
    return np.asarray(np.sqrt(shares), np.float32)


def _spread(grey: UInt8[np.ndarray, "h w"], mask: Bool[np.ndarray, "h w"]) -> UInt8[np.ndarray, "h w"]:
    """The picture with the nearest colour of the object wherever the object is not."""
    from scipy import ndimage

    rows, columns = ndimage.distance_transform_edt(~mask, return_distances=False, return_indices=True)
    return np.asarray(grey[rows, columns])


def matches(one: Features, other: Features, *, ratio: float = 0.8, apart: float = 3.0) -> Int[np.ndarray, "match 2"]:
    """Points of both photos that are each other's nearest, rows (of one, of the other).

    Args:
        ratio: the next nearest point must be farther than the nearest / ratio.
        apart: pixels; a next nearest that close to the nearest is the same point, seen in another copy or turn.
    Returns: each place of a photo at most once, by the best of its matches.
    """
    if min(len(one.points), len(other.points)) < 2:
        return np.zeros((0, 2), np.int64)
    forth, likeness, sure = (
        _empty(len(one.points), np.int64),
        _empty(len(one.points)),
        _empty(len(one.points), np.bool_),
    )
    back, back_likeness = np.zeros(len(other.points), np.int64), np.full(len(other.points), -1.0, np.float32)
    for start in range(0, len(one.points), ROWS):
        rows = slice(start, start + ROWS)
        block = one.descriptors[rows] @ other.descriptors.T
        _nearest(block, other.points, ratio, apart, forth[rows], likeness[rows], sure[rows])
        _nearest_back(block, start, back, back_likeness)
    kept = np.flatnonzero(sure & (back[forth] == np.arange(len(forth))))
    pairs = np.stack([kept, forth[kept]], axis=1)[np.argsort(-likeness[kept], kind="stable")]
    return _once(_once(pairs, one.points, 0), other.points, 1)


def _empty(length: int, kind: type = np.float32) -> Array:
    return np.empty(length, kind)


def _once(
    pairs: Int[np.ndarray, "match 2"], points: Float32[np.ndarray, "feature 2"], side: int
) -> Int[np.ndarray, "once 2"]:
    """The first match of each pixel."""
    cells = np.floor(points[pairs[:, side]]).astype(np.int64)
    _, first = np.unique(cells, axis=0, return_index=True)
    return pairs[np.sort(first)]


@compiled
def _nearest(
    block: Array, points: Array, ratio: float, apart: float, nearest: Array, likeness: Array, sure: Array
) -> None:
    """Of each row: the column of the largest entry, and whether it stands out. |a - b|² = 2 - 2 a.b for unit vectors."""
    for i in range(block.shape[0]):
        best = 0
        for j in range(block.shape[1]):
            if block[i, j] > block[i, best]:
                best = j
        second = np.float32(-1.0)
        for j in range(block.shape[1]):
            if block[i, j] > second:
                dx, dy = points[j, 0] - points[best, 0], points[j, 1] - points[best, 1]
                if dx * dx + dy * dy > apart * apart:
                    second = block[i, j]
        nearest[i], likeness[i] = best, block[i, best]
        sure[i] = 2 - 2 * block[i, best] < ratio * ratio * (2 - 2 * second)


@compiled
def _nearest_back(block: Array, start: int, nearest: Array, likeness: Array) -> None:
    """Of each column the row of its largest entry so far; `start`: the block's first row."""
    for i in range(block.shape[0]):
        for j in range(block.shape[1]):
            if block[i, j] > likeness[j]:
                likeness[j] = block[i, j]
                nearest[j] = start + i
