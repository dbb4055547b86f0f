"""Where the model's canonical frame lies in the world of the cameras: its structure is laid over what the cameras show.

Rotations are searched first, by how well the model's structure and the known shape fill each other, the structure in the shape's
bounding box or in somewhat less of it (outlines leave cones above and below what they enclose): turns about the vertical and the
rotations that the model's own poses suggest. The best of them are then moved, turned and scaled until the structure's outlines meet
the masks. Photos are taken upright, so the cameras tell where up is, unless they look from everywhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from scipy.spatial.transform import Rotation
from torch import Tensor

from mvsam3d.geometry.hull import Cube, shrunk, silhouette
from mvsam3d.geometry.voxels import all_cells, centres, resampled
from mvsam3d.types import Camera

TURNS = 36
LEAST_UP = 0.3  # length of the mean of the cameras' own upward directions below which it tells nothing
MOST_LEAN = 20.0  # degrees that the object may lean from that mean
LEAN_COST = 0.1  # what leaning so far must gain in agreement
COARSE = 20  # cells along an edge while rotations are searched
SIZES = (1.0, 0.85, 0.7)  # of the known shape's longest side that the structure may have
KEPT = 4  # coarse placements that are moved
SCREENED = 1  # and of those, how many are moved in small steps
MOVES = (
    (15.0, 0.12, 0.08),
    (7.0, 0.06, 0.04),
    (3.0, 0.03, 0.02),
    (1.5, 0.015, 0.01),
)  # degrees, logarithm of the size, shift in sizes
MOST_MOVES = 6  # in steps of one length
OUTLINE_SIDE = 48  # pixels along the longer side of a mask while structures are moved
OBJECT = Cube(np.zeros(3), 1.0)

Mask = Bool[np.ndarray, "_ _"]
Similarity = Float[np.ndarray, "4 4"]


@dataclass(frozen=True)
class Alignment:
    """Similarity between the model's frame and the world of the cameras."""

    world_from_model: Similarity
    agreement: float
    """Mean IoU of the masks and the outlines of the model's structure there, in [0, 1]."""


def aligned(
    structure: Float[np.ndarray, "x y z"],
    probability: Float[np.ndarray, "x2 y2 z2"],
    cube: Cube,
    cameras: Sequence[Camera],
    masks: Sequence[Mask],
    rotations: Sequence[Float[np.ndarray, "3 3"]] = (),
) -> Alignment:
    """Find world_from_model.

    Args:
        structure: occupancy in the model's frame, in [0, 1].
        probability: of occupancy in the cube, as the cameras show it.
        cube: in the world of the cameras.
        cameras: their outlines decide; they tell where up is, too.
        masks: of the cameras' photos.
        rotations: world_from_model rotations to begin with, beside turns about up.
    """
    score, up = _Score(structure, probability, cube), upward(cameras)
    tries = [rotation for rotation in (*rotations, *_turns(up)) if _leans(rotation, up) <= MOST_LEAN]
    rated = [(score(r, size) - _cost(r, up), i, size) for i, r in enumerate(tries) for size in SIZES]
    best = _unlike([(tries[i], size) for _, i, size in sorted(rated, reverse=True)], KEPT)
    outlines = _Outlines(structure > 0.5, cameras, masks)
    if not outlines.solid.any():  # a model that says nothing lies anywhere
        return Alignment(score.world_from_model(*best[0]), 0.0)
    moved = [_moved(outlines, score.world_from_model(*start), up, MOVES[:2]) for start in best]
    moved = sorted(moved, key=lambda pair: -pair[0])[:SCREENED]
    value, found = max((_moved(outlines, matrix, up, MOVES[1:]) for _, matrix in moved), key=lambda pair: pair[0])
    return Alignment(found, value + _cost(rotation_of(found), up))


def _unlike(
    starts: Sequence[tuple[Float[np.ndarray, "3 3"], float]], count: int
) -> list[tuple[Float[np.ndarray, "3 3"], float]]:
    """The first ones that differ by more than two turns, or in size."""
    kept: list[tuple[Float[np.ndarray, "3 3"], float]] = []
    for rotation, size in starts:
        near = [
            np.trace(rotation.T @ other) > 1 + 2 * np.cos(4 * np.pi / TURNS) - 1e-6 for other, s in kept if s == size
        ]
        if not any(near):
            kept.append((rotation, size))
        if len(kept) == count:
            break
    return kept


