"""Stage 2: noise on the active voxels -> structured latents.

All views move one state. What no view changes is done once: everything before the first look at the condition, and the branch without
condition; the neighbour maps of the voxels serve all steps, blocks and views.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from mvsam3d.generation.budget import MemoryBudget, ViewCost, in_chunks, rates_of
from mvsam3d.generation.evidence import on_voxels, tokens_of
from mvsam3d.generation.fusion import fuse
from mvsam3d.generation.guidance import Guidance, guided, without_condition
from mvsam3d.generation.latents import slat_noise
from mvsam3d.generation.running_weights import Recording, RunningWeights, Watch, patches
from mvsam3d.generation.schedule import flow_matching_times, network_time
from mvsam3d.generation.solver import Method, step
from mvsam3d.generation.structure_stage import Progress
from mvsam3d.generation.weighting import Evidence, PlainMean, Weighting, needs_entropy
from mvsam3d.models.slat_flow import Context, SlatFlow
from mvsam3d.nn.probe import AttentionProbe, EntropyProbe
from mvsam3d.nn.sparse import SparseGrid, SparseTensor
from mvsam3d.types import Conditions, Slat, Voxels


@runtime_checkable
class SlatVelocity(Protocol):
    """The stage-2 network: what it says of dx/dt."""

    def __call__(
        self,
        x: SparseTensor,
        t: float,
        conditions: Conditions,
        *,
        probe: AttentionProbe | None = None,
        onto: SparseGrid | None = None,
    ) -> SparseTensor:
        """Velocity at each voxel. x is one state for all rows of the condition; the result is on `onto`, its voxels once a row."""


@runtime_checkable
class SlatAttention(Protocol):
    """Shows a probe the attention of the stage-2 network, at no more work than that needs."""

    def __call__(
        self,
        x: SparseTensor,
        t: float,
        conditions: Conditions,
        *,
        probe: AttentionProbe,
        onto: SparseGrid | None = None,
    ) -> None:
        """As `SlatVelocity`, without a result."""


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
    recording: Recording = field(default_factory=lambda: Recording(block=6))
    """The attention that is measured for entropy weighting."""
    noise_compat: bool = False
    """Draw noise as the public system: a weighted run of several views records attention at a first draw and starts from a second."""


@dataclass(frozen=True)
class SlatStatistics:
    """Mean and standard deviation of each channel of the latents: x * std + mean is what the decoders take."""

    mean: tuple[float, ...]
    std: tuple[float, ...]


def sample_slat(
    velocity: SlatVelocity,
    conditions: Conditions | Sequence[Conditions],
    voxels: Voxels,
    statistics: SlatStatistics,
    config: SlatSampling,
    noise: torch.Generator,
    *,
    visibility: Float[Tensor, "view token"] | None = None,
    show_attention: SlatAttention | None = None,
    watch: Watch | None = None,
    progress: Progress | None = None,
) -> Slat:
    """Sample the structured latents that all views agree on.

    Args:
        velocity: the network.
        conditions: a row of tokens for each view; or several of them, evaluated one after the other (`budget.in_chunks`).
        voxels: where.
        statistics: units of the result.
        config: steps, guidance, weighting.
        noise: CPU generator.
        visibility: of the voxels' tokens (`generation.evidence`), if the weighting asks for it.
        show_attention: a way to the attention at the first of two draws (`noise_compat`) that is shorter than the velocity.
        watch: observers.
        progress: told after each step.
    Raises: InvalidOption: no step, or a floor that the views cannot all have.
    """
    chunks = (conditions,) if isinstance(conditions, Conditions) else tuple(conditions)
    views, device = sum(len(chunk.tokens) for chunk in chunks), chunks[0].tokens.device
    grids = _Grids(voxels, device)
    nothing = without_condition(replace(chunks[0], tokens=chunks[0].tokens[:1]))
    watch = watch or Watch()
    evidence = Evidence(visibility=None if visibility is None else visibility.to(device))

    def draw() -> Float[Tensor, "1 voxel channel"]:
        return slat_noise(len(voxels.coords), len(statistics.mean), noise, device=device) * config.noise_scale

    x = draw()
    if config.noise_compat and views > 1 and not isinstance(config.weighting, PlainMean):
        if needs_entropy(config.weighting) and config.recording.step == 0:
            look = show_attention or velocity
            probe = EntropyProbe(config.recording.block, patches(chunks[0]), config.recording.hidden)
            for chunk in chunks:
                look(SparseTensor(x[0], grids.one), 0.0, chunk, probe=probe, onto=grids.of(len(chunk.tokens)))
            evidence = replace(evidence, entropy=probe.entropy)
        x = draw()
    if watch.start is not None:
        watch.start(x)
    _, token = tokens_of(voxels)

    def spread(weights: Float[Tensor, "view token"]) -> Float[Tensor, "view voxel"]:
        return on_voxels(weights, token.to(weights.device))

    running = RunningWeights(views, config.weighting, config.recording, patches(chunks[0]), evidence, watch, spread)

    def conditional(x: Tensor, t: float) -> Tensor:
        state, probe = SparseTensor(x[0], grids.one), running.probe()
        rows = [velocity(state, t, c, probe=probe, onto=grids.of(len(c.tokens))).feats for c in chunks]
        each = torch.cat(rows).view(views, 1, *x.shape[1:])
        joined: Tensor = fuse(list(each), running.evaluated().to(device))
        return joined

    def unconditional(x: Tensor, t: float) -> Tensor:
        return velocity(SparseTensor(x[0], grids.one), t, nothing).feats[None]

    shared = guided(conditional, unconditional, config.guidance)
    for done, (t, t_next) in enumerate(pairwise(flow_matching_times(config.steps, config.rescale_t))):
        running.begin(done)
        x = step(shared, x, t, t_next, config.method)
        if progress is not None:
            progress(done + 1, config.steps)
    mean, std = x.new_tensor(statistics.mean), x.new_tensor(statistics.std)
    return Slat(voxels, x[0] * std + mean)


class _Grids:
    """The voxels' grid, and the same voxels once for each of several views: each built once."""

    def __init__(self, voxels: Voxels, device: torch.device) -> None:
        self._coords = voxels.coords.to(device)
        self.one = SparseGrid.batched([self._coords])
        self._many: dict[int, SparseGrid] = {}

    def of(self, rows: int) -> SparseGrid | None:
        """None for one row: the state's own grid."""
        if rows == 1:
            return None
        if rows not in self._many:
            self._many[rows] = SparseGrid.batched([self._coords] * rows)
        return self._many[rows]


