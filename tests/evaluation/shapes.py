"""Closed shapes whose measures are known."""

import numpy as np

from mvsam3d.types import Mesh

CORNERS = np.array([[x, y, z] for x in (0, 1) for y in (0, 1) for z in (0, 1)], np.float64)
SIDES = [
    (0, 1, 3, 2),
    (4, 6, 7, 5),
    (0, 4, 5, 1),
    (2, 3, 7, 6),
    (0, 2, 6, 4),
    (1, 5, 7, 3),
]  # seen from outside, anticlockwise


def box(low=(-0.5, -0.5, -0.5), high=(0.5, 0.5, 0.5)) -> Mesh:
    low, high = np.array(low, np.float64), np.array(high, np.float64)
    faces = np.array([face for a, b, c, d in SIDES for face in ((a, b, c), (a, c, d))])
    return Mesh(low + (high - low) * CORNERS, faces)


def together(*meshes: Mesh) -> Mesh:
    starts = np.cumsum([0, *(len(mesh.vertices) for mesh in meshes)])
    faces = [mesh.faces + start for mesh, start in zip(meshes, starts)]
    return Mesh(np.concatenate([mesh.vertices for mesh in meshes]), np.concatenate(faces))


def split(mesh: Mesh) -> Mesh:
    """Every face in four: the same surface, more vertices."""
    corners = mesh.vertices[mesh.faces]
    a, b, c = np.moveaxis(corners, 1, 0)
    ab, bc, ca = (a + b) / 2, (b + c) / 2, (c + a) / 2
    parts = [(a, ab, ca), (ab, b, bc), (ca, bc, c), (ab, bc, ca)]
    vertices = np.concatenate([np.stack(part, 1).reshape(-1, 3) for part in parts])
    return Mesh(vertices, np.arange(len(vertices)).reshape(-1, 3))


def letter() -> Mesh:
    """No turn lays it over itself: a block with a fin above, a longer one to the side and a short one to the front."""
    return together(
        box((-0.5, -0.15, -0.15), (0.5, 0.15, 0.15)),
        box((-0.5, -0.1, 0.15), (-0.25, 0.1, 0.5)),
        box((0.2, 0.15, -0.1), (0.45, 0.4, 0.1)),
    )


def ball(radius: float = 0.5, rings: int = 48) -> Mesh:
    """A sphere by latitude and longitude, wound outward."""
    polar, around = np.linspace(0, np.pi, rings + 1), np.linspace(0, 2 * np.pi, 2 * rings, endpoint=False)
    grid = np.stack(
        [
            np.sin(polar)[:, None] * np.cos(around),
            np.sin(polar)[:, None] * np.sin(around),
            np.repeat(np.cos(polar)[:, None], len(around), 1),
        ],
        -1,
    )
    i, j = np.meshgrid(np.arange(rings), np.arange(len(around)), indexing="ij")
    a, b = i * len(around) + j, i * len(around) + (j + 1) % len(around)
    c, d = a + len(around), b + len(around)
    faces = np.concatenate([np.stack([a, c, d], -1).reshape(-1, 3), np.stack([a, d, b], -1).reshape(-1, 3)])
    return Mesh(radius * grid.reshape(-1, 3), faces)


def turned(mesh: Mesh, matrix: np.ndarray) -> Mesh:
    return Mesh(
        mesh.vertices @ matrix[:3, :3].T + matrix[:3, 3], mesh.faces, mesh.vertex_colours, mesh.uv, mesh.texture
    )
