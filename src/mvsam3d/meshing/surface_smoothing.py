"""Colours on a surface, smoothed along it and spread over the parts that have none.

The surface is covered by nodes: what it has of one direction (of six) in one cell of a grid. Smoothing sums over the
nodes around a point that face about its way, so the two sides of a thin wall stay apart, whatever the triangles or the
texture's layout are.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float32, Int32, Int64
from scipy.sparse import csr_array, diags_array
from scipy.sparse.csgraph import laplacian
from scipy.sparse.linalg import cg

from mvsam3d.geometry.compiled import compiled

Array = np.ndarray

SIDES = 6
MOST_CELLS = 400  # along an axis
SPRING = 1e-2  # against a trust of 1: what is known stays as it is
OWN = 1e-3  # least weight of a point's own node, for points on a cell's rim with no node near


@dataclass(frozen=True)
class Nodes:
    """Where the surface is, by cell and side."""

    cell: float  # side, object units
    low: Float[np.ndarray, " 3"]  # corner of the first cell
    table: Int32[np.ndarray, "x y z side"]  # index of the node, -1 where none is
    places: Float32[np.ndarray, "node 3"]  # mean point
    normals: Float32[np.ndarray, "node 3"]  # mean normal, unit length
    of_point: Int32[np.ndarray, " point"]  # node of each point


def nodes_of(points: Float32[np.ndarray, "point 3"], normals: Float32[np.ndarray, "point 3"], cell: float) -> Nodes:
    """Nodes of a surface given by points on it, denser than `cell`."""
    cell = max(cell, float(np.ptp(points, axis=0).max()) / MOST_CELLS, 1e-9)
    low = points.min(axis=0).astype(np.float64) - cell
    where = ((points - low) / cell).astype(np.int64)
    shape = (*(int(n) + 2 for n in where.max(axis=0)), SIDES)
    axis = np.abs(normals).argmax(axis=1)
    side = axis + 3 * (np.take_along_axis(normals, axis[:, None], axis=1)[:, 0] < 0)
    key = ((where[:, 0] * shape[1] + where[:, 1]) * shape[2] + where[:, 2]) * SIDES + side
    kept, of_point = _numbered(key, int(np.prod(shape)))
    count = np.bincount(of_point, minlength=len(kept))[:, None]
    places = _summed(of_point, points, len(kept)) / count
    directions = _summed(of_point, normals, len(kept))
    directions /= np.maximum(np.linalg.norm(directions, axis=1, keepdims=True), 1e-12)
    table = np.full(int(np.prod(shape)), -1, np.int32)
    table[kept] = np.arange(len(kept))
    return Nodes(
        cell,
        low,
        table.reshape(shape),
        places.astype(np.float32),
        directions.astype(np.float32),
        of_point.astype(np.int32),
    )


def _numbered(key: Int64[np.ndarray, " point"], most: int) -> tuple[Array, Array]:
    """The keys there are, and for each point the number of its key among them."""
    there = np.zeros(most, np.bool_)
    there[key] = True
    kept = np.flatnonzero(there)
    number = np.zeros(most, np.int64)
    number[kept] = np.arange(len(kept))
    return kept, number[key]


def _summed(index: Array, values: Array, count: int) -> Float[np.ndarray, "node channel"]:
    return np.stack([np.bincount(index, values[:, i], minlength=count) for i in range(values.shape[1])], axis=1)


def gathered(
    nodes: Nodes, values: Float[np.ndarray, "point channel"], weights: Float[np.ndarray, " point"], some: Array
) -> Float32[np.ndarray, "node channel_and_weight"]:
    """Sums over each node of weighted values, and of the weights in the last column; over the points `some` only."""
    columns = np.concatenate([values * weights[:, None], weights[:, None]], axis=1)
    return _summed(nodes.of_point[some], columns, len(nodes.places)).astype(np.float32)


def smoothed(
    nodes: Nodes,
    sums: Float32[np.ndarray, "node channel_and_weight"],
    points: Float32[np.ndarray, "some 3"],
    normals: Float32[np.ndarray, "some 3"],
    own: Int32[np.ndarray, " some"],
) -> Float32[np.ndarray, "some channel"]:
    """Weighted mean of the nodes within one cell of each point that face about its way; 0 where they weigh nothing."""
    out = np.zeros((len(points), sums.shape[1] - 1), np.float32)
    _smooth(points, normals, own, nodes.low, nodes.cell, nodes.table, nodes.places, nodes.normals, sums, out)
    return out


@compiled
def _smooth(
    points: Array,
    normals: Array,
    own: Array,
    low: Array,
    cell: float,
    table: Array,
    places: Array,
    directions: Array,
    sums: Array,
    out: Array,
) -> None:
    channels = out.shape[1]
    inverse = np.float32(1.0 / cell)
    mixed = np.empty(channels + 1, np.float32)
    for i in range(len(points)):
        x, y, z = points[i]
        a, b, c = int((x - low[0]) / cell), int((y - low[1]) / cell), int((z - low[2]) / cell)
        mixed[:] = np.float32(OWN) * sums[own[i]]
        for u in range(max(a - 1, 0), min(a + 2, table.shape[0])):
            for v in range(max(b - 1, 0), min(b + 2, table.shape[1])):
                for w in range(max(c - 1, 0), min(c + 2, table.shape[2])):
                    for side in range(table.shape[3]):
                        node = table[u, v, w, side]
                        if node < 0 or sums[node, channels] <= 0:
                            continue
                        dx, dy, dz = (
                            (x - places[node, 0]) * inverse,
                            (y - places[node, 1]) * inverse,
                            (z - places[node, 2]) * inverse,
                        )
                        if abs(dx) >= 1 or abs(dy) >= 1 or abs(dz) >= 1:
                            continue
                        alike = (
                            normals[i, 0] * directions[node, 0]
                            + normals[i, 1] * directions[node, 1]
                            + normals[i, 2] * directions[node, 2]
                        )
                        alike = max(np.float32(0.5) * (1 + alike), np.float32(0))
                        bell = (1 - dx * dx) * (1 - dy * dy) * (1 - dz * dz) * alike * alike
                        for channel in range(channels + 1):
                            mixed[channel] += bell * bell * sums[node, channel]
        if mixed[channels] > 0:
            for channel in range(channels):
                out[i, channel] = mixed[channel] / mixed[channels]


def spread(
    nodes: Nodes,
    values: Float[np.ndarray, "node channel"],
    trust: Float[np.ndarray, " node"],
    *,
    reach: float,
) -> Float[np.ndarray, "node channel"]:
    """Values known at some nodes, continued along the surface; they fade as exp(-way / reach) where none are known.

    Minimises sum trust |x - values|^2 + keep |x|^2 + spring |differences of neighbours|^2: the fading of such a
    membrane goes as the root of half the spring over keep, in steps of a cell.

    Args:
        trust: in [0, 1]; 1 where a value is known.
        reach: object units.
    """
    joined = _neighbours(nodes)
    steps = reach / nodes.cell
    keep = SPRING / (2 * steps**2)
    system = diags_array(trust + keep) + SPRING * laplacian(joined)
    out = np.zeros(values.shape)
    jacobi = diags_array(1 / system.diagonal())
    for channel in range(values.shape[1]):
        out[:, channel], _ = cg(system, trust * values[:, channel], rtol=1e-6, maxiter=600, M=jacobi)
    return out


def _neighbours(nodes: Nodes) -> csr_array:
    """Springs between nodes of one cell or of cells that touch, by likeness of direction, 1 / squared way in cells."""
    heads, tails = [], []
    shape = nodes.table.shape
    cells = np.argwhere(nodes.table >= 0)  # in the order of the nodes' numbers
    for dx in (-1, 0, 1):
        for dy in (-1, 0, 1):
            for dz in (-1, 0, 1):
                at = cells[:, :3] + (dx, dy, dz)
                inside = ((at >= 0) & (at < shape[:3])).all(axis=1)
                there = np.full((len(cells), SIDES), -1)
                there[inside] = nodes.table[at[inside, 0], at[inside, 1], at[inside, 2]]
                some, side = np.nonzero(there >= 0)
                heads.append(some)
                tails.append(there[some, side])
    head, tail = np.concatenate(heads), np.concatenate(tails)
    head, tail = head[head != tail], tail[head != tail]
    way = np.square(nodes.places[head] - nodes.places[tail]).sum(axis=1) / nodes.cell**2
    alike = np.maximum(0.5 + 0.5 * (nodes.normals[head] * nodes.normals[tail]).sum(axis=1), 0)
    spring = alike**4 / np.maximum(way, 0.25) / 4  # a flat patch has about 8 neighbours: 4 of them at one cell's way
    return csr_array((spring, (head, tail)), shape=(len(cells), len(cells)))
