"""Any checkpoint folder -> one of our own format: safetensors in a chosen precision, each backbone once however often it was copied.

Tensors go through one at a time: each is mapped from its file, changed and written before the next is touched.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import TypeAdapter
from torch import Tensor

from mvsam3d.errors import CheckpointMismatch, InvalidOption
from mvsam3d.models.checkpoints import CONFIG, WEIGHTS, Checkpoint, open_checkpoint, product_keys
from mvsam3d.models.config import ModelConfig
from mvsam3d.models.tensor_files import finite

log = logging.getLogger(__name__)

_NAMES = {
    torch.float32: "F32",
    torch.bfloat16: "BF16",
    torch.float16: "F16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.bool: "BOOL",
}
BACKBONE = ".backbone."  # ends the names of what may stand in a checkpoint several times
Progress = Callable[[int, int], None]  # (bytes written, bytes in all)


@dataclass(frozen=True)
class Converted:
    """What was written."""

    folder: Path
    bytes: int
    shared: Mapping[str, str]
    """Backbones that are written once and stand for others: the others -> it."""


def convert_checkpoint(
    source: Path,
    out: Path,
    dtype: torch.dtype = torch.float32,
    *,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Converted:
    """Write a checkpoint folder anew.

    Args:
        source: a folder of either format.
        out: folder to make.
        dtype: of the weights of matrix products; what the networks hold in float32 in any case (norms, positions) stays float32.
        overwrite: take an `out` that is there already; its config and weights are replaced.
        progress: told as bytes are written.
    Raises: CheckpointMismatch: the source is broken or does not fit its config. InvalidOption: `out` is there, or a weight is too large
        for the precision.
    """
    if out.exists() and not overwrite and any(out.iterdir() if out.is_dir() else [out]):
        raise InvalidOption(f"{out} is there already: give another folder, or --overwrite True")
    opened = open_checkpoint(source)
    plan = _plan(opened, dtype)
    shared = _shared(opened, plan)
    written = {name: planned for name, planned in plan.items() if not name.startswith(tuple(shared))}
    out.mkdir(parents=True, exist_ok=True)
    parts = [out / f"{name}.tmp" for name in (WEIGHTS, CONFIG)]
    try:
        size = _write(parts[0], opened, written, progress or (lambda done, of: None))
        content = {
            "model": TypeAdapter(ModelConfig).dump_python(opened.config, mode="json"),
            "card": opened.card,
            "shared": shared,
            "half": str(opened.half).removeprefix("torch."),
        }
        parts[1].write_text(json.dumps(content, indent=1) + "\n")
        for part in parts:
            part.replace(part.with_suffix(""))
    finally:
        for part in parts:
            part.unlink(missing_ok=True)
    return Converted(out, size, shared)


@dataclass(frozen=True)
class _Planned:
    """A tensor to write."""

    network: str
    key: str
    shape: tuple[int, ...]
    dtype: torch.dtype

    @property
    def bytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize


def _plan(opened: Checkpoint, dtype: torch.dtype) -> dict[str, _Planned]:
    """All tensors by their names in the new file. Keys and shapes are checked on the way."""
    models = opened.empty()
    plan = {}
    for network in opened.parts:
        module, weights = getattr(models, network), opened.weights(network)
        opened.check(module, network, weights)
        halves = set(product_keys(network, module))
        for key, value in module.state_dict().items():
            kind = dtype if key in halves else value.dtype
            plan[f"{network}.{key}"] = _Planned(network, key, tuple(value.shape), kind)
    return plan


def _shared(opened: Checkpoint, plan: Mapping[str, _Planned]) -> dict[str, str]:
    """Backbones that are copies of an earlier one, byte by byte: the beginning of their names -> of its names."""
    groups: dict[str, list[str]] = {}
    for name in plan:
        if BACKBONE in name:
            groups.setdefault(name[: name.index(BACKBONE) + len(BACKBONE)], []).append(name)
    first: dict[str, str] = {}
    shared = {}
    for network in opened.parts:
        weights = opened.weights(network)
        for prefix, names in groups.items():
            if plan[names[0]].network == network:
                digest = _digest({name.removeprefix(prefix): weights[plan[name].key] for name in names})
                if digest in first:
                    shared[prefix] = first[digest]
                    log.info("%s is a copy of %s", prefix, first[digest])
                first.setdefault(digest, prefix)
    return shared


def _digest(tensors: Mapping[str, Tensor]) -> str:
    found = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        found.update(f"{name}{tuple(tensor.shape)}{tensor.dtype}".encode())
        found.update(_bytes(tensor))
    return found.hexdigest()


def _bytes(tensor: Tensor) -> memoryview:
    """The tensor's own memory."""
    return tensor.contiguous().flatten().view(torch.uint8).numpy().data


def _write(path: Path, opened: Checkpoint, written: Mapping[str, _Planned], progress: Progress) -> int:
    """A safetensors file: length of the header, header, tensors."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    place = 0
    for name, planned in written.items():
        header[name] = {
            "dtype": _NAMES[planned.dtype],
            "shape": planned.shape,
            "data_offsets": [place, place + planned.bytes],
        }
        place += planned.bytes
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    done, network, weights = 0, "", {}
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for name, planned in written.items():
            if planned.network != network:
                network, weights = planned.network, opened.weights(planned.network)
            file.write(_bytes(_checked(weights.pop(planned.key), planned.dtype, name)))
            done += planned.bytes
            progress(done, place)
    return 8 + len(text) + place


def _checked(tensor: Tensor, dtype: torch.dtype, name: str) -> Tensor:
    if not finite(tensor):
        raise CheckpointMismatch(f"{name} holds NaN or infinity: the file is damaged; get it again")
    changed = tensor.to(dtype)
    if changed.dtype != tensor.dtype and not finite(changed):
        raise InvalidOption(
            f"{name} holds {float(tensor.abs().max()):.3g}, too large for {dtype}: convert to bf16 or fp32"
        )
    return changed
