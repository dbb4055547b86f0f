"""Mesh -> UV: cut the surface into charts, lay them flat, pack them into a square texture.

Two ways. By projection: charts are what one sees of the surface along one of the six axes, so nothing is stretched by
more than 3.3; it takes tenths of a second. By xatlas: larger charts of its own finding, in seconds.
"""

from dataclasses import dataclass
from typing import assert_never

import numpy as np
import xatlas
from jaxtyping import Bool, Float, Int64
from scipy.sparse import csr_array
from scipy.sparse.csgraph import connected_components

from mvsam3d.errors import InvalidOption
from mvsam3d.geometry.compiled import compiled
from mvsam3d.rendering.meshes import face_normals
from mvsam3d.types import Mesh

AXES = np.concatenate([np.eye(3), -np.eye(3)])  # directions from which charts are seen
LEAST_COSINE = 0.3  # a face seen at a smaller cosine is not given to the chart
SMOOTHING = 4  # rounds in which faces take the direction of their neighbours
ROUNDS = 8  # of cutting charts that lie over themselves; then the faces left become charts of their own
ANGLES = np.radians(np.arange(0, 90, 5))  # tried to find a chart's smallest box


@dataclass(frozen=True)
class ByProjection:
    """Charts seen along the six axes."""


@dataclass(frozen=True)
class ByXatlas:
    """Charts found and packed by xatlas."""


Unwrapping = ByProjection | ByXatlas


def unwrapped(mesh: Mesh, how: Unwrapping | None = None, *, resolution: int = 1024, padding: int = 2) -> Mesh:
    """The same surface with uv; vertices on chart borders are doubled, colours kept.

    Args:
        resolution: texels along a side of the texture that the charts are packed for.
        padding: free texels around each chart.
    Raises: InvalidOption: more charts than the texture has room for.
    """
    if len(mesh.faces) == 0:
        return Mesh(mesh.vertices, mesh.faces, mesh.vertex_colours, uv=np.zeros((len(mesh.vertices), 2)))
    match how or ByProjection():
        case ByProjection():
            rows, faces, uv = _by_projection(mesh, resolution, padding)
        case ByXatlas():
            rows, faces, uv = _by_xatlas(mesh, resolution, padding)
        case other:
            assert_never(other)
    colours = None if mesh.vertex_colours is None else mesh.vertex_colours[rows]
    return Mesh(mesh.vertices[rows], faces, colours, uv=uv)


Atlas = tuple[Int64[np.ndarray, " new_vertex"], Int64[np.ndarray, "face 3"], Float[np.ndarray, "new_vertex 2"]]


def _by_xatlas(mesh: Mesh, resolution: int, padding: int) -> Atlas:
    atlas = xatlas.Atlas()
    atlas.add_mesh(mesh.vertices.astype(np.float32), mesh.faces.astype(np.uint32))
    options = xatlas.PackOptions()
    options.resolution, options.padding, options.bilinear = resolution, padding, True
    atlas.generate(xatlas.ChartOptions(), options)
    rows, faces, uv = atlas[0]
    return rows.astype(np.int64), faces.astype(np.int64), uv


def _by_projection(mesh: Mesh, resolution: int, padding: int) -> Atlas:
    vertices, faces = mesh.vertices.astype(np.float64), mesh.faces.astype(np.int64)
    neighbours = _neighbours(faces)
    direction = _directions(face_normals(vertices, faces), neighbours)
    layer = np.zeros(len(faces), np.int64)  # parts of one chart that would lie on each other differ in it
    for turn in range(ROUNDS + 1):
        chart = _charts(direction * len(AXES) * ROUNDS + layer, neighbours)
        rows, corners, flat = _flattened(vertices, faces, direction, chart)
        boxes = _turned_to_smallest_box(flat, rows[:, 1])
        texels = _packed(*boxes, rows[:, 1], resolution, padding)
        hidden = _hidden(texels, corners, _front_to_back(vertices, faces, direction), chart, resolution)
        if not hidden.any():
            break
        layer[hidden] = np.arange(hidden.sum()) + ROUNDS if turn == ROUNDS - 1 else turn + 1
    uv = np.stack([texels[:, 0], resolution - texels[:, 1]], axis=1) / resolution
    return rows[:, 0], corners, uv


def _neighbours(faces: Int64[np.ndarray, "face 3"]) -> Int64[np.ndarray, "pair 2"]:
    """Pairs of faces that share an edge which belongs to no third face."""
    half = np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]])
    key = half.min(axis=1) << 32 | half.max(axis=1)
    order = np.argsort(key, kind="stable")
    _, starts, uses = np.unique(key[order], return_index=True, return_counts=True)
    starts = starts[uses == 2]
    return np.stack([order[starts], order[starts + 1]], axis=1) % len(faces)


