"""Which of the CPU's matrix kernels to use: the fastest that is exact on this machine; and whether it is faster in half precision."""

import time
from functools import cache
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

EXACT = 1e-6  # largest relative error of a float32 product that counts as float32
ROWS, SIDE, TRIES = (
    512,
    1024,
    5,
)  # of the product that is timed: a layer of the public model at an eighth of its tokens, 15 to 60 ms


def use_fast_exact_matmul() -> bool:
    """Let oneDNN multiply float32 matrices where it does so exactly; on some CPUs that is twice as fast as MKL.

    oneDNN takes float32 products only if it is allowed bfloat16, which it really uses where the CPU has units for it: so one product is
    tried against float64. Returns: whether the setting stays on.
    """
    matmul: Any = getattr(torch.backends.mkldnn, "matmul", None)  # newer than the oldest torch we take
    if matmul is None or not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return False
    before, matmul.fp32_precision = matmul.fp32_precision, "bf16"
    noise = torch.Generator().manual_seed(0)
    a, b = torch.randn(256, 512, generator=noise), torch.randn(512, 256, generator=noise)
    exact = a.double() @ b.double()
    if float((a @ b - exact).abs().max() / exact.abs().max()) < EXACT:
        return True
    matmul.fp32_precision = before
    return False


@cache
def bf16_gain() -> float:
    """How many times as fast as in float32 the CPU multiplies matrices in bfloat16, measured once; far below 1 without units for it."""
    use_fast_exact_matmul()
    noise = torch.Generator().manual_seed(0)
    a, b = torch.randn(ROWS, SIDE, generator=noise), torch.randn(SIDE, SIDE, generator=noise)
    full = min(_seconds(a, b) for _ in range(TRIES))
    a, b = a.bfloat16(), b.bfloat16()
    half = _seconds(a, b)
    if half < 4 * full:  # where it is not yet clear: the first product prepares what others use
        half = min(half, *(_seconds(a, b) for _ in range(TRIES)))
    return full / half


def _seconds(a: Float[Tensor, "row inner"], b: Float[Tensor, "inner column"]) -> float:
    start = time.perf_counter()
    a @ b
    return time.perf_counter() - start
