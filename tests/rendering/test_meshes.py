import numpy as np
import pytest
import trimesh

from mvsam3d.rendering.meshes import SHADE, corner_normals, rasterise, render_mesh, sample_texture
from mvsam3d.types import Mesh

INTRINSICS = np.array([[60.0, 0, 32], [0, 60, 24], [0, 0, 1]])
POSE = np.eye(4)
POSE[2, 3] = 3.0


def square(half: float, z: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    vertices = np.array([[-half, -half, z], [half, -half, z], [half, half, z], [-half, half, z]], np.float32)
    return vertices, np.array([[0, 1, 2], [0, 2, 3]])


def test_square_facing_the_camera() -> None:  # closed form: 0.5 at depth 3 is 10 pixels
    vertices, faces = square(0.5, 3.0)
    face_ids, shares, depth = rasterise(vertices, faces, INTRINSICS, 64, 48)
    expected = np.zeros((48, 64), bool)
    expected[14:34, 22:42] = True
    np.testing.assert_array_equal(face_ids >= 0, expected)
    np.testing.assert_allclose(depth[expected], 3.0, rtol=1e-7)
    assert np.isinf(depth[~expected]).all()
    np.testing.assert_allclose(shares[expected].sum(axis=1), 1.0, atol=1e-6)


def test_outline_of_a_ball() -> None:  # closed form: a ball on the axis shows a disk of f r / sqrt(d^2 - r^2)
    ball = trimesh.creation.icosphere(subdivisions=5, radius=1.0)
    k = np.array([[200.0, 0, 128], [0, 200, 128], [0, 0, 1]])
    face_ids, _, depth = rasterise(ball.vertices + np.array([0, 0, 4.0]), ball.faces, k, 256, 256)
    area = np.pi * 200**2 / (4.0**2 - 1)
    assert (face_ids >= 0).sum() == pytest.approx(area, rel=3e-3)  # facets lie inside the ball by 2e-4; pixel counts
    assert depth.min() == pytest.approx(3.0, abs=1e-3)


def test_perspective_agrees_with_rays_and_planes() -> (
    None
):  # twin: intersect each pixel's ray with the triangle's plane
    corners = np.array([[-1.0, -0.6, 1.5], [1.4, -0.2, 6.0], [-0.3, 1.0, 2.5]])
    k = np.array([[50.0, 3.0, 30], [0, 55, 26], [0, 0, 1]])  # skewed
    face_ids, shares, depth = rasterise(corners, np.array([[0, 1, 2]]), k, 64, 48)
    v, u = np.indices((48, 64)) + 0.5
    rays = np.stack([u, v, np.ones_like(u)], axis=-1) @ np.linalg.inv(k).T
    normal = np.cross(corners[1] - corners[0], corners[2] - corners[0])
    z = (normal @ corners[0]) / (rays @ normal)
    inner = np.linalg.solve(corners.T, (rays * z[..., None])[..., None])[..., 0]
    covered = (inner >= 0).all(axis=-1)
    assert 100 < covered.sum() < 2000
    np.testing.assert_array_equal(face_ids == 0, covered)
    np.testing.assert_allclose(depth[covered], z[covered], rtol=1e-6)  # float32
    np.testing.assert_allclose(shares[covered], inner[covered], atol=1e-6)


def test_neighbours_leave_no_gap_and_the_nearer_wins() -> None:
    rng = np.random.default_rng(0)
    grid = np.stack(np.meshgrid(np.linspace(-2, 2, 9), np.linspace(-2, 2, 9)), axis=-1).reshape(-1, 2)
    vertices = np.concatenate([grid + rng.uniform(-0.1, 0.1, grid.shape), rng.uniform(2, 3, (81, 1))], axis=1)
    cells = np.array([[r * 9 + c, r * 9 + c + 1, r * 9 + c + 10, r * 9 + c + 9] for r in range(8) for c in range(8)])
    faces = np.concatenate([cells[:, [0, 1, 2]], cells[:, [0, 2, 3]]])
    far, _ = square(9.0, 5.0)
    both = np.concatenate([faces, [[81, 82, 83], [81, 83, 84]]])
    face_ids, _, _ = rasterise(np.concatenate([vertices, far]), both, INTRINSICS, 64, 48)
    assert face_ids.max() < len(faces)  # the field covers the picture, so the far square shows nowhere
    assert (face_ids >= 0).all()


def test_a_floor_that_runs_under_and_behind_the_camera() -> None:
    floor = np.array([[-50.0, 1, -50], [50, 1, -50], [50, 1, 50], [-50, 1, 50]])
    face_ids, _, depth = rasterise(floor, np.array([[0, 1, 2], [0, 2, 3]]), INTRINSICS, 64, 48)
    rows = np.arange(48) + 0.5
    expected = np.where(rows > 24, 60 / np.maximum(rows - 24, 1e-9), np.inf)  # z = f y / (v - cy), y = 1
    expected[expected > 50] = np.inf
    assert (face_ids[expected < 50] >= 0).all()
    np.testing.assert_allclose(depth, np.broadcast_to(expected[:, None], (48, 64)), rtol=1e-6)


def test_texture_has_v_upward() -> None:
    texture = np.zeros((2, 2, 3), np.uint8)
    texture[0, 1] = 255  # upper right
    spots = np.array([[0.75, 0.75], [0.25, 0.75], [0.75, 0.25], [0.5, 0.5], [1.0, 1.0]])
    np.testing.assert_allclose(sample_texture(texture, spots)[:, 0], [1, 0, 0, 0.25, 1])
    np.testing.assert_allclose(sample_texture(texture, spots + 0.01, nearest=True)[:3, 0], [1, 0, 0])


def test_corner_normals_keep_creases() -> None:
    cube = trimesh.creation.box((1, 1, 1))
    flat = corner_normals(cube.vertices, cube.faces)
    np.testing.assert_allclose(flat, np.repeat(cube.face_normals[:, None], 3, axis=1), atol=1e-6)
    ball = trimesh.creation.icosphere(subdivisions=3)
    torn = ball.vertices[ball.faces].reshape(-1, 3)  # each face with vertices of its own, as at texture seams
    smooth = corner_normals(torn, np.arange(len(torn)).reshape(-1, 3))
    assert ((smooth.reshape(-1, 3) * torn).sum(axis=1) > 0.999).all()


def test_colours_of_a_mesh() -> None:
    vertices, faces = square(0.5)
    texture = np.zeros((4, 4, 3), np.uint8)
    texture[:2, :, 0], texture[2:, :, 1] = 255, 255  # upper half red, lower half green
    uv = vertices[:, :2] + np.float32(0.5)
    mesh = Mesh(vertices, faces, uv=uv, texture=texture)
    rgb, alpha, depth = render_mesh(mesh, INTRINSICS, POSE, 64, 48, shade=False, background=(0.0, 0.0, 1.0))
    assert (rgb.shape, alpha.shape, depth.shape) == ((48, 64, 3), (48, 64), (48, 64))
    np.testing.assert_allclose(rgb[16, 32], [0, 1, 0], atol=1e-6)  # v = 0 lies at y = -0.5: up in an OpenCV picture
    np.testing.assert_allclose(rgb[31, 32], [1, 0, 0], atol=1e-6)
    np.testing.assert_allclose(rgb[2, 2], [0, 0, 1])
    by_vertex = Mesh(vertices, faces, vertex_colours=np.broadcast_to(np.float32([0.2, 0.4, 0.6]), (4, 3)).copy())
    rgb, _, _ = render_mesh(by_vertex, INTRINSICS, POSE, 64, 48)
    np.testing.assert_allclose(rgb[24, 32], [0.2, 0.4, 0.6], rtol=2 * SHADE * 0.01)  # seen square on: hardly darker


def test_edges_are_blended() -> None:
    vertices, faces = square(0.5 * 10.5 / 10)  # ends amid the pixels
    mesh = Mesh(vertices, faces)
    _, alpha, _ = render_mesh(mesh, INTRINSICS, POSE, 64, 48, samples=4)
    assert alpha[24, 32] == 1
    assert alpha[24, 21] == pytest.approx(0.5)
    assert alpha[13, 21] == pytest.approx(0.25)


def test_a_similarity_scales_the_object() -> None:
    vertices, faces = square(0.25)
    doubled = POSE @ np.diag([2.0, 2.0, 2.0, 1.0])
    small = render_mesh(Mesh(vertices, faces), INTRINSICS, doubled, 64, 48)
    large = render_mesh(Mesh(2 * vertices, faces), INTRINSICS, POSE, 64, 48)
    for a, b in zip(small, large, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)