def _directions(
    normals: Float[np.ndarray, "face 3"], neighbours: Int64[np.ndarray, "pair 2"]
) -> Int64[np.ndarray, " face"]:
    """The axis each face is seen along: one that sees the face well, and the faces around it, so charts get large."""
    length = np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-300)
    cosine = normals / length @ AXES.T
    allowed = cosine >= LEAST_COSINE
    allowed[np.arange(len(allowed)), cosine.argmax(axis=1)] = True
    score = np.maximum(cosine, 0) ** 2 * length
    graph = _graph(neighbours, len(normals))
    for _ in range(SMOOTHING):
        score = score + graph @ score
        score /= np.maximum(score.sum(axis=1, keepdims=True), 1e-300) / length
    direction = np.where(allowed, score, -1.0).argmax(axis=1)
    for _ in range(SMOOTHING):  # single faces between others of one direction join them
        votes = graph @ np.eye(len(AXES))[direction]
        wanted = votes.argmax(axis=1)
        change = (votes.max(axis=1) >= 2) & np.take_along_axis(allowed, wanted[:, None], axis=1)[:, 0]
        direction = np.where(change, wanted, direction)
    chosen: Int64[np.ndarray, " face"] = direction
    return chosen


def _graph(pairs: Int64[np.ndarray, "pair 2"], count: int) -> csr_array:
    ends = np.concatenate([pairs, pairs[:, ::-1]])
    return csr_array((np.ones(len(ends)), (ends[:, 0], ends[:, 1])), shape=(count, count))


def _charts(kind: Int64[np.ndarray, " face"], neighbours: Int64[np.ndarray, "pair 2"]) -> Int64[np.ndarray, " face"]:
    """Number of the chart of each face: connected faces of one kind."""
    same = neighbours[kind[neighbours[:, 0]] == kind[neighbours[:, 1]]]
    labels: Int64[np.ndarray, " face"] = connected_components(_graph(same, len(kind)), directed=False)[1].astype(
        np.int64
    )
    return labels


def _flattened(
    vertices: Float[np.ndarray, "vertex 3"],
    faces: Int64[np.ndarray, "face 3"],
    direction: Int64[np.ndarray, " face"],
    chart: Int64[np.ndarray, " face"],
) -> tuple[Int64[np.ndarray, "new_vertex 2"], Int64[np.ndarray, "face 3"], Float[np.ndarray, "new_vertex 2"]]:
    """Vertices doubled where charts meet: (old vertex, chart), faces over them, places seen along the chart's axis."""
    charts = int(chart.max()) + 1
    keys, corners = np.unique(faces * charts + chart[:, None], return_inverse=True)
    rows = np.stack([keys // charts, keys % charts], axis=1)
    along = np.empty(charts, np.int64)
    along[chart] = direction
    seen = along[rows[:, 1]]
    axis, sign = seen % 3, np.where(seen < 3, 1.0, -1.0)
    places = vertices[rows[:, 0]]
    pick = np.arange(len(places))
    # Rows run downward: with the axis toward the eye, this order shows the chart as it is seen, not mirrored.
    flat = np.stack([places[pick, (axis + 2) % 3], places[pick, (axis + 1) % 3] * sign], axis=1)
    return rows, corners.reshape(-1, 3), flat


def _front_to_back(
    vertices: Float[np.ndarray, "vertex 3"], faces: Int64[np.ndarray, "face 3"], direction: Int64[np.ndarray, " face"]
) -> Int64[np.ndarray, " face"]:
    """Order of the faces along their axes, nearest first: of two that lie on each other the whole nearer part wins."""
    depth = (vertices[faces].sum(axis=1) * AXES[direction]).sum(axis=1)
    order: Int64[np.ndarray, " face"] = np.argsort(-depth, kind="stable")
    return order


def _turned_to_smallest_box(
    flat: Float[np.ndarray, "new_vertex 2"], chart: Int64[np.ndarray, " new_vertex"]
) -> tuple[Float[np.ndarray, "new_vertex 2"], Float[np.ndarray, "chart 2"]]:
    """Charts turned so that their boxes, returned too, are small; the boxes begin at 0."""
    order = np.argsort(chart, kind="stable")
    starts = np.searchsorted(chart[order], np.arange(int(chart.max()) + 1))
    smallest = np.full(len(starts), np.inf)
    best = np.zeros((len(starts), 2))
    for angle in ANGLES:
        turned = (flat @ _rotation(angle).T)[order]
        size = np.maximum.reduceat(turned, starts) - np.minimum.reduceat(turned, starts)
        area = size[:, 0] * size[:, 1]
        better = area < smallest * (1 - 1e-9)
        smallest[better], best[better] = area[better], (np.cos(angle), np.sin(angle))
    cosine, sine = best[chart].T
    turned = np.stack([cosine * flat[:, 0] - sine * flat[:, 1], sine * flat[:, 0] + cosine * flat[:, 1]], axis=1)
    low, high = np.minimum.reduceat(turned[order], starts), np.maximum.reduceat(turned[order], starts)
    return turned - low[chart], high - low


def _rotation(angle: float) -> Float[np.ndarray, "2 2"]:
    return np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])


