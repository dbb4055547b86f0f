"""Stage 2: noise on the active voxels -> structured latents."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from mvsam3d.generation.evidence import on_voxels, tokens_of
from mvsam3d.generation.fusion import fuse
from mvsam3d.generation.guidance import Guidance, guided, without_condition
from mvsam3d.generation.latents import slat_noise
from mvsam3d.generation.schedule import flow_matching_times, network_time
from mvsam3d.generation.solver import Method, states
from mvsam3d.generation.structure_stage import Progress, patches
from mvsam3d.generation.weighting import Evidence, PlainMean, Weighting, mean_weights, needs_entropy, view_weights
from mvsam3d.nn.probe import AttentionProbe, EntropyProbe
from mvsam3d.nn.sparse import SparseGrid, SparseTensor
from mvsam3d.types import Conditions, Slat, Voxels


@runtime_checkable
class SlatVelocity(Protocol):
    """The stage-2 network: what it says of dx/dt."""

    def __call__(
        self, x: SparseTensor, t: float, conditions: Conditions, *, probe: AttentionProbe | None = None
    ) -> SparseTensor:
        """Velocity at each voxel, an element per view."""


@dataclass(frozen=True)
class SlatSampling:
    """How stage 2 is sampled."""

    steps: int = 25
    rescale_t: float = 1.0
    guidance: Guidance = field(default_factory=lambda: Guidance(strength=1.0))
    method: Method = "euler"
    noise_scale: float = 1.0
    """Of the start: 1 samples; 0 starts from the noise's mean, so that one step gives the mean of all that fits the photos."""
    weighting: Weighting = field(default_factory=PlainMean)
    """How much each view counts at each voxel."""
    entropy_block: int = 6
    """Transformer block whose attention is measured for entropy weighting, from 0."""


@dataclass(frozen=True)
class SlatStatistics:
    """Mean and standard deviation of each channel of the latents: x * std + mean is what the decoders take."""

    mean: tuple[float, ...]
    std: tuple[float, ...]


def sample_slat(
    velocity: SlatVelocity,
    conditions: Conditions,
    voxels: Voxels,
    statistics: SlatStatistics,
    config: SlatSampling,
    noise: torch.Generator,
    *,
    visibility: Float[Tensor, "view token"] | None = None,
    progress: Progress | None = None,
) -> Slat:
    """Sample the structured latents that all views agree on.

    Args:
        velocity: the network.
        conditions: a row of tokens for each view.
        voxels: where.
        statistics: units of the result.
        config: steps, guidance, weighting.
        noise: CPU generator.
        visibility: of the voxels' tokens (`generation.evidence.visibility`), if the weighting asks for it.
        progress: told after each step.
    Raises: InvalidOption: no step, or a floor that the views cannot all have.
    """
    views, device = len(conditions.tokens), conditions.tokens.device
    grid = SparseGrid.batched([voxels.coords.to(device)] * views)  # its neighbour maps serve all steps and blocks
    unconditional = without_condition(conditions)
    each = guided(
        _on(grid, lambda x, t: velocity(x, t, conditions)),
        _on(grid, lambda x, t: velocity(x, t, unconditional)),
        config.guidance,
    )
    x = slat_noise(len(voxels.coords), len(statistics.mean), noise, device=device) * config.noise_scale
    weights = _weights(velocity, conditions, voxels, x, grid, config, visibility)

    def shared(x: Tensor, t: float) -> Tensor:
        joined: Tensor = fuse([row[None] for row in each(x.expand(views, -1, -1), t)], weights)
        return joined

    times = flow_matching_times(config.steps, config.rescale_t)
    for done, state in enumerate(states(shared, x, times, config.method), 1):
        x = state
        if progress is not None:
            progress(done, config.steps)
    mean, std = x.new_tensor(statistics.mean), x.new_tensor(statistics.std)
    return Slat(voxels, x[0] * std + mean)


Dense = Float[Tensor, "view voxel channel"]


def _on(grid: SparseGrid, velocity: Callable[[SparseTensor, float], SparseTensor]) -> Callable[[Tensor, float], Tensor]:
    """A velocity of sparse tensors as one of dense rows: all views have the same voxels."""

    def dense(x: Dense, t: float) -> Dense:
        out: Tensor = velocity(SparseTensor(x.flatten(0, 1), grid), t).feats.view_as(x)
        return out

    return dense


def _weights(
    velocity: SlatVelocity,
    conditions: Conditions,
    voxels: Voxels,
    x: Float[Tensor, "1 voxel channel"],
    grid: SparseGrid,
    config: SlatSampling,
    visibility: Float[Tensor, "view token"] | None,
) -> Float[Tensor, "view latent"]:
    views = len(conditions.tokens)
    if isinstance(config.weighting, PlainMean) or views == 1:
        return mean_weights(views).to(x)
    evidence = Evidence(visibility=None if visibility is None else visibility.to(x))
    if needs_entropy(config.weighting):
        probe = EntropyProbe(config.entropy_block, patches(conditions))
        velocity(SparseTensor(x.expand(views, -1, -1).flatten(0, 1), grid), 0.0, conditions, probe=probe)
        evidence = replace(evidence, entropy=probe.entropy)
    _, token = tokens_of(voxels)
    return on_voxels(view_weights(evidence, config.weighting), token.to(x.device))


def network_velocity(network: Callable[..., SparseTensor], *, predicts_data: bool = False) -> SlatVelocity:
    """A SLAT flow as a velocity: of the public kind, or of one trained to say where the path ends."""

    def velocity(
        x: SparseTensor, t: float, conditions: Conditions, *, probe: AttentionProbe | None = None
    ) -> SparseTensor:
        time = torch.full((x.grid.batch_size,), network_time(t), device=x.feats.device)
        out = network(x, time, conditions.tokens, probe=probe)
        return x.replace((out.feats - x.feats) / (1 - t)) if predicts_data else out

    return velocity
