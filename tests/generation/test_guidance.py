import pytest
import torch

from mvsam3d.generation.guidance import (
    Guidance,
    PointmapGuidance,
    guided,
    guided_by_pointmap,
    without_condition,
)
from mvsam3d.generation.latents import PerLatent
from mvsam3d.types import Conditions, Span, StructureLatents
from tests.generation.test_solver import noise

C, U, N = torch.tensor([[3.0]]), torch.tensor([[1.0]]), torch.tensor([[2.0]])


def test_formula() -> None:  # closed form: (1 + 7) 3 - 7 * 1
    assert guided(lambda x, t: C, lambda x, t: U, Guidance(7.0))(C, 0.2).item() == 17


@pytest.mark.parametrize(
    ("interval", "t", "active"),
    [
        ((0.0, 500.0), 0.0, True),
        ((0.0, 500.0), 0.5, True),
        ((0.0, 500.0), 0.5001, False),
        (None, 0.1, False),
        ((0.0, 300.0), 0.3, True),
    ],
)
def test_interval_includes_its_ends(interval: tuple[float, float] | None, t: float, active: bool) -> None:
    how = Guidance(7.0, interval)
    assert how.active(t) == active
    assert guided(lambda x, t: C, lambda x, t: U, how)(C, t).item() == (17 if active else 3)


def test_switched_off_it_asks_the_network_once() -> None:
    calls: list[float] = []

    def unconditional(x: torch.Tensor, t: float) -> torch.Tensor:
        calls.append(t)
        return x

    none = PerLatent(shape=0.0, rotation_6d=0.0, translation=0.0, scale=0.0, translation_scale=-1.0)
    assert not Guidance(none).active(0.1)
    assert guided(lambda x, t: C, unconditional, Guidance(0.0))(C, 0.1) is C
    assert calls == []


def test_strength_per_latent() -> None:
    c, u = noise(0), noise(1)
    strengths = PerLatent(shape=7.0, rotation_6d=0.0, translation=1.5, scale=0.0, translation_scale=0.0)
    both = guided(lambda x, t: c, lambda x, t: u, Guidance(strengths))(c, 0.1)
    assert isinstance(both, StructureLatents)
    torch.testing.assert_close(both.shape, 8 * c.shape - 7 * u.shape)
    torch.testing.assert_close(both.translation, 2.5 * c.translation - 1.5 * u.translation)
    assert torch.equal(both.scale, c.scale)


def test_pointmap_guidance() -> None:  # closed form: 3 + 2 (3 - 2) + 5 (2 - 1); no point-map part: plain guidance
    velocities = (lambda x, t: C), (lambda x, t: N), (lambda x, t: U)
    assert guided_by_pointmap(*velocities, PointmapGuidance(5.0, 2.0))(C, 0.1).item() == 10
    assert guided_by_pointmap(*velocities, PointmapGuidance(5.0, 2.0))(C, 0.6).item() == 3
    plain = guided(velocities[0], velocities[2], Guidance(5.0))(C, 0.1)
    same = guided_by_pointmap(velocities[0], velocities[0], velocities[2], PointmapGuidance(5.0, 9.0))(C, 0.1)
    assert same.item() == plain.item()


def test_without_condition_is_one_token_of_zeros() -> None:
    conditions = Conditions(torch.randn(2, 4, 8), (Span("image", 0, 4, prefix=1),), kept=[1])
    dropped = without_condition(conditions)
    assert dropped.tokens.shape == (2, 1, 8)
    assert not dropped.tokens.any()
    assert (dropped.spans, dropped.kept) == ((), None)
