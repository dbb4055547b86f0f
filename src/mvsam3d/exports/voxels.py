"""Values on cells of a grid -> things to look at: cubes, points, cameras. Positions are in the object frame until they become nodes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from mvsam3d.geometry.frames import glb_from_object
from mvsam3d.io.scenes import Lines, Node, Points
from mvsam3d.rendering.meshes import rasterise
from mvsam3d.types import FusionRecord, Mesh, Voxels

Colours = Float[np.ndarray, "row 3"]
Matrix = Float[np.ndarray, "4 4"]

SIDES = np.array([[1, 0, 0], [-1, 0, 0], [0, 1, 0], [0, -1, 0], [0, 0, 1], [0, 0, -1]])
SHADES = np.array([0.82, 0.82, 0.9, 0.9, 1.0, 0.74])  # of the sides, so that edges show
CAMERA_SHARE, CAMERA_SIZES = 0.06, (0.04, 0.5)  # size of a camera's pyramid: share of its distance, between these
AXES = np.eye(3)  # x red, y green, z blue


def latent_of_voxels(record: FusionRecord, voxels: Voxels) -> Int[np.ndarray, " voxel"]:
    """The latent in whose cell each voxel's centre lies. Every voxel must have one."""
    side = record.resolution
    table = np.full((side,) * 3, -1, np.int64)
    table[tuple(record.coords.cpu().numpy().T)] = np.arange(len(record.coords))
    cells = (2 * voxels.coords.cpu().numpy().astype(np.int64) + 1) * side // (2 * voxels.resolution)
    latents: Int[np.ndarray, " voxel"] = table[tuple(cells.T)]
    assert (latents >= 0).all(), f"{(latents < 0).sum()} voxels lie in no latent of the {record.stage} record"
    return latents


def array(values: Float[Tensor, "view latent"]) -> Float[np.ndarray, "view latent"]:
    """As numbers to compute with."""
    numbers: Float[np.ndarray, "view latent"] = values.detach().cpu().double().numpy()
    return numbers


def cell_centres(coords: Int[np.ndarray, "cell 3"], resolution: int) -> Float[np.ndarray, "cell 3"]:
    """Centres in the object frame."""
    return (coords + 0.5) / resolution - 0.5


@dataclass(frozen=True)
class Cubes:
    """The sides of cells that face an empty neighbour, two triangles each, outward."""

    vertices: Float[np.ndarray, "vertex 3"]  # in the object frame, four a side
    faces: Int[np.ndarray, "face 3"]
    cells: Int[np.ndarray, " face"]
    sides: Int[np.ndarray, " face"]  # of SIDES


def cubes(coords: Int[np.ndarray, "cell 3"], resolution: int) -> Cubes:
    """Cells of a grid as cubes."""
    filled = np.zeros((resolution + 2,) * 3, np.bool_)
    filled[tuple(coords.T + 1)] = True
    corners, cells, sides = [], [], []
    for i, out in enumerate(SIDES):
        bare = np.flatnonzero(~filled[tuple((coords + 1 + out).T)])
        axis = int(np.flatnonzero(out)[0])
        u, v = np.eye(3)[(axis + 1) % 3], np.eye(3)[(axis + 2) % 3]
        if out.sum() < 0:
            u, v = v, u
        square = np.array([-u - v, u - v, u + v, v - u]) / 2  # anticlockwise, seen from outside
        corners.append((coords[bare] + 0.5)[:, None] + out / 2 + square)
        cells.append(bare)
        sides.append(np.full(len(bare), i))
    vertices = np.concatenate(corners).reshape(-1, 3) / resolution - 0.5
    first = 4 * np.arange(len(vertices) // 4)[:, None, None]
    faces = (first + np.array([[0, 1, 2], [0, 2, 3]])).reshape(-1, 3)
    return Cubes(vertices, faces, np.repeat(np.concatenate(cells), 2), np.repeat(np.concatenate(sides), 2))


def picture(
    shape: Cubes,
    colours: Float[np.ndarray, "cell 3"],
    intrinsics: Float[np.ndarray, "3 3"],
    camera_from_object: Matrix,
    side: int,
    *,
    samples: int = 2,
) -> UInt8[np.ndarray, "side side 3"]:
    """Cells as cubes in their colours (sRGB, [0, 1]) on white, from a camera."""
    seen = shape.vertices @ camera_from_object[:3, :3].T + camera_from_object[:3, 3]
    dense = np.diag([samples, samples, 1.0]) @ intrinsics
    ids, _, _ = rasterise(seen, shape.faces, dense, samples * side, samples * side)
    pixels = np.ones((*ids.shape, 3))
    covered = ids >= 0
    shown = ids[covered]
    pixels[covered] = colours[shape.cells[shown]] * SHADES[shape.sides[shown]][:, None]
    blocks = pixels.reshape(side, samples, side, samples, 3).mean(axis=(1, 3))
    return np.asarray(np.clip(255 * blocks + 0.5, 0, 255), np.uint8)


def cell_nodes(name: str, coords: Int[np.ndarray, "cell 3"], resolution: int, colours: Colours) -> tuple[Node, Node]:
    """For a GLB: the cells' centres as points, for programs, and their bare sides as one mesh, which any viewer shows well."""
    shape = cubes(coords, resolution)
    corner_colours = np.repeat(colours[shape.cells[::2]], 4, axis=0)
    return (
        Node(f"{name}_points", Points(glb_from_object(cell_centres(coords, resolution)), colours)),
        Node(f"{name}_cubes", Mesh(glb_from_object(shape.vertices), shape.faces, corner_colours)),
    )


def camera_nodes(
    centres_object: Float[np.ndarray, "view 3"],
    looks_object: Float[np.ndarray, "view 3"],
    names: Sequence[str],
    colours: Float[np.ndarray, "view 3"],
) -> list[Node]:
    """For a GLB: each camera as a pyramid, its tip where the camera stands, and a line the way it looks."""
    nodes = []
    for i, name in enumerate(names):
        centre, look = centres_object[i], looks_object[i] / np.linalg.norm(looks_object[i])
        size = float(np.clip(CAMERA_SHARE * np.linalg.norm(centre), *CAMERA_SIZES))
        across = np.cross(look, AXES[int(np.abs(look).argmin())])
        across /= np.linalg.norm(across)
        u, v = size / 2 * across, size / 2 * np.cross(look, across)
        base = centre + size * look
        tips = np.stack([centre, base - u - v, base + u - v, base + u + v, base - u + v])
        faces = np.array([[0, 2, 1], [0, 3, 2], [0, 4, 3], [0, 1, 4], [1, 2, 3], [1, 3, 4]])
        paint = np.repeat(colours[i : i + 1], 5, axis=0)
        line = glb_from_object(np.stack([centre, centre + 4 * size * look]))
        nodes += [
            Node(f"camera_{i:02d}_{name}", Mesh(glb_from_object(tips), faces, paint)),
            Node(f"look_{i:02d}_{name}", Lines(line, np.array([[0, 1]]), paint[:2])),
        ]
    return nodes


def axes_node() -> Node:
    """For a GLB: the object frame's axes from its origin, x red, y green, z blue."""
    tips = np.stack([np.zeros((3, 3)), 0.6 * AXES], axis=1).reshape(-1, 3)
    return Node("axes", Lines(glb_from_object(tips), np.arange(6).reshape(3, 2), np.repeat(AXES, 2, axis=0)))
