"""Which of the CPU's matrix kernels to use: the fastest that is exact on this machine."""

from typing import Any

import torch

EXACT = 1e-6  # largest relative error of a float32 product that counts as float32


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
