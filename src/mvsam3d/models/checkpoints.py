"""Checkpoint folders -> networks, and back: our own format, and the folder of the public SAM 3D Objects.

Our folder holds `config.json` (a `ModelConfig`; under "card" what it was trained on; under "shared" the tensors that stand for others, by
the beginnings of their names), `weights.safetensors` (one tensor per key, prefixed by the network's name) and, if it can be trained on,
`encoders.safetensors`. The public folder holds `pipeline.yaml` and what that names (`models.public_config`). All are data from strangers:
they are matched against what may stand in them before anything is built.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch
from pydantic import TypeAdapter, ValidationError
from safetensors.torch import save_file
from torch import Tensor, nn

from mvsam3d.errors import CheckpointMismatch
from mvsam3d.models.bundle import UNMIXED, Models, Residence
from mvsam3d.models.config import ModelConfig
from mvsam3d.models.host_memory import give_large_blocks_back
from mvsam3d.models.image_encoder import ImageEncoder
from mvsam3d.models.public_config import public_folder, read_public_config
from mvsam3d.models.slat_trunk import TORSO
from mvsam3d.models.tensor_files import fingerprint, finite, read_tensors
from mvsam3d.nn.sparse.convolution import SparseConv3d

CONFIG, WEIGHTS, ENCODERS = "config.json", "weights.safetensors", "encoders.safetensors"
GENERATOR, EMBEDDER, COPY = (
    "_base_models.generator.",
    "_base_models.condition_embedder.",
    "_base_models.decoder.",
)  # in public files
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}  # as commands name them
PAGED_FROM = 1 << 30  # bytes of weights from which each network is in memory only while it is at work
LARGEST_CONFIG = 1 << 20  # bytes; ours has a few thousand
MOST_PARTS, MOST_BLOCKS, MOST_CHANNELS = 64, 128, 16_384  # of any size in a config; the public model has 24 blocks
REPEATED = {"blocks", "depth", "num_res_blocks", "num_res_blocks_middle", "io_res_blocks", "registers"}
_CONFIG = TypeAdapter(ModelConfig)


def checkpoint_folder(model: str) -> Path:
    """The folder of a model: small (shipped), a path, or a name below `checkpoints/` of the current folder."""
    if model == "small":
        return Path(str(files("mvsam3d") / "weights" / "small"))
    named = Path("checkpoints") / model
    return Path(model) if Path(model).is_dir() or not named.is_dir() else named


def check_fits(
    module: nn.Module, weights: Mapping[str, Tensor], source: str, *, in_file: Callable[[str], str] = str
) -> None:
    """Hold keys, shapes and kinds of weights against a module. Raises: CheckpointMismatch, naming three of each difference."""
    wanted = module.state_dict()
    missing = [in_file(key) for key in wanted if key not in weights]
    unknown = [in_file(key) for key in weights if key not in wanted]
    shapes = [
        f"{in_file(key)}: {tuple(weights[key].shape)} instead of {tuple(value.shape)}"
        for key, value in wanted.items()
        if key in weights and weights[key].shape != value.shape
    ]
    if missing or unknown or shapes:
        raise CheckpointMismatch(
            f"{source} is not a {type(module).__name__} of this size: {len(missing)} keys missing {missing[:3]}, "
            f"{len(unknown)} unknown {unknown[:3]}, {len(shapes)} of another shape {shapes[:3]}. Try another --model."
        )
    kinds = [
        in_file(key) for key, value in wanted.items() if weights[key].is_floating_point() != value.is_floating_point()
    ]
    if kinds:
        raise CheckpointMismatch(
            f"{source}: {len(kinds)} tensors of the wrong kind of number {kinds[:3]}. The file is damaged; get it again"
        )


def load_strictly(
    module: nn.Module,
    weights: Mapping[str, Tensor],
    source: str,
    *,
    device: torch.device | None = None,
    dtypes: Mapping[str, torch.dtype] | None = None,
    in_file: Callable[[str], str] = str,
) -> None:
    """Put `weights` into a module built on the meta device.

    Args:
        weights: of any floating precision; may be mapped files, whose bytes are then used where they lie if none needs to change.
        source: what they are called in errors.
        device: where to; None leaves them.
        dtypes: of floating weights by key, where they are not to be the module's own (float32).
        in_file: what the source calls a key.
    Raises: CheckpointMismatch: keys missing, unknown, of another shape, or not finite, by name.
    """
    check_fits(module, weights, source, in_file=in_file)
    wanted = module.state_dict()
    bad = [key for key in wanted if not finite(weights[key])]
    if bad:
        raise CheckpointMismatch(
            f"{source}: {len(bad)} tensors hold NaN or infinity {[in_file(key) for key in bad[:3]]}. "
            "The file is damaged; get it again"
        )
    kinds = {key: (dtypes or {}).get(key, value.dtype) for key, value in wanted.items()}
    # one tensor that stays in a mapped file keeps all of it mapped, with what was read of it to change the others
    changed = any(weights[key].dtype != kind for key, kind in kinds.items())
    module.load_state_dict(
        {key: weights[key].to(device, kind, copy=changed) for key, kind in kinds.items()}, assign=True
    )


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


def _read_own(folder: Path) -> tuple[ModelConfig, dict[str, Any], dict[str, str], torch.dtype]:
    """Config, card, shared tensors and precision of a folder of ours. Raises: CheckpointMismatch."""
    path = folder / CONFIG
    if not path.is_file():
        raise CheckpointMismatch(
            f"{folder} holds neither {CONFIG} nor pipeline.yaml: give --model small, a folder that `mvsam3d train` or `mvsam3d convert` "
            f"wrote, that of the public checkpoint, or the name of one in {Path.cwd() / 'checkpoints'}"
        )
    if path.stat().st_size > LARGEST_CONFIG:
        raise CheckpointMismatch(f"{path} has {path.stat().st_size} bytes, more than any config: it is not one of ours")
    try:
        content = json.loads(path.read_bytes())
        config = _CONFIG.validate_python(content["model"])
        _check_sizes(content["model"])
        _check_known(content["model"], _CONFIG.dump_python(config, mode="json"))
        card, shared = content.get("card", {}), content.get("shared", {})
        if (
            not isinstance(shared, dict)
            or not all(isinstance(v, str) and k and v for k, v in shared.items())
            or len(shared) > 64
        ):
            raise ValueError("shared is not a short list of names")
        half = content.get("half", "float32")
        if half not in ("float32", "float16", "bfloat16"):
            raise ValueError(f"half is {str(half)[:40]!r}, no precision")
    except (ValueError, KeyError, TypeError, RecursionError) as problem:
        raise CheckpointMismatch(
            f"{path} is not a model config: {_first_line(problem)}. Export the checkpoint again."
        ) from problem
    if not isinstance(card, dict):
        raise CheckpointMismatch(
            f"{path}: the card is a {type(card).__name__}, not an object. Export the checkpoint again."
        )
    return config, card, shared, getattr(torch, half)


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


@dataclass(frozen=True)
class Part:
    """Where the tensors of a network are."""

    file: Path
    prefix: str = ""
    """Beginning of their names in the file."""
    inner: str = ""
    """Stands in its place in the network."""

    def in_file(self, key: str) -> str:
        """What the file calls a key of the network."""
        return self.prefix + key.removeprefix(self.inner)


@dataclass(frozen=True)
class Checkpoint:
    """A folder whose config has been read and whose files are there; no tensor has been touched."""

    folder: Path
    config: ModelConfig
    card: dict[str, Any]
    parts: Mapping[str, Part]
    """By the names of the networks in `Models`."""
    ignored: tuple[str, ...] = ()
    """Beginnings of names that files may hold besides."""
    shared: Mapping[str, str] = field(default_factory=dict)
    """Beginnings of names in a file -> of the tensors there that stand for them."""
    public: bool = False
    half: torch.dtype = torch.float32
    """The precision that it is meant to run in on a GPU."""

    def weights(self, network: str) -> dict[str, Tensor]:
        """The tensors of a network, mapped into memory. Raises: CheckpointMismatch."""
        part = self.parts[network]
        tensors = read_tensors(part.file)
        for alias, original in self.shared.items():
            copied = {alias + key.removeprefix(original): t for key, t in tensors.items() if key.startswith(original)}
            if not copied or set(copied) & set(tensors):
                raise CheckpointMismatch(
                    f"{part.file} shall hold {original}* once for {alias}* too, and does not: export it again"
                )
            tensors |= copied
        prefixes = tuple(other.prefix for other in self.parts.values() if other.file == part.file) + self.ignored
        strange = [key for key in tensors if not key.startswith(prefixes)]
        if strange:
            raise CheckpointMismatch(
                f"{part.file} holds {len(strange)} tensors of no known part: {strange[:3]}. It belongs to another model"
            )
        return {part.inner + k.removeprefix(part.prefix): t for k, t in tensors.items() if k.startswith(part.prefix)}

    @cached_property
    def identity(self) -> str:
        """Names the content of all files."""
        parts = sorted({part.file for part in self.parts.values()})
        return hashlib.sha256("".join(fingerprint(file) for file in parts).encode()).hexdigest()

    def empty(self) -> Models:
        """The networks on the meta device. Raises: CheckpointMismatch: none have such sizes."""
        try:
            with torch.device("meta"):
                models = Models(self.config)
        except (AssertionError, ValueError, RuntimeError, TypeError, ZeroDivisionError, OverflowError) as problem:
            where = self.folder / ("pipeline.yaml" if self.public else CONFIG)
            raise CheckpointMismatch(f"{where}: no network has these sizes ({_first_line(problem)})") from problem
        return models.eval().requires_grad_(False)

    def models(
        self,
        device: torch.device | None = None,
        dtype: torch.dtype = torch.float32,
        *,
        paged: bool | None = None,
    ) -> Models:
        """The networks, ready to work.

        Args:
            device: where; the CPU if left out.
            dtype: of matrix products and the weights that they take.
            paged: bring each in only while it works; None: if they are large.
        Raises: CheckpointMismatch: a file is broken, hostile, or does not fit the config.
        """
        device, models = device or torch.device("cpu"), self.empty()
        size = sum(weight_bytes(models, network, dtype) for network in self.parts)
        paged = size > PAGED_FROM if paged is None else paged

        def load(models: Models, network: str) -> None:
            self.load(models, network, device, dtype)

        if paged:
            give_large_blocks_back()
        else:
            for network in self.parts:
                load(models, network)
        identity = self.identity if self.public or size > PAGED_FROM else None
        models.residence = Residence(device, dtype, load if paged else None, identity)
        return models

    def check(self, module: nn.Module, network: str, weights: Mapping[str, Tensor]) -> None:
        """Whether the tensors of a network are those of a module. Raises: CheckpointMismatch."""
        part = self.parts[network]
        check_fits(module, weights, str(part.file), in_file=part.in_file)

    def load(self, models: Models, network: str, device: torch.device, dtype: torch.dtype) -> None:
        """Fill one network strictly. Raises: CheckpointMismatch."""
        module = getattr(models, network)
        dtypes, part = dict.fromkeys(product_keys(network, module), dtype), self.parts[network]
        load_strictly(
            module,
            self.weights(network),
            str(part.file),
            device=device,
            dtypes=dtypes,
            in_file=part.in_file,
        )
        for encoder in module.modules():
            if isinstance(encoder, ImageEncoder):
                encoder.restore_constants(device)


def weight_bytes(models: Models, network: str, dtype: torch.dtype) -> int:
    """Bytes of a network's weights where matrix products are made in `dtype`."""
    module = getattr(models, network)
    halves = set(product_keys(network, module))
    return sum(
        value.numel() * (dtype.itemsize if key in halves else value.element_size())
        for key, value in module.state_dict().items()
    )


