"""Raw Mesh -> a mesh fit to be textured: one skin without crumbs and small holes, with few faces.

Meshes here carry vertex colours at most; texture comes later. Winding is kept.
"""

from dataclasses import dataclass, replace

import fast_simplification
import numpy as np
from jaxtyping import Bool, Float, Int, Int64, Shaped
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree

from mvsam3d.geometry.compiled import compiled
from mvsam3d.io.glb import linear_from_srgb, srgb_from_linear
from mvsam3d.types import Mesh


@dataclass(frozen=True)
class CleanupConfig:
    """What counts as crumb, as small hole, and how many faces are enough."""

    min_component: float = 0.01
    """Least share of the surface that a separate part must have to stay; the largest part always stays."""
    max_hole_edges: int = 64
    """Holes with more edges stay open."""
    max_hole_length: float = 0.4
    """Holes with a longer rim stay open; the object is about 1 long."""
    target_faces: int = 15_000
    """Faces after simplification; a mesh with fewer is left as it is."""


def cleaned(mesh: Mesh, config: CleanupConfig | None = None) -> Mesh:
    """Merge, drop crumbs, close small holes, simplify. An empty mesh stays empty."""
    config = config or CleanupConfig()
    mesh = without_degenerate_faces(with_merged_vertices(mesh))
    mesh = without_floaters(mesh, min_share=config.min_component)
    mesh = with_holes_filled(mesh, max_edges=config.max_hole_edges, max_length=config.max_hole_length)
    return simplified(mesh, config.target_faces)


def with_merged_vertices(mesh: Mesh) -> Mesh:
    """One vertex for all that stand at exactly the same place; the first one's colour is kept."""
    if len(mesh.vertices) == 0:
        return mesh
    first = _first_alike(mesh.vertices)
    kept, place = np.unique(first, return_inverse=True)  # in the order of first appearance
    return _rows(mesh, kept, place.reshape(-1)[mesh.faces])


def _first_alike(rows: Shaped[np.ndarray, "row 3"]) -> Int64[np.ndarray, " row"]:
    """For each row, the first row that equals it. A tenth of the time of np.unique with an axis."""
    order = np.lexsort(rows.T)  # stable: the first of equals comes first
    ordered = rows[order]
    new = np.append(True, (ordered[1:] != ordered[:-1]).any(axis=1))
    first = np.empty(len(rows), np.int64)
    first[order] = order[new][np.cumsum(new) - 1]
    return first


def without_degenerate_faces(mesh: Mesh) -> Mesh:
    """Without faces of no area and copies of a face, and without vertices that no face uses."""
    faces = mesh.faces
    keep = areas(mesh) > 0
    if len(faces):
        keep &= _first_alike(np.sort(faces, axis=1)) == np.arange(len(faces))
    return _faces_kept(mesh, keep)


def without_floaters(mesh: Mesh, *, min_share: float) -> Mesh:
    """Without separate parts whose area is under `min_share` of the whole; the largest part stays in any case."""
    if len(mesh.faces) == 0:
        return mesh
    labels = components(mesh.faces, len(mesh.vertices))[mesh.faces[:, 0]]
    area = np.bincount(labels, areas(mesh))
    stay = area >= min_share * area.sum()
    stay[area.argmax()] = True
    return _faces_kept(mesh, stay[labels])


def components(faces: Int[np.ndarray, "face 3"], vertices: int) -> Int[np.ndarray, " vertex"]:
    """Number of the connected part that each vertex belongs to."""
    ends = np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]]])
    graph = coo_array((np.ones(len(ends), bool), (ends[:, 0], ends[:, 1])), shape=(vertices, vertices))
    labels: Int[np.ndarray, " vertex"] = connected_components(graph, directed=False)[1]
    return labels


def areas(mesh: Mesh) -> Float[np.ndarray, " face"]:
    """Area of each face."""
    a, b, c = (mesh.vertices[mesh.faces[:, corner]].astype(np.float64) for corner in range(3))
    lengths: Float[np.ndarray, " face"] = np.linalg.norm(np.cross(b - a, c - a), axis=1)
    return lengths / 2


def with_holes_filled(mesh: Mesh, *, max_edges: int, max_length: float) -> Mesh:
    """Small holes closed by a fan around the middle of the rim (a hole of three edges by one face).

    Args:
        max_edges: holes with more edges stay open.
        max_length: holes with a longer rim stay open, in units of the mesh.
    """
    rims = [rim for rim in boundary_loops(mesh.faces) if len(rim) <= max_edges]
    rims = [rim for rim in rims if _length(mesh.vertices[rim]) <= max_length]
    if not rims:
        return mesh
    count, faces = len(mesh.vertices), [mesh.faces.astype(np.int64)]
    middles: list[Int64[np.ndarray, " vertex"]] = []
    for rim in rims:
        if len(rim) == 3:
            faces.append(rim[None, ::-1])
            continue
        middle = np.full(len(rim), count + len(middles))
        faces.append(np.stack([np.roll(rim, -1), rim, middle], axis=1))
        middles.append(rim)
    colours = mesh.vertex_colours
    if colours is not None and middles:
        light = linear_from_srgb(colours)
        colours = np.concatenate([colours, srgb_from_linear(np.stack([light[rim].mean(axis=0) for rim in middles]))])
    added = [mesh.vertices[rim].mean(axis=0, keepdims=True) for rim in middles]
    vertices = np.concatenate([mesh.vertices, *added])
    return replace(mesh, vertices=vertices, faces=np.concatenate(faces), vertex_colours=colours)


