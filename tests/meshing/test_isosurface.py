"""FlexiCubes against recorded tensors, a dense plain twin, closed forms; and a size at which a dense volume shows."""

import resource
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from mvsam3d.meshing.flexicubes_tables import tables
from mvsam3d.meshing.isosurface import (
    ALPHA,
    BETA,
    COLOUR,
    DEFORM,
    GAMMA,
    SDF,
    WEIGHTS,
    Surface,
    activate_weights,
    average_corners,
    deformed_positions,
    dense_cells,
    dual_contour,
    enclosed_by,
    extract_rows,
    extract_surface,
    resolve_cases,
    surface_cells,
)
from mvsam3d.types import CubeField, Voxels
from tests.parity import Fixture, fixture, names


def grid_vertices(resolution: int) -> Tensor:
    axis = torch.arange(resolution + 1)
    return torch.cartesian_prod(axis, axis, axis)


def corner_offsets() -> Tensor:
    return torch.tensor([[j & 1, j >> 1 & 1, j >> 2 & 1] for j in range(8)])


def field_of(data: Fixture) -> CubeField:
    config = data.meta["config"]
    return CubeField(data.inputs["coords"][:, 1:], data.inputs["feats"], config["res"])


# --- fixtures


def test_tables_follow_from_the_rules() -> None:
    data = fixture("stage2", "flexicubes_tables")
    data.check("dmc_table", torch.from_numpy(tables().rows))
    data.check("num_vd_table", torch.from_numpy(tables().count))
    data.check("check_table", torch.from_numpy(tables().check))


def dense_case(data: Fixture) -> dict[str, Any]:
    """The arguments of `dense_cells` for a recorded extraction on a whole grid."""
    resolution, inputs = data.meta["config"]["resolution"], data.inputs
    deform = inputs.get("deform", torch.zeros((resolution + 1) ** 3, 3))
    found: dict[str, Any] = {
        "sdf": inputs["sdf"],
        "positions": deformed_positions(grid_vertices(resolution), deform, resolution),
        "resolution": resolution,
        "colours": torch.sigmoid(inputs["colors"]) if "colors" in inputs else None,
    }
    if "beta" in inputs:
        scale = data.meta["config"].get("weight_scale", 0.99)
        weights = activate_weights(inputs["beta"], inputs["alpha"], inputs["gamma"], weight_scale=scale)
        found |= dict(zip(("beta", "alpha", "gamma"), weights))
    return found


@pytest.mark.parametrize("name", names("stage2", "flexicubes_extract") + names("stage2", "flexicubes_ambiguous"))
def test_recorded_extraction(name: str) -> None:
    data = fixture("stage2", name)
    case = dense_case(data)
    cells = dense_cells(**case)
    surface = dual_contour(cells, training=data.meta["config"]["training"], chunk_rows=37)
    if "grid_positions" in data.outputs:
        data.check("grid_positions", case["positions"])
        assert surface.attributes is not None
        data.check("colors", surface.attributes)
    data.check("vertices", surface.vertices)
    assert torch.equal(surface.faces.int(), data.outputs["faces"])
    data.check("l_dev", surface.deviation)
    assert torch.equal(resolve_cases(cells).int(), data.outputs["case_ids"])
    assert len(cells.coords) == data.meta["surface_cubes"]


@pytest.mark.parametrize("name", names("stage2", "sparse_features_to_mesh"))
def test_recorded_features_to_mesh(name: str) -> None:
    data = fixture("stage2", name)
    field, training = field_of(data), data.meta["config"]["training"]
    surface = extract_surface(field, training=training, chunk_rows=50)
    data.check("vertices", surface.vertices)
    assert torch.equal(surface.faces.int(), data.outputs["faces"])
    data.check("face_normal", surface.face_normals())
    if "vertex_attrs" in data.outputs:
        assert surface.attributes is not None
        data.check("vertex_attrs", surface.attributes)
    if training:
        average = average_corners(field.coords, field.features.__getitem__, field.resolution)
        data.check("tsdf_v", average.positions())
        data.check("tsdf_s", average.sdf)


# --- plain twin: the whole grid, as the public system does it


