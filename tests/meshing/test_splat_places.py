import numpy as np
import pytest
import torch
import trimesh

from mvsam3d.meshing.splat_places import under_surface
from mvsam3d.types import GaussianCloud, Mesh


def test_gaussians_around_a_ball_lie_below_its_surface() -> None:
    """Closed form: below the nearest point by the mean of the three widths, from inside and from outside; all else is as it was."""
    ball = trimesh.creation.icosphere(subdivisions=5, radius=0.3)
    rng = np.random.default_rng(0)
    directions = rng.normal(size=(500, 3))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    means = torch.from_numpy(directions * rng.uniform(0.25, 0.35, (500, 1))).float()
    scales = torch.from_numpy(rng.uniform(0.002, 0.02, (500, 3))).float()
    turns, colours = torch.nn.functional.normalize(torch.randn(500, 4), dim=1), torch.rand(500, 3)
    cloud = GaussianCloud(means, scales, turns, torch.rand(500), colours)
    moved = under_surface(cloud, Mesh(ball.vertices, ball.faces))
    expected = 0.3 - scales.mean(1).numpy()
    assert np.linalg.norm(moved.means.numpy(), axis=1) == pytest.approx(expected, abs=1e-3)
    towards = (moved.means.numpy() * directions).sum(1) / np.linalg.norm(moved.means.numpy(), axis=1)
    assert towards.min() > np.cos(0.03)  # straight below, but for the 200,000 points' distance and the faces' slope
    for name in ("scales", "rotations", "opacities", "sh_dc"):
        assert torch.equal(getattr(moved, name), getattr(cloud, name))
    assert moved.means.dtype == means.dtype
