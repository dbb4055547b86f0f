import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from mvsam3d.meshing.cleanup import boundary_loops, components
from mvsam3d.meshing.level_surface import level_surface
from mvsam3d.types import Mesh

CELLS = 32


def middles() -> np.ndarray:
    return np.stack(np.meshgrid(*[(np.arange(CELLS) + 0.5) / CELLS - 0.5] * 3, indexing="ij"), -1)


def volume(mesh: Mesh) -> float:
    """By the divergence theorem: negative if faces are wound inward."""
    a, b, c = (mesh.vertices[mesh.faces[:, i]].astype(float) for i in range(3))
    return float(np.einsum("fi,fi->f", a, np.cross(b, c)).sum() / 6)


def test_a_ball_closed_form() -> None:
    ball = level_surface(20 * (0.3 - np.linalg.norm(middles() - [0.05, 0, -0.02], axis=-1)))
    assert np.linalg.norm(ball.vertices - [0.05, 0, -0.02], axis=1) == pytest.approx(0.3, abs=0.05 / CELLS)
    assert boundary_loops(ball.faces) == []
    assert volume(ball) == pytest.approx(4 / 3 * np.pi * 0.3**3, rel=0.02)  # flat faces lie inside


def test_what_fills_the_grid_ends_with_it() -> None:
    block = level_surface(np.full((CELLS,) * 3, 7.0))
    assert np.abs(block.vertices).max() == pytest.approx(0.5, abs=1e-5)
    assert boundary_loops(block.faces) == []
    assert volume(block) == pytest.approx(1, rel=0.01)


def test_a_plate_of_one_cell_in_any_position_stays_whole() -> None:
    """Law: what is positive at the middle of a cell is inside."""
    turn = Rotation.from_euler("xyz", [20, 30, 10], degrees=True).as_matrix()
    x, y, z = np.moveaxis(middles() @ turn, -1, 0)
    solid = (np.abs(x) < 0.9 / CELLS) & (np.abs(y) < 0.3) & (np.abs(z) < 0.3)
    plate = level_surface(np.where(solid, 1.0, -1.0))
    assert boundary_loops(plate.faces) == []
    assert len(np.unique(components(plate.faces, len(plate.vertices)))) == 1
    assert volume(plate) == pytest.approx(solid.mean(), rel=0.1)
