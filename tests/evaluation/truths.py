"""Small true objects on disk, with answers to them."""

from pathlib import Path

import numpy as np

from mvsam3d.io.glb import write_glb
from mvsam3d.types import Mesh

CORNERS = np.array([[x, y, z] for x in (-0.5, 0.5) for y in (-0.5, 0.5) for z in (-0.5, 0.5)])
SQUARES = ((0, 1, 3, 2), (4, 6, 7, 5), (0, 4, 5, 1), (2, 3, 7, 6), (0, 2, 6, 4), (1, 5, 7, 3))  # outward


def block(size: tuple[float, float, float] = (1.0, 0.6, 0.3)) -> Mesh:
    """A closed box around the origin, whose sides tell the axes apart; red at one end, blue at the other."""
    faces = np.array([[a, b, c] for q in SQUARES for a, b, c in ((q[0], q[1], q[2]), (q[0], q[2], q[3]))])
    vertices = (CORNERS * np.array(size)).astype(np.float32)
    red = CORNERS[:, 0] * 0.6 + 0.5
    return Mesh(vertices, faces, vertex_colours=np.stack([red, np.full(8, 0.3), 1 - red], -1).astype(np.float32))


def write_truths(folder: Path, *names: str) -> Path:
    """A folder of boxes, the first 0.3 high, each next one higher by 0.1."""
    folder.mkdir(parents=True, exist_ok=True)
    for i, name in enumerate(names):
        write_glb(folder / f"{name}.glb", block((1.0, 0.6, 0.3 + 0.1 * i)))
    return folder
