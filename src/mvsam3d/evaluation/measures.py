"""Measures of one answer, pure functions of points, solids, pictures and cameras.

Distances are in the units of the points.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float
from scipy.ndimage import correlate1d
from scipy.optimize import linear_sum_assignment
from scipy.spatial import cKDTree
from scipy.spatial.distance import cdist

from mvsam3d.errors import BadFile, InvalidOption
from mvsam3d.geometry.cameras import centre, unscaled
from mvsam3d.types import Camera, Mesh

MOST_MOVED = 2048  # points of the earth mover's distance: the assignment takes the cube of their number
MOST_PSNR = 100.0  # dB, of pictures that are the same
SSIM_SIGMA, SSIM_RADIUS = 1.5, 5  # pixels: Wang et al. 2004, a window of 11 x 11


# points on surfaces


@dataclass(frozen=True)
class Samples:
    """Points on a surface."""

    points: Float[np.ndarray, "point 3"]
    normals: Float[np.ndarray, "point 3"]  # unit, as the faces wind; 0 where a vertex has no face of any area


def surface_samples(mesh: Mesh, count: int, noise: np.random.Generator) -> Samples:
    """Points drawn uniformly from the surface, inner faces included; each independent of the others, as in the published protocols.

    Raises: BadFile: the surface has no area.
    """
    corners = mesh.vertices[mesh.faces].astype(np.float64)
    across = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    areas = np.linalg.norm(across, axis=1)
    total = np.cumsum(areas)
    if not len(areas) or not np.isfinite(total[-1]) or total[-1] <= 0:
        raise BadFile(f"a mesh of {len(mesh.faces)} faces has no surface: nothing can be sampled")
    faces = np.minimum(np.searchsorted(total, noise.random(count) * total[-1], side="right"), len(areas) - 1)
    root, b = np.sqrt(noise.random(count)), noise.random(count)
    shares = np.stack([1 - root, root * (1 - b), root * b], axis=1)  # uniform on a triangle
    points = np.einsum("pc,pcd->pd", shares, corners[faces])
    return Samples(points, across[faces] / np.maximum(areas[faces, None], 1e-300))


def vertex_samples(mesh: Mesh) -> Samples:
    """The vertices that faces use: what some protocols measure, though it rewards dense meshes."""
    corners = mesh.vertices[mesh.faces].astype(np.float64)
    across = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    normals = np.zeros((len(mesh.vertices), 3))
    for corner in range(3):
        np.add.at(normals, mesh.faces[:, corner], across)
    normals /= np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-300)
    used = np.unique(mesh.faces)
    return Samples(mesh.vertices[used].astype(np.float64), normals[used])


@dataclass(frozen=True)
class Nearest:
    """How far each point of the one surface is from the other's, and how alike their normals are."""

    answer_to_truth: Float[np.ndarray, " answer_point"]
    truth_to_answer: Float[np.ndarray, " truth_point"]
    answer_cosines: Float[np.ndarray, " answer_point"]  # |cos| of the normals, so that winding does not count
    truth_cosines: Float[np.ndarray, " truth_point"]


def nearest(truth: Samples, answer: Samples) -> Nearest:
    """Nearest points both ways."""
    forth, there = cKDTree(truth.points).query(answer.points)
    back, here = cKDTree(answer.points).query(truth.points)
    return Nearest(
        forth,
        back,
        np.abs(np.einsum("pd,pd->p", answer.normals, truth.normals[there])),
        np.abs(np.einsum("pd,pd->p", truth.normals, answer.normals[here])),
    )


def chamfer(found: Nearest, *, squared: bool) -> float:
    """Mean of the two one-way mean distances (l1), or of their squares without a root (l2).

    Papers that add the two ways give twice this.
    """
    power = 2 if squared else 1
    return float((found.answer_to_truth**power).mean() + (found.truth_to_answer**power).mean()) / 2


def f_score(found: Nearest, threshold: float) -> float:
    """Harmonic mean of the shares of each surface that are nearer than `threshold` to the other (Knapitsch et al. 2017)."""
    precision, recall = (found.answer_to_truth < threshold).mean(), (found.truth_to_answer < threshold).mean()
    return float(2 * precision * recall / (precision + recall)) if precision + recall else 0.0


def normal_consistency(found: Nearest) -> float:
    """Mean |cos| of the normals at nearest points, mean of both ways; 1: alike, 0.5: at random (Mescheder et al. 2019)."""
    return float(found.answer_cosines.mean() + found.truth_cosines.mean()) / 2


def earth_movers(truth: Float[np.ndarray, "point 3"], answer: Float[np.ndarray, "point 3"]) -> float:
    """Mean distance that points move when each goes to another of the other set, at the least cost: exact.

    Raises: InvalidOption: no points, or more than MOST_MOVED.
    """
    if not 0 < len(truth) <= MOST_MOVED:
        raise InvalidOption(f"the earth mover's distance is of 1 to {MOST_MOVED} points, given {len(truth)}")
    costs = cdist(truth, answer)
    return float(costs[linear_sum_assignment(costs)].mean())


# solids


def iou(truth: Bool[np.ndarray, "*cells"], answer: Bool[np.ndarray, "*cells"]) -> float:
    """Intersection over union; 1 where both are empty."""
    either = int((truth | answer).sum())
    return int((truth & answer).sum()) / either if either else 1.0


# pictures

Picture = Float[np.ndarray, "h w 3"]


