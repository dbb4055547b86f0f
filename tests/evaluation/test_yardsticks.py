from pathlib import Path

import numpy as np
import pytest

from mvsam3d.evaluation import yardsticks
from mvsam3d.evaluation.yardsticks import mean_shapes
from tests.evaluation.toys import box, toy_shards


def line(cells: np.ndarray) -> np.ndarray:
    grid = np.zeros(64, bool)
    grid[cells] = True
    return grid.reshape(4, 4, 4)


@pytest.mark.parametrize("at_once", [3, 256])  # in parts as at once
def test_mean_shapes_of_two_classes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at_once: int) -> None:
    monkeypatch.setattr(yardsticks, "AT_ONCE", at_once)
    # Class 7: 9 of 20 cells each, every cell in 45 % of them. All cells fit with IoU .45, none with 0: cut below .45.
    loose = [line((np.arange(9) + i) % 20) for i in range(20)]
    # Class 2: the same cell always, 8 more in 45 %. Without them 55 % fit with IoU 1, with them 45 %: cut at .5.
    firm = [line(np.arange(9 if i < 9 else 1)) for i in range(20)]
    shards = toy_shards(tmp_path, "generated", loose + firm, [7] * 20 + [2] * 20, [0] * 40, views=1)
    rows = np.arange(40)
    means = mean_shapes(shards, rows, shards.rows(rows, "class").astype(np.int64), 4)
    assert sorted(means) == [2, 7]
    np.testing.assert_array_equal(means[7].numpy(), line(np.arange(20)))
    np.testing.assert_array_equal(means[2].numpy(), line(np.arange(1)))


def test_mean_of_some_rows_only(tmp_path: Path) -> None:
    shards = toy_shards(tmp_path, "generated", [box(1, 4), box(2, 4), box(3, 4)], [0, 0, 0], [0] * 3, views=1)
    means = mean_shapes(shards, np.array([1]), np.array([5]), 4)
    np.testing.assert_array_equal(means[5].numpy(), box(2, 4))
