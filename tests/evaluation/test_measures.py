"""Measures against closed forms, laws, and the traps that make published figures differ."""

import math

import numpy as np
import pytest

from mvsam3d.errors import BadFile, InvalidOption
from mvsam3d.evaluation.measures import (
    MOST_PSNR,
    Nearest,
    Samples,
    add_s,
    area_under_accuracy,
    chamfer,
    earth_movers,
    f_score,
    iou,
    nearest,
    normal_consistency,
    pose_errors,
    psnr,
    relative_pose_errors,
    ssim,
    surface_samples,
    vertex_samples,
)
from mvsam3d.evaluation.solids import Winding, marched, open_edges, solid_cells, solids_together, volume, winding_of
from mvsam3d.geometry.cameras import centre, centred_intrinsics
from mvsam3d.rendering.framing import turn_camera
from mvsam3d.types import Camera, Mesh
from tests.evaluation.shapes import ball, box, split, together, turned

NOISE = np.random.default_rng


def samples(points: np.ndarray) -> Samples:
    return Samples(points, np.tile([0.0, 0, 1], (len(points), 1)))


# surfaces


def test_samples_lie_on_the_surface_in_proportion_to_area() -> None:
    plate = box((0, 0, 0), (4, 1, 1))  # two of its six sides are square: 2 of 18
    found = surface_samples(plate, 9000, NOISE(0))
    on_ends = np.isclose(found.points[:, :1], [0.0, 4.0]).any(axis=1)
    assert on_ends.sum() == pytest.approx(1000, abs=150)  # five standard deviations
    assert (np.isclose(found.points, [0, 0, 0]) | np.isclose(found.points, [4, 1, 1])).any(axis=1).all()
    np.testing.assert_allclose(np.abs(found.normals[on_ends]), [[1, 0, 0]] * on_ends.sum())
    half = found.points[:4500]  # the first half lies over the whole surface, not over its first faces
    assert np.isclose(half[:, :1], [0.0, 4.0]).any(axis=1).sum() == pytest.approx(
        500, abs=110
    )  # 5 standard deviations of 500 drawn by halves
    np.testing.assert_allclose(half.mean(axis=0), [2, 0.5, 0.5], atol=0.1)


def test_samples_are_uniform_on_a_triangle() -> None:
    triangle = Mesh(np.array([[0.0, 0, 0], [1, 0, 0], [0, 1, 0]]), np.array([[0, 1, 2]]))
    points = surface_samples(triangle, 20_000, NOISE(0)).points
    np.testing.assert_allclose(
        points.mean(axis=0)[:2], 1 / 3, atol=0.01
    )  # closed form; spread 0.236 / sqrt(20000) = 0.0017
    np.testing.assert_allclose(points.var(axis=0)[:2], 1 / 18, atol=0.002)


def test_nothing_to_sample_is_an_error() -> None:
    with pytest.raises(BadFile, match="no surface"):
        surface_samples(Mesh(np.zeros((3, 3)), np.array([[0, 1, 2]])), 10, NOISE(0))


def test_distances_of_shifted_points() -> None:  # closed form: a lattice shifted by 0.1 along x
    lattice = np.stack(np.meshgrid(*[np.arange(5.0)] * 3), -1).reshape(-1, 3)
    found = nearest(samples(lattice), samples(lattice + np.array([0.1, 0, 0])))
    assert chamfer(found, squared=False) == pytest.approx(0.1)
    assert chamfer(found, squared=True) == pytest.approx(0.01)
    assert (f_score(found, 0.11), f_score(found, 0.09)) == (1, 0)
    assert normal_consistency(found) == 1


def test_f_score_is_the_harmonic_mean() -> None:
    found = Nearest(np.array([0.0, 0, 0, 1]), np.array([0.0, 1]), np.ones(4), np.ones(2))
    assert f_score(found, 0.5) == pytest.approx(2 * 0.75 * 0.5 / 1.25)  # closed form


