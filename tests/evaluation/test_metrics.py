import math

import pytest
import torch

from mvsam3d.evaluation.metrics import filled, filled_iou, score


def shell(side: int = 6, resolution: int = 8) -> torch.Tensor:
    grid = torch.zeros(1, resolution, resolution, resolution, dtype=torch.bool)
    grid[:, :side, :side, :side] = True  # reaches the border of the grid
    grid[:, 1 : side - 1, 1 : side - 1, 1 : side - 1] = False
    return grid


def test_a_closed_shell_is_filled_and_an_open_one_is_not() -> None:
    assert filled(shell()).sum() == 6**3
    opened = shell()
    opened[:, 0, 2, 2] = False  # a hole in the wall at the border of the grid: outside begins behind it
    torch.testing.assert_close(filled(opened), opened)


def test_a_gap_at_an_edge_does_not_open_a_shell() -> None:  # closed to paths through faces, though corners touch
    gap = shell()
    gap[:, 0, 0, 2] = False
    assert filled(gap).sum() == 6**3 - 1


def test_a_shell_is_worth_its_solid() -> None:
    scores = filled_iou(shell(), filled(shell()))
    assert scores.solid.item() == 1
    assert scores.surface.item() == 1


def test_score() -> None:  # closed form: deviations 1, 0, 1; variance 2 / (3 - 1), over 3 objects
    result = score(torch.tensor([1.0, 2.0, 3.0]))
    assert result.mean == 2
    assert result.error == pytest.approx(1 / math.sqrt(3))
    assert score(torch.tensor([1.0])).error is None
