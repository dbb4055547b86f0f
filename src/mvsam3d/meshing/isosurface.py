"""CubeField -> triangles, by FlexiCubes (Shen et al. 2023) on the cells that the surface crosses.

No array has a row per cell or per vertex of the whole grid: memory and time grow with the active cells. Vertices and
faces come in the public system's order. A vertex or cell (x, y, z) of the grid is named by one integer, its key
(x * (R + 1) + y) * (R + 1) + z (a cell by its lowest corner), so that sorted keys are the public order.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int, Int32, Int64
from scipy import ndimage
from torch import Tensor

from mvsam3d.meshing.flexicubes_tables import CORNERS, EDGES, MOST_VERTICES, tables
from mvsam3d.types import CubeField, Mesh, Voxels

SDF, DEFORM, WEIGHTS, COLOUR = slice(0, 8), slice(8, 32), slice(32, 53), slice(53, None)  # columns of a CubeField
BETA, ALPHA, GAMMA = slice(0, 12), slice(12, 20), 20  # columns of the weights
OUTSIDE = 1.0  # sdf of grid vertices that no active cell touches; its negative where active voxels enclose them
CHUNK = 1 << 16  # cells at a time: about 100 MB of temporaries

FeatureRows = Callable[[Int64[Tensor, " row"]], Float[Tensor, "row channel"]]


@dataclass(frozen=True)
class SurfaceCells:
    """The cells that the surface crosses, in ascending order, and the grid vertices at their corners, ascending too."""

    coords: Int64[Tensor, "voxel 3"]
    corners: Int64[Tensor, "voxel 8"]  # rows of the three tables below
    sdf: Float[Tensor, " vertex"]  # negative inside
    positions: Float[Tensor, "vertex 3"]  # object frame, deformed
    colours: Float[Tensor, "vertex channel"] | None
    beta: Float[Tensor, "voxel 12"] | None  # None counts as ones, for each of the three
    alpha: Float[Tensor, "voxel 8"] | None
    gamma: Float[Tensor, " voxel"] | None
    resolution: int  # cells along an axis


@dataclass(frozen=True)
class Surface:
    """Triangles as tensors, outward winding, object frame. An empty surface has no rows."""

    vertices: Float[Tensor, "vertex 3"]
    faces: Int64[Tensor, "face 3"]
    attributes: Float[Tensor, "vertex channel"] | None  # [0, 1]: rgb, then the normal mapped to [0, 1]
    deviation: Float[Tensor, " entry"]  # L_dev: spread of the crossings around each dual vertex, per (vertex, edge)

    def face_normals(self) -> Float[Tensor, "face 3"]:
        """Unit outward normals."""
        a, b, c = self.vertices[self.faces].unbind(1)
        return F.normalize(torch.linalg.cross(b - a, c - a), dim=-1)

    def to_mesh(self) -> Mesh:
        """As a value of `types`, with the rgb attributes as vertex colours."""
        colours = None if self.attributes is None else self.attributes[:, :3].detach().cpu().numpy()
        return Mesh(self.vertices.detach().cpu().numpy(), self.faces.cpu().numpy(), colours)


@dataclass(frozen=True)
class CornerAverage:
    """Mean of the active cells' corner values at each grid vertex that they touch, ascending."""

    keys: Int64[Tensor, " vertex"]
    values: Float[Tensor, "vertex channel"]  # sdf with its bias, deformation 3, colour (raw)
    resolution: int

    @property
    def sdf(self) -> Float[Tensor, " vertex"]:
        """Signed distance, negative inside."""
        return self.values[:, 0]

    def positions(self) -> Float[Tensor, "vertex 3"]:
        """Deformed positions in the object frame."""
        return deformed_positions(_coords(self.keys, self.resolution), self.values[:, 1:4], self.resolution)

    def rows(self, coords: Int[Tensor, "voxel 3"]) -> Int64[Tensor, "voxel 8"]:
        """Rows of the eight corners of active cells."""
        return torch.searchsorted(self.keys, _corner_keys(_keys(coords, self.resolution), self.resolution))