def test_missing_and_surplus_parts_cost_one_way_each() -> None:
    truth, half = samples(np.array([[0.0, 0, 0], [3, 0, 0]])), samples(np.array([[0.0, 0, 0]]))
    assert chamfer(nearest(truth, half), squared=False) == pytest.approx((0 + 1.5) / 2)
    assert chamfer(nearest(half, truth), squared=False) == pytest.approx((1.5 + 0) / 2)


def test_squared_and_plain_distances_differ_by_the_distance() -> None:  # the trap: 0.02 off is 4e-4 squared
    shifted = nearest(samples(np.zeros((1, 3))), samples(np.array([[0.02, 0, 0]])))
    assert chamfer(shifted, squared=False) / chamfer(shifted, squared=True) == pytest.approx(1 / 0.02)


def test_dense_vertices_hide_an_error_and_surface_samples_do_not() -> None:
    """The trap: an answer whose one side is 0.2 off. Split where it is right, its vertices say little of that; its surface is the same."""
    truth, good, bad = box((0, 0, 0), (1, 1, 1)), box((0, 0, 0), (1, 1, 1)), box((0, 0, 0), (1, 1, 1.2))
    side = (good.vertices[good.faces][:, :, 2] == 0).all(axis=1)
    dense_part = Mesh(bad.vertices, bad.faces[side])
    for _ in range(4):
        dense_part = split(dense_part)
    dense = together(Mesh(bad.vertices, bad.faces[~side]), dense_part)

    def one_way(answer: Samples) -> float:
        return float(nearest(surface_samples(truth, 30_000, NOISE(0)), answer).answer_to_truth.mean())

    assert one_way(vertex_samples(dense)) < 0.1 * one_way(vertex_samples(bad))
    surface = [one_way(surface_samples(mesh, 30_000, NOISE(1))) for mesh in (bad, dense)]
    assert surface[0] == pytest.approx(surface[1], rel=0.02)  # sampling noise of 30000 points


def test_vertex_samples_are_the_used_vertices_with_outward_normals() -> None:
    found = vertex_samples(Mesh(np.concatenate([box().vertices, [[9.0, 9, 9]]]), box().faces))
    assert len(found.points) == 8
    assert ((found.points * found.normals).sum(axis=1) > 0).all()


def test_normals_of_a_ball() -> None:
    a, b = (surface_samples(ball(), 20_000, NOISE(seed)) for seed in (0, 1))
    assert normal_consistency(nearest(a, b)) > 0.999
    inward = Samples(b.points, -b.normals)
    assert normal_consistency(nearest(a, inward)) > 0.999  # winding does not count
    random = NOISE(2).normal(size=b.normals.shape)
    found = nearest(a, Samples(b.points, random / np.linalg.norm(random, axis=1, keepdims=True)))
    assert normal_consistency(found) == pytest.approx(0.5, abs=0.01)  # closed form: mean |cos| of random directions


def test_earth_movers_distance() -> None:
    truth = NOISE(0).random((100, 3))
    assert earth_movers(truth, NOISE(1).permutation(truth) + np.array([0.3, 0, 0])) == pytest.approx(
        0.3
    )  # closed form: all move alike
    line = np.array([[0.0, 0, 0], [1, 0, 0], [2, 0, 0]])
    assert earth_movers(line, np.zeros((3, 3))) == pytest.approx(1)
    with pytest.raises(InvalidOption, match="1 to 2048"):
        earth_movers(np.zeros((2049, 3)), np.zeros((2049, 3)))


# solids


def test_iou_of_sets() -> None:
    a, b = np.array([True, True, True, False]), np.array([False, True, True, True])
    assert iou(a, b) == 0.5
    assert iou(a & ~a, b & ~b) == 1


def test_solid_of_a_ball_and_of_boxes() -> None:
    assert solid_cells(ball(), 64).mean() == pytest.approx(
        math.pi / 6, rel=0.07
    )  # closed form; the skin adds .35 cells
    half = box((-0.5, -0.5, -0.5), (0.5, 0.5, 0.0))
    truth, answer = solids_together(box(), half, 32)
    assert truth.all()
    assert iou(truth, answer) == 0.5