def network_velocity(network: Callable[..., SparseTensor], *, predicts_data: bool = False) -> SlatVelocity:
    """A SLAT flow as a velocity: of the public kind, or of one trained to say where the path ends."""

    def velocity(
        x: SparseTensor,
        t: float,
        conditions: Conditions,
        *,
        probe: AttentionProbe | None = None,
        onto: SparseGrid | None = None,
    ) -> SparseTensor:
        out = network(x, _time(x, t), _context(conditions), probe=probe, onto=onto)
        if not predicts_data:
            return out
        rows = len(out.feats) // len(x.feats)
        return out.replace((out.feats - x.feats.repeat(rows, 1)) / (1 - t))

    return velocity


def network_attention(network: SlatFlow) -> SlatAttention:
    """The attention of a SLAT flow, which ends at the last block that the probe wants."""

    def show(
        x: SparseTensor,
        t: float,
        conditions: Conditions,
        *,
        probe: AttentionProbe,
        onto: SparseGrid | None = None,
    ) -> None:
        network.show_attention(x, _time(x, t), _context(conditions), probe, onto=onto)

    return show


def _time(x: SparseTensor, t: float) -> Float[Tensor, " batch"]:
    return torch.full((x.grid.batch_size,), network_time(t), device=x.feats.device)


def _context(conditions: Conditions) -> Context:
    return conditions.tokens if conditions.kept is None else conditions.kept


def view_chunks(
    network: SlatFlow, conditions: Conditions, voxels: Voxels, config: SlatSampling, budget: MemoryBudget
) -> tuple[Conditions, ...]:
    """The views as `sample_slat` evaluates them: together while the memory lasts, keys and values kept likewise."""
    once = config.steps == 1 and config.method == "euler"
    cost = view_cost(network, conditions, len(voxels.coords))
    return in_chunks(conditions, cost, budget, None if once else network.keys_values)


def view_cost(network: SlatFlow, conditions: Conditions, voxels: int) -> ViewCost:
    """What a view takes on so many voxels: activations by measured rates, and keys and values of all blocks."""
    size, tokens = network.config, conditions.tokens
    activations = voxels * size.width * rates_of(tokens.dtype).slat
    return ViewCost(int(activations), 2 * tokens.shape[1] * size.width * size.blocks * tokens.element_size())
