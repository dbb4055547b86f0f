import numpy as np
import pytest
import trimesh

from mvsam3d.meshing.cleanup import (
    CleanupConfig,
    areas,
    boundary_loops,
    cleaned,
    simplified,
    with_holes_filled,
    with_merged_vertices,
    without_degenerate_faces,
    without_floaters,
)
from mvsam3d.types import Mesh


def ball(subdivisions=3, *, radius=0.5, centre=(0, 0, 0)):
    shape = trimesh.creation.icosphere(subdivisions, radius=radius)
    colours = (shape.vertices / radius + 1) / 2  # a colour that tells the place
    return Mesh(shape.vertices + np.array(centre), shape.faces, vertex_colours=colours)


def joined(*meshes):
    offsets = np.cumsum([0, *(len(mesh.vertices) for mesh in meshes)])
    return Mesh(
        np.concatenate([mesh.vertices for mesh in meshes]),
        np.concatenate([mesh.faces + offset for mesh, offset in zip(meshes, offsets[:-1], strict=True)]),
        vertex_colours=np.concatenate([mesh.vertex_colours for mesh in meshes]),
    )


def without_faces(mesh, drop):
    return Mesh(mesh.vertices, np.delete(mesh.faces, drop, axis=0), vertex_colours=mesh.vertex_colours)


def solid(mesh):
    """Watertight and wound outward, by another library."""
    shape = trimesh.Trimesh(mesh.vertices, mesh.faces, process=False)
    return shape.is_watertight and shape.is_winding_consistent and shape.volume > 0


def test_merging_a_soup_gives_the_shape_back():
    mesh = ball()
    soup = Mesh(
        mesh.vertices[mesh.faces].reshape(-1, 3),
        np.arange(3 * len(mesh.faces)).reshape(-1, 3),
        vertex_colours=mesh.vertex_colours[mesh.faces].reshape(-1, 3),
    )
    merged = with_merged_vertices(soup)
    assert len(merged.vertices) == len(mesh.vertices)
    np.testing.assert_array_equal(merged.vertices[merged.faces], mesh.vertices[mesh.faces])
    np.testing.assert_allclose(merged.vertex_colours, merged.vertices + 0.5, atol=1e-12)
    assert solid(merged)


def test_degenerate_faces_go():
    vertices = np.array([[0.0, 0, 0], [1, 0, 0], [0, 1, 0], [2, 0, 0], [9, 9, 9]])
    faces = np.array([[0, 1, 2], [0, 0, 1], [0, 1, 3], [1, 2, 0], [2, 1, 0]])  # twice a corner, a line, copies
    mesh = without_degenerate_faces(Mesh(vertices, faces))
    np.testing.assert_array_equal(mesh.faces, [[0, 1, 2]])
    np.testing.assert_array_equal(mesh.vertices, vertices[:3])


def test_areas():
    assert areas(Mesh(np.array([[0.0, 0, 0], [2, 0, 0], [0, 3, 0]]), np.array([[0, 1, 2]]))) == pytest.approx(3)


@pytest.mark.parametrize(("share", "parts"), [(0.0, 3), (0.02, 2), (0.2, 1), (1.0, 1)])
def test_floaters_by_area(share, parts):  # areas 1 : 0.09 : 0.01
    mesh = joined(ball(2), ball(2, radius=0.15, centre=(2, 0, 0)), ball(2, radius=0.05, centre=(3, 0, 0)))
    left = without_floaters(mesh, min_share=share)
    assert len(left.faces) == parts * 320
    assert len(left.vertices) == parts * 162


def test_a_closed_mesh_has_no_rim():
    assert boundary_loops(ball().faces) == []


def test_rims_of_two_holes_that_touch():
    """Two squares cut out of a plane share a corner; with the outline that makes three loops."""
    n = 6
    a = (np.arange(n - 1)[:, None] * n + np.arange(n - 1)).ravel()
    quads = np.stack([a, a + 1, a + n + 1, a + n], axis=1)
    quads = np.delete(quads, [6, 12], axis=0)  # cells (1, 1) and (2, 2): both have the vertex (2, 2)
    faces = np.concatenate([quads[:, [0, 1, 2]], quads[:, [0, 2, 3]]])
    assert sorted(len(loop) for loop in boundary_loops(faces)) == [4, 4, 4 * (n - 1)]


def test_rims_at_an_edge_of_three_faces_do_not_hang():
    fins = np.array([[0, 1, 2], [1, 0, 3], [0, 1, 4]])
    loops = boundary_loops(fins)
    assert all(len(set(loop)) == len(loop) >= 3 for loop in loops)


def test_one_missing_face_comes_back():
    mesh = ball()
    filled = with_holes_filled(without_faces(mesh, [7]), max_edges=3, max_length=1.0)
    assert len(filled.faces) == len(mesh.faces)
    assert len(filled.vertices) == len(mesh.vertices)
    assert solid(filled)


def test_larger_holes_get_a_fan():
    mesh = ball()
    around = np.flatnonzero((mesh.faces == 100).any(axis=1))
    pierced = without_floaters(without_faces(mesh, around), min_share=0.0)  # drops the lone vertex
    filled = with_holes_filled(pierced, max_edges=10, max_length=2.0)
    assert solid(filled)
    assert len(filled.vertices) == len(mesh.vertices)
    assert len(filled.faces) == len(mesh.faces)
    np.testing.assert_allclose(filled.vertex_colours[-1], mesh.vertex_colours[100], atol=0.05)  # mean of its neighbours


def test_large_holes_stay_open():
    half = without_faces(ball(), np.flatnonzero(ball().vertices[ball().faces].mean(axis=1)[:, 2] > 0))
    assert with_holes_filled(half, max_edges=1000, max_length=1.0) is half
    assert with_holes_filled(half, max_edges=10, max_length=100.0) is half
    assert solid(with_holes_filled(half, max_edges=1000, max_length=10.0))


def test_simplified_ball_stays_a_ball():
    mesh = ball(5)
    small = simplified(mesh, 1000)
    assert 900 <= len(small.faces) <= 1000
    np.testing.assert_allclose(np.linalg.norm(small.vertices, axis=1), 0.5, atol=0.01)  # 1000 faces: sagitta 0.4 %
    np.testing.assert_allclose(small.vertex_colours, small.vertices + 0.5, atol=0.03)  # nearest of 10,242 vertices
    assert simplified(small, 1000) is small


def test_all_together():
    mesh = joined(without_faces(ball(4), [5, 900]), ball(1, radius=0.01, centre=(1, 0, 0)))
    result = cleaned(mesh, CleanupConfig(target_faces=2000))
    assert solid(result)
    assert len(result.faces) <= 2000
    assert np.abs(result.vertices).max() < 0.51


def test_empty_mesh_stays_empty():
    empty = Mesh(np.empty((0, 3)), np.empty((0, 3), np.int64), vertex_colours=np.empty((0, 3)))
    assert len(cleaned(empty).faces) == 0
