"""Where the model's canonical frame lies in the world of the cameras: the shapes that both say are laid over each other.

The object fills its frame: longest side 1, bounding box around the origin. So a rotation decides where it lies and how large it is, and
rotations are searched: turns about the vertical and the rotations that the model's own poses suggest first, then small ones. Photos are
taken upright, so the cameras tell where up is, unless they look from everywhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from scipy.spatial.transform import Rotation
from torch import Tensor

from mvsam3d.geometry.hull import Cube
from mvsam3d.geometry.voxels import all_cells, centres
from mvsam3d.types import Camera

TURNS = 36
LEAST_UP = 0.3  # length of the mean of the cameras' own upward directions below which it tells nothing
MOST_LEAN = 20.0  # degrees that the object may lean from that mean
LEAN_COST = 0.1  # what leaning so far must gain in agreement
COARSE = 20  # cells along an edge while rotations are searched
KEPT = 4  # coarse rotations that are refined
SMALL_TURNS = (15.0, 7.0, 3.0)  # degrees


@dataclass(frozen=True)
class Alignment:
    """Similarity between the object frame and the world of the cameras."""

    world_from_object: Float[np.ndarray, "4 4"]
    agreement: float
    """Sum of least over sum of greatest of both occupancies, in [0, 1]."""


def aligned(
    structure: Float[np.ndarray, "x y z"],
    probability: Float[np.ndarray, "x2 y2 z2"],
    cube: Cube,
    cameras: Sequence[Camera],
    rotations: Sequence[Float[np.ndarray, "3 3"]] = (),
) -> Alignment:
    """Find world_from_object.

    Args:
        structure: occupancy in the object frame, by the model, in [0, 1].
        probability: of occupancy in the cube.
        cube: in the world of the cameras.
        cameras: tell where up is.
        rotations: world_from_object rotations to begin with, beside turns about up.
    """
    score, up = _Score(structure, probability, cube), upward(cameras)
    tries = [rotation for rotation in (*rotations, *_turns(up)) if _leans(rotation, up) <= MOST_LEAN]
    ranked = sorted(((score(r) - _cost(r, up), i) for i, r in enumerate(tries)), reverse=True)[:KEPT]
    best, found = -1.0, np.eye(3)
    for value, i in ranked:
        rotation = tries[i]
        for degrees in SMALL_TURNS:
            value, rotation = _climbed(score, value, rotation, degrees, up)
        if value > best:
            best, found = value, rotation
    return Alignment(score.world_from_object(found), score(found))


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


def _climbed(
    score: _Score,
    value: float,
    rotation: Float[np.ndarray, "3 3"],
    degrees: float,
    up: Float[np.ndarray, " 3"] | None,
) -> tuple[float, Float[np.ndarray, "3 3"]]:
    """Turn about one axis after the other as long as that helps."""
    for _ in range(6):
        turns = [_about(sign * degrees * axis) @ rotation for axis in np.eye(3) for sign in (1, -1)]
        scores = [score(turn) - _cost(turn, up) for turn in turns]
        if max(scores) <= value:
            break
        value, rotation = max(scores), turns[int(np.argmax(scores))]
    return value, rotation


def _turns(up: Float[np.ndarray, " 3"] | None) -> list[Float[np.ndarray, "3 3"]]:
    """Rotations all around up, or around each of the six axes' directions."""
    ups = [*np.eye(3), *-np.eye(3)] if up is None else [up]
    about_z = [_about(np.array([0.0, 0.0, turn])) for turn in np.arange(TURNS) / TURNS * 360]
    return [_raised(direction) @ turn for direction in ups for turn in about_z]


def _raised(up: Float[np.ndarray, " 3"]) -> Float[np.ndarray, "3 3"]:
    """A rotation that brings +Z to a direction."""
    found: Float[np.ndarray, "3 3"] = Rotation.align_vectors(up[None], np.array([[0.0, 0.0, 1.0]]))[0].as_matrix()
    return found


def _about(degrees: Float[np.ndarray, " 3"]) -> Float[np.ndarray, "3 3"]:
    matrix: Float[np.ndarray, "3 3"] = Rotation.from_rotvec(degrees, degrees=True).as_matrix()
    return matrix


class _Score:
    """How well both shapes agree under a rotation."""

    def __init__(self, structure: np.ndarray, probability: np.ndarray, cube: Cube) -> None:
        self.cube = cube
        cells = np.argwhere(probability > 0.5)
        if len(cells) == 0:
            cells = np.argwhere(probability >= probability.max())
        self.points = (cells + 0.5) / len(probability) - 0.5  # in the cube's frame
        self.half_cell = 0.5 / len(probability)
        self.grid = torch.from_numpy(probability).float()
        self.structure = _resized(torch.from_numpy(structure).float(), COARSE)
        self.places = centres(all_cells(COARSE), COARSE)

    def cube_from_object(self, rotation: Float[np.ndarray, "3 3"]) -> Float[np.ndarray, "4 4"]:
        """The similarity that a rotation implies."""
        turned = self.points @ rotation  # in the object's axes
        low, high = turned.min(0) - self.half_cell, turned.max(0) + self.half_cell
        matrix = np.eye(4)
        matrix[:3, :3] = rotation * (high - low).max()
        matrix[:3, 3] = rotation @ ((low + high) / 2)
        return matrix

    def world_from_object(self, rotation: Float[np.ndarray, "3 3"]) -> Float[np.ndarray, "4 4"]:
        """Likewise, to the world."""
        matrix: Float[np.ndarray, "4 4"] = self.cube.world_from_cube() @ self.cube_from_object(rotation)
        return matrix

    def __call__(self, rotation: Float[np.ndarray, "3 3"]) -> float:
        moved = sampled_in(self.grid, self.cube_from_object(rotation), self.places)
        a, b = self.structure.reshape(-1), moved
        return float(torch.minimum(a, b).sum() / torch.maximum(a, b).sum().clamp(min=1e-9))


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
    """A cube's grid on the cells of the object frame."""
    places = centres(all_cells(resolution), resolution)
    return sampled_in(torch.from_numpy(probability).float(), cube_from_object, places).view(*(resolution,) * 3)


def _resized(grid: Float[Tensor, "x y z"], resolution: int) -> Float[Tensor, "r r r"]:
    return F.interpolate(grid[None, None], size=(resolution,) * 3, mode="trilinear", align_corners=False)[0, 0]
