"""Whether a CPU is worth half precision, by given times."""

from collections.abc import Iterator

import pytest
import torch

from mvsam3d.nn import precision


@pytest.fixture(autouse=True)
def forgotten() -> Iterator[None]:
    precision.bf16_gain.cache_clear()
    yield
    precision.bf16_gain.cache_clear()


def timed(monkeypatch: pytest.MonkeyPatch, full: list[float], half: list[float]) -> list[torch.dtype]:
    """Products take these seconds, in turn; what was multiplied is noted."""
    asked: list[torch.dtype] = []
    left = {torch.float32: iter(full), torch.bfloat16: iter(half)}

    def seconds(a: torch.Tensor, b: torch.Tensor) -> float:
        assert a.dtype == b.dtype
        asked.append(a.dtype)
        return next(left[a.dtype])

    monkeypatch.setattr(precision, "_seconds", seconds)
    return asked


def test_the_gain_is_of_the_best_times(monkeypatch: pytest.MonkeyPatch) -> None:
    timed(monkeypatch, [9.0, 4.0, 3.0, 5.0, 4.0], [8.0, 2.0, 1.5, 3.0, 2.0, 2.0])
    assert precision.bf16_gain() == 2.0


def test_a_cpu_without_units_is_asked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = timed(monkeypatch, [1.0] * 5, [40.0])
    assert precision.bf16_gain() == 1 / 40
    assert asked.count(torch.bfloat16) == 1
    assert precision.bf16_gain() == 1 / 40  # and not again in this process
    assert asked.count(torch.float32) == 5
