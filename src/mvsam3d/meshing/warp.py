"""A smooth field of displacements in the object frame, and what it makes of meshes and Gaussians.

The field is a cubic B-spline on a coarse cubic lattice: it moves whatever lies in it alike, so that meshes, splats and voxels
stay together, and a mesh keeps its faces. Nothing moves farther than the longest of the control points' displacements, of
which each displacement is a mean.
Source: Sederberg and Parry, Free-form deformation of solid geometric models, 1986; Lee, Wolberg and Shin, Scattered data
interpolation with multilevel B-splines, 1997.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float, Int64

from mvsam3d.geometry.compiled import compiled
from mvsam3d.geometry.rotations import matrix_from_quaternion, quaternion_from_matrix
from mvsam3d.types import GaussianCloud, Mesh

Array = np.ndarray


@dataclass(frozen=True)
class Warp:
    """Displacements: p goes to p + displacement(p). Outside the lattice the displacement is that of its nearest point."""

    corner: Float[np.ndarray, " 3"]  # where the first cell begins; control point i stands at corner + (i - 1) * spacing
    spacing: float  # edge of a cell
    shifts: Float[np.ndarray, "x y z 3"]  # displacements of the control points: three more an axis than cells


@dataclass(frozen=True)
class Places:
    """Where points lie in a lattice: their first control point along each axis, and the weights of the four from there."""

    first: Int64[np.ndarray, "point 3"]
    weights: Float[np.ndarray, "point 3 4"]
    slopes: Float[np.ndarray, "point 3 4"]  # derivatives of the weights by the coordinate


def resting(low: Float[np.ndarray, " 3"], high: Float[np.ndarray, " 3"], spacing: float) -> Warp:
    """The field that moves nothing, on a lattice over a box; what the cells have beyond it stands over on both sides alike."""
    cells = np.maximum(np.ceil((high - low) / spacing - 1e-9).astype(np.int64), 1)
    corner: Float[np.ndarray, " 3"] = (low + high - cells * spacing) / 2
    return Warp(corner, spacing, np.zeros((*(cells + 3), 3)))


def places(warp: Warp, points: Float[np.ndarray, "point 3"]) -> Places:
    """Control points and weights of points; slopes are nought along an axis on which a point lies outside."""
    cells = np.array(warp.shifts.shape[:3]) - 3
    free = (points.astype(np.float64) - warp.corner) / warp.spacing
    at = np.clip(free, 0, cells)
    first = np.minimum(at.astype(np.int64), cells - 1)
    t = at - first
    weights = np.stack(
        [(1 - t) ** 3, 3 * t**3 - 6 * t**2 + 4, -3 * t**3 + 3 * t**2 + 3 * t + 1, t**3], axis=-1
    ) / 6  # fmt: skip
    slopes = np.stack([-((1 - t) ** 2), 3 * t**2 - 4 * t, -3 * t**2 + 2 * t + 1, t**2], axis=-1) / 2
    slopes *= (free == at)[..., None] / warp.spacing
    return Places(first, weights, slopes)


@compiled
def _mean(first: Array, x: Array, y: Array, z: Array, shifts: Array, out: Array) -> None:
    """Weighted means of the 64 control points around each point."""
    for p in range(len(first)):
        a, b, c = first[p]
        sx = sy = sz = 0.0
        for i in range(4):
            for j in range(4):
                w = x[p, i] * y[p, j]
                for k in range(4):
                    share = w * z[p, k]
                    shift = shifts[a + i, b + j, c + k]
                    sx += share * shift[0]
                    sy += share * shift[1]
                    sz += share * shift[2]
        out[p, 0], out[p, 1], out[p, 2] = sx, sy, sz


def displacements(warp: Warp, points: Float[np.ndarray, "point 3"]) -> Float[np.ndarray, "point 3"]:
    """How far the field moves points."""
    return displacements_at(warp, places(warp, points))


def displacements_at(warp: Warp, where: Places) -> Float[np.ndarray, "point 3"]:
    """How far the field moves points whose places are known; they are those of any field on this lattice."""
    out = np.empty((len(where.first), 3))
    x, y, z = np.moveaxis(where.weights, 1, 0)
    _mean(where.first, x, y, z, warp.shifts, out)
    return out


def gradients(warp: Warp, points: Float[np.ndarray, "point 3"]) -> Float[np.ndarray, "point 3 3"]:
    """Derivatives of the displacement (rows) by the coordinates (columns): the field is I + this, to first order."""
    return gradients_at(warp, places(warp, points))


def gradients_at(warp: Warp, where: Places) -> Float[np.ndarray, "point 3 3"]:
    """The same where places are known."""
    out = np.empty((3, len(where.first), 3))
    for axis in range(3):
        x, y, z = (where.slopes[:, a] if a == axis else where.weights[:, a] for a in range(3))
        _mean(where.first, x, y, z, warp.shifts, out[axis])
    return np.moveaxis(out, 0, -1)


def refined(warp: Warp) -> Warp:
    """The same field on a lattice of half the spacing (knots inserted)."""
    shifts = warp.shifts
    for axis in range(3):
        old = np.moveaxis(shifts, axis, 0)
        new = np.empty((2 * len(old) - 3, *old.shape[1:]))
        new[::2] = (old[:-1] + old[1:]) / 2
        new[1::2] = (old[:-2] + 6 * old[1:-1] + old[2:]) / 8
        shifts = np.moveaxis(new, 0, axis)
    return Warp(warp.corner, warp.spacing / 2, np.ascontiguousarray(shifts))


def warped(warp: Warp, points: Float[np.ndarray, "point 3"]) -> Float[np.ndarray, "point 3"]:
    """Points after the field, in the type they had."""
    moved: Float[np.ndarray, "point 3"] = (points + displacements(warp, points)).astype(points.dtype)
    return moved


def warped_mesh(mesh: Mesh, warp: Warp) -> Mesh:
    """The mesh with its vertices moved; faces, colours and texture are as they were."""
    return replace(mesh, vertices=warped(warp, mesh.vertices))


def warped_cloud(cloud: GaussianCloud, warp: Warp) -> GaussianCloud:
    """Gaussians moved, turned and stretched as the field does where they are; opacities and colours untouched.

    A Gaussian's covariance C = M Mᵀ becomes J C Jᵀ with J = I + gradient, so that the singular values of J M are the new scales.
    """
    means = cloud.means.detach().cpu().numpy().astype(np.float64)
    where = places(warp, means)
    local = torch.from_numpy(np.eye(3) + gradients_at(warp, where))
    axes = (
        matrix_from_quaternion(cloud.rotations.detach().cpu().double()) * cloud.scales.detach().cpu().double()[:, None]
    )
    turned, scales, _ = torch.linalg.svd(local @ axes)
    turned = (
        turned * torch.linalg.det(turned).sign()[:, None, None]
    )  # a reflection of the axes leaves the covariance alone
    moved = torch.from_numpy(means + displacements_at(warp, where))
    return replace(
        cloud,
        means=moved.to(cloud.means),
        scales=scales.to(cloud.scales),
        rotations=quaternion_from_matrix(turned).to(cloud.rotations),
    )
