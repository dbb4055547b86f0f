import numpy as np
import pytest
import torch

from mvsam3d.rendering.splats import OPAQUE, SH_DC, render_splats, splat_weights
from mvsam3d.types import GaussianCloud


@pytest.mark.parametrize(("count", "share"), [(1, 1.0), (60, 1.0), (500, 0.3)])
def test_weights_times_colours_are_the_picture(count: int, share: float) -> None:  # twin: of `render_splats`
    g = torch.Generator().manual_seed(count)
    cloud = GaussianCloud(
        torch.randn(count, 3, generator=g) * 0.3,
        torch.rand(count, 3, generator=g) * 0.08 + 0.005,
        torch.randn(count, 4, generator=g),
        torch.rand(count, generator=g),
        torch.rand(count, 3, generator=g) - 0.5,
    )
    k, away = np.array([[60.0, 2, 24], [0, 50, 20], [0, 0, 1]]), np.eye(4)
    away[2, 3] = 2.0
    rgb, alpha = render_splats(cloud, k, away, 45, 37, background=(0.2, 0.5, 0.9))
    wanted = np.random.default_rng(0).uniform(size=(37, 45)) < share
    weights = splat_weights(cloud, k, away, wanted)
    assert weights.shape == (wanted.sum(), count)
    total = np.asarray(weights.sum(axis=1)).ravel()
    np.testing.assert_allclose(total, alpha[wanted], atol=1e-6)  # float32
    picture = weights @ (0.5 + SH_DC * cloud.sh_dc.numpy()) + (1 - total)[:, None] * np.array([0.2, 0.5, 0.9])
    np.testing.assert_allclose(picture, rgb[wanted], atol=1e-5)


def test_behind_an_opaque_one_nothing_counts() -> None:
    cloud = GaussianCloud(
        torch.tensor([[0.0, 0, 0], [0, 0, -0.2], [0, 0, -0.3]]),
        torch.full((3, 3), 0.5),
        torch.tensor([[1.0, 0, 0, 0]]).repeat(3, 1),
        torch.ones(3),
        torch.zeros(3, 3),
    )
    away = np.eye(4)
    away[2, 3] = 2.0
    k = np.array([[60.0, 0, 20.5], [0, 60, 20.5], [0, 0, 1]])
    wanted = np.zeros((40, 40), bool)
    wanted[20, 20] = True
    weights = splat_weights(cloud, k, away, wanted).toarray()[0]
    np.testing.assert_allclose(weights, [0.0, 0.0099, 0.99], atol=OPAQUE)
    assert weights[0] <= OPAQUE
