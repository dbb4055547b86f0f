"""Pinhole projection. Pixels are continuous: the first pixel covers [0, 1) x [0, 1), its centre is (0.5, 0.5)."""

import numpy as np
from jaxtyping import Float

from mvsam3d.types import Camera


def project(
    camera: Camera, points_world: Float[np.ndarray, "*rows 3"]
) -> tuple[Float[np.ndarray, "*rows 2"], Float[np.ndarray, "*rows"]]:
    """Pixels (u, v) and depths (z in the camera frame; pixels mean nothing where it is not positive)."""
    rotation, translation = camera.camera_from_world[:3, :3], camera.camera_from_world[:3, 3]
    points_camera = points_world @ rotation.T + translation
    depth = points_camera[..., 2]
    with np.errstate(divide="ignore", invalid="ignore"):  # depth 0: infinite pixels, told by the depth
        pixels = (points_camera @ camera.intrinsics.T)[..., :2] / depth[..., None]
    return pixels, depth


def unproject(
    camera: Camera, pixels: Float[np.ndarray, "*rows 2"], depth: Float[np.ndarray, "*rows"]
) -> Float[np.ndarray, "*rows 3"]:
    """World points at `pixels`, `depth` along the optical axis."""
    homogeneous = np.concatenate([pixels, np.ones_like(pixels[..., :1])], -1)
    points_camera = homogeneous @ np.linalg.inv(camera.intrinsics).T * depth[..., None]
    rotation, translation = camera.camera_from_world[:3, :3], camera.camera_from_world[:3, 3]
    points_world: Float[np.ndarray, "*rows 3"] = (points_camera - translation) @ rotation  # rotation⁻¹ = rotationᵀ
    return points_world


def centred_intrinsics(width: int, height: int, focal: float | None = None) -> Float[np.ndarray, "3 3"]:
    """Principal point at the centre of the photo; focal length in pixels, 1.2 * the longer side when unknown."""
    f = 1.2 * max(width, height) if focal is None else focal
    return np.array([[f, 0.0, width / 2], [0.0, f, height / 2], [0.0, 0.0, 1.0]])