class _Outlines:
    """How well the outlines of a solid meet the masks from a placement."""

    def __init__(self, solid: Bool[np.ndarray, "x y z"], cameras: Sequence[Camera], masks: Sequence[Mask]) -> None:
        self.solid, self.views = solid, [_coarse(camera, mask) for camera, mask in zip(cameras, masks, strict=True)]

    def __call__(self, world_from_model: Similarity) -> float:
        scores = []
        for camera, mask in self.views:
            placed = Camera(camera.intrinsics, camera.camera_from_world @ world_from_model, camera.width, camera.height)
            shown = silhouette(self.solid, OBJECT, placed, camera.width, camera.height)
            scores.append((shown & mask).sum() / max((shown | mask).sum(), 1))
        return float(np.mean(scores))


def _coarse(camera: Camera, mask: Mask) -> tuple[Camera, Mask]:
    """A photo's camera and mask, the mask's bounding box some tens of pixels wide; of the photo, its surroundings only."""
    rows, columns = np.nonzero(mask)
    low, high = np.array([columns.min(), rows.min()]), np.array([columns.max(), rows.max()]) + 1
    side = float((high - low).max())
    zoom = min(1.0, OUTLINE_SIDE / (1.5 * side))
    small, shown = shrunk(camera, mask, zoom)
    left, top = np.maximum(((low - side / 4) * zoom).astype(int), 0)
    right, bottom = (np.ceil((high + side / 4) * zoom).astype(int) + 1).tolist()
    part = shown[top:bottom, left:right]
    moved = small.intrinsics - np.array([[0, 0, left], [0, 0, top], [0, 0, 0]])
    return Camera(moved, small.camera_from_world, part.shape[1], part.shape[0]), part


def _moved(
    outlines: _Outlines,
    matrix: Similarity,
    up: Float[np.ndarray, " 3"] | None,
    lengths: Sequence[tuple[float, float, float]],
) -> tuple[float, Similarity]:
    """Turn, scale and shift as long as that helps, in steps of each length."""

    def rated(matrix: Similarity) -> float:
        return outlines(matrix) - _cost(rotation_of(matrix), up)

    value = rated(matrix)
    for degrees, growth, shift in lengths:
        for _ in range(MOST_MOVES):
            tries = [_changed(matrix, change) for change in _changes(degrees, growth, shift)]
            values = [rated(changed) for changed in tries]
            if max(values) <= value:
                break
            value, matrix = max(values), tries[int(np.argmax(values))]
    return value, matrix


def _changes(degrees: float, growth: float, shift: float) -> list[tuple[Float[np.ndarray, "3 3"], float, np.ndarray]]:
    """One step of each kind, both ways: turns about the world's axes, sizes, shifts in sizes."""
    still = np.zeros(3)
    turns = [(_about(sign * degrees * axis), 1.0, still) for axis in np.eye(3) for sign in (1, -1)]
    sizes = [(np.eye(3), float(np.exp(sign * growth)), still) for sign in (1, -1)]
    shifts = [(np.eye(3), 1.0, sign * shift * axis) for axis in np.eye(3) for sign in (1, -1)]
    return [*turns, *sizes, *shifts]


def _changed(matrix: Similarity, change: tuple[Float[np.ndarray, "3 3"], float, np.ndarray]) -> Similarity:
    turn, growth, shift = change
    changed = matrix.copy()
    changed[:3, :3] = growth * turn @ matrix[:3, :3]
    changed[:3, 3] += np.cbrt(np.linalg.det(matrix[:3, :3])) * shift
    return changed


def rotation_of(matrix: Similarity) -> Float[np.ndarray, "3 3"]:
    """Of a similarity."""
    rotation: Float[np.ndarray, "3 3"] = matrix[:3, :3] / np.cbrt(np.linalg.det(matrix[:3, :3]))
    return rotation


def upward(cameras: Sequence[Camera]) -> Float[np.ndarray, " 3"] | None:
    """Mean of the cameras' upward directions in their world, of length 1; None if they cancel out."""
    mean = np.mean([-c.camera_from_world[1, :3] / np.linalg.norm(c.camera_from_world[1, :3]) for c in cameras], axis=0)
    length = float(np.linalg.norm(mean))
    if length < LEAST_UP:
        return None
    up: Float[np.ndarray, " 3"] = mean / length
    return up


def _leans(rotation: Float[np.ndarray, "3 3"], up: Float[np.ndarray, " 3"] | None) -> float:
    """Degrees between the object's +Z and up."""
    return 0.0 if up is None else float(np.degrees(np.arccos(np.clip(rotation[:, 2] @ up, -1, 1))))


