from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mvsam3d.geometry.rotations import matrix_from_quaternion
from mvsam3d.meshing.warp import Warp, displacements, gradients, refined, resting, warped, warped_cloud, warped_mesh
from mvsam3d.types import GaussianCloud, Mesh

LOW, HIGH = np.array([-0.5, -0.3, -0.2]), np.array([0.5, 0.3, 0.2])


def some_warp(seed: int = 0, amount: float = 0.03) -> Warp:
    warp = resting(LOW, HIGH, 0.15)
    return replace(warp, shifts=amount * np.random.default_rng(seed).normal(size=warp.shifts.shape))


def points(count: int = 200) -> np.ndarray:
    return np.random.default_rng(7).uniform(LOW, HIGH, (count, 3))


def covariances(cloud: GaussianCloud) -> np.ndarray:
    axes = matrix_from_quaternion(cloud.rotations) * cloud.scales[:, None]
    return (axes @ axes.transpose(1, 2)).numpy()


def some_cloud(count: int = 50) -> GaussianCloud:
    rng = torch.Generator().manual_seed(3)
    means = torch.from_numpy(points(count))
    scales = 0.001 + 0.01 * torch.rand(count, 3, generator=rng, dtype=torch.float64)
    rotations = torch.randn(count, 4, generator=rng, dtype=torch.float64)
    return GaussianCloud(means, scales, rotations, torch.rand(count), torch.rand(count, 3))


def test_a_field_at_rest_moves_nothing() -> None:
    warp, mesh = resting(LOW, HIGH, 0.15), Mesh(points().astype(np.float32), np.arange(6).reshape(2, 3))
    assert np.array_equal(warped_mesh(mesh, warp).vertices, mesh.vertices)
    np.testing.assert_allclose(covariances(warped_cloud(some_cloud(), warp)), covariances(some_cloud()), atol=1e-15)


def test_a_linear_field_comes_out_of_its_values_at_the_control_points() -> (
    None
):  # closed form: splines keep what is linear
    matrix, shift = np.array([[0.1, 0.2, 0.0], [0.0, -0.1, 0.3], [0.05, 0.0, 0.2]]), np.array([0.01, 0.02, 0.03])
    warp = resting(LOW, HIGH, 0.15)
    stand = warp.corner + (np.stack(np.indices(warp.shifts.shape[:3]), axis=-1) - 1) * warp.spacing
    warp = replace(warp, shifts=stand @ matrix.T + shift)
    np.testing.assert_allclose(displacements(warp, points()), points() @ matrix.T + shift, atol=1e-14)
    np.testing.assert_allclose(gradients(warp, points()), np.broadcast_to(matrix, (200, 3, 3)), atol=1e-13)
    far = np.array([[2.0, 0.0, 0.0]])  # beyond the lattice: as at its edge
    edge = np.array([[warp.corner[0] + 7 * warp.spacing, 0.0, 0.0]])
    np.testing.assert_allclose(displacements(warp, far), edge @ matrix.T + shift, atol=1e-14)
    np.testing.assert_allclose(gradients(warp, far)[0], matrix * [0, 1, 1], atol=1e-13)


def test_gradients_equal_differences() -> None:
    warp, step = some_warp(), 1e-6
    ahead = [(displacements(warp, points() + step * e) - displacements(warp, points() - step * e)) for e in np.eye(3)]
    np.testing.assert_allclose(gradients(warp, points()), np.stack(ahead, axis=-1) / (2 * step), atol=1e-7)


def test_a_finer_lattice_holds_the_same_field() -> None:
    warp = some_warp()
    finer = refined(warp)
    assert finer.spacing == warp.spacing / 2
    np.testing.assert_allclose(displacements(finer, points()), displacements(warp, points()), atol=1e-15)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**6), stretch=st.floats(0.5, 5.0))
def test_nothing_moves_farther_than_a_control_point(seed: int, stretch: float) -> None:
    warp = some_warp(seed)
    most = np.linalg.norm(warp.shifts, axis=-1).max()
    assert np.linalg.norm(displacements(warp, stretch * points()), axis=1).max() <= most * (1 + 1e-12)


def test_gaussians_go_where_their_surroundings_go() -> None:
    """The pushed-forward covariance is that of points one would draw from the Gaussian, pushed: here by differences."""
    warp, cloud = some_warp(), some_cloud()
    moved = warped_cloud(cloud, warp)
    means = cloud.means.numpy()
    np.testing.assert_allclose(moved.means.numpy(), warped(warp, means), atol=1e-14)
    step = 1e-6
    local = np.stack(
        [(warped(warp, means + step * e) - warped(warp, means - step * e)) / (2 * step) for e in np.eye(3)], -1
    )
    wanted = local @ covariances(cloud) @ local.transpose(0, 2, 1)
    np.testing.assert_allclose(covariances(moved), wanted, atol=1e-10)
    assert moved.sh_dc is cloud.sh_dc
    assert moved.opacities is cloud.opacities


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_types_stay(dtype: torch.dtype) -> None:
    cloud = some_cloud()
    cloud = replace(
        cloud, means=cloud.means.to(dtype), scales=cloud.scales.to(dtype), rotations=cloud.rotations.to(dtype)
    )
    moved = warped_cloud(cloud, some_warp())
    assert moved.means.dtype == moved.scales.dtype == moved.rotations.dtype == dtype
