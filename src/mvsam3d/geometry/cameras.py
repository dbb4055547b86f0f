"""Pinhole projection. Pixels are continuous: the first pixel covers [0, 1) x [0, 1), its centre is (0.5, 0.5)."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from jaxtyping import Float

from mvsam3d.errors import InvalidOption
from mvsam3d.types import Camera

PARALLEL = 1e-6  # mean squared sine between the rays below which they meet nowhere


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


def unscaled(camera: Camera) -> Camera:
    """The camera that shows the same and keeps the world's lengths; `camera_from_world` may scale."""
    matrix = camera.camera_from_world.copy()
    matrix[:3] /= np.cbrt(np.linalg.det(matrix[:3, :3]))
    return replace(camera, camera_from_world=matrix)


def unproject(
    camera: Camera, pixels: Float[np.ndarray, "*rows 2"], depth: Float[np.ndarray, "*rows"]
) -> Float[np.ndarray, "*rows 3"]:
    """World points at `pixels`, `depth` along the optical axis in the camera's units; `camera_from_world` may scale."""
    homogeneous = np.concatenate([pixels, np.ones_like(pixels[..., :1])], -1)
    points_camera = homogeneous @ np.linalg.inv(camera.intrinsics).T * depth[..., None]
    scaled, translation = camera.camera_from_world[:3, :3], camera.camera_from_world[:3, 3]
    squared = np.square(scaled).sum() / 3  # |s R|² = 3 s², (s R)⁻¹ = (s R)ᵀ / s²
    points_world: Float[np.ndarray, "*rows 3"] = (points_camera - translation) @ scaled / squared
    return points_world


def centre(camera: Camera) -> Float[np.ndarray, " 3"]:
    """Where a camera stands, in the world; `camera_from_world` may scale."""
    scaled, translation = camera.camera_from_world[:3, :3], camera.camera_from_world[:3, 3]
    squared = np.square(scaled).sum() / 3  # |s R|² = 3 s²
    position: Float[np.ndarray, " 3"] = -scaled.T @ translation / squared
    return position


def widest_angle(cameras: Sequence[Camera]) -> float:
    """Degrees between the two cameras that stand farthest apart, as seen from the world's origin."""
    away = np.stack([centre(camera) for camera in cameras])
    away /= np.linalg.norm(away, axis=1, keepdims=True)
    return float(np.degrees(np.arccos(np.clip(away @ away.T, -1, 1).min())))


def resized(camera: Camera, width: int, height: int) -> Camera:
    """The camera of the same photo at another size."""
    zoom = np.diag([width / camera.width, height / camera.height, 1.0])
    return Camera(zoom @ camera.intrinsics, camera.camera_from_world, width, height)


def triangulated(cameras: Sequence[Camera], pixels: Float[np.ndarray, "view 2"]) -> Float[np.ndarray, " 3"]:
    """The world point nearest to the rays through one pixel of each camera, by squared distance.

    Raises: InvalidOption: the rays are parallel, so that no depth follows from them.
    """
    normal, right = np.zeros((3, 3)), np.zeros(3)
    for camera, pixel in zip(cameras, pixels, strict=True):
        position = centre(camera)
        ray = unproject(camera, pixel, np.array(1.0)) - position
        ray /= np.linalg.norm(ray)
        across = np.eye(3) - np.outer(ray, ray)  # projects onto the plane across the ray
        normal += across
        right += across @ position
    if np.linalg.eigvalsh(normal)[0] < PARALLEL * len(cameras):
        raise InvalidOption(
            "the cameras all look along one line, so their photos do not tell how far the object is: add a view from the side"
        )
    point: Float[np.ndarray, " 3"] = np.linalg.solve(normal, right)
    return point


def centred_intrinsics(width: int, height: int, focal: float | None = None) -> Float[np.ndarray, "3 3"]:
    """Principal point at the centre of the photo; focal length in pixels, 1.2 * the longer side when unknown."""
    f = 1.2 * max(width, height) if focal is None else focal
    return np.array([[f, 0.0, width / 2], [0.0, f, height / 2], [0.0, 0.0, 1.0]])