def extract_dense(field: CubeField, *, training: bool = False) -> Surface:
    """Every array has a row per vertex or cell of the whole grid."""
    r, vertices = field.resolution, (field.resolution + 1) ** 3
    coords, features = field.coords.long(), field.features
    x, y, z = (coords[:, None] + corner_offsets()).unbind(-1)
    vertex = ((x * (r + 1) + y) * (r + 1) + z).flatten()
    colour = features[:, COLOUR].reshape(len(coords), 8, -1)
    values = torch.cat(
        [features[:, SDF, None] - 1 / r, features[:, DEFORM].reshape(len(coords), 8, 3), colour], dim=-1
    ).flatten(0, 1)
    total = torch.zeros(vertices, values.shape[1]).index_add(0, vertex, values)
    count = torch.zeros(vertices).index_add(0, vertex, torch.ones(len(vertex)))
    mean = total / count.clamp(min=1)[:, None]
    cell = (coords[:, 0] * r + coords[:, 1]) * r + coords[:, 2]
    weights = torch.zeros(r**3, 21).index_copy(0, cell, features[:, WEIGHTS])
    beta, alpha, gamma = activate_weights(weights[:, BETA], weights[:, ALPHA], weights[:, GAMMA])
    cells = dense_cells(
        torch.where(count > 0, mean[:, 0], 1.0),
        deformed_positions(grid_vertices(r), mean[:, 1:4], r),
        r,
        colours=torch.sigmoid(mean[:, 4:]) if values.shape[1] > 4 else None,
        beta=beta,
        alpha=alpha,
        gamma=gamma,
    )
    return dual_contour(cells, training=training)


