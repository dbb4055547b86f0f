import math

import pytest
import torch

from mvsam3d.generation.latents import PUBLIC_NAMES, PerLatent, combine, combine_by, slat_noise, structure_noise
from mvsam3d.generation.solver import Method, solve, states
from mvsam3d.types import StructureLatents
from tests.parity import fixture

ORDER: dict[Method, int] = {"euler": 1, "midpoint": 2, "rk4": 4}


def noise(seed: int = 0, batch: int = 1) -> StructureLatents:
    return structure_noise(8, 4, torch.Generator().manual_seed(seed), batch=batch)


def growth(x: torch.Tensor, t: float) -> torch.Tensor:
    return (1 + t) * x  # solution x0 exp(t + t²/2)


@pytest.mark.parametrize(("method", "order"), ORDER.items())
def test_order_of_each_method(method: Method, order: int) -> None:  # halving the steps divides the error by 2^order
    start = torch.ones(1, dtype=torch.float64)
    errors = [abs(float(solve(growth, start, [i / n for i in range(n + 1)], method)) - math.exp(1.5)) for n in (16, 32)]
    assert errors[0] / errors[1] == pytest.approx(2**order, rel=0.15)


@pytest.mark.parametrize("method", ORDER)
def test_straight_lines_are_exact(method: Method) -> None:
    x0, x1 = noise(0), noise(1)
    line = combine(lambda a, b: b - a, x0, x1)
    end = solve(lambda x, t: line, x0, [0.0, 0.1, 0.7, 1.0], method)
    combine(lambda a, b: torch.testing.assert_close(a, b, rtol=0, atol=1e-6) or a, end, x1)  # float32 rounding


def test_states_end_where_solve_ends() -> None:
    x, times = torch.randn(2, 3), [0.0, 0.3, 1.0]
    path = list(states(growth, x, times))
    assert len(path) == 2
    assert torch.equal(path[-1], solve(growth, x, times))


def test_numbers_meet_their_latents() -> None:
    weights = PerLatent(shape=1.0, rotation_6d=2.0, translation=3.0, scale=4.0, translation_scale=5.0)
    x = noise()
    scaled = combine_by(lambda w, a: w * a, weights, x)
    assert torch.equal(scaled.shape, x.shape)
    assert torch.equal(scaled.rotation_6d, 2 * x.rotation_6d)
    assert torch.equal(scaled.translation_scale, 5 * x.translation_scale)


def test_recorded_noise_order() -> None:
    f = fixture("stage1", "shortcut_sampling")
    assert list(PUBLIC_NAMES) == f.meta["noise_order"] == sorted(PUBLIC_NAMES)
    tokens, channels = f.inputs["noise/shape"].shape[1:]
    drawn = structure_noise(tokens, channels, torch.Generator().manual_seed(f.meta["noise_seed"]))
    for public, ours in PUBLIC_NAMES.items():
        assert torch.equal(getattr(drawn, ours), f.inputs[f"noise/{public}"])


def test_same_seed_same_noise() -> None:
    first, second = (slat_noise(5, 8, torch.Generator().manual_seed(3)) for _ in range(2))
    assert torch.equal(first, second)
    assert first.shape == (1, 5, 8)
