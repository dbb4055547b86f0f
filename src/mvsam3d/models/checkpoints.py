"""Checkpoint folders of our own format -> networks, and back.

A folder holds `config.json` (a `ModelConfig`, and under "card" what it was trained on), `weights.safetensors` (one tensor per key,
prefixed by the network's name, float16) and, if it can be trained on, `encoders.safetensors`. All are data from strangers: JSON is matched
against the dataclasses field by field, and the tensors' header is read with bounds, before anything is built. The public checkpoints'
folder layout will be read here too.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch
from pydantic import TypeAdapter, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from mvsam3d.errors import CheckpointMismatch
from mvsam3d.models.bundle import Models
from mvsam3d.models.config import ModelConfig

CONFIG, WEIGHTS, ENCODERS = "config.json", "weights.safetensors", "encoders.safetensors"
PUBLIC_CONFIG = "pipeline.yaml"  # of the public checkpoint
LARGEST_CONFIG = 1 << 20  # bytes; ours has a few thousand
LARGEST_HEADER = 16 << 20  # bytes; the public generator's 1,667 keys take 0.2 MB
MOST_ELEMENTS = 20_000_000_000
MOST_PARTS, MOST_BLOCKS, MOST_CHANNELS = 64, 128, 16_384  # of any size in a config; the public model has 24 blocks
REPEATED = {"blocks", "depth", "num_res_blocks", "num_res_blocks_middle", "io_res_blocks", "registers"}
_CONFIG = TypeAdapter(ModelConfig)


def checkpoint_folder(model: str) -> Path:
    """The folder of a model: shipped (small), a path, or a name below `checkpoints/` of the current folder, as the public system has them.

    Raises: CheckpointMismatch: it holds the public checkpoint, which cannot be read yet.
    """
    if model == "small":
        return Path(str(files("mvsam3d") / "weights" / "small"))
    named = Path("checkpoints") / model
    folder = Path(model) if Path(model).is_dir() or not named.is_dir() else named
    if (folder / PUBLIC_CONFIG).is_file() and not (folder / CONFIG).is_file():
        raise CheckpointMismatch(
            f"{folder / PUBLIC_CONFIG}: this is the public SAM 3D Objects checkpoint, which mvsam3d cannot read yet. "
            "Use --model small, or a folder that `mvsam3d train` exported"
        )
    return folder


def load_strictly(module: nn.Module, weights: Mapping[str, Tensor], source: str) -> None:
    """Put `weights` into a module built on the meta device, as float32.

    Raises: CheckpointMismatch: keys missing, unknown, or of another shape, by name.
    """
    wanted = module.state_dict()
    missing = [key for key in wanted if key not in weights]
    unknown = [key for key in weights if key not in wanted]
    shapes = [
        f"{key}: {tuple(weights[key].shape)} instead of {tuple(value.shape)}"
        for key, value in wanted.items()
        if key in weights and weights[key].shape != value.shape
    ]
    if missing or unknown or shapes:
        raise CheckpointMismatch(
            f"{source} is not a {type(module).__name__} of this size: {len(missing)} keys missing {missing[:3]}, "
            f"{len(unknown)} unknown {unknown[:3]}, {len(shapes)} of another shape {shapes[:3]}. Try another --model."
        )
    module.load_state_dict({key: weights[key].to(value.dtype) for key, value in wanted.items()}, assign=True)


def save_checkpoint(
    folder: Path,
    config: ModelConfig,
    models: nn.Module,
    card: Mapping[str, Any],
    encoders: Mapping[str, Tensor] | None = None,
) -> None:
    """Write a checkpoint folder: weights as float16, integer buffers as they are.

    Args:
        folder: made if it is missing.
        config: sizes.
        models: what a reconstruction needs.
        card: what they were trained on.
        encoders: weights of the autoencoders' other halves, in a file of their own that only training on reads.
    """
    folder.mkdir(parents=True, exist_ok=True)
    contents = {WEIGHTS: models.state_dict(), **({ENCODERS: encoders} if encoders else {})}
    for file, weights in contents.items():
        save_file(_halved(weights), folder / f"{file}.tmp")
    text = json.dumps({"model": _CONFIG.dump_python(config, mode="json"), "card": card}, indent=1)
    (folder / f"{CONFIG}.tmp").write_text(text + "\n")
    for name in (*contents, CONFIG):
        (folder / f"{name}.tmp").replace(folder / name)


def _halved(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    halved = {
        key: (value.half() if value.is_floating_point() else value).contiguous().cpu() for key, value in weights.items()
    }
    for name, tensor in halved.items():
        assert tensor.is_floating_point() is False or bool(tensor.isfinite().all()), f"{name} does not fit float16"
    return halved


def read_config(folder: Path) -> tuple[ModelConfig, dict[str, Any]]:
    """The config and the card of a checkpoint folder. Raises: CheckpointMismatch."""
    path = folder / CONFIG
    if not path.is_file():
        raise CheckpointMismatch(
            f"{folder} holds no {CONFIG}: give --model small, a folder that `mvsam3d train` exported, or the name of one in "
            f"{Path.cwd() / 'checkpoints'}"
        )
    if path.stat().st_size > LARGEST_CONFIG:
        raise CheckpointMismatch(f"{path} has {path.stat().st_size} bytes, more than any config: it is not one of ours")
    try:
        content = json.loads(path.read_bytes())
        config = _CONFIG.validate_python(content["model"])
        _check_sizes(content["model"])
        _check_known(content["model"], _CONFIG.dump_python(config, mode="json"))
        card = content.get("card", {})
    except (ValueError, KeyError, TypeError, RecursionError) as problem:
        raise CheckpointMismatch(
            f"{path} is not a model config: {_first_line(problem)}. Export the checkpoint again."
        ) from problem
    if not isinstance(card, dict):
        raise CheckpointMismatch(
            f"{path}: the card is a {type(card).__name__}, not an object. Export the checkpoint again."
        )
    return config, card


def _check_sizes(value: object, path: str = "model") -> None:
    """Refuse sizes that no network has, before any is built. Raises: ValueError."""
    if isinstance(value, dict):
        for key, child in value.items():
            _check_sizes(child, f"{path}.{key}")
    elif isinstance(value, list):
        if len(value) > MOST_PARTS:
            raise ValueError(f"{path} has {len(value)} entries, at most {MOST_PARTS} are taken")
        for child in value:
            _check_sizes(child, path)
    elif isinstance(value, int) and not isinstance(value, bool):
        name = path.rsplit(".", 1)[-1]
        most = MOST_BLOCKS if name in REPEATED else MOST_CHANNELS
        if not 0 <= value <= most:
            raise ValueError(f"{path} = {value}, but 0 to {most} are taken")


def _check_known(value: object, known: object, path: str = "model") -> None:
    """Refuse fields that no config has. Raises: ValueError."""
    if isinstance(value, dict) and isinstance(known, dict):
        for key, child in value.items():
            if key not in known:
                raise ValueError(f"{path} has no field {key!r}: it has {', '.join(known)}")
            _check_known(child, known[key], f"{path}.{key}")
    elif isinstance(value, list) and isinstance(known, list):
        for child, known_child in zip(value, known, strict=True):
            _check_known(child, known_child, path)


def _first_line(problem: Exception) -> str:
    if isinstance(problem, ValidationError):
        first = problem.errors()[0]
        return f"{problem.error_count()} wrong fields, first {'.'.join(map(str, first['loc']))}: {first['msg']}"
    return f"{type(problem).__name__} {problem}".splitlines()[0]


def read_weights(path: Path) -> dict[str, Tensor]:
    """All tensors of a safetensors file, after its header has been checked. Raises: CheckpointMismatch."""
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
    except OSError as problem:
        raise CheckpointMismatch(f"{path} cannot be read: {problem.strerror}") from problem
    if length > min(LARGEST_HEADER, max(path.stat().st_size - 8, 0)):
        raise CheckpointMismatch(
            f"{path} announces a header of {length} bytes in a file of {path.stat().st_size}: it is broken or cut off; copy it again"
        )
    try:
        with safe_open(path, "pt") as file:
            names = list(file.keys())
            elements = sum(math.prod(file.get_slice(key).get_shape()) for key in names)
            if elements > MOST_ELEMENTS:
                raise CheckpointMismatch(f"{path} announces {elements} numbers, more than any known model")
            return {key: file.get_tensor(key) for key in names}
    except SafetensorError as problem:
        raise CheckpointMismatch(f"{path} is broken or cut off ({problem}); copy it again") from problem


def load_checkpoint(folder: Path) -> tuple[Models, ModelConfig, dict[str, Any]]:
    """Build the networks of a checkpoint folder on the meta device and fill them strictly.

    Raises: CheckpointMismatch: a file is missing, broken, hostile, or does not fit the config.
    """
    config, card = read_config(folder)
    weights = read_weights(folder / WEIGHTS)
    try:
        with torch.device("meta"):
            models = Models(config)
    except (AssertionError, ValueError, RuntimeError, TypeError, ZeroDivisionError, OverflowError) as problem:
        raise CheckpointMismatch(f"{folder / CONFIG}: no network has these sizes ({_first_line(problem)})") from problem
    load_strictly(models, weights, str(folder / WEIGHTS))
    return models.eval().requires_grad_(False), config, card
