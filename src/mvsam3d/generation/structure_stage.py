"""Stage 1: noise -> structure latents and the pose latents of every view."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from mvsam3d.generation.fusion import fuse
from mvsam3d.generation.guidance import Guidance, guided, without_condition
from mvsam3d.generation.latents import combine, structure_noise
from mvsam3d.generation.schedule import network_time, shortcut_times
from mvsam3d.generation.solver import Method, states
from mvsam3d.generation.weighting import (
    Evidence,
    PlainMean,
    Weighting,
    mean_weights,
    needs_entropy,
    needs_visibility,
    view_weights,
)
from mvsam3d.nn.probe import AttentionProbe, EntropyProbe
from mvsam3d.types import Conditions, StructureLatents

Progress = Callable[[int, int], None]  # (steps done, steps in all)


@runtime_checkable
class StructureVelocity(Protocol):
    """The stage-1 network: what it says of dx/dt, by `models.structure_flow` or composed around it."""

    def __call__(
        self, x: StructureLatents, t: float, conditions: Conditions, *, probe: AttentionProbe | None = None
    ) -> StructureLatents:
        """Velocity of all latents, a row per view."""


@dataclass(frozen=True)
class StructureSampling:
    """How stage 1 is sampled."""

    steps: int = 50
    """Steps from noise to data."""
    rescale_t: float = 3.0
    """Above 1: more of the steps near the noise."""
    guidance: Guidance = field(default_factory=Guidance)
    method: Method = "euler"
    noise_scale: float = 1.0
    """Of the start: 1 samples; 0 starts from the noise's mean, so that one step gives the mean of all that fits the photos."""
    weighting: Weighting = field(default_factory=PlainMean)
    """How much each view counts at each latent."""
    entropy_block: int = 9
    """Transformer block whose attention is measured for entropy weighting, from 0."""


def sample_structure(
    velocity: StructureVelocity,
    conditions: Conditions,
    latents: tuple[int, int],
    config: StructureSampling,
    noise: torch.Generator,
    *,
    progress: Progress | None = None,
) -> StructureLatents:
    """Sample the latents that all views agree on, and the pose latents of each view.

    Args:
        velocity: the network.
        conditions: a row of tokens for each view.
        latents: number and channels of the structure latent's tokens.
        config: steps, guidance, weighting.
        noise: CPU generator; one draw serves all views.
        progress: told after each step.
    Returns: a row per view; the structure latent is the same in all rows.
    Raises: InvalidOption: no step, or a floor that the views cannot all have.
    """
    views, device = len(conditions.tokens), conditions.tokens.device
    start = combine(lambda latent: latent * config.noise_scale, structure_noise(*latents, noise, device=device))
    x = combine(lambda latent: latent.expand(views, *latent.shape[1:]), start)
    weights = structure_weights(velocity, conditions, x, config)
    unconditional = without_condition(conditions)

    def shared(x: StructureLatents, t: float) -> StructureLatents:
        each = guided(
            lambda x, t: velocity(x, t, conditions), lambda x, t: velocity(x, t, unconditional), config.guidance
        )
        return agreed(each(x, t), weights)

    times = shortcut_times(config.steps, config.rescale_t)
    for done, state in enumerate(states(shared, x, times, config.method), 1):
        x = state
        if progress is not None:
            progress(done, config.steps)
    return x


def agreed(velocity: StructureLatents, weights: Float[Tensor, "view latent"]) -> StructureLatents:
    """The views' structure velocities fused, the same in every row; every view keeps its own pose."""
    rows = [combine(lambda latent, i=i: latent[i : i + 1], velocity) for i in range(len(weights))]
    return replace(velocity, shape=fuse(rows, weights).shape.expand_as(velocity.shape))


def structure_weights(
    velocity: StructureVelocity, conditions: Conditions, x: StructureLatents, config: StructureSampling
) -> Float[Tensor, "view latent"]:
    """Weights of the views at the latents, from the attention at the noise if the weighting asks for it."""
    if isinstance(config.weighting, PlainMean) or len(conditions.tokens) == 1:
        return mean_weights(len(conditions.tokens)).to(conditions.tokens)
    assert not needs_visibility(config.weighting), "stage 1 has no voxels yet that cameras could see"
    evidence = Evidence()
    if needs_entropy(config.weighting):
        probe = EntropyProbe(config.entropy_block, patches(conditions))
        velocity(x, 0.0, conditions, probe=probe)
        evidence = Evidence(probe.entropy)
    return view_weights(evidence, config.weighting)


def patches(conditions: Conditions) -> slice:
    """The patch tokens of the first input, which is each row's own cropped photo: without class token and registers."""
    span = conditions.spans[0]
    return slice(span.start + span.prefix, span.stop)


def network_velocity(network: Callable[..., StructureLatents], *, predicts_data: bool = False) -> StructureVelocity:
    """A structure flow as a velocity: of the public kind, or of one trained to say where the path ends.

    For a network that predicts the data x1, the velocity at x_t is (x1 - x_t) / (1 - t).
    """

    def velocity(
        x: StructureLatents, t: float, conditions: Conditions, *, probe: AttentionProbe | None = None
    ) -> StructureLatents:
        time = torch.full((len(x.shape),), network_time(t), device=x.shape.device)
        out = network(x, time, cond=conditions.tokens, probe=probe)
        return combine(lambda end, now: (end - now) / (1 - t), out, x) if predicts_data else out

    return velocity
