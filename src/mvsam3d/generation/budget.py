"""How many views are evaluated at once, and of how many the keys and values are kept over the steps: what fits in memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from jaxtyping import Float
from torch import Tensor

from mvsam3d.types import Conditions


@dataclass(frozen=True)
class MemoryBudget:
    """Bytes that the evaluation of several views may take beside weights and condition tokens."""

    activations: int = 1 << 30
    """Of the views evaluated together. One view is always evaluated, whatever it takes."""
    keys_values: int = 2 << 30
    """Of keys and values of the condition that are kept over all steps; those of the other views are made anew at each."""


@dataclass(frozen=True)
class ViewCost:
    """What one view takes in a network."""

    activations: int
    """Bytes while it is evaluated."""
    keys_values: int
    """Bytes of the keys and values of its condition."""


KeysValues = Callable[[Float[Tensor, "batch token channel"]], Sequence[Any]]


def in_chunks(
    conditions: Conditions, cost: ViewCost, budget: MemoryBudget, keys_values: KeysValues | None
) -> tuple[Conditions, ...]:
    """The views in the groups that are evaluated together, with keys and values while they fit in the budget.

    Args:
        conditions: a row per view.
        cost: of one view.
        budget: what may be used.
        keys_values: of the network; None keeps none (there is but one evaluation).
    """
    views = len(conditions.tokens)
    rows = min(views, max(1, budget.activations // cost.activations))
    room = budget.keys_values // cost.keys_values if keys_values is not None else 0
    chunks = []
    for first in range(0, views, rows):
        tokens = conditions.tokens[first : first + rows]
        room -= len(tokens)
        kept = keys_values(tokens) if keys_values is not None and room >= 0 else None
        chunks.append(replace(conditions, tokens=tokens, kept=kept))
    return tuple(chunks)
