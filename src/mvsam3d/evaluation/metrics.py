"""Measures of a reconstruction over many objects, pure functions."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32
from scipy.ndimage import label
from scipy.spatial import cKDTree
from torch import Tensor

from mvsam3d.geometry.cameras import centre, project
from mvsam3d.geometry.occupancy import OccupancyIou, occupancy_iou
from mvsam3d.types import Camera, GaussianCloud

# To a true surface, negative inside and nowhere too long, in the object frame.
SignedDistance = Callable[[Float32[np.ndarray, "point 3"]], Float32[np.ndarray, " point"]]
LEAST_COSINE = 0.1  # between normal and direction to the camera: a photo shows nothing of a surface seen more edge-on
LIFTED = 0.005  # of the cube's edge: where the way to the camera begins, above the surface that it leaves
SHORTEST_STEP = 0.002  # of the cube's edge
CLEAR = 0.1  # opacity below which a Gaussian hardly colours anything
SH_DC = 0.28209479177387814  # 1 / (2 sqrt(pi))
CUBE_DIAGONAL = math.sqrt(3)  # nothing of the object is farther from a point of it


@dataclass(frozen=True)
class Score:
    """A mean over objects."""

    mean: float
    error: float | None  # standard error of the mean; a single object has none


def score(values: Float[Tensor, " object"]) -> Score:
    """Mean and standard error of independent values."""
    error = float(values.std()) / math.sqrt(len(values)) if len(values) > 1 else None
    return Score(float(values.mean()), error)


@dataclass(frozen=True)
class Difference:
    """Mean difference of two measures of the same objects, and an interval that holds the true one in 95 of 100 cases."""

    mean: float
    low: float
    high: float


def paired_difference(
    values: Float[Tensor, " object"], baseline: Float[Tensor, " object"], noise: torch.Generator, draws: int = 4000
) -> Difference:
    """How much larger `values` are than `baseline`, object by object; the interval is the bootstrap's over the objects (percentiles)."""
    differences = (values - baseline).double()
    chosen = torch.randint(len(differences), (draws, len(differences)), generator=noise)
    low, high = differences[chosen].mean(1).quantile(torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    return Difference(float(differences.mean()), low, high)


def points_seen(
    points: Float32[np.ndarray, "point 3"],
    normals: Float32[np.ndarray, "point 3"],
    camera: Camera,
    mask: Bool[np.ndarray, "h w"],
    distance: SignedDistance,
) -> Bool[np.ndarray, " point"]:
    """Which points of the true surface a photo shows: turned to the camera, on the mask, and nothing before them.

    Args:
        points: on the surface, in the object frame.
        normals: unit, outward.
        camera: with the object frame as its world, its image of the mask's size.
        mask: what the model is told to be the object.
        distance: to the surface; the way from a point to the camera is walked in steps of it.
    """
    towards = centre(camera) - points
    far = np.linalg.norm(towards, axis=1)
    towards /= far[:, None]
    pixels, depth = project(camera, points)
    height, width = mask.shape
    seen: Bool[np.ndarray, " point"] = ((pixels >= 0) & (pixels < (width, height))).all(1) & (depth > 0)
    column, row = pixels[seen].astype(np.int64).T
    seen[seen] = mask[row, column]
    seen &= (normals * towards).sum(1) > LEAST_COSINE
    start, walked, end = points + LIFTED * normals, np.zeros(len(points)), np.minimum(far, CUBE_DIAGONAL)
    walking = np.flatnonzero(seen)
    while len(walking):
        gap = distance((start[walking] + walked[walking, None] * towards[walking]).astype(np.float32))
        seen[walking[gap < 0]] = False
        walked[walking] += np.maximum(gap, SHORTEST_STEP)
        walking = walking[(gap >= 0) & (walked[walking] < end[walking])]
    return seen


def colour_errors(
    cloud: GaussianCloud, points: Float32[np.ndarray, "point 3"], colours: Float32[np.ndarray, "point 3"]
) -> Float[np.ndarray, " point"]:
    """How far off a splat's colour is at each point of the true surface: absolute difference of sRGB in 255ths, mean of the channels.

    A point is given the colour of the nearest Gaussian that is not nearly clear, however far: where the shape is wrong, its colour counts
    as it would be seen there. (32 Gaussians to a voxel lie a hundredth of the cube apart.) Colours are the surface's own: light and shadow
    of the photos that a model leaves in its colours count as errors.

    Args:
        cloud: in the object frame; one of its Gaussians at least is not nearly clear.
        points: on the true surface, in the object frame.
        colours: true ones, sRGB in [0, 1].
    """
    solid = cloud.opacities >= CLEAR
    _, nearest = cKDTree(cloud.means[solid].numpy()).query(points)
    shown = (0.5 + SH_DC * cloud.sh_dc[solid].numpy()[nearest]).clip(0, 1)
    off: Float[np.ndarray, " point"] = 255 * np.abs(shown - colours).mean(1)
    return off


def filled(occupied: Bool[Tensor, "batch x y z"]) -> Bool[Tensor, "batch x y z"]:
    """Each grid with its cavities: the empty cells from which no path through faces leads outside."""
    return torch.from_numpy(np.stack([_filled(grid) for grid in occupied.numpy()]))


def _filled(occupied: Bool[np.ndarray, "x y z"]) -> Bool[np.ndarray, "x y z"]:
    parts, _ = label(np.pad(~occupied, 1, constant_values=True))  # 0 in occupied cells
    enclosed: Bool[np.ndarray, "x y z"] = parts != parts[0, 0, 0]
    return enclosed[1:-1, 1:-1, 1:-1]


def filled_iou(predicted: Bool[Tensor, "batch x y z"], truth: Bool[Tensor, "batch x y z"]) -> OccupancyIou:
    """IoU of the solids that two sets of occupied cells enclose, and of their outer surface cells."""
    return occupancy_iou(filled(predicted), filled(truth))
