"""What pulls a posed mesh towards points and masks: rows of a least-squares problem in the seven ways a similarity can move.

A small motion is (turn 3, shift 3, growth 1): a point p goes to p + turn x (p - centre) + shift + growth (p - centre).
Turns are radians; lengths, in all of this module, are shares of the object's size.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.ndimage import distance_transform_edt

from mvsam3d.rendering.meshes import rasterise

ALONG = 0.1  # weight of a residual along the surface: less than across, for the nearest point slides freely there


@dataclass(frozen=True)
class Pulls:
    """Residuals of points to be moved to nought, three numbers each, and how strongly each counts."""

    moving: Float[np.ndarray, "row 3"]  # points of the model, relative to the centre of the motion
    residual: Float[np.ndarray, "row 3"]  # from where each is wanted to where it is
    axes: Float[np.ndarray, "row 3 3"]  # symmetric; the square of `axes @ residual` counts
    weight: Float[np.ndarray, " row"]


def surface_pulls(
    moving: Float[np.ndarray, "row 3"],
    normals: Float[np.ndarray, "row 3"],
    residual: Float[np.ndarray, "row 3"],
    sigma: float,
) -> Pulls:
    """Points of the model and the nearest measured ones: residuals count across the surface, by Geman and McClure's weights.

    Args:
        normals: unit, of the model.
        sigma: a residual much longer than this hardly counts.
    """
    across = normals[:, :, None] * normals[:, None, :]
    return Pulls(
        moving, residual, ALONG * np.eye(3) + (1 - ALONG) * across, robust_weights(residual, sigma) / len(residual)
    )


def outline_pulls(
    moving: Float[np.ndarray, "row 3"],
    rays: Float[np.ndarray, "row 3"],
    residual: Float[np.ndarray, "row 3"],
    sigma: float,
    pixels: int,
) -> Pulls:
    """Points drawn outside a mask, or nearest to a pixel of it that is not drawn: residuals count across the line of sight.

    Args:
        rays: unit, from the camera to the points.
        pixels: of the mask; the rows' share of them is what they weigh.
    """
    across = np.eye(3) - rays[:, :, None] * rays[:, None, :]
    return Pulls(moving, residual, across, robust_weights(residual, sigma) / pixels)


def robust_weights(residual: Float[np.ndarray, "row 3"], sigma: float) -> Float[np.ndarray, " row"]:
    """(1 + |r|² / sigma²)⁻²: 1 for a short residual, next to 0 for one of several sigma."""
    weights: Float[np.ndarray, " row"] = 1 / (1 + (residual**2).sum(axis=1) / sigma**2) ** 2
    return weights


def normal_equations(pulls: Pulls) -> tuple[Float[np.ndarray, "7 7"], Float[np.ndarray, " 7"]]:
    """Jᵀ W J and Jᵀ W r of the motion: solve, with a minus, for the step."""
    jacobian = np.zeros((len(pulls.moving), 3, 7))
    x, y, z = pulls.moving.T
    jacobian[:, 0, 1], jacobian[:, 0, 2] = z, -y  # turn x p, as a matrix on the turn
    jacobian[:, 1, 2], jacobian[:, 1, 0] = x, -z
    jacobian[:, 2, 0], jacobian[:, 2, 1] = y, -x
    jacobian[:, :, 3:6] = np.eye(3)
    jacobian[:, :, 6] = pulls.moving
    seen = (pulls.axes @ jacobian).reshape(-1, 7)
    residual = (pulls.axes @ pulls.residual[:, :, None]).reshape(-1)
    weighted = seen.T * np.repeat(pulls.weight, 3)
    return weighted @ seen, weighted @ residual


@dataclass(frozen=True)
class Drawn:
    """The mesh in one view: which pixels it covers, and the points and normals there, in the reference camera's frame."""

    covered: Bool[np.ndarray, "side side"]
    points: Float[np.ndarray, "pixel 3"]
    faces: Int[np.ndarray, " pixel"]


