import math

import numpy as np
import pytest
import torch

from mvsam3d.rendering.splats import BLUR, MOST_ALPHA, OPAQUE, SH_DC, render_splats, render_splats_plain
from mvsam3d.types import GaussianCloud

INTRINSICS = np.array([[60.0, 0, 24], [0, 50, 20], [0, 0, 1]])


def cloud(n: int, seed: int = 0, spread: float = 0.3) -> GaussianCloud:
    g = torch.Generator().manual_seed(seed)
    return GaussianCloud(
        means=torch.randn(n, 3, generator=g) * spread,
        scales=torch.rand(n, 3, generator=g) * 0.08 + 0.005,
        rotations=torch.randn(n, 4, generator=g),
        opacities=torch.rand(n, generator=g),
        sh_dc=torch.randn(n, 3, generator=g),
    )


def pose(scale: float = 1.0) -> np.ndarray:
    q, _ = np.linalg.qr(np.random.default_rng(3).normal(size=(3, 3)))
    camera_from_object = np.eye(4)
    camera_from_object[:3, :3] = scale * q * np.sign(np.linalg.det(q))
    camera_from_object[:3, 3] = [0.1, -0.05, 2.0]
    return camera_from_object


def one(
    opacity: float, scales: tuple[float, float, float], mean: tuple[float, float, float] = (0, 0, 0)
) -> GaussianCloud:
    return GaussianCloud(
        torch.tensor([mean], dtype=torch.float32),
        torch.tensor([scales]),
        torch.tensor([[2.0, 0, 0, 0]]),  # not normalised
        torch.tensor([opacity]),
        torch.tensor([[1.0, 0.0, -1.0]]),
    )


def test_one_gaussian() -> None:  # closed form: on the axis, EWA is exact: variance (f s / z)^2 + BLUR
    away = np.eye(4)
    away[2, 3] = 2.0
    rgb, alpha = render_splats(one(0.8, (0.1, 0.2, 0.3)), INTRINSICS, away, 48, 40, background=(0.0, 0.0, 0.0))
    v, u = np.indices((40, 48)) + 0.5
    xx, yy = (60 * 0.1 / 2) ** 2 + BLUR, (50 * 0.2 / 2) ** 2 + BLUR
    expected = 0.8 * np.exp(-((u - 24) ** 2 / xx + (v - 20) ** 2 / yy) / 2)
    expected[expected < 1 / 255] = 0
    np.testing.assert_allclose(alpha, expected, atol=1e-6)  # float32
    colour = np.maximum(0.5 + SH_DC * np.array([1.0, 0.0, -1.0]), 0)
    np.testing.assert_allclose(rgb, expected[..., None] * colour, atol=1e-6)


def test_the_nearer_hides_the_farther() -> None:  # closed form at the common centre
    near, far = one(0.6, (0.1, 0.1, 0.1), (0, 0, -0.5)), one(0.9, (0.1, 0.1, 0.1), (0, 0, 0.5))
    both = GaussianCloud(*(torch.cat([getattr(c, f) for c in (far, near)]) for f in GaussianCloud.__dataclass_fields__))
    away = np.eye(4)
    away[:3, 3] = [0, 0, 2.0]
    k = np.array([[60.0, 0, 24.5], [0, 60, 20.5], [0, 0, 1]])
    both.sh_dc[0], both.sh_dc[1] = torch.tensor([1.0, 0, 0]), torch.tensor([0, 1.0, 0])
    rgb, alpha = render_splats(both, k, away, 48, 40, background=(0.0, 0.0, 0.0))
    lit = 0.5 + SH_DC
    np.testing.assert_allclose(rgb[20, 24], [0.6 * 0.5 + 0.36 * lit, 0.6 * lit + 0.36 * 0.5, 0.48], atol=1e-6)
    assert alpha[20, 24] == pytest.approx(1 - 0.4 * 0.1, abs=1e-6)


@pytest.mark.parametrize(("n", "seed", "scale", "spread"), [(1, 0, 1.0, 0.3), (60, 1, 1.0, 0.3), (300, 2, 1.7, 0.6)])
def test_tiles_agree_with_the_plain_twin(n: int, seed: int, scale: float, spread: float) -> None:
    gaussians, camera_from_object = cloud(n, seed, spread), pose(scale)
    k = INTRINSICS.copy()
    k[0, 1] = 2.0  # skew
    fast_rgb, fast_alpha = render_splats(gaussians, k, camera_from_object, 45, 37, background=(0.2, 0.5, 0.9))
    double = GaussianCloud(*(getattr(gaussians, f).double() for f in GaussianCloud.__dataclass_fields__))
    rgb, alpha = render_splats_plain(
        double, torch.tensor(k), torch.tensor(camera_from_object), 45, 37, background=(0.2, 0.5, 0.9)
    )
    # The fast one stops when OPAQUE is left to come; colours reach about 1.5.
    np.testing.assert_allclose(fast_rgb, rgb.numpy(), atol=2 * OPAQUE)
    np.testing.assert_allclose(fast_alpha, alpha.numpy(), atol=OPAQUE)


def test_behind_the_camera_and_empty() -> None:
    behind = one(0.9, (0.1, 0.1, 0.1), (0, 0, -3.0))
    away = np.eye(4)
    away[2, 3] = 2.0
    rgb, alpha = render_splats(behind, INTRINSICS, away, 20, 20)
    assert (rgb == 1).all()
    assert (alpha == 0).all()


def test_a_wall_of_opaque_gaussians() -> None:
    n = 4000
    g = torch.Generator().manual_seed(0)
    means = torch.cat([torch.rand(n, 2, generator=g) * 6 - 3, torch.zeros(n, 1)], dim=1)
    wall = GaussianCloud(
        means,
        torch.full((n, 3), 0.2),
        torch.tensor([[1.0, 0, 0, 0]]).repeat(n, 1),
        torch.full((n,), 1.0),
        torch.zeros(n, 3),
    )
    away = np.eye(4)
    away[2, 3] = 2.0
    rgb, alpha = render_splats(wall, INTRINSICS, away, 48, 40)
    np.testing.assert_allclose(rgb, 0.5, atol=OPAQUE)  # white comes through by OPAQUE at most
    assert alpha.min() >= 1 - OPAQUE
    assert MOST_ALPHA < 1


def test_plain_twin_has_gradients() -> None:
    gaussians = cloud(20)
    values = [getattr(gaussians, f).double().requires_grad_() for f in GaussianCloud.__dataclass_fields__]
    k, m = torch.tensor(INTRINSICS), torch.tensor(pose())
    rgb, _ = render_splats_plain(GaussianCloud(*values), k, m, 24, 20)
    rgb.square().mean().backward()
    for value in values:
        assert value.grad is not None
        assert torch.isfinite(value.grad).all()
        assert math.sqrt(value.grad.square().sum()) > 0
