"""The plane in which an object is its own mirror image, if it has one: then each photo shows the other side as well.

A plane is judged by two things. The outlines: what lies inside all of them, and whose mirror image does so too, must still cover every
mask; one handle too many, or one too few, and it does not. And the shape that is thought likely so far, which has to be like its own mirror
image: it tells planes apart that outlines do not.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from mvsam3d.geometry.hull import Cube, carved, shrunk, uncovered
from mvsam3d.geometry.mirror import MirrorPlane
from mvsam3d.geometry.voxels import all_cells, centres, resampled
from mvsam3d.posing.alignment import sampled_in
from mvsam3d.types import Camera

CELLS = 32  # along an edge, while planes are searched
SIDE = 40  # pixels along the longer side of a mask's object meanwhile
BESIDE = 0.75  # cells from an outline beyond which a pixel of a mask is left out by it
DIRECTIONS = 160  # of planes, spread over the half sphere
UPRIGHT = 24  # of upright planes besides
LIKELY = 40  # planes whose outlines are looked at
KEPT = 4  # planes that are moved
STEPS = (0.08, 0.04, 0.02, 0.01)  # radians; a quarter of that in sides of the cube
PRICE = 3.0  # of the masks left out, in likeness
LEAN = 0.05  # likeness that a plane which is not upright must gain: most things that are made and grown have an upright one
COST = 0.005  # of the masks that the true plane may leave out
ALIKE = 0.95  # likeness from which the mirrored photos would tell nothing new


@dataclass(frozen=True)
class _Judge:
    """Judges planes in the cube's frame."""

    chance: Float[Tensor, "r r r"]
    hull: Float[Tensor, "r r r"]
    cube: Cube
    cameras: tuple[Camera, ...]  # small
    masks: tuple[Bool[np.ndarray, "_ _"], ...]  # small
    places: Float[Tensor, "cell 3"]

    def mirrored(self, grid: Float[Tensor, "r r r"], plane: MirrorPlane) -> Float[Tensor, "r r r"]:
        return sampled_in(grid, plane.reflection(), self.places).view_as(grid)

    def likeness(self, plane: MirrorPlane) -> float:
        """Of the chance and its mirror image: the smaller over the larger, summed; 1 if they are the same."""
        other = self.mirrored(self.chance, plane)
        return float(torch.minimum(other, self.chance).sum() / torch.maximum(other, self.chance).sum())

    def left_out(self, plane: MirrorPlane | None) -> float:
        """Of the masks, by what lies inside all outlines, and by its mirror image."""
        kept = self.hull if plane is None else torch.minimum(self.hull, self.mirrored(self.hull, plane))
        return float(uncovered((kept >= 0.5).numpy(), self.cube, self.cameras, self.masks, BESIDE).mean())

    def score(self, plane: MirrorPlane) -> float:
        lean = LEAN * abs(float(plane.normal[2]))
        return self.likeness(plane) - lean - PRICE * self.left_out(plane)


def mirror_plane(
    chance: Float[np.ndarray, "x y z"],
    cube: Cube,
    cameras: Sequence[Camera],
    masks: Sequence[Bool[np.ndarray, "_ _"]],
) -> MirrorPlane | None:
    """The plane in which the object is its own mirror image as far as its outlines tell, in the cube's frame; None: it has none, or the
    shape as it is known is like its mirror image already.

    Args:
        chance: of each cell of the cube, to be inside the object, as far as is known.
        cube: its third axis is up, if that is known.
        cameras: two or more, of the masks' pixels.
        masks: of the photos.
    """
    small = [_small(camera, mask) for camera, mask in zip(cameras, masks, strict=True)]
    smaller = torch.from_numpy(resampled(chance, CELLS)).float()
    hull = torch.from_numpy(carved(cameras, masks, cube, CELLS)).float()
    placed = tuple(camera for camera, _ in small)
    judge = _Judge(smaller, hull, cube, placed, tuple(mask for _, mask in small), centres(all_cells(CELLS), CELLS))
    inside = smaller * (smaller > 0.5)
    if not inside.any():
        return None
    middle = (inside.flatten() @ judge.places / inside.sum()).double().numpy()
    planes = [MirrorPlane(normal, float(normal @ middle)) for normal in _directions()]
    planes = sorted(planes, key=judge.likeness, reverse=True)[:LIKELY]
    planes = sorted(planes, key=judge.score, reverse=True)[:KEPT]
    best = max((_moved(plane, middle, judge.score) for plane in planes), key=judge.score)
    wrong = judge.left_out(best) - judge.left_out(None) > COST
    return None if wrong or judge.likeness(best) >= ALIKE else best


def _directions() -> Float[np.ndarray, "plane 3"]:
    """Normals over the half sphere, evenly (a golden spiral), and in the horizontal plane."""
    steps = np.arange(DIRECTIONS) + 0.5
    height, turn = steps / DIRECTIONS, np.pi * (1 + np.sqrt(5)) * steps
    across = np.sqrt(1 - height**2)
    around = np.arange(UPRIGHT) * np.pi / UPRIGHT
    spread = np.stack([across * np.cos(turn), across * np.sin(turn), height], axis=1)
    level = np.stack([np.cos(around), np.sin(around), np.zeros(UPRIGHT)], axis=1)
    normals: Float[np.ndarray, "plane 3"] = np.concatenate([spread, level])
    return normals


def _moved(plane: MirrorPlane, middle: Float[np.ndarray, " 3"], score: Callable[[MirrorPlane], float]) -> MirrorPlane:
    """The plane turned about its place nearest to the object's middle, and shifted, until no step makes it better."""
    best = score(plane)
    for step in STEPS:
        better = True
        while better:
            better = False
            for beside, shift in _steps(plane.normal, step):
                normal = plane.normal + beside
                normal = normal / np.linalg.norm(normal)
                offset = float(normal @ middle + plane.offset - plane.normal @ middle + shift)
                tried = MirrorPlane(normal, offset)
                value = score(tried)
                if value > best + 1e-6:
                    plane, best, better = tried, value, True
    return plane


def _steps(normal: Float[np.ndarray, " 3"], step: float) -> list[tuple[Float[np.ndarray, " 3"], float]]:
    """Small turns of a normal, and shifts."""
    least = np.eye(3)[np.abs(normal).argmin()]
    first = np.cross(normal, least)
    first /= np.linalg.norm(first)
    turns = [sign * step * axis for axis in (first, np.cross(normal, first)) for sign in (1, -1)]
    return [*((turn, 0.0) for turn in turns), (np.zeros(3), step / 4), (np.zeros(3), -step / 4)]


def _small(camera: Camera, mask: Bool[np.ndarray, "h w"]) -> tuple[Camera, Bool[np.ndarray, "h2 w2"]]:
    """A camera and its mask with SIDE pixels along what is masked, or as many as there are."""
    zoom = min(1.0, SIDE / max(np.ptp(np.flatnonzero(mask.any(axis))) + 1 for axis in (0, 1)))
    return shrunk(camera, mask, zoom)
