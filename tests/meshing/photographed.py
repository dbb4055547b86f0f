"""Boxes and plates of known colours, and photos of them by cameras that look at the origin."""

import numpy as np
import trimesh

from mvsam3d.io.glb import linear_from_srgb, srgb_from_linear
from mvsam3d.meshing.unwrap import unwrapped
from mvsam3d.rendering.meshes import face_normals, interpolate, rasterise
from mvsam3d.types import Camera, Mesh, Photo

AROUND = 2.6 * np.array([[1, 0.1, 0.2], [0.1, 1, 0.2], [0.2, 0.1, 1], [-1, 0.1, 0.2], [0.1, -1, 0.1], [0.2, 0.1, -1]])


def camera_at(eye, scale=1.0, size=200):
    """`scale`: camera units per object unit."""
    forward = -np.asarray(eye, float) / np.linalg.norm(eye)
    right = np.cross(forward, [0.1, 0.2, 1.0])
    right /= np.linalg.norm(right)
    rotation = np.stack([right, np.cross(forward, right), forward])
    matrix = np.eye(4)
    matrix[:3, :3] = rotation * scale
    matrix[:3, 3] = -rotation @ np.asarray(eye, float) * scale
    intrinsics = np.array([[1.4 * size, 0, size / 2], [0, 1.4 * size, size / 2], [0, 0, 1]])
    return Camera(intrinsics, matrix, size, size)


def photo_of(mesh, camera, light_at, background=(1.0, 0, 1.0), gain=1.0, name="0"):
    """`light_at`: (points, unit normals) -> linear light."""
    matrix = camera.camera_from_world
    at = mesh.vertices @ matrix[:3, :3].T + matrix[:3, 3]
    faces, shares, _ = rasterise(at, mesh.faces, camera.intrinsics, camera.width, camera.height)
    there = faces >= 0
    points = interpolate(faces[there], shares[there], mesh.faces, mesh.vertices).astype(float)
    normals = face_normals(mesh.vertices, mesh.faces)[faces[there]]
    light = np.broadcast_to(linear_from_srgb(np.asarray(background, float)), (*faces.shape, 3)).copy()
    light[there] = light_at(points, normals / np.linalg.norm(normals, axis=1, keepdims=True))
    rgb = np.round(srgb_from_linear(np.clip(light * gain, 0, 1)) * 255).astype(np.uint8)
    return Photo(name, rgb, there)


def box(colour=0.5, resolution=256):
    """A unit cube with uv and one model colour (sRGB)."""
    made = trimesh.creation.box().subdivide().subdivide().subdivide()
    colours = np.broadcast_to(np.asarray(colour, float), made.vertices.shape).copy()
    return unwrapped(Mesh(made.vertices, made.faces, vertex_colours=colours), resolution=resolution)


def waves(points, normals):
    """Linear light in [0.05, 0.25], smooth: there a step of 1 / 255 in sRGB is less than that in light."""
    return 0.15 + 0.1 * np.sin(3 * points + np.array([0, 1, 2]) + points[:, [1, 2, 0]])