def _length(rim: Float[np.ndarray, "vertex 3"]) -> float:
    return float(np.linalg.norm(rim - np.roll(rim, -1, axis=0), axis=1).sum())


def boundary_loops(faces: Int[np.ndarray, "face 3"]) -> list[Int64[np.ndarray, " vertex"]]:
    """Rims of the holes, each vertex once, in the direction in which the faces run along the rim.

    A rim edge belongs to one face only. Rims that touch in a vertex come out as separate loops.
    """
    half = np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]]).astype(np.int64)
    low, high = half.min(axis=1), half.max(axis=1)
    _, index, uses = np.unique(low << 32 | high, return_index=True, return_counts=True)
    rim = half[np.sort(index[uses == 1])]
    rim = rim[np.argsort(rim[:, 0], kind="stable")]
    if len(rim) == 0:
        return []
    vertices, starts = np.unique(rim[:, 0], return_index=True)
    loops = np.empty(len(rim), np.int64)
    sizes = np.empty(len(rim), np.int64)
    ends = np.searchsorted(vertices, rim[:, 1])
    known = (ends < len(vertices)) & (vertices[np.minimum(ends, len(vertices) - 1)] == rim[:, 1])
    found = _walk(np.append(starts, len(rim)), np.where(known, ends, -1), loops, sizes)
    return [vertices[loop] for loop in np.split(loops, np.cumsum(sizes[:found]))[:found]]


@compiled
def _walk(starts: np.ndarray, ends: np.ndarray, loops: np.ndarray, sizes: np.ndarray) -> int:
    """Follow edges (`starts[v] : starts[v + 1]` leave v, `ends` is where they go), cutting off a loop whenever a vertex
    comes up again; fills `loops` one after the other and `sizes`, returns how many."""
    left = starts[:-1].copy()  # next unused edge of each vertex
    place = np.full(len(left), -1)  # where on the path a vertex stands
    path = np.empty(len(ends) + 1, np.int64)
    written = found = 0
    for first in range(len(left)):
        while left[first] < starts[first + 1]:
            path[0], length = first, 1
            place[first] = 0
            while length > 0:
                here = path[length - 1]
                if left[here] == starts[here + 1]:  # dead end: an edge shared by three faces leaves such rims
                    place[here] = -1
                    length -= 1
                    continue
                there = ends[left[here]]
                left[here] += 1
                if there < 0:
                    continue
                if place[there] < 0:
                    place[there] = length
                    path[length] = there
                    length += 1
                    continue
                sizes[found] = length - place[there]
                for i in range(place[there], length):
                    loops[written] = path[i]
                    written += 1
                    if i > place[there]:
                        place[path[i]] = -1
                found += 1
                length = place[there] + 1
    return found


def simplified(mesh: Mesh, target_faces: int) -> Mesh:
    """At most about `target_faces` faces, by quadric edge collapse; colours from the nearest of the old vertices."""
    if len(mesh.faces) <= target_faces:
        return mesh
    vertices, faces = fast_simplification.simplify(
        mesh.vertices.astype(np.float32), mesh.faces.astype(np.int32), target_count=target_faces
    )
    small = coloured_as(Mesh(vertices.astype(mesh.vertices.dtype), faces.astype(np.int64)), mesh)
    return without_degenerate_faces(with_merged_vertices(small))


def coloured_as(mesh: Mesh, other: Mesh) -> Mesh:
    """The mesh with the colours of the other's nearest vertices; without, if that has none."""
    if other.vertex_colours is None:
        return replace(mesh, vertex_colours=None)
    return replace(mesh, vertex_colours=other.vertex_colours[cKDTree(other.vertices).query(mesh.vertices)[1]])


def _rows(mesh: Mesh, rows: Int[np.ndarray, " kept"], faces: Int[np.ndarray, "face 3"]) -> Mesh:
    colours = None if mesh.vertex_colours is None else mesh.vertex_colours[rows]
    return Mesh(mesh.vertices[rows], faces, vertex_colours=colours)


def _faces_kept(mesh: Mesh, keep: Bool[np.ndarray, " face"]) -> Mesh:
    """The chosen faces and the vertices they use."""
    used, faces = np.unique(mesh.faces[keep], return_inverse=True)
    return _rows(mesh, used, faces.reshape(-1, 3))