def resident_bytes(checkpoint: Checkpoint, dtype: torch.dtype) -> int:
    """Bytes of the weights that are in memory at once: of the largest network if each comes only to work, else of all."""
    models = checkpoint.empty()
    sizes = [weight_bytes(models, network, dtype) for network in checkpoint.parts]
    return sum(sizes) if sum(sizes) <= PAGED_FROM else max(sizes)


def product_keys(network: str, module: nn.Module) -> list[str]:
    """Keys of the weights of matrix products, which may be held in half precision: those that the public system holds or casts so."""
    kinds = (nn.Linear, nn.Conv2d, nn.Conv3d, SparseConv3d)
    keys = []
    for name, part in module.named_modules():
        if isinstance(part, kinds) and (network not in UNMIXED or name.split(".")[0] in TORSO):
            keys += [f"{name}.{key}" for key in part.state_dict()]
    return keys


def open_checkpoint(folder: Path) -> Checkpoint:
    """Read the config of a checkpoint folder of either kind, and see that its files are there.

    Raises: CheckpointMismatch: a file is missing, broken, or says what is not known.
    """
    public = public_folder(folder)
    if public is not None and not (folder / CONFIG).is_file():
        return _open_public(public)
    config, card, shared, half = _read_own(folder)
    networks = [name for name in _NETWORKS if name != "lifting" or config.lifting is not None]
    parts = {name: Part(folder / WEIGHTS, f"{name}.") for name in networks}
    return Checkpoint(folder, config, card, parts, shared=shared, half=half)


