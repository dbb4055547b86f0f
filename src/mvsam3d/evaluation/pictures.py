"""Pictures of meshes and Gaussians on white: those of true objects are lit, those of answers show their colours as they are.

The light stands still around the object, without highlights and shadows: light from the sky, stronger from above, and a lamp up in
front at the left (x, y, z) = LAMP. Photos hold light, so systems that colour their answers by the photos have it in their colours.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from jaxtyping import Float32, UInt8

from mvsam3d.io.gltf import linear_from_srgb, srgb_from_linear
from mvsam3d.rendering.meshes import corner_normals, rasterise, surface_colours
from mvsam3d.rendering.splats import render_splats
from mvsam3d.types import Camera, GaussianCloud, Mesh

LAMP = np.array([-0.4, -0.7, 0.6]) / np.linalg.norm([-0.4, -0.7, 0.6])
SKY, TOP, STRENGTH = 0.42, 0.2, 0.55  # linear light from everywhere, more from above, and of the lamp
SAMPLES = 2  # a side of a pixel

Shown = tuple[
    Float32[np.ndarray, "h w 3"], Float32[np.ndarray, "h w"]
]  # sRGB on white, share of the pixel that is covered


def pictured(mesh: Mesh, cameras: Sequence[Camera], *, lit: bool, samples: int = SAMPLES) -> Iterator[Shown]:
    """A mesh as each camera sees it; both sides of a face are drawn.

    Args:
        mesh: in the cameras' world.
        cameras: rigid or similarity.
        lit: by the light that this module tells, instead of as the colours are.
        samples: samples a side of a pixel.
    """
    normals = corner_normals(mesh.vertices, mesh.faces) if lit else None
    for camera in cameras:
        yield _pictured(mesh, normals, camera, samples)


def _pictured(mesh: Mesh, normals: Float32[np.ndarray, "face 3 3"] | None, camera: Camera, samples: int) -> Shown:
    matrix = camera.camera_from_world
    points = mesh.vertices @ matrix[:3, :3].T + matrix[:3, 3]
    dense = np.diag([samples, samples, 1.0]) @ camera.intrinsics
    face_ids, shares, _ = rasterise(points, mesh.faces, dense, samples * camera.width, samples * camera.height)
    covered = face_ids >= 0
    faces, inner = face_ids[covered], shares[covered]
    colours = surface_colours(mesh, faces, inner)
    if normals is not None:
        turned = _mixed(inner, normals[faces])
        towards = _mixed(inner, points.astype(np.float32)[mesh.faces[faces]])
        seen = turned @ matrix[:3, :3].astype(np.float32).T
        away = (seen * towards).sum(axis=1) > 0  # wound the other way: light the side that is seen
        colours = _lit(colours, np.where(away[:, None], -turned, turned))
    picture = np.ones((*face_ids.shape, 3), np.float32)
    picture[covered] = colours
    return _reduced(picture, samples), _reduced(covered.astype(np.float32), samples)


def _mixed(
    shares: Float32[np.ndarray, "point 3"], corners: Float32[np.ndarray, "point 3 3"]
) -> Float32[np.ndarray, "point 3"]:
    """Values inside faces of those at their corners; many times as fast as einsum."""
    mixed: Float32[np.ndarray, "point 3"] = shares[:, :1] * corners[:, 0]
    for corner in (1, 2):
        mixed += shares[:, corner : corner + 1] * corners[:, corner]
    return mixed


def _reduced(values: Float32[np.ndarray, "h2 w2 *channel"], samples: int) -> Float32[np.ndarray, "h w *channel"]:
    """Mean of each block of `samples` squared; many times as fast as `mean` over the axes of blocks."""
    shape = values.shape[0] // samples, values.shape[1] // samples, *values.shape[2:]
    total: Float32[np.ndarray, "h w *channel"] = np.zeros(shape, np.float32)
    for row in range(samples):
        for column in range(samples):
            total += values[row::samples, column::samples]
    return total / np.float32(samples**2)


def _lit(
    colours: Float32[np.ndarray, "point 3"], normals: Float32[np.ndarray, "point 3"]
) -> Float32[np.ndarray, "point 3"]:
    """sRGB of surfaces in the light."""
    units = normals / np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-12)
    light = SKY + TOP * units[:, 2:] + STRENGTH * np.maximum(units @ LAMP.astype(np.float32), 0)[:, None]
    seen: Float32[np.ndarray, "point 3"] = np.clip(srgb_from_linear(linear_from_srgb(colours) * light), 0, 1)
    return seen.astype(np.float32)


def splatted(cloud: GaussianCloud, cameras: Sequence[Camera]) -> Iterator[Shown]:
    """A Gaussian cloud as each camera sees it."""
    for camera in cameras:
        rgb, cover = render_splats(cloud, camera.intrinsics, camera.camera_from_world, camera.width, camera.height)
        yield np.clip(rgb, 0, 1), cover


def to_bytes(picture: Float32[np.ndarray, "h w 3"]) -> UInt8[np.ndarray, "h w 3"]:
    """[0, 1] to 0 .. 255."""
    return np.asarray(np.clip(255 * picture + 0.5, 0, 255), np.uint8)
