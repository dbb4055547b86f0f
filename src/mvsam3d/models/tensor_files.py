"""Files of tensors from strangers, safetensors or torch archives -> tensors by name, mapped into memory and not yet read.

A torch archive is a zip of a pickle and of the tensors' bytes. Before torch sees it, the zip's table of contents is held against the file
(nothing compressed, nothing that overlaps, so a few bytes cannot become many), and the pickle's instructions are read, not run: all it may
ask for is on a list of what state dicts are made of. Then `torch.load(weights_only=True, mmap=True)`, and nothing weaker where that fails.
"""

from __future__ import annotations

import hashlib
import math
import pickle
import pickletools
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any, cast

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from mvsam3d.errors import CheckpointMismatch

LARGEST_HEADER = (
    16 << 20
)  # bytes of a safetensors header or zip directory; the public generator's 1,667 keys take 0.2 MB
LARGEST_PICKLE = 4 << 20  # bytes; the public generator's has 0.3 MB
LARGEST_UNFOLDED = 1_000_000  # values of a pickle, once what it refers to several times is counted each time
MOST_TENSORS = 20_000
MOST_ELEMENTS = 20_000_000_000
SAMPLES, SAMPLE = 64, 4096  # of a file, for its fingerprint

_STORAGES = ("Float", "Half", "BFloat16", "Double", "Long", "Int", "Short", "Char", "Byte", "Bool")
_DTYPES = ("float32", "float16", "bfloat16", "float64", "int64", "int32", "int16", "int8", "uint8", "bool")
TAKEN = {  # all that a pickle of tensors may name; each makes what it says and nothing larger
    "collections OrderedDict",
    "torch Size",
    "torch device",
    "torch._utils _rebuild_tensor_v2",
    "torch._utils _rebuild_parameter",
    *(f"torch {name}Storage" for name in _STORAGES),
    *(f"torch {name}" for name in _DTYPES),
}
RESAVE = "Get the file again from where it was published, or have it saved as safetensors"


def read_tensors(path: Path) -> dict[str, Tensor]:
    """All tensors of a file by name; their bytes are mapped and read when they are used. Of an archive, its "state_dict" if it has one.

    Raises: CheckpointMismatch: it is missing, cut off, hostile, or holds something else.
    """
    if not path.is_file():
        raise CheckpointMismatch(f"{path} is no file")
    return _safetensors(path) if path.suffix == ".safetensors" else _archive(path)