def _packed(
    flat: Float[np.ndarray, "new_vertex 2"],
    boxes: Float[np.ndarray, "chart 2"],
    chart: Int64[np.ndarray, " new_vertex"],
    resolution: int,
    padding: int,
) -> Float[np.ndarray, "new_vertex 2"]:
    """Places in texels, all charts at the one largest scale at which they fit. Raises: InvalidOption."""
    order = np.argsort(-boxes.max(axis=1), kind="stable")
    low, high = 0.0, resolution / max(float(np.sqrt(boxes.prod(axis=1).sum())), float(boxes.max()) / 2, 1e-12)
    best: tuple[float, np.ndarray, np.ndarray, np.ndarray] | None = None
    for step in range(10):
        scale = low if step == 9 and best is None else (low + high) / 2
        sizes = np.ceil(boxes * scale).astype(np.int64) + 1 + 2 * padding
        places, turned = np.zeros_like(sizes), np.zeros(len(sizes), np.bool_)
        if _place(sizes, order, resolution, places, turned):
            best, low = (scale, places, turned, sizes), scale
        else:
            high = scale
    if best is None:
        raise InvalidOption(f"{len(boxes)} charts do not fit into {resolution} texels: raise the texture's resolution")
    scale, places, turned, sizes = best
    moved = flat * scale
    height = (sizes[:, 1] - 1 - 2 * padding)[chart]
    moved = np.where(turned[chart][:, None], np.stack([height - moved[:, 1], moved[:, 0]], axis=1), moved)
    laid: Float[np.ndarray, "new_vertex 2"] = moved + places[chart] + padding + 0.5
    return laid


@compiled
def _place(sizes: np.ndarray, order: np.ndarray, resolution: int, places: np.ndarray, turned: np.ndarray) -> bool:
    """Put boxes one by one where they rise least above the skyline of those before; False when one finds no room."""
    sky = np.zeros(resolution, np.int64)
    for box in order:
        least, waste_at_least = resolution + 1, 0
        width_at_least, left_at_least = 0, 0
        for turn in range(2):
            width, height = sizes[box, turn], sizes[box, 1 - turn]
            for left in range(resolution - width + 1):
                if left > 0 and sky[left] == sky[left - 1]:
                    continue
                base, below = 0, 0
                for x in range(left, left + width):
                    base = max(base, sky[x])
                    below += sky[x]
                    if base + height > least:
                        break
                waste = base * width - below
                if base + height < least or (base + height == least and waste < waste_at_least):
                    least, waste_at_least = base + height, waste
                    width_at_least, left_at_least = width, left
                    places[box, 0], places[box, 1], turned[box] = left, base, turn == 1
        if least > resolution:
            return False
        sky[left_at_least : left_at_least + width_at_least] = least
    return True


@compiled
def _hidden(
    texels: np.ndarray, faces: np.ndarray, order: np.ndarray, chart: np.ndarray, resolution: int
) -> Bool[np.ndarray, " face"]:
    """Faces with the middle of a texel well inside them that a face before them in `order` has too."""
    owner = np.full((resolution, resolution), -1)
    hidden = np.zeros(len(faces), np.bool_)
    for face in order:
        ax, ay = texels[faces[face, 0]]
        bx, by = texels[faces[face, 1]]
        cx, cy = texels[faces[face, 2]]
        area = (bx - ax) * (cy - ay) - (by - ay) * (cx - ax)
        if abs(area) < 1e-9:
            continue
        u_x, u_y, v_x, v_y = (by - cy) / area, (cx - bx) / area, (cy - ay) / area, (ax - cx) / area
        for row in range(max(int(min(ay, by, cy)), 0), min(int(max(ay, by, cy)) + 1, resolution)):
            for column in range(max(int(min(ax, bx, cx)), 0), min(int(max(ax, bx, cx)) + 1, resolution)):
                x, y = column + 0.5, row + 0.5
                u = u_x * (x - cx) + u_y * (y - cy)
                v = v_x * (x - cx) + v_y * (y - cy)
                if u > 1e-6 and v > 1e-6 and u + v < 1 - 1e-6:  # an edge's two faces share the points on it only
                    if owner[row, column] < 0:
                        owner[row, column] = face
                    else:
                        hidden[face] = True
    return hidden
