"""Arrays of an npz from anywhere: looked at by their headers, then read, never unpickled.

What a header announces is compared with what the archive holds before memory is taken for it.
"""

from __future__ import annotations

import math
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mvsam3d.errors import BadFile

LARGEST_ARRAY = 1 << 30  # bytes of one array
MOST_ENTRIES = 1000
DESCRIPTIONS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
# RuntimeError: an encrypted entry; SyntaxError, TypeError: a header that describes no array.
BROKEN = (
    *(OSError, ValueError, EOFError, RuntimeError, SyntaxError, TypeError, OverflowError),
    *(zipfile.BadZipFile, zlib.error),
)


@dataclass(frozen=True)
class Header:
    """What an array of an npz says of itself."""

    shape: tuple[int, ...]
    dtype: np.dtype[np.generic]


def npz_headers(path: Path) -> dict[str, Header]:
    """Shapes and types of all arrays, none of which is read. Raises: BadFile: no npz, pickled, or larger than LARGEST_ARRAY."""
    with _opened(path) as archive:
        return {name.removesuffix(".npy"): _header(path, archive, name) for name in archive.namelist()}


def npz_arrays(path: Path, keys: Sequence[str]) -> dict[str, np.ndarray]:
    """Some arrays of an npz. Raises: BadFile: as `npz_headers`, cut off, or without one of the keys."""
    check_keys(path, npz_headers(path), keys)
    with _opened(path) as archive:
        found = {}
        for key in keys:
            with archive.open(f"{key}.npy") as file:
                found[key] = np.asarray(np.lib.format.read_array(file, allow_pickle=False))
        return found


def check_keys(path: Path, there: dict[str, Header], keys: Sequence[str]) -> None:
    """Raises: BadFile: naming the keys that are missing."""
    missing = [key for key in keys if key not in there]
    if missing:
        raise BadFile(
            f"{path} has no {', '.join(missing)}, but {', '.join(list(there)[:12])}: it is not the da3_output.npz "
            "of Depth Anything 3 (mvsam3d depth writes one)"
        )


@contextmanager
def _opened(path: Path) -> Iterator[zipfile.ZipFile]:
    try:
        with zipfile.ZipFile(path) as archive:
            if len(archive.namelist()) > MOST_ENTRIES or len(set(archive.namelist())) < len(archive.namelist()):
                raise BadFile(f"{path} holds more than {MOST_ENTRIES} arrays, or one twice: it was not made to be read")
            yield archive
    except BROKEN as problem:
        raise BadFile(f"{path} is broken or not a plain npz ({problem})") from problem


def _header(path: Path, archive: zipfile.ZipFile, name: str) -> Header:
    size = archive.getinfo(name).file_size
    if size > LARGEST_ARRAY:
        raise BadFile(f"{path}: {name} has {size:,} bytes, more than any set of photos needs")
    with archive.open(name) as file:
        version = np.lib.format.read_magic(file)
        if version not in DESCRIPTIONS:
            raise ValueError(f"npy of version {version}")
        shape, _, dtype = DESCRIPTIONS[version](file)
        header, start = Header(tuple(shape), dtype), file.tell()
    if header.dtype.hasobject:
        raise BadFile(f"{path} is not a plain npz: {name} holds pickled objects, which are never read")
    announced = math.prod(header.shape) * header.dtype.itemsize
    if announced != size - start:
        raise BadFile(f"{path}: {name} announces {announced:,} bytes of numbers but has {size - start:,}: it is broken")
    return header
