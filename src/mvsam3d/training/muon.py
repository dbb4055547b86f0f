"""Muon: momentum, made orthogonal, for weight matrices, and for convolutions as matrices from all inputs of a cell (Jordan et al. 2024).

torch.optim.Muon does its Newton-Schulz steps in bfloat16, which CPUs without such arithmetic do fifty times slower than float32.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from jaxtyping import Float
from torch import Tensor, nn

COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # of the odd polynomial that pulls all singular values to about 1


def orthogonalised(matrix: Float[Tensor, "rows columns"], steps: int = 4) -> Float[Tensor, "rows columns"]:
    """About U Vᵀ of the matrix's U S Vᵀ, by Newton-Schulz iteration."""
    a, b, c = COEFFICIENTS
    x = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
    x = x / (x.norm() + 1e-7)
    for _ in range(steps):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    out: Tensor = x if matrix.shape[0] <= matrix.shape[1] else x.T
    return out


class Muon(torch.optim.Optimizer):
    """Nesterov momentum, orthogonalised; the step's size matches AdamW's, so that one learning rate serves both."""

    def __init__(
        self, parameters: Iterable[nn.Parameter], lr: float, *, momentum: float = 0.95, weight_decay: float = 0.0
    ) -> None:
        super().__init__(parameters, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """One update of all matrices that have a gradient."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state = self.state[parameter]
                if "momentum" not in state:
                    state["momentum"] = torch.zeros_like(parameter)
                gradient, momentum = parameter.grad, state["momentum"]
                momentum.lerp_(gradient, 1 - group["momentum"])
                matrix = gradient.lerp(momentum, group["momentum"]).flatten(1)
                update = orthogonalised(matrix).view_as(parameter)
                scale = 0.2 * max(matrix.shape) ** 0.5  # root mean square 0.2, as of AdamW's steps
                parameter.mul_(1 - group["lr"] * group["weight_decay"]).add_(update, alpha=-group["lr"] * scale)