def fingerprint(path: Path) -> str:
    """A name for the content of a large file without reading all of it: its size, and the bytes at 64 places.

    The table of contents, with the checksums of a zip's entries, lies at one end of it and is among them.
    """
    size, found = path.stat().st_size, hashlib.sha256()
    found.update(str(size).encode())
    with path.open("rb") as file:
        ends = [min(size, 1 << 16), min(size, 1 << 18)]
        found.update(file.read(ends[0]))
        for i in range(SAMPLES):
            file.seek(i * max(size - SAMPLE, 0) // SAMPLES)
            found.update(file.read(SAMPLE))
        file.seek(size - ends[1])
        found.update(file.read(ends[1]))
    return found.hexdigest()


def _safetensors(path: Path) -> dict[str, Tensor]:
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
    if length > min(LARGEST_HEADER, max(size - 8, 0)):
        raise CheckpointMismatch(
            f"{path} announces a header of {length} bytes in a file of {size}: it is broken or cut off; copy it again"
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


def _archive(path: Path) -> dict[str, Tensor]:
    check_pickle(_checked_pickle(path), path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            root = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as problem:  # whatever a broken file makes torch raise, the file is what is wrong
        raise CheckpointMismatch(f"{path} cannot be loaded as tensors ({_line(problem)}). {RESAVE}") from problem
    if isinstance(root, Mapping) and isinstance(root.get("state_dict"), Mapping):
        root = root["state_dict"]
    return _checked_tensors(root, path)


class _Bounded:
    """A file of which no more is read at once than a table of contents takes."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file

    def read(self, count: int = -1) -> bytes:
        got = self._file.read(min(count, LARGEST_HEADER + 1) if count >= 0 else LARGEST_HEADER + 1)
        if len(got) > LARGEST_HEADER:
            raise zipfile.BadZipFile(f"a table of contents of more than {LARGEST_HEADER:,} bytes")
        return got

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


def _checked_pickle(path: Path) -> bytes:
    """The pickle of an archive whose table of contents agrees with the file."""
    size = path.stat().st_size
    try:
        with path.open("rb") as file, zipfile.ZipFile(cast("IO[bytes]", _Bounded(file))) as archive:
            entries = archive.infolist()
            names = [entry.filename for entry in entries]
            pickles = [entry for entry in entries if entry.filename.rsplit("/", 1)[-1] == "data.pkl"]
            if len(entries) > MOST_TENSORS:
                raise zipfile.BadZipFile(f"{len(entries):,} entries, more than any known model")
            if len(set(names)) < len(names) or any(".." in name or name.startswith("/") for name in names):
                raise zipfile.BadZipFile("names of entries that stand twice, or lead elsewhere")
            if any(entry.compress_type != zipfile.ZIP_STORED or entry.flag_bits & 1 for entry in entries):
                raise zipfile.BadZipFile("compressed or encrypted entries, which torch never writes")
            if (
                any(entry.file_size != entry.compress_size for entry in entries)
                or sum(e.file_size for e in entries) > size
            ):
                raise zipfile.BadZipFile("entries that announce more bytes than the file has")
            if len(pickles) != 1 or pickles[0].file_size > LARGEST_PICKLE:
                raise zipfile.BadZipFile(
                    f"{len(pickles)} lists of tensors, or one of more than {LARGEST_PICKLE:,} bytes"
                )
            return archive.read(pickles[0])
    except (zipfile.BadZipFile, ValueError, EOFError, OSError, NotImplementedError, KeyError, OverflowError) as problem:
        with path.open("rb") as file:
            old = file.read(1) == b"\x80"  # a bare pickle
        kind = "an older kind of torch file" if old else "no torch archive, or cut off"
        raise CheckpointMismatch(f"{path} is {kind} ({_line(problem)}). {RESAVE}") from problem


def check_pickle(content: bytes, path: Path) -> None:
    """Read a pickle's instructions without running them.

    Raises: CheckpointMismatch: it asks for what no state dict needs, or unfolds to too much.
    """
    try:
        asked, unfolded = _instructions(content)
    except (ValueError, IndexError, KeyError, pickle.UnpicklingError, UnicodeDecodeError) as problem:
        raise CheckpointMismatch(f"{path}: its list of tensors is broken ({_line(problem)}). {RESAVE}") from problem
    strange = [name for name in asked if name not in TAKEN]
    if strange:
        raise CheckpointMismatch(
            f"{path} asks for {', '.join(strange[:3])}, which a file of tensors has no use for: it was not loaded, and nothing in it "
            f"was run. {RESAVE}"
        )
    if unfolded > LARGEST_UNFOLDED:
        raise CheckpointMismatch(
            f"{path}: its list of tensors unfolds to more than {LARGEST_UNFOLDED:,} values. {RESAVE}"
        )


def _instructions(content: bytes) -> tuple[list[str], int]:
    """What a pickle asks for by name, and how much it unfolds to.

    Its instructions are followed with the size of every value in the value's place.
    """
    asked: dict[str, None] = {}
    stack: list[int] = []
    marks: list[int] = []
    memo: dict[int, int] = {}
    most = 0
    argument: Any
    for opcode, argument, _ in pickletools.genops(content):
        name = opcode.name
        if name in ("GLOBAL", "INST"):
            asked[str(argument)] = None
        elif name in ("STACK_GLOBAL", "EXT1", "EXT2", "EXT4", "PERSID", "NEXT_BUFFER", "READONLY_BUFFER"):
            asked[f"the instruction {name}"] = None
        if name == "MARK":
            marks.append(len(stack))
        elif name in ("BINPUT", "LONG_BINPUT", "PUT"):
            memo[int(argument)] = stack[-1]
        elif name == "MEMOIZE":
            memo[len(memo)] = stack[-1]
        elif name in ("BINGET", "LONG_BINGET", "GET"):
            stack.append(memo[int(argument)])
        elif name == "DUP":
            stack.append(stack[-1])
        elif name in ("PROTO", "FRAME", "STOP"):
            continue
        else:
            before, after = opcode.stack_before, opcode.stack_after
            if pickletools.markobject in before:
                taken = stack[marks[-1] :]
                del stack[marks.pop() :]
                below = before.index(pickletools.markobject)
                taken += [stack.pop() for _ in range(below)]
            else:
                taken = [stack.pop() for _ in before]
            if after:
                stack.append(1 + sum(taken))
                most = max(most, stack[-1])
    return list(asked), most


def _checked_tensors(root: object, path: Path) -> dict[str, Tensor]:
    """A state dict: text -> dense tensors that hold as many numbers as they say."""
    if not isinstance(root, Mapping):
        raise CheckpointMismatch(f"{path} holds a {type(root).__name__} instead of tensors by name. {RESAVE}")
    if len(root) > MOST_TENSORS:
        raise CheckpointMismatch(f"{path} holds {len(root):,} entries, more than any known model")
    tensors: dict[str, Tensor] = {}
    for key, value in root.items():
        if not isinstance(key, str) or not isinstance(value, Tensor):
            raise CheckpointMismatch(f"{path}: {str(key)[:80]!r} is a {type(value).__name__}, not a tensor. {RESAVE}")
        held = 0 if value.layout != torch.strided or value.is_meta else value.untyped_storage().nbytes()
        if value.numel() * value.element_size() > held or not value.is_contiguous():
            raise CheckpointMismatch(
                f"{path}: {key[:80]!r} says {tuple(value.shape)}, but the file holds {held} bytes of it. {RESAVE}"
            )
        tensors[key] = value.detach()
    return tensors


def _line(problem: Exception) -> str:
    text = str(problem).strip()
    return (text.splitlines()[0] if text else type(problem).__name__)[:200]


def finite(value: Tensor) -> bool:
    """Whether all numbers are finite: by their sum, which shows any that is not, and one by one where the sum is too large to tell."""
    if not value.is_floating_point():
        return True
    return bool(value.sum(dtype=torch.float32).isfinite()) or bool(value.isfinite().all())
