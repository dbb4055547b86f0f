"""How many views are evaluated at once, and of how many the keys and values are kept over the steps: what fits in memory."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from mvsam3d.models.mesh_decoder import COLOUR_CHANNELS, GEOMETRY_CHANNELS, MeshDecoderConfig
from mvsam3d.types import Conditions


@dataclass(frozen=True)
class MemoryBudget:
    """Bytes that the evaluation of several views may take beside weights and condition tokens."""

    activations: int = 1 << 30
    """Of the views evaluated together. One view is always evaluated, whatever it takes."""
    keys_values: int = 2 << 30
    """Of keys and values of the condition that are kept over all steps; those of the other views are made anew at each."""
    decoding: int = 1 << 30
    """Of the mesh decoder, as a whole; where that takes more, it works in chunks."""

    def __str__(self) -> str:
        parts = {"activations": self.activations, "keys and values": self.keys_values, "decoding": self.decoding}
        return "memory: " + ", ".join(f"{size / 2**30:.2f} GiB for {name}" for name, size in parts.items())


MARGIN = 0.1  # of what is free, left to others
MOST_ACTIVATIONS = 1 << 30  # more views at once bring no speed
MOST_DECODING = 1 << 30  # of a whole mesh; in parts, any mesh takes about as much


@dataclass(frozen=True)
class Rates:
    """Bytes alive per token and channel at the fullest moment of a network.

    Measured by counting every tensor; the tests count again, at other sizes. For a transformer that is within the feed-forward layers of a
    block, for stage 2 on the way up, where the finest grid has twice the transformer's channels.
    """

    vit: float
    points: float
    fused: float
    """Per condition token of all views and its channel."""
    structure: float
    slat: float
    """Per voxel and channel of the transformer: the way up has twice its width on the voxels."""
    gathered: float
    """Per channel, whatever the voxels: rows that a convolution gathers at once."""
    trunk: float
    mesh: float
    """Per voxel and channel of the trunk, the mesh in parts; what the surface keeps of them included."""
    part: float
    """Per cell of a part and channel before the output."""


FULL = Rates(
    vit=52.0, points=36.0, fused=13.0, structure=48.4, slat=29.2, gathered=14_000.0, trunk=48.2, mesh=86.0, part=11.0
)
HALF = Rates(
    vit=32.0, points=24.0, fused=8.0, structure=30.4, slat=24.0, gathered=14_000.0, trunk=26.9, mesh=63.0, part=9.0
)


def rates_of(dtype: torch.dtype) -> Rates:
    """Where matrix products are made in this precision."""
    return FULL if dtype == torch.float32 else HALF


def budget_of(memory: int, weights: int) -> MemoryBudget:
    """What is left of a device's memory beside the weights: a third for activations, the rest for keys and values."""
    room = max(memory - weights, 0)
    activations = min(room // 3, MOST_ACTIVATIONS)
    return MemoryBudget(activations, room - activations, min(room, MOST_DECODING))


def mesh_bytes(decoder: MeshDecoderConfig, voxels: int, dtype: torch.dtype) -> int:
    """What the last subdivision of a whole mesh takes: three tensors of its width, and the features, which are float32."""
    cells: int = voxels * 8 ** len(decoder.narrowing)
    features = GEOMETRY_CHANNELS + COLOUR_CHANNELS * decoder.colour
    return cells * (3 * (decoder.trunk.width // decoder.narrowing[-1]) * dtype.itemsize + 4 * features)


def usable_memory(device: torch.device) -> int:
    """Bytes of the device that are free now, less a margin."""
    return int(free_memory(device) * (1 - MARGIN))


def free_memory(device: torch.device) -> int:
    """Bytes of the device that are free now."""
    match device.type:
        case "cuda":
            return int(torch.cuda.mem_get_info(device)[0])
        case "mps":
            return int(torch.mps.recommended_max_memory() - torch.mps.current_allocated_memory())
        case _:
            return _free_in_host()


def _free_in_host() -> int:
    """What Linux calls available, no more than the control group still allows; elsewhere half of all memory."""
    known = Path("/proc/meminfo")
    if not known.is_file():
        pages: int = os.sysconf("SC_PHYS_PAGES")
        return pages * int(os.sysconf("SC_PAGE_SIZE")) // 2
    lines = dict(line.split(":", 1) for line in known.read_text().splitlines())
    free = int(lines["MemAvailable"].split()[0]) * 1024
    group = Path("/sys/fs/cgroup")
    try:
        most = (group / "memory.max").read_text().strip()
        used = int((group / "memory.current").read_text())
    except (OSError, ValueError):
        return free
    return min(free, max(int(most) - used, 0)) if most.isdecimal() else free


@dataclass(frozen=True)
class ViewCost:
    """What one view takes in a network."""

    activations: int
    """Bytes while it is evaluated."""
    keys_values: int
    """Bytes of the keys and values of its condition."""


KeysValues = Callable[[Float[Tensor, "batch token channel"]], Sequence[Any]]


def in_chunks(
    conditions: Conditions, cost: ViewCost, budget: MemoryBudget, keys_values: KeysValues | None
) -> tuple[Conditions, ...]:
    """The views in the groups that are evaluated together, with keys and values while they fit in the budget.

    Args:
        conditions: a row per view.
        cost: of one view.
        budget: what may be used.
        keys_values: of the network; None keeps none (there is but one evaluation).
    """
    views = len(conditions.tokens)
    rows = min(views, max(1, budget.activations // cost.activations))
    room = budget.keys_values // cost.keys_values if keys_values is not None else 0
    chunks = []
    for first in range(0, views, rows):
        tokens = conditions.tokens[first : first + rows]
        room -= len(tokens)
        kept = keys_values(tokens) if keys_values is not None and room >= 0 else None
        chunks.append(replace(conditions, tokens=tokens, kept=kept))
    return tuple(chunks)