@dataclass(frozen=True)
class CollectedField:
    """What a surface needs of a decoded field: corner values averaged already, and each cell's weights."""

    coords: Int32[Tensor, "voxel 3"]
    average: CornerAverage
    weights: Float[Tensor, "voxel 21"]  # raw


def deformed_positions(
    vertices: Int64[Tensor, "vertex 3"], deform: Float[Tensor, "vertex 3"], resolution: int
) -> Float[Tensor, "vertex 3"]:
    """Grid vertices in the object frame, moved by less than half a cell by a raw deformation."""
    return vertices / resolution - 0.5 + (1 - 1e-8) / (2 * resolution) * torch.tanh(deform)


def corner_values(features: Float[Tensor, "voxel channel"], resolution: int) -> Float[Tensor, "voxel 8 value"]:
    """Per corner of each cell: sdf (bias -1 / R added), deformation 3, colour (raw, if there is any)."""
    features = features.float()
    cells = features.shape[0]
    parts = [features[:, SDF, None] - 1 / resolution, features[:, DEFORM].reshape(cells, 8, 3)]
    colour = features[:, COLOUR]
    return torch.cat([*parts, colour.reshape(cells, 8, colour.shape[1] // 8)], dim=-1)


def enclosed_by(voxels: Voxels) -> Voxels:
    """The inactive voxels that no path through inactive voxels (face to face) joins to the outside of the grid."""
    empty = torch.ones((voxels.resolution,) * 3, dtype=torch.bool)
    empty[tuple(voxels.coords.cpu().long().T)] = False
    closed = ndimage.binary_fill_holes(~empty.numpy()) & empty.numpy()
    return Voxels(torch.from_numpy(closed).nonzero().int().to(voxels.coords.device), voxels.resolution)


def collected(
    coords: Int32[Tensor, "voxel 3"],
    parts: Iterable[tuple[Int64[Tensor, " row"], Float[Tensor, "row channel"]]],
    resolution: int,
) -> CollectedField:
    """Take up a field that is decoded part by part, each row once: a third of its memory, and none of it twice."""
    weights = torch.empty(len(coords), WEIGHTS.stop - WEIGHTS.start)

    def kept() -> Iterator[tuple[Int64[Tensor, " row"], Float[Tensor, "row channel"]]]:
        for rows, features in parts:
            weights[rows] = features[:, WEIGHTS]
            yield rows, features

    return CollectedField(coords, _averaged(coords, kept(), resolution), weights)


def extract_surface(
    field: CubeField | CollectedField,
    *,
    enclosed: Voxels | None = None,
    training: bool = False,
    chunk_rows: int = CHUNK,
) -> Surface:
    """The surface of a decoded field; differentiable.

    Args:
        enclosed: inactive voxels inside the object (`enclosed_by` the voxels that were decoded), of a resolution that
            divides the field's. Without them all that is inactive counts as outside, as in the public system, which
            gives the object a second wall where a solid's active cells end on the inner side.
        training: every quad gets a centre vertex and four triangles, so that gamma receives gradients.
        chunk_rows: cells at a time, exact for any value.
    """
    if isinstance(field, CollectedField):
        cells = _surface_cells(field.coords, field.weights.__getitem__, field.average, enclosed, chunk_rows)
        return dual_contour(cells, training=training, chunk_rows=chunk_rows)
    rows = field.features.__getitem__
    return extract_rows(
        field.coords, rows, field.resolution, enclosed=enclosed, training=training, chunk_rows=chunk_rows
    )


def extract_rows(
    coords: Int32[Tensor, "voxel 3"],
    features: FeatureRows,
    resolution: int,
    *,
    enclosed: Voxels | None = None,
    training: bool = False,
    chunk_rows: int = CHUNK,
) -> Surface:
    """`extract_surface` for features that are made on demand: `features(rows)` gives the rows asked for.

    Each row is asked for once, rows of surface cells twice.
    """
    average = average_corners(coords, features, resolution, chunk_rows=chunk_rows)
    cells = surface_cells(coords, features, average, enclosed=enclosed, chunk_rows=chunk_rows)
    return dual_contour(cells, training=training, chunk_rows=chunk_rows)


def average_corners(
    coords: Int32[Tensor, "voxel 3"], features: FeatureRows, resolution: int, *, chunk_rows: int = CHUNK
) -> CornerAverage:
    """Scatter the corner values of all active cells to grid vertices, arithmetic mean."""
    chunks = _chunks(torch.arange(len(coords), device=coords.device), chunk_rows)
    return _averaged(coords, ((rows, features(rows)) for rows in chunks), resolution)


def _averaged(
    coords: Int32[Tensor, "voxel 3"],
    parts: Iterable[tuple[Int64[Tensor, " row"], Float[Tensor, "row channel"]]],
    resolution: int,
) -> CornerAverage:
    keys = _corner_union(_sorted_unique(_keys(coords, resolution)), resolution)
    average = CornerAverage(keys, keys.new_zeros(len(keys), 4, dtype=torch.float32), resolution)
    total: Tensor | None = None
    count = torch.zeros(len(keys), device=keys.device)
    for rows, features in parts:
        values = corner_values(features, resolution).flatten(0, 1)
        vertices = average.rows(coords[rows]).flatten()
        total = values.new_zeros(len(keys), values.shape[1]) if total is None else total
        total.index_add_(0, vertices, values)
        count.index_add_(0, vertices, torch.ones_like(vertices, dtype=count.dtype))
    assert total is not None
    return CornerAverage(keys, total / count[:, None], resolution)


def surface_cells(
    coords: Int32[Tensor, "voxel 3"],
    features: FeatureRows,
    average: CornerAverage,
    *,
    enclosed: Voxels | None = None,
    chunk_rows: int = CHUNK,
) -> SurfaceCells:
    """The cells with corners on both sides, active or beside active ones, with all that `dual_contour` needs."""
    return _surface_cells(coords, lambda rows: features(rows)[:, WEIGHTS], average, enclosed, chunk_rows)


def _surface_cells(
    coords: Int32[Tensor, "voxel 3"],
    weight_rows: FeatureRows,
    average: CornerAverage,
    enclosed: Voxels | None,
    chunk_rows: int,
) -> SurfaceCells:
    resolution = average.resolution
    cell_keys = _crossed_cells(average, enclosed)
    vertex_keys = _corner_union(cell_keys, resolution)
    values, sdf = _values_at(average, vertex_keys, enclosed)
    weights = _cell_weights(coords, weight_rows, cell_keys, resolution, chunk_rows)
    beta, alpha, gamma = activate_weights(weights[:, BETA], weights[:, ALPHA], weights[:, GAMMA])
    return SurfaceCells(
        coords=_coords(cell_keys, resolution),
        corners=torch.searchsorted(vertex_keys, _corner_keys(cell_keys, resolution)),
        sdf=sdf,
        positions=deformed_positions(_coords(vertex_keys, resolution), values[:, 1:4], resolution),
        colours=torch.sigmoid(values[:, 4:]) if values.shape[1] > 4 else None,
        beta=beta,
        alpha=alpha,
        gamma=gamma,
        resolution=resolution,
    )


def activate_weights(
    beta: Float[Tensor, "voxel 12"],
    alpha: Float[Tensor, "voxel 8"],
    gamma: Float[Tensor, " voxel"],
    *,
    weight_scale: float = 0.99,
) -> tuple[Float[Tensor, "voxel 12"], Float[Tensor, "voxel 8"], Float[Tensor, " voxel"]]:
    """Raw weights to positive ones: beta and alpha around 1, gamma around 1/2."""
    positive_gamma = weight_scale * torch.sigmoid(gamma) + (1 - weight_scale) / 2
    return weight_scale * torch.tanh(beta) + 1, weight_scale * torch.tanh(alpha) + 1, positive_gamma


def dense_cells(
    sdf: Float[Tensor, " grid_vertex"],
    positions: Float[Tensor, "grid_vertex 3"],
    resolution: int,
    *,
    colours: Float[Tensor, "grid_vertex channel"] | None = None,
    beta: Float[Tensor, "grid_voxel 12"] | None = None,
    alpha: Float[Tensor, "grid_voxel 8"] | None = None,
    gamma: Float[Tensor, " grid_voxel"] | None = None,
) -> SurfaceCells:
    """Surface cells of values that exist on the whole grid: small grids, signed distances made by other means.

    Vertex (x, y, z) is row (x * (R + 1) + y) * (R + 1) + z, cell (x, y, z) row (x * R + y) * R + z. Colours lie in
    [0, 1], weights are positive: nothing is activated here.
    """
    axis = torch.arange(resolution, device=sdf.device)
    coords = torch.cartesian_prod(axis, axis, axis)
    corners = _corner_keys(_keys(coords, resolution), resolution)
    inside = (sdf[corners] < 0).sum(dim=1)
    crossed = ((inside > 0) & (inside < 8)).nonzero()[:, 0]
    vertices, corners = torch.unique(corners[crossed], return_inverse=True)
    return SurfaceCells(
        coords=coords[crossed],
        corners=corners,
        sdf=sdf[vertices],
        positions=positions[vertices],
        colours=None if colours is None else colours[vertices],
        beta=None if beta is None else beta[crossed],
        alpha=None if alpha is None else alpha[crossed],
        gamma=None if gamma is None else gamma[crossed],
        resolution=resolution,
    )


def dual_contour(cells: SurfaceCells, *, training: bool = False, chunk_rows: int = CHUNK) -> Surface:
    """FlexiCubes: one to four vertices in a surface cell, a quad around a crossed edge, two triangles to a quad."""
    dual = _dual_vertices(cells, resolve_cases(cells), chunk_rows)
    quads = _quads(cells, dual.of_edge)
    gamma = torch.ones_like(cells.sdf[:1]).expand(len(cells.coords)) if cells.gamma is None else cells.gamma
    corner_gamma = gamma[dual.cell[quads]]
    gamma_02, gamma_13 = corner_gamma[:, 0] * corner_gamma[:, 2], corner_gamma[:, 1] * corner_gamma[:, 3]
    if not training:
        return Surface(dual.positions, _split(quads, gamma_02 > gamma_13), dual.colours, dual.deviation)
    centres = len(dual.positions) + torch.arange(len(quads), device=quads.device)
    sides = quads[:, [0, 1, 1, 2, 2, 3, 3, 0]].reshape(-1, 4, 2)
    faces = torch.cat([sides, centres[:, None, None].expand(-1, 4, 1)], dim=-1).reshape(-1, 3)

    def with_centres(values: Tensor) -> Tensor:
        middle_02, middle_13 = values[quads[:, [0, 2]]].mean(1), values[quads[:, [1, 3]]].mean(1)
        weighted = middle_02 * gamma_02[:, None] + middle_13 * gamma_13[:, None]
        return torch.cat([values, weighted / (gamma_02 + gamma_13 + 1e-8)[:, None]])

    colours = None if dual.colours is None else with_centres(dual.colours)
    return Surface(with_centres(dual.positions), faces, colours, dual.deviation)


def resolve_cases(cells: SurfaceCells) -> Int64[Tensor, " voxel"]:
    """Sign pattern of each cell; of two ambiguous cells that face each other, each takes the inverted one."""
    bits = 1 << torch.arange(8, device=cells.corners.device)
    cases = ((cells.sdf < 0)[cells.corners] * bits).sum(dim=1)
    check = torch.from_numpy(tables().check).to(cases.device)[cases]
    asking = check[:, 0].nonzero()[:, 0]
    beside = cells.coords[asking] + check[asking, 1:4]
    in_grid = ((beside >= 0) & (beside < cells.resolution)).all(dim=1)
    asking, beside = asking[in_grid], beside[in_grid]
    row, found = _find(_keys(cells.coords, cells.resolution), _keys(beside, cells.resolution))
    asking, row = asking[found], row[found]
    inverted = asking[check[row, 0] == 1]
    return cases.index_copy(0, inverted, check[inverted, 4])


@dataclass(frozen=True)
class _Dual:
    positions: Float[Tensor, "vertex 3"]
    colours: Float[Tensor, "vertex channel"] | None
    cell: Int64[Tensor, " vertex"]
    of_edge: Int64[Tensor, "voxel 12"]  # the dual vertex that owns this edge of the cell, -1 where it is not crossed
    deviation: Float[Tensor, " entry"]


def _dual_vertices(cells: SurfaceCells, cases: Int64[Tensor, " voxel"], chunk: int) -> _Dual:
    """Dual vertices, numbered by (vertices of the cell, cell, row of the table)."""
    device = cases.device
    table, vertex_count = (torch.from_numpy(t).to(device) for t in (tables().rows, tables().count))
    of_edge = torch.full((len(cases), 12), -1, device=device)
    positions, colours, owners, deviation = [], [], [], []
    made = 0
    for count in range(1, MOST_VERTICES + 1):
        for group in _chunks((vertex_count[cases] == count).nonzero()[:, 0], chunk):
            edges = table[cases[group], :count].flatten(0, 1)
            vertex, column = (edges >= 0).nonzero().unbind(1)
            edge, cell = edges[vertex, column], group.repeat_interleave(count)
            of_edge[cell[vertex], edge] = made + vertex
            point, colour, spread = _place(cells, cell, vertex, edge)
            positions.append(point)
            colours.append(colour)
            owners.append(cell)
            deviation.append(spread)
            made += len(cell)
    joined = None if cells.colours is None else torch.cat([c for c in colours if c is not None])
    return _Dual(torch.cat(positions), joined, torch.cat(owners), of_edge, torch.cat(deviation))


def _place(
    cells: SurfaceCells,
    owner: Int64[Tensor, " vertex"],
    vertex: Int64[Tensor, " entry"],
    edge: Int64[Tensor, " entry"],
) -> tuple[Float[Tensor, "vertex 3"], Float[Tensor, "vertex channel"] | None, Float[Tensor, " entry"]]:
    """Position, colour and L_dev of dual vertices: beta-weighted means over the crossings of their edges."""
    cell = owner[vertex]
    ends = torch.tensor(EDGES, device=edge.device)[edge]
    grid = cells.corners[cell[:, None], ends]
    sdf = cells.sdf[grid]
    weighted = sdf if cells.alpha is None else sdf * cells.alpha[cell[:, None], ends]
    beta = torch.ones_like(sdf[:, 0]) if cells.beta is None else cells.beta[cell, edge]
    total = _sum_by(beta, vertex, len(owner))[:, None]

    def blend(values: Tensor) -> Tensor:
        return _sum_by(beta[:, None] * _crossing(values[grid], weighted), vertex, len(owner)) / total

    position = blend(cells.positions)
    distance = torch.linalg.vector_norm(_crossing(cells.positions[grid], sdf) - position[vertex], dim=-1)
    edges = _sum_by(torch.ones_like(distance), vertex, len(owner))
    mean = _sum_by(distance, vertex, len(owner)) / edges
    return position, None if cells.colours is None else blend(cells.colours), (distance - mean[vertex]).abs()


def _crossing(ends: Float[Tensor, "entry 2 axis"], sdf: Float[Tensor, "entry 2"]) -> Float[Tensor, "entry axis"]:
    """Where the linear function with values `sdf` at both ends is zero."""
    first, second = sdf[:, :1], sdf[:, 1:]
    return (ends[:, 0] * second - ends[:, 1] * first) / (second - first)


def _sum_by(values: Float[Tensor, "entry *axis"], group: Int64[Tensor, " entry"], groups: int) -> Tensor:
    return values.new_zeros(groups, *values.shape[1:]).index_add(0, group, values)


def _quads(cells: SurfaceCells, of_edge: Int64[Tensor, "voxel 12"]) -> Int64[Tensor, "quad 4"]:
    """The dual vertices around each crossed edge with four cells (the grid's boundary stays open), wound outward."""
    cell, edge = (of_edge >= 0).nonzero().unbind(1)
    ends = torch.tensor(EDGES, device=edge.device)[edge]
    grid = cells.corners[cell[:, None], ends]
    order = (grid[:, 0] * len(cells.sdf) + grid[:, 1]).sort(stable=True)  # stable: the cells of an edge stay ascending
    _, count = torch.unique_consecutive(order.values, return_counts=True)
    whole = order.indices[(count == 4).repeat_interleave(count)]
    quads = of_edge[cell[whole], edge[whole]].reshape(-1, 4)
    leaving = cells.sdf[grid[whole[::4], 0]] > 0
    return torch.cat([quads[leaving][:, [0, 1, 3, 2]], quads[~leaving][:, [2, 3, 1, 0]]])


def _split(quads: Int64[Tensor, "quad 4"], along_02: Bool[Tensor, " quad"]) -> Int64[Tensor, "face 3"]:
    """Two triangles to a quad, cut along the diagonal with the larger gamma."""
    first, second = quads[:, [0, 1, 2, 0, 2, 3]], quads[:, [0, 1, 3, 3, 1, 2]]
    return torch.where(along_02[:, None], first, second).reshape(-1, 3)


def _crossed_cells(average: CornerAverage, enclosed: Voxels | None) -> Int64[Tensor, " voxel"]:
    """Keys of the cells with corners on both sides: those around the grid edges with one end inside.

    Such an edge has an end that active cells touch: what they do not touch changes side only across them.
    """
    keys, resolution, inside = average.keys, average.resolution, average.sdf < 0
    around = [keys[:0]]
    for axis in range(3):
        step = (resolution + 1) ** (2 - axis)
        place_on_axis = keys // step % (resolution + 1)
        lower = (place_on_axis < resolution).nonzero()[:, 0]
        upper, active = _find(keys, keys[lower] + step)
        begins_active, ends_active = lower[active], upper[active]
        alone = place_on_axis > 0  # no active cell touches the vertex below
        alone[ends_active] = False
        ends_open, begins_open = lower[~active], alone.nonzero()[:, 0]
        begins = [
            keys[begins_active[inside[begins_active] != inside[ends_active]]],
            keys[ends_open[inside[ends_open] != _is_enclosed(keys[ends_open] + step, resolution, enclosed)]],
            keys[begins_open[inside[begins_open] != _is_enclosed(keys[begins_open] - step, resolution, enclosed)]]
            - step,
        ]
        around.append(_cells_around(_coords(torch.cat(begins), resolution), axis, resolution))
    return _sorted_unique(torch.cat(around))


def _is_enclosed(vertices: Int64[Tensor, " row"], resolution: int, enclosed: Voxels | None) -> Bool[Tensor, " row"]:
    """Whether grid vertices that no active cell touches lie in the enclosed voxels.

    The up to eight voxels around such a vertex are inactive and neighbours, so all or none are enclosed: one decides.
    """
    if enclosed is None:
        return torch.zeros_like(vertices, dtype=torch.bool)
    assert resolution % enclosed.resolution == 0
    coarse = (_coords(vertices, resolution) // (resolution // enclosed.resolution)).clamp(max=enclosed.resolution - 1)
    known = _keys(enclosed.coords, enclosed.resolution).sort().values
    return _find(known, _keys(coarse, enclosed.resolution))[1]


def _values_at(
    average: CornerAverage, vertices: Int64[Tensor, " row"], enclosed: Voxels | None
) -> tuple[Float[Tensor, "row channel"], Float[Tensor, " row"]]:
    """Mean corner values, zero where no active cell is; and the sdf, which has its own defaults there."""
    place, active = _find(average.keys, vertices)
    rows = active.nonzero()[:, 0]
    known = average.values[place[rows]]
    values = known.new_zeros(len(vertices), known.shape[1]).index_copy(0, rows, known)
    sdf = torch.where(_is_enclosed(vertices, average.resolution, enclosed), -OUTSIDE, OUTSIDE)
    return values, torch.where(active, values[:, 0], sdf)


def _cells_around(lower: Int64[Tensor, "edge 3"], axis: int, resolution: int) -> Int64[Tensor, " voxel"]:
    """Keys of the up to four cells around the edges that start at grid vertices `lower` and run along `axis`."""
    around = torch.tensor([c for c in CORNERS if c[axis] == 0], device=lower.device)
    cells = (lower[:, None] - around).flatten(0, 1)
    return _sorted_unique(_keys(cells[((cells >= 0) & (cells < resolution)).all(dim=1)], resolution))


def _cell_weights(
    coords: Int32[Tensor, "voxel 3"],
    weight_rows: FeatureRows,
    cell_keys: Int64[Tensor, " cell"],
    resolution: int,
    chunk: int,
) -> Float[Tensor, "cell 21"]:
    """Raw weights of the surface cells, zero where a cell is not active."""
    active = _keys(coords, resolution).sort()
    weights = []
    for keys in _chunks(cell_keys, chunk):
        place, found = _find(active.values, keys)
        rows = active.indices[place[found]]
        known = weight_rows(rows).float()
        weights.append(known.new_zeros(len(keys), known.shape[1]).index_copy(0, found.nonzero()[:, 0], known))
    return torch.cat(weights)


def _keys(coords: Int[Tensor, "row 3"], resolution: int) -> Int64[Tensor, " row"]:
    x, y, z = coords.long().unbind(1)
    return (x * (resolution + 1) + y) * (resolution + 1) + z


def _coords(keys: Int64[Tensor, " row"], resolution: int) -> Int64[Tensor, "row 3"]:
    size = resolution + 1
    return torch.stack([keys // (size * size), keys // size % size, keys % size], dim=1)


def _corner_keys(cells: Int64[Tensor, " row"], resolution: int) -> Int64[Tensor, "row 8"]:
    return cells[:, None] + _keys(torch.tensor(CORNERS, device=cells.device), resolution)


def _corner_union(cells: Int64[Tensor, " row"], resolution: int) -> Int64[Tensor, " vertex"]:
    """Sorted keys of all corners of cells, doubled axis by axis: sorts far less than 8 rows to a cell."""
    size = resolution + 1
    for step in (1, size, size * size):
        cells = _sorted_unique(torch.cat([cells, cells + step]))
    return cells


def _sorted_unique(keys: Int64[Tensor, " row"]) -> Int64[Tensor, " unique"]:
    unique: Tensor = torch.unique_consecutive(keys.sort().values)
    return unique


def _find(
    keys: Int64[Tensor, " key"], wanted: Int64[Tensor, " row"]
) -> tuple[Int64[Tensor, " row"], Bool[Tensor, " row"]]:
    """Place of each wanted key among sorted keys, and whether it is there at all."""
    place = torch.searchsorted(keys, wanted)
    if len(keys) == 0:
        return place, torch.zeros_like(wanted, dtype=torch.bool)
    place = place.clamp(max=len(keys) - 1)
    return place, keys[place] == wanted


def _chunks(rows: Int64[Tensor, " row"], size: int) -> Iterator[Int64[Tensor, " part"]]:
    """Parts of at most `size` rows; one empty part if there are none, so that results have their shapes."""
    for start in range(0, max(len(rows), 1), size):
        yield rows[start : start + size]