def _cost(rotation: Float[np.ndarray, "3 3"], up: Float[np.ndarray, " 3"] | None) -> float:
    """What an upright object is preferred by."""
    lean = _leans(rotation, up) / MOST_LEAN
    return LEAN_COST * lean**2 if lean <= 1 else float("inf")


def _turns(up: Float[np.ndarray, " 3"] | None) -> list[Float[np.ndarray, "3 3"]]:
    """Rotations all around up, or around each of the six axes' directions."""
    ups = [*np.eye(3), *-np.eye(3)] if up is None else [up]
    about_z = [_about(np.array([0.0, 0.0, turn])) for turn in np.arange(TURNS) / TURNS * 360]
    return [raised(direction) @ turn for direction in ups for turn in about_z]


def raised(up: Float[np.ndarray, " 3"]) -> Float[np.ndarray, "3 3"]:
    """A rotation that brings +Z to a direction."""
    found: Float[np.ndarray, "3 3"] = Rotation.align_vectors(up[None], np.array([[0.0, 0.0, 1.0]]))[0].as_matrix()
    return found


def _about(degrees: Float[np.ndarray, " 3"]) -> Float[np.ndarray, "3 3"]:
    matrix: Float[np.ndarray, "3 3"] = Rotation.from_rotvec(degrees, degrees=True).as_matrix()
    return matrix


class _Score:
    """How well structure and known shape fill each other under a rotation."""

    def __init__(self, structure: np.ndarray, probability: np.ndarray, cube: Cube) -> None:
        self.cube, self.box = cube, SolidBox(probability)
        self.grid = torch.from_numpy(probability).float()
        self.structure = torch.from_numpy(resampled(structure, COARSE)).float()
        self.places = centres(all_cells(COARSE), COARSE)

    def world_from_model(self, rotation: Float[np.ndarray, "3 3"], size: float) -> Similarity:
        """The model's frame around the known shape, or so much of it."""
        matrix: Similarity = self.cube.world_from_cube() @ self.box.frame(rotation, size)
        return matrix

    def __call__(self, rotation: Float[np.ndarray, "3 3"], size: float) -> float:
        moved = sampled_in(self.grid, self.box.frame(rotation, size), self.places)
        a, b = self.structure.reshape(-1), moved
        return float(torch.minimum(a, b).sum() / torch.maximum(a, b).sum().clamp(min=1e-9))


class SolidBox:
    """The occupied part of a cube's grid, and frames around it."""

    def __init__(self, probability: Float[np.ndarray, "x y z"]) -> None:
        """The cells above 1/2, or the most probable ones."""
        cells = np.argwhere(probability > 0.5)
        if len(cells) == 0:
            cells = np.argwhere(probability >= probability.max())
        self.points = (cells + 0.5) / len(probability) - 0.5  # in the cube's frame
        self.half_cell = 0.5 / len(probability)

    def frame(self, rotation: Float[np.ndarray, "3 3"], size: float = 1.0) -> Similarity:
        """cube_from_object of a frame with these axes around its bounding box, whose longest side is 1 / `size` of the frame's."""
        turned = self.points @ rotation  # in the object's axes
        low, high = turned.min(0) - self.half_cell, turned.max(0) + self.half_cell
        matrix = np.eye(4)
        matrix[:3, :3] = rotation * ((high - low).max() * size)
        matrix[:3, 3] = rotation @ ((low + high) / 2)
        return matrix


def sampled_in(
    grid: Float[Tensor, "x y z"], cube_from_object: Float[np.ndarray, "4 4"], places: Float[Tensor, "place 3"]
) -> Float[Tensor, " place"]:
    """Trilinear values of a cube's grid at places of the object frame; 0 outside."""
    matrix = torch.from_numpy(cube_from_object).float()
    at = places @ matrix[:3, :3].T + matrix[:3, 3]
    where = (2 * at).flip(-1)[None, None, None]  # grid_sample counts the last axis first, from -1 to 1
    values: Float[Tensor, " place"] = F.grid_sample(grid[None, None], where, align_corners=False)[0, 0, 0, 0]
    return values


def in_object_frame(
    probability: Float[np.ndarray, "x y z"], cube_from_object: Float[np.ndarray, "4 4"], resolution: int
) -> Float[Tensor, "r r r"]:
    """A cube's grid on the cells of the object frame, or of any other; 0 outside."""
    places = centres(all_cells(resolution), resolution)
    return sampled_in(torch.from_numpy(probability).float(), cube_from_object, places).view(*(resolution,) * 3)
