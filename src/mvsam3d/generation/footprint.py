"""What a reconstruction takes of the memory, stage by stage, before it is begun: weights, what is kept, and the most that a call needs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from mvsam3d.generation.budget import MemoryBudget, Rates, mesh_bytes, rates_of
from mvsam3d.models.condition import ConditionConfig, EmbedderNetwork
from mvsam3d.models.config import ModelConfig
from mvsam3d.models.conv_encoder import ConvConfig
from mvsam3d.models.image_encoder import VitConfig
from mvsam3d.models.mesh_decoder import PART_ROWS, MeshDecoderConfig
from mvsam3d.models.pointmap_encoder import PointmapConfig

IMAGE = 24  # bytes per pixel of a crop while it is prepared
DENSE = 16.6  # bytes per cell of the occupancy grid and channel of its level
ACROSS = 0.8  # of a view's activations are alive while it looks at the condition
SURFACE = 74_000  # bytes per voxel while triangles are made of 64 cells each, on the host


@dataclass(frozen=True)
class Footprint:
    """Bytes of a stage, all at once."""

    network: str
    """As in `Models`; "surface" for the triangles, which are made on the host."""
    weights: int
    kept: int
    """Condition tokens, and keys and values that stay over the steps."""
    activations: int

    @property
    def total(self) -> int:
        """All of it."""
        return self.weights + self.kept + self.activations


def footprints(
    size: ModelConfig,
    weights: Mapping[str, int],
    *,
    views: int,
    voxels: int,
    dtype: torch.dtype = torch.float32,
    budget: MemoryBudget | None = None,
    paged: bool = True,
    steps: tuple[int, int] | None = None,
) -> tuple[Footprint, ...]:
    """Every stage's.

    Args:
        size: of the model.
        weights: bytes by network (`models.checkpoints.weight_bytes`).
        views: photos.
        voxels: active ones in stage 2; objects have 5,000 to 30,000 in the public grid of 64.
        dtype: of matrix products.
        budget: of the run; decides rows at once and what is kept.
        paged: each network is in memory only while it works.
        steps: of both stages; None: more than one. A single step keeps no keys and values.
    """
    budget, rates, item = budget or MemoryBudget(), rates_of(dtype), dtype.itemsize
    everything = sum(weights.values())
    flow, slat = size.structure.flow, size.slat.flow
    once = [count == 1 for count in steps or (2, 2)]
    found = []

    def add(network: str, activations: float, kept: int = 0) -> None:
        found.append(Footprint(network, weights[network] if paged else everything, kept, int(activations)))

    def sampled(
        network: str, condition: ConditionConfig, blocks: int, width: int, row: float, shared: float, *, once: bool
    ) -> None:
        """`row`: activations of a view; `shared`: of all; `once`: there is but one step."""
        keys = condition_tokens(condition)
        rows = min(views, max(1, int(budget.activations // max(row, 1))))
        pairs = 0 if once else min(views, int(budget.keys_values // max(2 * keys * width * blocks * item, 1)))
        kept = views * keys * condition.fused_width * item + pairs * 2 * keys * width * blocks * item
        anew = 0 if pairs == views else 2 * keys * width * item
        add(network, rows * max(row, ACROSS * row + anew) + shared, kept)

    for network, condition in (
        ("structure_condition", size.structure.condition),
        ("slat_condition", size.slat.condition),
    ):
        add(network, _condition(condition, views, rates, item, size.image_size))
    row = flow.grid**3 * flow.width * rates.structure
    sampled("structure_flow", size.structure.condition, flow.blocks, flow.width, row, 0.0, once=once[0])
    vae, side = size.structure.vae, size.slat.flow.resolution
    add("structure_decoder", (side // vae.patch) ** 3 * vae.channels[0] * DENSE)
    row = voxels * slat.width * rates.slat
    sampled("slat_flow", size.slat.condition, slat.blocks, slat.width, row, slat.width * rates.gathered, once=once[1])
    add("gaussian_decoder", voxels * size.slat.gaussian_decoder.trunk.width * rates.trunk)
    add("mesh_decoder", _mesh(size.slat.mesh_decoder, voxels, dtype, rates, budget))
    cells = 8 ** len(size.slat.mesh_decoder.narrowing)
    found.append(Footprint("surface", 0 if paged else everything, 0, voxels * SURFACE * cells // 64))
    return tuple(found)


def condition_tokens(condition: ConditionConfig) -> int:
    """Tokens of a view."""
    return sum(len(embedder.inputs) * _tokens(embedder.network) for embedder in condition.embedders)


def _tokens(network: EmbedderNetwork) -> int:
    match network:
        case VitConfig():
            return network.prefix + (network.input_size // network.patch_size) ** 2
        case PointmapConfig():
            return (network.input_size // network.patch_size) ** 2
        case _:
            return 64  # small encoders, whose tokens weigh nothing beside the rest


def _condition(condition: ConditionConfig, views: int, rates: Rates, item: int, side: int) -> float:
    fused = views * condition_tokens(condition) * condition.fused_width * rates.fused
    encoding, made = [0.0], 0.0  # by one encoder at a time, beside what those before it made of all views
    for embedder in condition.embedders:
        network = embedder.network
        if isinstance(network, VitConfig):
            tokens = _tokens(network) + network.registers
            encoding.append(made + tokens * network.width * rates.vit + IMAGE * side**2)
        elif isinstance(network, PointmapConfig):
            encoding.append(made + _tokens(network) * (network.patch_size**2 + 1) * network.width * rates.points)
        elif isinstance(network, ConvConfig):
            encoding.append(views * side**2 * 64.0)
        made += views * len(embedder.inputs) * _tokens(network) * network.width * item
    return max(made + fused, *encoding)


def _mesh(decoder: MeshDecoderConfig, voxels: int, dtype: torch.dtype, rates: Rates, budget: MemoryBudget) -> float:
    whole = mesh_bytes(decoder, voxels, dtype)
    if whole <= budget.decoding:
        return 1.5 * whole
    width = decoder.trunk.width
    return voxels * width * rates.mesh + 8 * PART_ROWS * (width // decoder.narrowing[-1]) * rates.part
