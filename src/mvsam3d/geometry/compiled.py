"""How kernels are compiled: once per machine, kept in numba's cache."""

import inspect
from collections.abc import Callable
from typing import TypeVar, cast

import numba

Function = TypeVar("Function", bound=Callable[..., object])


def compiled(function: Function) -> Function:
    """Compile with numba; run-time type checks around the function (tests) are taken off first.

    Kernels that call each other stay in one file: numba's cache notices changes of a function's own file only.
    """
    return cast(Function, numba.njit(cache=True, nogil=True)(inspect.unwrap(function)))