def noisy_field(resolution: int, fill: float, *, colour: bool = True, seed: int = 0) -> CubeField:
    """Random active cells with random features, in random order: many open sides, cells at the boundary of the grid."""
    noise = torch.Generator().manual_seed(seed)
    axis = torch.arange(resolution)
    coords = torch.cartesian_prod(axis, axis, axis)
    coords = coords[torch.rand(len(coords), generator=noise) < fill]
    coords = coords[torch.randperm(len(coords), generator=noise)]
    features = torch.randn(len(coords), 101 if colour else 53, generator=noise)
    return CubeField(coords.int(), features, resolution)


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize(("fill", "colour"), [(0.02, True), (0.5, True), (1.0, False)])
def test_sparse_equals_dense(fill: float, colour: bool, training: bool) -> None:
    field = noisy_field(9, fill, colour=colour)
    runs = []
    for extract in (extract_surface, extract_dense):
        features = field.features.clone().requires_grad_()
        surface = extract(replace(field, features=features), training=training)
        outputs = [surface.vertices, surface.deviation] + ([surface.attributes] if colour else [])
        noise = torch.Generator().manual_seed(1)
        loss = sum((o * torch.randn(o.shape, generator=noise)).sum() for o in outputs)
        loss.backward()
        runs.append((surface, features.grad))
    (sparse, sparse_grad), (dense, dense_grad) = runs
    assert torch.equal(sparse.faces, dense.faces)
    # the same sums in another order; deviations and crossings divide by small differences
    torch.testing.assert_close(sparse.vertices, dense.vertices, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(sparse.attributes, dense.attributes, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(sparse_grad, dense_grad, rtol=1e-3, atol=1e-4 * float(dense_grad.abs().max()))


def test_chunks_change_nothing() -> None:
    field = noisy_field(8, 0.4)
    whole, parts = extract_surface(field), extract_surface(field, chunk_rows=17)
    assert torch.equal(whole.faces, parts.faces)
    torch.testing.assert_close(whole.vertices, parts.vertices)
    torch.testing.assert_close(whole.deviation, parts.deviation)


def test_order_of_cells_changes_nothing() -> None:
    field = noisy_field(8, 0.4)
    order = torch.randperm(len(field.coords), generator=torch.Generator().manual_seed(3))
    moved = extract_surface(CubeField(field.coords[order], field.features[order], field.resolution))
    first = extract_surface(field)
    assert torch.equal(first.faces, moved.faces)
    torch.testing.assert_close(first.vertices, moved.vertices, rtol=1e-5, atol=1e-5)  # sums in another order


# --- closed forms


def euler_characteristic(faces: Tensor) -> tuple[int, bool]:
    """V - E + F, and whether every edge has exactly one face on each side (watertight, consistently wound)."""
    sides = torch.cat([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]])
    step = int(faces.max()) + 1
    directed = torch.unique(sides[:, 0] * step + sides[:, 1], return_counts=True)[1]
    edges, both = torch.unique(sides.amin(dim=1) * step + sides.amax(dim=1), return_counts=True)
    return len(faces.unique()) - len(edges) + len(faces), bool((directed == 1).all() and (both == 2).all())


def sphere_field(resolution: int, radius: float, width: float = 1.5) -> CubeField:
    """Cells within `width` cells of a sphere, with its exact signed distance at their corners."""
    axis = torch.arange(resolution)
    coords = torch.cartesian_prod(axis, axis, axis)
    distance = ((coords + 0.5) / resolution - 0.5).norm(dim=1) - radius
    coords = coords[distance.abs() < width / resolution]
    corners = (coords[:, None] + corner_offsets()) / resolution - 0.5
    features = torch.zeros(len(coords), 101)
    features[:, SDF] = corners.norm(dim=-1) - radius + 1 / resolution  # undoes the bias
    return CubeField(coords.int(), features, resolution)


@pytest.mark.parametrize("training", [False, True])
def test_sphere(training: bool) -> None:
    resolution, radius = 24, 0.37
    field = sphere_field(resolution, radius)
    surface = extract_surface(field, enclosed=enclosed_by(Voxels(field.coords, resolution)), training=training)
    characteristic, watertight = euler_characteristic(surface.faces)
    assert (characteristic, watertight) == (2, True)
    # a mean of crossings in a cell (diagonal sqrt(3) h) lies inside the sphere by at most (sqrt(3) h)^2 / (8 r); the
    # centre of a quad by as much again
    allowed = (1 + training) * 3 / resolution**2 / (8 * radius) + 1e-5
    assert float((surface.vertices.norm(dim=1) - radius).abs().max()) < allowed
    centres = surface.vertices[surface.faces].mean(dim=1)
    assert float((surface.face_normals() * torch.nn.functional.normalize(centres, dim=1)).sum(1).min()) > 0.9  # outward


def test_without_enclosed_voxels_a_solid_has_an_inner_wall() -> None:
    surface = extract_surface(sphere_field(24, 0.37))
    assert euler_characteristic(surface.faces) == (4, True)  # two closed surfaces, as in the public system


@pytest.mark.parametrize("outward", [1, -1])
def test_enclosed_voxels_are_inside(outward: int) -> None:
    """A hollow cube of coarse voxels with sdf of one sign: its outer wall if inside, its inner wall if outside."""
    axis = torch.arange(5)
    cube = torch.cartesian_prod(axis, axis, axis)
    voxels = Voxels(cube[((cube - 2).abs() == 2).any(dim=1)].int() + 1, 8)
    enclosed = enclosed_by(voxels)
    assert len(enclosed.coords) == 3**3
    children = (2 * voxels.coords[:, None] + corner_offsets()).reshape(-1, 3).int()
    features = torch.zeros(len(children), 53)
    features[:, SDF] = -float(outward)
    surface = extract_surface(CubeField(children, features, 16), enclosed=enclosed)
    assert euler_characteristic(surface.faces) == (2, True)
    lowest = 1 / 8 - 0.5 / 16 if outward == 1 else 2 / 8 + 0.5 / 16  # half a fine cell beyond the active cells
    assert abs(float(surface.vertices.min()) + 0.5 - lowest) < 0.1 / 16  # the bias shifts the crossing by 3 % of a cell
    centre = surface.vertices.mean(dim=0)
    facing = ((surface.vertices[surface.faces].mean(dim=1) - centre) * surface.face_normals()).sum(dim=1)
    assert float(facing.min()) > 0  # a filled body either way


def test_flat_surface_has_exact_vertices() -> None:
    resolution, height = 6, 0.1234
    sdf = (grid_vertices(resolution)[:, 2] / resolution - 0.5) - height
    vertices = grid_vertices(resolution)
    positions = deformed_positions(vertices, torch.zeros(len(vertices), 3), resolution)
    surface = dual_contour(dense_cells(sdf, positions, resolution))
    torch.testing.assert_close(surface.vertices[:, 2], torch.full_like(surface.vertices[:, 2], height))
    assert len(surface.faces) == 2 * (resolution - 1) ** 2  # edges on the boundary of the grid make none
    assert float(surface.face_normals()[:, 2].min()) > 0.999  # inside is below


def test_inside_out_cells_alone_close_around_their_corners() -> None:
    features = torch.zeros(1, 101)
    features[:, SDF] = -1.0
    surface = extract_surface(CubeField(torch.tensor([[3, 3, 3]], dtype=torch.int32), features, 8))
    assert euler_characteristic(surface.faces) == (2, True)  # the far sides lie in inactive neighbours


@pytest.mark.parametrize("rows", [0, 5])
def test_no_surface(rows: int) -> None:
    coords = torch.arange(rows, dtype=torch.int32)[:, None].expand(-1, 3)
    for training in (False, True):
        surface = extract_surface(CubeField(coords, torch.ones(rows, 101), 8), training=training)
        assert surface.vertices.shape == (0, 3)
        assert surface.faces.shape == (0, 3)
    assert surface.to_mesh().vertices.shape == (0, 3)


def test_mesh_carries_colours() -> None:
    mesh = extract_surface(sphere_field(8, 0.3)).to_mesh()
    assert mesh.vertex_colours is not None
    assert mesh.vertex_colours.shape == mesh.vertices.shape
    assert mesh.faces.max() == len(mesh.vertices) - 1


# --- size


def shell_voxels(count: int, resolution: int) -> Tensor:
    """The `count` cells of the grid nearest to a sphere, sorted."""
    axis = torch.arange(resolution)
    coords = torch.cartesian_prod(axis, axis, axis)
    distance = (((coords + 0.5) / resolution - 0.5).norm(dim=1) - 0.45).abs()
    return coords[distance.argsort()[:count].sort().values]


def test_sixty_thousand_voxels_without_a_volume() -> None:
    """60,000 voxels at 64^3 (the public system halves the grid above 42,000): all of their 64 cells at 256^3 count."""
    voxels, resolution, radius = shell_voxels(60_000, 64), 256, 0.45
    axis = torch.arange(4)
    children = (4 * voxels[:, None] + torch.cartesian_prod(axis, axis, axis)).reshape(-1, 3).int()

    def features(rows: Tensor) -> Tensor:
        corners = (children[rows][:, None] + corner_offsets()) / resolution - 0.5
        made = torch.zeros(len(rows), 53)
        made[:, SDF] = corners.norm(dim=-1) - radius + 1 / resolution
        return made

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    surface = extract_rows(children, features, resolution, enclosed=enclosed_by(Voxels(voxels.int(), 64)))
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    assert euler_characteristic(surface.faces) == (2, True)
    assert float((surface.vertices.norm(dim=1) - radius).abs().max()) < 0.1 / resolution
    # one vertex per crossed cell: area 4 pi r^2 R^2 cells, times 3/2 (mean of |nx| + |ny| + |nz| of a sphere)
    expected = 4 * torch.pi * (radius * resolution) ** 2 * 1.5
    assert len(surface.vertices) == pytest.approx(expected, rel=0.03)
    assert grown < 1000, f"{grown:.0f} MiB; the dense volumes at 256^3 take over 4 GiB"


def test_surface_cells_of_a_thin_field() -> None:
    field = noisy_field(10, 0.05)
    average = average_corners(field.coords, field.features.__getitem__, field.resolution)
    cells = surface_cells(field.coords, field.features.__getitem__, average)
    inside = (cells.sdf < 0)[cells.corners].sum(dim=1)
    assert bool(((inside > 0) & (inside < 8)).all())
    assert torch.equal(cells.coords, cells.coords.unique(dim=0))  # ascending, no cell twice