@pytest.mark.parametrize("resolution", [32, 64])
def test_what_reaches_out_of_the_truth_counts(resolution: int) -> None:
    long = box((-0.5, -0.5, -0.5), (0.75, 0.5, 0.5))
    assert iou(*solids_together(box(), long, resolution)) == pytest.approx(1 / 1.25)
    huge = box((-2, -2, -2), (2, 2, 2))  # beyond twice the size: larger cells, the same share
    assert iou(*solids_together(box(), huge, resolution)) == pytest.approx(
        1 / 64, rel=0.15
    )  # cells of 1/16 of the truth


def test_inside_of_closed_surfaces() -> None:
    found = winding_of(ball())
    assert isinstance(found, Winding)
    points = NOISE(0).uniform(-0.6, 0.6, (20_000, 3))
    away = np.linalg.norm(points, axis=1)
    sure = np.abs(away - 0.5) > 0.002  # the flat faces of the ball lie up to 0.0005 inside the sphere
    np.testing.assert_array_equal(found(points)[sure], away[sure] < 0.5)


def test_inside_of_overlapping_nested_and_hollow_boxes() -> None:
    inner = box((-0.2, -0.2, -0.2), (0.2, 0.2, 0.2))
    at = np.array([[0.0, 0, 0], [0.35, 0.01, 0.02], [0.7, 0, 0]])
    for mesh, expected in (
        (together(box(), box((0.3, -0.5, -0.5), (0.6, 0.5, 0.5))), [True, True, False]),  # overlap
        (together(box(), inner), [True, True, False]),  # nested, both wound outward: solid
        (together(box(), Mesh(inner.vertices, inner.faces[:, ::-1])), [False, True, False]),  # a hollow
        (Mesh(box().vertices, box().faces[:, ::-1]), [True, True, False]),  # inside out
    ):
        found = winding_of(mesh)
        assert isinstance(found, Winding)
        np.testing.assert_array_equal(found(at), expected)


def test_rays_through_edges_and_corners_count_once() -> None:
    found = winding_of(split(split(box())))  # edges of faces stand over each of these points
    assert isinstance(found, Winding)
    grid = np.stack(np.meshgrid(*[np.linspace(-0.75, 0.75, 13)] * 3), -1).reshape(-1, 3)
    off = (np.abs(np.abs(grid) - 0.5) > 1e-9).all(axis=1)
    np.testing.assert_array_equal(found(grid[off]), (np.abs(grid[off]) < 0.5).all(axis=1))


def test_open_edges() -> None:
    assert open_edges(box().faces) == 0
    assert open_edges(box().faces[:-1]) == 3
    assert winding_of(Mesh(box().vertices, box().faces[:-2])) == 4
    assert isinstance(winding_of(split(box())), Winding)  # vertices at one place are one
    turned_face = np.concatenate([box().faces[:-1], box().faces[-1:, ::-1]])
    assert open_edges(turned_face) == 3


def test_volume_tells_inside_out() -> None:
    moved = box((1, 2, 3), (2, 4, 6))
    assert volume(moved.vertices, moved.faces) == pytest.approx(6)
    assert volume(moved.vertices, moved.faces[:, ::-1]) == pytest.approx(-6)


def test_marching_cubes_lies_half_way_between_cells() -> None:
    grid = np.zeros((4, 4, 4), bool)
    grid[1:3, 1:3, 1:3] = True  # cells over [-0.25, 0.25]^3, middles at 0.125 and 0.375: the surface at 0.25
    mesh = marched(grid)
    assert np.abs(mesh.vertices).max() == pytest.approx(0.25)
    assert winding_of(mesh)
    with pytest.raises(BadFile, match="no surface"):
        marched(grid & ~grid)


# pictures


def test_psnr() -> None:
    a = NOISE(0).random((20, 30, 3)) * 0.5
    assert psnr(a, a + 0.1) == pytest.approx(20)  # closed form: -10 log10(0.01)
    assert psnr(a, a) == MOST_PSNR
    mask = np.zeros((20, 30), bool)
    mask[:, :15] = True
    b = a + np.where(mask[..., None], 0.01, 0.1)
    assert psnr(a, b, mask) == pytest.approx(40)


