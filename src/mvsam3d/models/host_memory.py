"""What the C library holds back of freed memory, given back to the system, so that a network takes what it is said to take.

glibc keeps freed blocks of up to 32 MB for later, as it learns from the sizes that it is asked for: after a large network that is 0.2 GB
and more, in pieces that the next one may not be able to use. Other systems' libraries have no such switch and are left as they are.
"""

from __future__ import annotations

import ctypes
import sys
from functools import cache

M_MMAP_THRESHOLD = -3  # in malloc.h
LARGE = 4 << 20  # bytes from which a block has pages of its own; a layer's output at the public size has 16 MB


@cache
def give_large_blocks_back() -> bool:
    """From now on, in this process, large blocks go back to the system when they are freed. Returns: whether that can be had here."""
    library = _glibc()
    return library is not None and bool(library.mallopt(M_MMAP_THRESHOLD, LARGE))


def trim() -> None:
    """Give back what small blocks left."""
    library = _glibc()
    if library is not None:
        library.malloc_trim(0)


@cache
def _glibc() -> ctypes.CDLL | None:
    if sys.platform != "linux":
        return None
    library = ctypes.CDLL(None)
    return library if hasattr(library, "malloc_trim") and hasattr(library, "mallopt") else None
