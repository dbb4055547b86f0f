from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from mvsam3d.generation.latents import structure_noise
from mvsam3d.generation.solver import solve
from mvsam3d.generation.steering import Steering, climbed, constant, noised, pulled
from mvsam3d.types import StructureLatents

TOKENS, CHANNELS = 6, 3
NOISE = structure_noise(TOKENS, CHANNELS, torch.Generator().manual_seed(0))
KNOWN = torch.randn(1, TOKENS, CHANNELS, generator=torch.Generator().manual_seed(1))
END = replace(NOISE, shape=torch.randn(1, TOKENS, CHANNELS, generator=torch.Generator().manual_seed(2)))


def straight(x: StructureLatents, t: float) -> StructureLatents:
    """A model that is sure of its end."""
    return StructureLatents(**{name: (getattr(END, name) - value) / (1 - t) for name, value in vars(x).items()})


def test_the_end_is_pulled_by_the_share() -> None:  # closed form: a single step ends at (1 - s) end + s known
    end = solve(pulled(straight, KNOWN, constant(0.3)), NOISE, [0.0, 1.0])
    torch.testing.assert_close(end.shape, 0.7 * END.shape + 0.3 * KNOWN)
    torch.testing.assert_close(end.scale, END.scale)  # poses are left alone


def test_a_full_pull_ends_at_the_known_shape_in_any_number_of_steps() -> None:
    for times in ([0.0, 1.0], [0.0, 0.2, 0.5, 0.9, 1.0]):
        torch.testing.assert_close(solve(pulled(straight, KNOWN, constant(1.0)), NOISE, times).shape, KNOWN)


def test_what_is_pulled_early_only_is_the_models_own_at_last() -> None:
    end = solve(pulled(straight, KNOWN, constant(1.0, until=0.5)), NOISE, [0.0, 0.25, 0.6, 1.0])
    torch.testing.assert_close(end.shape, END.shape)


def test_a_noised_shape_lies_on_the_straight_path() -> None:
    assert torch.equal(noised(KNOWN, NOISE, 1.0).shape, KNOWN)
    assert torch.equal(noised(KNOWN, NOISE, 0.0).shape, NOISE.shape)
    start = Steering(KNOWN, 0.25).begun(NOISE)
    torch.testing.assert_close(start.shape, 0.75 * NOISE.shape + 0.25 * KNOWN)
    assert torch.equal(start.rotation_6d, NOISE.rotation_6d)
    assert Steering(KNOWN, 0.25).times([0.0, 0.5, 1.0]) == [0.25, 0.625, 1.0]
    assert Steering().begun(NOISE) is NOISE


def sums(latents: Tensor) -> Tensor:
    """A decoder whose cells are the sums of their tokens."""
    return latents.sum(-1).view(1, 2, 3)


def test_the_end_climbs_towards_what_is_known() -> None:
    """Closed form: the slope of the likelihood is chance - sigmoid(logit) at each channel of a token, scaled to the rate."""
    chance = torch.tensor([[[0.9, 0.1, 0.5], [0.2, 0.7, 1.0]]])
    slope = (chance - sums(END.shape).sigmoid()).reshape(1, TOKENS, 1).expand(-1, -1, CHANNELS)
    step = 0.1 * slope / slope.square().mean().sqrt()
    climb = partial(climbed, straight, sums, chance)
    end = solve(climb(constant(0.1)), NOISE, [0.0, 1.0])
    torch.testing.assert_close(end.shape, END.shape + step)
    torch.testing.assert_close(solve(climb(constant(0.0)), NOISE, [0.0, 1.0]).shape, END.shape)


def test_nothing_is_climbed_where_nothing_is_known() -> None:
    sure = replace(END, shape=torch.zeros_like(END.shape))

    def velocity(x: StructureLatents, t: float) -> StructureLatents:
        return replace(x, shape=(sure.shape - x.shape) / (1 - t))

    corrected = climbed(velocity, sums, torch.full((1, 2, 3), 0.5), constant(0.1))
    assert torch.equal(corrected(NOISE, 0.0).shape, velocity(NOISE, 0.0).shape)
