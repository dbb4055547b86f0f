"""Which points and cells a surface encloses, and what is wrong with a surface.

Closed surfaces: a point is inside if the surface winds around it, counted along the ray upward from it. Any surface: cells of a grid by
the rule of the training meshes (`training.meshes.solid_grid`), which needs neither closedness nor winding.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int64

from mvsam3d.errors import BadFile, MissingExtra
from mvsam3d.geometry.compiled import compiled
from mvsam3d.training.meshes import TrainingMesh, solid_grid
from mvsam3d.types import Mesh

Array = np.ndarray
SAME = 1e-6  # of the longest side: vertices so near are one
OFF_BORDER = 1 - 2e-5  # the search for near faces knows none on the border of the cube
COLUMNS = 128  # columns a side in which a ray's faces are looked up


def longest_side(vertices: Float[np.ndarray, "vertex 3"]) -> float:
    """Of the box."""
    return float(np.ptp(vertices, axis=0).max())


def middle(vertices: Float[np.ndarray, "vertex 3"]) -> Float[np.ndarray, " 3"]:
    """Of the box."""
    centre: Float[np.ndarray, " 3"] = (vertices.min(axis=0) + vertices.max(axis=0)) / 2
    return centre


def with_used_vertices(mesh: Mesh) -> Mesh:
    """The mesh without vertices that no face uses: they would count for its box."""
    used, faces = np.unique(mesh.faces, return_inverse=True)
    if len(used) == len(mesh.vertices):
        return mesh
    colours, uv = (None if rows is None else rows[used] for rows in (mesh.vertex_colours, mesh.uv))
    return Mesh(mesh.vertices[used], faces.reshape(-1, 3), colours, uv, mesh.texture)


def merged(mesh: Mesh) -> tuple[Float[np.ndarray, "vertex 3"], Int64[np.ndarray, "face 3"]]:
    """The bare surface: vertices at one place are one, faces that thereby lose a corner are left out."""
    low, size = mesh.vertices.min(axis=0), max(longest_side(mesh.vertices), 1e-300)
    # cells of 2^20 a side: three indices fit one integer
    grid = np.round((mesh.vertices - low) / size * min(1 / SAME, 2**20)).astype(np.int64)
    _, first, places = np.unique(
        (grid[:, 0] << 42) + (grid[:, 1] << 21) + grid[:, 2], return_index=True, return_inverse=True
    )
    faces = places.reshape(-1)[mesh.faces]
    a, b, c = faces.T
    return mesh.vertices[first].astype(np.float64), faces[(a != b) & (b != c) & (c != a)]


def open_edges(faces: Int64[np.ndarray, "face 3"]) -> int:
    """Edges that faces walk more often one way than the other; 0: the surface is closed and winds one way.

    Args:
        faces: of merged vertices.
    """
    if not len(faces):
        return 0
    ways = np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]])
    forward = ways[:, 0] < ways[:, 1]
    low, high = ways.min(axis=1), ways.max(axis=1)
    _, edge = np.unique(low * (int(faces.max()) + 1) + high, return_inverse=True)
    return int((np.bincount(edge.reshape(-1), np.where(forward, 1, -1)) != 0).sum())


def volume(vertices: Float[np.ndarray, "vertex 3"], faces: Int64[np.ndarray, "face 3"]) -> float:
    """Signed volume of a closed surface, positive where it winds outward."""
    a, b, c = np.moveaxis((vertices - middle(vertices))[faces], 1, 0)
    return float(np.einsum("fi,fi->", a, np.cross(b, c)) / 6)


@dataclass(frozen=True)
class Winding:
    """The inside of a closed surface: points around which it winds. Its vertices must be merged."""

    vertices: Float[np.ndarray, "vertex 3"]
    faces: Int64[np.ndarray, "face 3"]

    @cached_property
    def columns(self) -> tuple[Array, Array, Array, float]:
        """Start of each column's faces in the list, the list, lower corner and side of a column."""
        low = self.vertices[:, :2].min(axis=0)
        side = max(float(np.ptp(self.vertices[:, :2], axis=0).max()), 1e-300) / COLUMNS
        corners = self.vertices[self.faces][:, :, :2]
        first = np.clip(((corners.min(axis=1) - low) / side).astype(np.int64), 0, COLUMNS - 1)
        last = np.clip(((corners.max(axis=1) - low) / side).astype(np.int64), 0, COLUMNS - 1)
        counts = np.zeros(COLUMNS * COLUMNS + 1, np.int64)
        _count(first, last, COLUMNS, counts)
        starts = np.cumsum(counts)
        entries = np.empty(int(starts[-1]), np.int64)
        _list(first, last, COLUMNS, starts[:-1].copy(), entries)
        return starts, entries, low, side

    def __call__(self, points: Float[np.ndarray, "point 3"]) -> Bool[np.ndarray, " point"]:
        """Which points are inside; those on the surface may be either."""
        return np.asarray(self.turns(points) != 0)

    def turns(self, points: Float[np.ndarray, "point 3"]) -> Int64[np.ndarray, " point"]:
        """How often the surface winds around each point: 1 inside of one part, -1 if that is inside out, more where parts overlap."""
        starts, entries, low, side = self.columns
        turns = np.zeros(len(points), np.int64)
        _wind(np.ascontiguousarray(points, np.float64), self.vertices, self.faces, starts, entries, low, side, turns)
        return turns


@compiled
def _count(first: Array, last: Array, side: int, counts: Array) -> None:
    for face in range(len(first)):
        for x in range(first[face, 0], last[face, 0] + 1):
            for y in range(first[face, 1], last[face, 1] + 1):
                counts[x * side + y + 1] += 1


