"""An L-shaped thing on a floor, both covered with noise, in photos from known cameras: what cameras can be found from."""

from collections.abc import Sequence

import numpy as np

from mvsam3d.geometry.cameras import centred_intrinsics
from mvsam3d.rendering.meshes import render_mesh
from mvsam3d.training.objects import look_at
from mvsam3d.types import Camera, Mesh, Photo

SIDE = 512
FOCAL = 620.0
BOXES = (((-0.5, -0.2, -0.3), (0.5, 0.2, 0.0)), ((0.2, -0.2, 0.0), (0.5, 0.1, 0.5)))
CHAIR = (((-0.3, -0.3, -0.3), (0.3, 0.3, 0.1)), ((-0.3, -0.3, 0.1), (0.0, 0.3, 0.6)))
FLOOR = 1.6  # half its side


def noise(size: int, seed: int) -> np.ndarray:
    """Grains of several sizes."""
    from PIL import Image

    rng = np.random.default_rng(seed)
    total = np.zeros((size, size, 3))
    for grains, share in ((size // 32, 0.4), (size // 10, 0.35), (size // 4, 0.25)):
        small = Image.fromarray(rng.integers(0, 256, (grains, grains, 3), dtype=np.uint8))
        total += share * np.asarray(small.resize((size, size), Image.Resampling.BICUBIC))
    return ((total - 127) * 1.6 + 127).clip(0, 255).astype(np.uint8)


def quad(corners: np.ndarray, cell: tuple[float, float, float, float]) -> tuple[np.ndarray, np.ndarray]:
    u, v, w, h = cell
    return corners, np.array([[u, v], [u + w, v], [u + w, v + h], [u, v + h]])


def box(
    low: Sequence[float], high: Sequence[float], start: int, *, repeats: bool
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Six sides, each with a piece of the upper half of the texture; `repeats`: the same after half a turn about the vertical."""
    ends = np.array([low, high])
    quads = []
    for axis in range(3):
        for side in range(2):
            a, b = (i for i in range(3) if i != axis)
            across = ends[[0, 1, 1, 0], a]
            corners = np.zeros((4, 3))
            corners[:, axis] = ends[side, axis]
            corners[:, a] = across[[1, 0, 3, 2]] if repeats and side and axis < 2 else across
            corners[:, b] = ends[[0, 0, 1, 1], b]
            number = start + 2 * axis + (0 if repeats and axis < 2 else side)
            quads.append(quad(corners, (number % 4 / 4, 0.5 + number // 4 / 6, 0.24, 0.16)))
    return quads


def mesh_of(quads: list[tuple[np.ndarray, np.ndarray]], texture: np.ndarray) -> Mesh:
    corners, uv = (np.concatenate(part) for part in zip(*quads))
    faces = np.concatenate([[[4 * i, 4 * i + 1, 4 * i + 2], [4 * i, 4 * i + 2, 4 * i + 3]] for i in range(len(quads))])
    return Mesh(corners, faces, uv=uv, texture=texture)


def scene(
    azimuths: Sequence[float], *, floor: bool = True, side: int = SIDE, repeats: bool = False
) -> tuple[list[Photo], list[Camera]]:
    """Photos named 0, 1, ... and their cameras.

    Args:
        azimuths: degrees around the thing.
        floor: without one the photos are cut out, with black around.
        side: pixels.
        repeats: opposite sides of the boxes, and of the floor, look alike.
    """
    texture = noise(1024, 3)
    if repeats:
        texture[600:1000] = np.concatenate([texture[600:800], texture[600:800, ::-1][::-1]])
    boxes = CHAIR if repeats else BOXES
    thing = [quad for i, (low, high) in enumerate(boxes) for quad in box(low, high, 6 * i, repeats=repeats)]
    ground = np.array([[-FLOOR, -FLOOR, -0.3], [FLOOR, -FLOOR, -0.3], [FLOOR, FLOOR, -0.3], [-FLOOR, FLOOR, -0.3]])
    whole = [*thing, quad(ground, (0.0, 24 / 1024, 1.0, 400 / 1024))] if floor else thing
    lens = centred_intrinsics(side, side, FOCAL * side / SIDE)
    photos, cameras = [], []
    for i, azimuth in enumerate(azimuths):
        pose = look_at(azimuth, 32 + 6 * (i % 2), 2.4)
        rgb, _, _ = render_mesh(
            mesh_of(whole, texture), lens, pose, side, side, shade=False, background=(0.0, 0.0, 0.0)
        )
        _, covered, _ = render_mesh(mesh_of(thing, texture), lens, pose, side, side, shade=False)
        photos.append(Photo(str(i), np.round(rgb * 255).astype(np.uint8), covered > 0.5))
        cameras.append(Camera(lens, pose, side, side))
    return photos, cameras