class Window:
    """A square of a view around the object's mask, in small."""

    def __init__(
        self,
        intrinsics: Float[np.ndarray, "3 3"],
        view_from_reference: Float[np.ndarray, "4 4"],
        mask: Bool[np.ndarray, "h w"],
        side: int,
        margin: float,
    ) -> None:
        """`margin`: side of the square in sides of the mask's box."""
        rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
        middle = np.array([columns[0] + columns[-1] + 1, rows[0] + rows[-1] + 1]) / 2
        length = margin * max(columns[-1] + 1 - columns[0], rows[-1] + 1 - rows[0])
        left, top = middle - length / 2
        zoom = np.diag([side / length, side / length, 1.0])
        self.side = side
        self.intrinsics = zoom @ np.array([[1, 0, -left], [0, 1, -top], [0, 0, 1]]) @ intrinsics
        self.view_from_reference = view_from_reference
        place = (np.arange(side) + 0.5) * length / side
        x, y = np.floor(left + place).astype(np.int64), np.floor(top + place).astype(np.int64)
        inside = ((x >= 0) & (x < mask.shape[1]))[None] & ((y >= 0) & (y < mask.shape[0]))[:, None]
        self.seen: Bool[np.ndarray, "side side"] = inside  # pixels that the photo has
        self.mask = mask[np.clip(y, 0, mask.shape[0] - 1)[:, None], np.clip(x, 0, mask.shape[1] - 1)[None]] & inside
        self._nearest = distance_transform_edt(~self.mask, return_distances=False, return_indices=True)

    def drawn(self, vertices_reference: Float[np.ndarray, "vertex 3"], faces: Int[np.ndarray, "face 3"]) -> Drawn:
        """Draw the mesh."""
        turn, shift = self.view_from_reference[:3, :3], self.view_from_reference[:3, 3]
        ids, shares, _ = rasterise(vertices_reference @ turn.T + shift, faces, self.intrinsics, self.side, self.side)
        covered = (ids >= 0) & self.seen
        hit = ids[covered]
        points = np.einsum("pc,pcd->pd", shares[covered].astype(np.float64), vertices_reference[faces[hit]])
        return Drawn(covered, points, hit)

    def agreement(self, drawn: Drawn) -> float:
        """Intersection over union of what is drawn and the mask."""
        return float((drawn.covered & self.mask).sum() / (drawn.covered | self.mask).sum())

    def misses(
        self, drawn: Drawn
    ) -> tuple[Float[np.ndarray, "row 3"], Float[np.ndarray, "row 3"], Float[np.ndarray, "row 3"]]:
        """Points drawn at a wrong pixel, where they should be instead (at their depth), and the rays to them.

        Pixels drawn outside the mask belong to its nearest pixel; to pixels of the mask that are not drawn belongs the nearest
        one that is.
        """
        if not drawn.covered.any():
            return np.zeros((0, 3)), np.zeros((0, 3)), np.zeros((0, 3))
        number = np.cumsum(drawn.covered).reshape(drawn.covered.shape) - 1
        outside, bare = drawn.covered & ~self.mask, self.mask & ~drawn.covered
        nearest = distance_transform_edt(~drawn.covered, return_distances=False, return_indices=True)
        source = np.concatenate([np.argwhere(outside), nearest[:, bare].T])
        wanted = np.concatenate([self._nearest[:, outside].T, np.argwhere(bare)])
        points = drawn.points[number[source[:, 0], source[:, 1]]]
        turn, shift = self.view_from_reference[:3, :3], self.view_from_reference[:3, 3]
        view = points @ turn.T + shift
        steps = np.zeros_like(view)
        focal = np.array([self.intrinsics[0, 0], self.intrinsics[1, 1]])
        steps[:, :2] = (wanted - source)[:, ::-1] / focal * view[:, 2:]
        rays = view / np.linalg.norm(view, axis=1, keepdims=True)
        return points, points + steps @ turn, rays @ turn