@compiled
def _list(first: Array, last: Array, side: int, cursor: Array, entries: Array) -> None:
    for face in range(len(first)):
        for x in range(first[face, 0], last[face, 0] + 1):
            for y in range(first[face, 1], last[face, 1] + 1):
                entries[cursor[x * side + y]] = face
                cursor[x * side + y] += 1


@compiled
def _left(vertices: Array, a: int, b: int, x: float, y: float) -> bool:
    """Whether (x, y) is left of the edge a -> b seen from above; of the same edge walked back it is always the opposite."""
    p, q = (a, b) if a < b else (b, a)
    across = (vertices[q, 0] - vertices[p, 0]) * (y - vertices[p, 1]) - (vertices[q, 1] - vertices[p, 1]) * (
        x - vertices[p, 0]
    )
    left: bool = (across >= 0.0) == (a < b)
    return left


@compiled
def _wind(
    points: Array,
    vertices: Array,
    faces: Array,
    starts: Array,
    entries: Array,
    low: Array,
    side: float,
    turns: Array,
) -> None:
    columns = int(np.sqrt(len(starts) - 1))
    for i in range(len(points)):
        x, y, z = points[i]
        column, row = int(np.floor((x - low[0]) / side)), int(np.floor((y - low[1]) / side))
        if column < 0 or row < 0 or column > columns or row > columns:
            continue
        column, row = min(column, columns - 1), min(row, columns - 1)
        for entry in range(starts[column * columns + row], starts[column * columns + row + 1]):
            a, b, c = faces[entries[entry]]
            left = _left(vertices, a, b, x, y)
            if _left(vertices, b, c, x, y) != left or _left(vertices, c, a, x, y) != left:
                continue
            ux, uy, uz = vertices[b] - vertices[a]
            vx, vy, vz = vertices[c] - vertices[a]
            area = ux * vy - uy * vx
            if area == 0.0:
                continue
            px, py = x - vertices[a, 0], y - vertices[a, 1]
            height = vertices[a, 2] + ((px * vy - py * vx) * uz + (ux * py - uy * px) * vz) / area
            if height > z:
                turns[i] += 1 if left else -1


def winding_of(mesh: Mesh) -> Winding | int:
    """The inside of a mesh's surface, or the number of its open edges."""
    vertices, faces = merged(mesh)
    count = open_edges(faces)
    return Winding(vertices, faces) if count == 0 and len(faces) else max(count, 1)


def solid_cells(mesh: Mesh, resolution: int) -> Bool[np.ndarray, "x y z"]:
    """Cells of the cube [-0.5, 0.5]^3 that are solid: centre inside, or as near to the surface as a third of a cell; thin sheets stay.

    Args:
        mesh: within the cube.
    """
    return solid_grid(_bare(mesh), resolution)


def _bare(mesh: Mesh) -> TrainingMesh:
    vertices = np.ascontiguousarray(mesh.vertices * OFF_BORDER, np.float32)
    colours: Any = np.zeros((1, 1, 3), np.uint8)
    return TrainingMesh(
        vertices, np.ascontiguousarray(mesh.faces, np.int32), np.zeros((len(vertices), 2), np.float32), colours
    )


def solids_together(
    truth: Mesh, answer: Mesh, resolution: int
) -> tuple[Bool[np.ndarray, "x y z"], Bool[np.ndarray, "x y z"]]:
    """Solid cells of two surfaces on one grid, `resolution` cells to the truth's cube [-0.5, 0.5]^3.

    The grid grows by whole cells where the answer reaches out of the cube, so that what is too much counts; an answer of more than
    twice the cube's size is compared at larger cells.

    Args:
        truth: within the cube.
        answer: in the same frame.
    """
    reach = float(np.abs(answer.vertices).max())
    more = max(0, int(np.ceil((reach - 0.5) * resolution - 1e-6)))
    cells, zoom = resolution + 2 * more, resolution / (resolution + 2 * more)
    if more > resolution // 2:
        cells, zoom = 2 * resolution, 0.5 / reach
    solids = [solid_cells(Mesh(mesh.vertices * zoom, mesh.faces), cells) for mesh in (truth, answer)]
    return solids[0], solids[1]


def looked_up(occupied: Bool[np.ndarray, "x y z"], points: Float[np.ndarray, "*point 3"]) -> Bool[np.ndarray, "*point"]:
    """Whether the cells of a grid over [-0.5, 0.5]^3 that hold the points are occupied; False outside."""
    size = np.array(occupied.shape)
    cells = np.floor((points + 0.5) * size).astype(np.int64)
    within = ((cells >= 0) & (cells < size)).all(axis=-1)
    x, y, z = np.moveaxis(np.where(within[..., None], cells, 0), -1, 0)
    found: Bool[np.ndarray, "*point"] = occupied[x, y, z] & within
    return found


def marched(occupied: Bool[np.ndarray, "x y z"]) -> Mesh:
    """Marching cubes of a solid grid over [-0.5, 0.5]^3, half way between solid and empty cells (Lorensen and Cline 1987).

    Raises: MissingExtra: no scikit-image. BadFile: no solid cell.
    """
    try:
        from skimage.measure import marching_cubes
    except ImportError as error:
        raise MissingExtra("marching cubes need scikit-image: pip install 'mvsam3d[evaluate]'") from error
    if not occupied.any():
        raise BadFile("a solid without a single cell has no surface")
    vertices, faces, _, _ = marching_cubes(  # type: ignore[no-untyped-call]
        np.pad(occupied, 1).astype(np.float32), 0.5
    )
    # index i of the padded grid is the middle of cell i - 1
    placed = (vertices - 0.5) / np.array(occupied.shape) - 0.5
    return Mesh(placed.astype(np.float64), faces.astype(np.int64))