_NETWORKS = (
    "structure_condition",
    "structure_flow",
    "structure_decoder",
    "slat_condition",
    "slat_flow",
    "gaussian_decoder",
    "mesh_decoder",
    "lifting",
)


def _open_public(folder: Path) -> Checkpoint:
    read = read_public_config(folder)
    found = {part: _tensor_file(folder, name) for part, name in read.weights.items()}
    lost = [part for part, file in found.items() if file is None and part not in ("ss_encoder", "slat_decoder_gs_4")]
    if lost:
        names = ", ".join(read.weights[part] for part in lost)
        raise CheckpointMismatch(
            f"{names} missing in {folder} (a file of the same name that ends in .safetensors would do). They belong to the public "
            "checkpoint facebook/sam-3d-objects on the Hugging Face hub: ask for access there, then download the folder again "
            "(docs/public-checkpoints.md says how)"
        )
    there = {part: file for part, file in found.items() if file is not None}
    parts = {
        "structure_condition": Part(there["ss_generator"], EMBEDDER, "embedder."),
        "structure_flow": Part(there["ss_generator"], f"{GENERATOR}reverse_fn.backbone."),
        "structure_decoder": Part(there["ss_decoder"]),
        "slat_condition": Part(there["slat_generator"], EMBEDDER, "embedder."),
        "slat_flow": Part(there["slat_generator"], f"{GENERATOR}reverse_fn.backbone."),
        "gaussian_decoder": Part(there["slat_decoder_gs"]),
        "mesh_decoder": Part(there["slat_decoder_mesh"]),
    }
    card = {
        "name": "SAM 3D Objects",
        "from": "facebook/sam-3d-objects",
        "licence": "SAM License, by Meta: see the page you got it from",
    }
    return Checkpoint(folder, read.config, card, parts, (COPY,), public=True, half=getattr(torch, read.half))


def _tensor_file(folder: Path, name: str) -> Path | None:
    """A file of tensors under its published name, or saved again as safetensors."""
    files = (folder / name, (folder / name).with_suffix(".safetensors"))
    return next((file for file in files if file.is_file()), None)


def read_config(folder: Path) -> tuple[ModelConfig, dict[str, Any]]:
    """The config and the card of a checkpoint folder. Raises: CheckpointMismatch."""
    opened = open_checkpoint(folder)
    return opened.config, opened.card


def read_weights(path: Path) -> dict[str, Tensor]:
    """All tensors of a file, after its header has been checked. Raises: CheckpointMismatch."""
    return read_tensors(path)


def load_checkpoint(folder: Path) -> tuple[Models, ModelConfig, dict[str, Any]]:
    """All networks of a checkpoint folder on the CPU, float32.

    Raises: CheckpointMismatch: a file is missing, broken, hostile, or does not fit the config.
    """
    opened = open_checkpoint(folder)
    models = opened.models(paged=False)
    models.residence = None  # plain modules, which go where the caller sends them
    return models, opened.config, opened.card
