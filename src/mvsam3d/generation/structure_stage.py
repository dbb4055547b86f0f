"""Stage 1: noise -> structure latents and the pose latents of every view.

All views move one shape; each keeps its own pose. Of the work of a step, what no view changes is done once: everything before the
first look at the condition, and the branch without condition. Attention is recorded in the run itself.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from operator import itemgetter
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from mvsam3d.generation.budget import MemoryBudget, ViewCost, in_chunks, rates_of
from mvsam3d.generation.fusion import fuse
from mvsam3d.generation.guidance import Guidance, guided, without_condition
from mvsam3d.generation.latents import combine, structure_noise
from mvsam3d.generation.reuse import Reuse
from mvsam3d.generation.running_weights import Recording, RunningWeights, Watch, patches
from mvsam3d.generation.schedule import network_time, shortcut_times
from mvsam3d.generation.solver import Method, step
from mvsam3d.generation.steering import Steering
from mvsam3d.generation.weighting import Evidence, PlainMean, Weighting, needs_visibility
from mvsam3d.models.structure_flow import Context, StructureFlow
from mvsam3d.nn.probe import AttentionProbe
from mvsam3d.types import Conditions, StructureLatents

Progress = Callable[[int, int], None]  # (steps done, steps in all)


@runtime_checkable
class StructureVelocity(Protocol):
    """The stage-1 network: what it says of dx/dt, by `models.structure_flow` or composed around it."""

    def __call__(
        self, x: StructureLatents, t: float, conditions: Conditions, *, probe: AttentionProbe | None = None
    ) -> StructureLatents:
        """Velocity of all latents, a row per row of the condition; a shape of one row stands for all rows."""


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
    recording: Recording = field(default_factory=lambda: Recording(block=9))
    """The attention that is measured for entropy weighting."""
    every: int = 1
    """The network is asked in every so many steps, and its answers are carried on between (`generation.reuse`)."""


def sample_structure(
    velocity: StructureVelocity,
    conditions: Conditions | Sequence[Conditions],
    latents: tuple[int, int],
    config: StructureSampling,
    noise: torch.Generator,
    *,
    steering: Steering | None = None,
    watch: Watch | None = None,
    progress: Progress | None = None,
) -> StructureLatents:
    """Sample the latents that all views agree on, and the pose latents of each view.

    Args:
        velocity: the network.
        conditions: a row of tokens for each view; or several of them, evaluated one after the other (`budget.in_chunks`).
        latents: number and channels of the structure latent's tokens.
        config: steps, guidance, weighting.
        noise: CPU generator; one draw serves all views.
        steering: what a shape that is known beforehand does to start and velocity.
        watch: observers.
        progress: told after each step.
    Returns: one row of structure, a row of each pose latent per view.
    Raises: InvalidOption: no step, or a floor that the views cannot all have.
    """
    assert not needs_visibility(config.weighting), "stage 1 has no voxels yet that cameras could see"
    chunks = (conditions,) if isinstance(conditions, Conditions) else tuple(conditions)
    views, device = sum(len(chunk.tokens) for chunk in chunks), chunks[0].tokens.device
    watch = watch or Watch()
    start = combine(lambda latent: latent * config.noise_scale, structure_noise(*latents, noise, device=device))
    if watch.start is not None:
        watch.start(start)
    steering = steering or Steering()
    x = _with_poses(steering.begun(start), lambda pose: pose.expand(views, *pose.shape[1:]))
    running = RunningWeights(views, config.weighting, config.recording, patches(chunks[0]), Evidence(), watch)
    nothing = without_condition(replace(chunks[0], tokens=chunks[0].tokens[:1]))

    def conditional(x: StructureLatents, t: float) -> StructureLatents:
        probe = running.probe()
        rows = [velocity(part, t, chunk, probe=probe) for part, chunk in zip(_parts(x, chunks), chunks, strict=True)]
        return agreed(combine(lambda *latents: torch.cat(latents), *rows), running.evaluated())

    def unconditional(x: StructureLatents, t: float) -> StructureLatents:
        return velocity(x, t, nothing)

    shared = guided(conditional, unconditional, config.guidance)
    if config.every != 1:
        shared = Reuse(shared, config.steps, config.every)
    shared = steering.corrected(shared)
    for done, (t, t_next) in enumerate(pairwise(steering.times(shortcut_times(config.steps, config.rescale_t)))):
        running.begin(done)
        x = step(shared, x, t, t_next, config.method)
        if progress is not None:
            progress(done + 1, config.steps)
    return x


def _with_poses(latents: StructureLatents, change: Callable[[Tensor], Tensor]) -> StructureLatents:
    """The same shape, the pose latents changed."""
    return StructureLatents(latents.shape, *(change(pose) for name, pose in vars(latents).items() if name != "shape"))


def _parts(x: StructureLatents, chunks: Sequence[Conditions]) -> list[StructureLatents]:
    """One shape and the poses of each chunk's views."""
    parts, first = [], 0
    for chunk in chunks:
        rows = slice(first, first + len(chunk.tokens))
        parts.append(_with_poses(x, itemgetter(rows)))
        first = rows.stop
    return parts


def agreed(velocity: StructureLatents, weights: Float[Tensor, "view latent"]) -> StructureLatents:
    """The views' structure velocities fused to one row; every view keeps its own pose."""
    rows = [replace(velocity, shape=row) for row in torch.split(velocity.shape, 1)]
    return replace(velocity, shape=fuse(rows, weights.to(velocity.shape.device)).shape)


def network_velocity(
    network: Callable[..., StructureLatents], *, predicts_data: bool = False, step_size: float | None = None
) -> StructureVelocity:
    """A structure flow as a velocity: of the public kind, or of one trained to say where the path ends.

    For a network that predicts the data x1, the velocity at x_t is (x1 - x_t) / (1 - t).

    Args:
        network: the flow.
        predicts_data: what it puts out.
        step_size: what a network with a step embedding is told, in [0, 1]: 0 in flow mode; None for networks without.
    """

    def velocity(
        x: StructureLatents, t: float, conditions: Conditions, *, probe: AttentionProbe | None = None
    ) -> StructureLatents:
        device = x.shape.device
        d = None if step_size is None else torch.full((1,), network_time(step_size), device=device)
        time = torch.full((1,), network_time(t), device=device)
        out = network(x, time, Context(conditions.tokens, conditions.kept), d, probe=probe)
        return combine(lambda end, now: (end - now) / (1 - t), out, x) if predicts_data else out

    return velocity


def view_chunks(
    network: StructureFlow, conditions: Conditions, config: StructureSampling, budget: MemoryBudget
) -> tuple[Conditions, ...]:
    """The views as `sample_structure` evaluates them: together while the memory lasts, keys and values kept likewise."""
    once = config.steps == 1 and config.method == "euler"
    return in_chunks(conditions, view_cost(network, conditions), budget, None if once else network.keys_values)


def view_cost(network: StructureFlow, conditions: Conditions) -> ViewCost:
    """What a view takes: activations by measured rates, and keys and values of all blocks."""
    size, tokens = network.config, conditions.tokens
    activations = size.grid**3 * size.width * rates_of(tokens.dtype).structure
    return ViewCost(int(activations), 2 * tokens.shape[1] * size.width * size.blocks * tokens.element_size())