def test_ssim_of_constant_pictures() -> None:  # closed form: no variance, only the means' term stays
    a, b = np.full((20, 20, 3), 0.4), np.full((20, 20, 3), 0.6)
    assert ssim(a, b) == pytest.approx((2 * 0.24 + 1e-4) / (0.16 + 0.36 + 1e-4), rel=1e-6)
    assert ssim(a, a) == pytest.approx(1)
    noise = NOISE(0).random((20, 20, 3))
    assert ssim(noise, 1 - noise) < 0  # contrast turned round
    with pytest.raises(InvalidOption, match="smaller than the window"):
        ssim(a[:8], b[:8])


# cameras


def camera(azimuth, elevation=20, distance=2.0) -> Camera:
    pose = turn_camera(float(azimuth), float(elevation), distance)
    return Camera(centred_intrinsics(64, 64), pose, 64, 64)


def test_pose_errors() -> None:
    truth = [camera(0), camera(90)]
    off = turn_camera(0.0, 20.0, 2.0)
    off[:3, :3] = rotation_about_axis(10) @ off[:3, :3]  # 10 degrees about the camera's own axis, where it stands
    off[:3, 3] = -off[:3, :3] @ centre(truth[0])
    found = pose_errors(truth, [Camera(truth[0].intrinsics, off, 64, 64), camera(90, distance=2.5)])
    np.testing.assert_allclose(found.rotation, [10, 0], atol=1e-6)
    np.testing.assert_allclose(found.translation, [0, 0.5], atol=1e-9)


def rotation_about_axis(degrees: float) -> np.ndarray:
    c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    return np.array([[c, -s, 0], [s, c, 0], [0, 0, 1.0]])


def test_relative_poses_do_not_know_the_world() -> None:
    truth = [camera(0), camera(70), camera(200, 40)]
    world = np.eye(4)
    world[:3, :3], world[:3, 3] = 3 * rotation_about_axis(50), [1, 2, 3]
    same = [Camera(c.intrinsics, c.camera_from_world @ world, 64, 64) for c in truth]
    found = relative_pose_errors(truth, same)
    assert len(found.rotation) == 3
    np.testing.assert_allclose([found.rotation, found.translation], 0, atol=1e-5)
    swapped = relative_pose_errors(truth[:2], truth[1::-1])
    np.testing.assert_allclose(
        swapped.rotation, 2 * pose_errors(truth[:1], truth[1:2]).rotation, rtol=1e-6
    )  # there instead of back


def test_area_under_accuracy() -> None:
    assert area_under_accuracy(np.array([0.5, 0.5]), 30) == 1
    assert area_under_accuracy(np.array([100.0]), 30) == 0
    assert area_under_accuracy(np.array([15.5]), 30) == pytest.approx(15 / 30)  # thresholds 16 to 30


def test_add_s_forgives_symmetry() -> None:
    points = surface_samples(box(), 4000, NOISE(0)).points
    quarter = Camera(camera(0).intrinsics, camera(0).camera_from_world @ turned_world(90), 64, 64)
    assert add_s(points, camera(0), quarter) < 0.02  # a box turned by 90 degrees is itself, but for the samples
    eighth = Camera(camera(0).intrinsics, camera(0).camera_from_world @ turned_world(45), 64, 64)
    assert add_s(points, camera(0), eighth) > 0.03
    far = camera(0).camera_from_world.copy()
    far[2, 3] += 5
    assert add_s(points[:1], camera(0), Camera(camera(0).intrinsics, far, 64, 64)) == pytest.approx(5)
    scaled = Camera(camera(0).intrinsics, np.diag([3.0, 3, 3, 1]) @ camera(0).camera_from_world, 64, 64)
    assert add_s(points, camera(0), scaled) == pytest.approx(0, abs=1e-12)


def turned_world(degrees: float) -> np.ndarray:
    matrix = np.eye(4)
    matrix[:3, :3] = rotation_about_axis(degrees)
    return matrix


def test_turned_is_what_it_says() -> None:
    assert turned(box(), turned_world(45)).vertices.max() == pytest.approx(math.sqrt(0.5))