def psnr(truth: Picture, answer: Picture, mask: Bool[np.ndarray, "h w"] | None = None) -> float:
    """Peak signal to noise in dB of pictures in [0, 1], at most MOST_PSNR; with a mask, of its pixels alone."""
    squares = np.square(truth.astype(np.float64) - answer)
    error = float(squares.mean() if mask is None else squares[mask].mean())
    return min(-10 * math.log10(error), MOST_PSNR) if error > 0 else MOST_PSNR


def ssim(truth: Picture, answer: Picture) -> float:
    """Structural similarity, mean of the channels (Wang et al. 2004: Gaussian window of 11 x 11, sigma 1.5; K 0.01 and 0.03; peak 1).

    Raises: InvalidOption: a picture smaller than the window.
    """
    if min(truth.shape[:2]) <= 2 * SSIM_RADIUS:
        raise InvalidOption(
            f"a picture of {truth.shape[1]} x {truth.shape[0]} pixels is smaller than the window of SSIM"
        )
    x, y = truth.astype(np.float64), answer.astype(np.float64)
    mean_x, mean_y = _blurred(x), _blurred(y)
    var_x, var_y, both = (
        _blurred(x * x) - mean_x**2,
        _blurred(y * y) - mean_y**2,
        _blurred(x * y) - mean_x * mean_y,
    )
    c1, c2 = 0.01**2, 0.03**2
    index = (2 * mean_x * mean_y + c1) * (2 * both + c2) / ((mean_x**2 + mean_y**2 + c1) * (var_x + var_y + c2))
    whole = slice(SSIM_RADIUS, -SSIM_RADIUS)  # where the window is inside the picture
    return float(index[whole, whole].mean())


def _blurred(values: Picture) -> Picture:
    reach = np.arange(-SSIM_RADIUS, SSIM_RADIUS + 1)
    window = np.exp(-np.square(reach) / (2 * SSIM_SIGMA**2))
    window /= window.sum()
    out: Picture = correlate1d(correlate1d(values, window, axis=0), window, axis=1)
    return out


# cameras


@dataclass(frozen=True)
class PoseErrors:
    """How far cameras of an answer are from the true ones."""

    rotation: Float[np.ndarray, " view"]  # degrees
    translation: Float[np.ndarray, " view"]  # between the places where the cameras stand, in the world's units


def pose_errors(truth: Sequence[Camera], answer: Sequence[Camera]) -> PoseErrors:
    """Of cameras in one world; `camera_from_world` may scale."""
    pairs = list(zip(truth, answer, strict=True))
    rotation = [angle(rotation_of(a) @ rotation_of(t).T) for t, a in pairs]
    translation = [float(np.linalg.norm(centre(a) - centre(t))) for t, a in pairs]
    return PoseErrors(np.array(rotation), np.array(translation))


def rotation_of(camera: Camera) -> Float[np.ndarray, "3 3"]:
    """camera_from_world without scale."""
    scaled = camera.camera_from_world[:3, :3]
    rotation: Float[np.ndarray, "3 3"] = scaled / np.cbrt(np.linalg.det(scaled))
    return rotation


def angle(rotation: Float[np.ndarray, "3 3"]) -> float:
    """Of a rotation, degrees in [0, 180]; exact at both ends."""
    sine = np.linalg.norm(
        [rotation[2, 1] - rotation[1, 2], rotation[0, 2] - rotation[2, 0], rotation[1, 0] - rotation[0, 1]]
    )
    return math.degrees(math.atan2(float(sine), float(np.trace(rotation)) - 1))


def relative_pose_errors(truth: Sequence[Camera], answer: Sequence[Camera]) -> PoseErrors:
    """Of each pair of cameras: the angle between their relative rotations, and between the directions from the one to the other, in
    degrees both. Neither depends on how the worlds lie or how large they are (PoseDiffusion, Wang et al. 2023).
    """
    pairs = [(i, j) for i in range(len(truth)) for j in range(i)]
    rotation, translation = [], []
    for i, j in pairs:
        turns = [rotation_of(c[i]) @ rotation_of(c[j]).T for c in (truth, answer)]
        ways = [rotation_of(c[j]) @ (centre(c[i]) - centre(c[j])) for c in (truth, answer)]
        rotation.append(angle(turns[1] @ turns[0].T))
        lengths = np.linalg.norm(ways[0]) * np.linalg.norm(ways[1])
        cosine = float(ways[0] @ ways[1]) / lengths if lengths > 0 else -1.0
        translation.append(math.degrees(math.acos(min(1.0, max(-1.0, cosine)))))
    return PoseErrors(np.array(rotation), np.array(translation))


def area_under_accuracy(errors: Float[np.ndarray, " pair"], degrees: int = 30) -> float:
    """Mean over the thresholds 1, 2 .. `degrees` of the share of errors below them."""
    return float(np.mean([(errors < threshold).mean() for threshold in range(1, degrees + 1)]))


def add_s(points: Float[np.ndarray, "point 3"], truth: Camera, answer: Camera) -> float:
    """Mean distance from each point of the object, placed by the answer's camera, to the nearest one placed by the true camera
    (Hinterstoisser et al. 2012), which forgives what symmetry cannot tell. In the world's units.

    Args:
        points: of the object, in the world that both cameras share; scales of `camera_from_world` are taken out.
    """
    placed = [
        points @ m[:3, :3].T + m[:3, 3] for m in (unscaled(truth).camera_from_world, unscaled(answer).camera_from_world)
    ]
    return float(cKDTree(placed[0]).query(placed[1])[0].mean())
