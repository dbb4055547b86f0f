"""Losses of the two flows: flow matching, and ShortCut, which also teaches large steps to agree with small ones.

Time runs from 0 (noise) to 1 (data): x_t = (1 - t) x0 + t x1, velocity x1 - x0. Source: SAM 3D Objects; Frans et al.,
One Step Diffusion via Shortcut Models, 2024.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Generator, Tensor

from mvsam3d.generation.latents import PerLatent, State, combine, combine_by, terms

# (x_t, t, d, with condition) -> velocity; t and d in [0, 1], one per sample: the caller scales them by 1000
StepNetwork = Callable[[State, Tensor, Tensor, bool], State]

STRUCTURE_WEIGHTS = PerLatent(shape=1.0, rotation_6d=0.1, translation=1.0, scale=0.1, translation_scale=0.0)
"""Weights of the latents. The public model's last phase trained the pose alone: shape 0, the others as here."""

STRUCTURE_GUIDANCE = PerLatent(shape=2.0, rotation_6d=0.0, translation=0.0, scale=0.0, translation_scale=0.0)
"""Strength in guided targets: the shape only."""


@dataclass(frozen=True)
class ShortcutConfig:
    """How ShortCut training draws and weighs; the defaults are the public model's."""

    weights: float | PerLatent = STRUCTURE_WEIGHTS
    """Of the latents, in both parts of the loss."""
    consistency_weight: float = 1.0
    """Of the self-consistency part."""
    consistency_probability: float = 0.25
    """Chance that a batch trains self-consistency instead of flow matching."""
    guided_target_probability: float = 0.25
    """Chance that the targets of such a batch are guided."""
    guidance: float | PerLatent = STRUCTURE_GUIDANCE
    """Strength in guided targets."""
    drop_probability: float = 0.1
    """Chance that a batch is trained without condition."""
    finest: int = 7
    """Step sizes are 1, 1/2, ..., 1/2**finest."""


@dataclass(frozen=True)
class ShortcutDraws:
    """All that is random in one ShortCut loss, apart from the noise."""

    t: Float[Tensor, " batch"]
    d: Float[Tensor, " batch"]  # small step; 0 makes the sample one of flow matching
    guided: Bool[Tensor, " batch"]  # whose self-consistency target is guided
    with_condition: bool  # for the prediction; targets always know the condition


@dataclass(frozen=True)
class ShortcutLoss:
    """Total and its two parts."""

    total: Float[Tensor, ""]
    flow: Float[Tensor, ""]
    consistency: Float[Tensor, ""]


def lognormal_times(batch: int, noise: Generator, *, mean: float = -1.0, std: float = 1.0) -> Float[Tensor, " batch"]:
    """sigmoid of a normal: more training near the noise for a negative mean."""
    return torch.sigmoid(mean + std * torch.randn(batch, generator=noise))


def draw_shortcut(batch: int, config: ShortcutConfig, noise: Generator) -> ShortcutDraws:
    """Times, step sizes and coins of one batch; each coin falls for the whole batch."""
    consistency, guided, dropped = (
        chance > float(torch.rand((), generator=noise))
        for chance in (config.consistency_probability, config.guided_target_probability, config.drop_probability)
    )
    t = lognormal_times(batch, noise)
    sizes = 0.5 ** torch.randint(config.finest + 1, (batch,), generator=noise).float()
    d = sizes if consistency else torch.zeros(batch)
    return ShortcutDraws(t, d, torch.full((batch,), guided), with_condition=not dropped)


def between(x0: State, x1: State, t: Float[Tensor, " batch"]) -> State:
    """x_t on the straight line from noise x0 to data x1."""
    return combine(lambda a, b: (1 - _per_sample(t, a)) * a + _per_sample(t, a) * b, x0, x1)


def line_velocity(x0: State, x1: State) -> State:
    """The flow-matching target: velocity along that line."""
    return combine(lambda a, b: b - a, x0, x1)


def squared_error(predicted: State, target: State, weights: float | PerLatent = 1.0) -> Float[Tensor, ""]:
    """Sum over the latents of weight * mean squared difference."""
    return torch.stack(terms(lambda w, p, q: w * (p - q).square().mean(), weights, predicted, target)).sum()


def flow_matching_loss(
    velocity: Callable[[State, Tensor], State],
    x1: State,
    x0: State,
    t: Float[Tensor, " batch"],
    weights: float | PerLatent = 1.0,
) -> Float[Tensor, ""]:
    """Error of the velocity at x_t.

    Args:
        velocity: (x_t, t) -> velocity, t in [0, 1], one per sample.
        x1: data.
        x0: noise.
        t: times; see `lognormal_times`.
        weights: of the latents.
    """
    return squared_error(velocity(between(x0, x1, t), t), line_velocity(x0, x1), weights)


def shortcut_loss(
    network: StepNetwork[State],
    x1: State,
    x0: State,
    draws: ShortcutDraws,
    config: ShortcutConfig,
) -> ShortcutLoss:
    """Flow matching where d = 0; elsewhere a step of 2 d must equal two steps of d, with no gradient through those.

    Each part is the mean over its own samples, 0 without any.
    """
    x_t = between(x0, x1, draws.t)
    predicted = network(x_t, draws.t, 2 * draws.d, draws.with_condition)
    straight, small = draws.d == 0, draws.d > 0
    zero = draws.t.new_zeros(())
    flow, consistency = zero, zero
    if straight.any():
        target = line_velocity(_rows(x0, straight), _rows(x1, straight))
        flow = squared_error(_rows(predicted, straight), target, config.weights)
    if small.any():
        target = consistency_target(
            network, x_t, draws, config.guidance
        )  # of all: the network holds a condition for each
        consistency = squared_error(_rows(predicted, small), _rows(target, small), config.weights)
    return ShortcutLoss(flow + config.consistency_weight * consistency, flow, consistency)


@torch.no_grad()
def consistency_target(
    network: StepNetwork[State],
    x_t: State,
    draws: ShortcutDraws,
    guidance: float | PerLatent,
) -> State:
    """Mean velocity of two steps of size d; t + d may exceed 1, as in the public training."""

    def velocity(x: State, time: Tensor) -> State:
        conditional = network(x, time, draws.d, True)
        if not draws.guided.any():
            return conditional

        def push(s: float, c: Tensor, u: Tensor) -> Tensor:
            strength = s * _per_sample(draws.guided.to(c.dtype), c)
            return (1 + strength) * c - strength * u

        return combine_by(push, guidance, conditional, network(x, time, draws.d, False))

    first = velocity(x_t, draws.t)
    ahead = combine(lambda x, v: x + _per_sample(draws.d, x) * v, x_t, first)
    second = velocity(ahead, draws.t + draws.d)
    return combine(lambda a, b: (a + b) / 2, first, second)


def _per_sample(values: Float[Tensor, " batch"], like: Tensor) -> Tensor:
    return values.view(-1, *[1] * (like.dim() - 1))


def _rows(state: State, chosen: Bool[Tensor, " batch"]) -> State:
    return combine(lambda x: x[chosen], state)
