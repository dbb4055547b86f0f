"""The public system's order of work, written plainly: what the shared, shortened and cached work of the stages must equal.

One view after the other, the branch without condition anew for each, keys and values anew at each call, the pose stream in all of
them, and a step of its own before each weighted stage, only to record attention. Twin for tests and benchmarks; nothing else uses it.
Source: MV-SAM3D.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor

from mvsam3d.generation.evidence import on_voxels, tokens_of
from mvsam3d.generation.fusion import fuse
from mvsam3d.generation.guidance import guided
from mvsam3d.generation.latents import combine, slat_noise, structure_noise
from mvsam3d.generation.running_weights import patches
from mvsam3d.generation.schedule import flow_matching_times, network_time, shortcut_times
from mvsam3d.generation.slat_stage import SlatSampling, SlatStatistics
from mvsam3d.generation.structure_stage import StructureSampling
from mvsam3d.generation.weighting import Evidence, PlainMean, mean_weights, view_weights
from mvsam3d.models.slat_flow import SlatFlow
from mvsam3d.models.structure_flow import StructureFlow
from mvsam3d.nn.probe import AttentionProbe, EntropyProbe
from mvsam3d.nn.sparse import SparseGrid, SparseTensor
from mvsam3d.types import Conditions, Slat, StructureLatents, Voxels


def public_structure(
    network: StructureFlow,
    conditions: Conditions,
    config: StructureSampling,
    noise: torch.Generator,
    *,
    predicts_data: bool = False,
) -> StructureLatents:
    """Stage 1. The pose is that of view 0; Euler steps; `config.recording.step` is 0, as there."""
    views = [conditions.tokens[i : i + 1] for i in range(len(conditions.tokens))]
    size = network.config
    d = torch.zeros(1) if size.step_embedding else None

    def called(x: StructureLatents, t: float, tokens: Tensor, probe: AttentionProbe | None = None) -> StructureLatents:
        out: StructureLatents = network(x, torch.tensor([network_time(t)]), tokens, d, probe=probe)
        return combine(lambda end, now: (end - now) / (1 - t), out, x) if predicts_data else out

    def of_view(x: StructureLatents, t: float, tokens: Tensor, probe: AttentionProbe | None = None) -> StructureLatents:
        return guided(lambda x, t: called(x, t, tokens, probe), lambda x, t: called(x, t, 0 * tokens), config.guidance)(
            x, t
        )

    x = structure_noise(size.grid**3, size.latent_channels, noise)
    x = combine(lambda latent: latent * config.noise_scale, x)
    weights = mean_weights(len(views))
    if len(views) > 1 and not isinstance(config.weighting, PlainMean):
        probe = EntropyProbe(config.recording.block, patches(conditions))
        for tokens in views:
            of_view(x, 0.0, tokens, probe)
        weights = view_weights(Evidence(probe.entropy), config.weighting)
    for t, t_next in pairwise(shortcut_times(config.steps, config.rescale_t)):
        velocity = fuse([of_view(x, t, tokens) for tokens in views], weights)
        x = combine(lambda now, v, dt=t_next - t: now + dt * v, x, velocity)
    return x


def public_slat(
    network: SlatFlow,
    conditions: Conditions,
    voxels: Voxels,
    statistics: SlatStatistics,
    config: SlatSampling,
    noise: torch.Generator,
    *,
    predicts_data: bool = False,
) -> Slat:
    """Stage 2: attention is recorded at a first draw of noise, the run starts from a second."""
    views = [conditions.tokens[i : i + 1] for i in range(len(conditions.tokens))]
    grid = SparseGrid.batched([voxels.coords])

    def called(x: Tensor, t: float, tokens: Tensor, probe: AttentionProbe | None = None) -> Tensor:
        out: Tensor = network(SparseTensor(x[0], grid), torch.tensor([network_time(t)]), tokens, probe=probe).feats[
            None
        ]
        return (out - x) / (1 - t) if predicts_data else out

    def of_view(x: Tensor, t: float, tokens: Tensor, probe: AttentionProbe | None = None) -> Tensor:
        return guided(lambda x, t: called(x, t, tokens, probe), lambda x, t: called(x, t, 0 * tokens), config.guidance)(
            x, t
        )

    def draw() -> Float[Tensor, "1 voxel channel"]:
        return slat_noise(len(voxels.coords), len(statistics.mean), noise) * config.noise_scale

    x, weights = draw(), mean_weights(len(views))
    if len(views) > 1 and not isinstance(config.weighting, PlainMean):
        probe = EntropyProbe(config.recording.block, patches(conditions))
        for tokens in views:
            of_view(x, 0.0, tokens, probe)
        weights = on_voxels(view_weights(Evidence(probe.entropy), config.weighting), tokens_of(voxels)[1])
        x = draw()
    for t, t_next in pairwise(flow_matching_times(config.steps, config.rescale_t)):
        x = x + (t_next - t) * fuse([of_view(x, t, tokens) for tokens in views], weights)
    return Slat(voxels, x[0] * x.new_tensor(statistics.std) + x.new_tensor(statistics.mean))
