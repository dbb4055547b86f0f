"""Views that show something else than the others: another object, a wrong mask.

Each view's own prediction is compared with those of the others. A view is an outlier if it lies much farther from them than they lie
from each other.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

LEAST_VIEWS = 3  # of two that disagree nobody knows which is right
OUTLIER = 1.6  # times as far from the others as they are from each other


def disagreement(shapes: Float[Tensor, "view latent channel"]) -> Float[Tensor, " view"]:
    """How many times as far each view's prediction is from the others' as the others are from each other, by median distances.

    Args:
        shapes: structure latents predicted from each view alone; at least LEAST_VIEWS.
    """
    views = len(shapes)
    flat = shapes.flatten(1).float()
    apart = (flat[:, None] - flat).norm(dim=2)
    marks = []
    for view in range(views):
        others = [other for other in range(views) if other != view]
        among = torch.stack([apart[a, b] for i, a in enumerate(others) for b in others[i + 1 :]])
        marks.append(apart[view, others].median() / among.median().clamp(min=1e-6))
    return torch.stack(marks)


def agreeing(shapes: Float[Tensor, "view latent channel"], limit: float = OUTLIER) -> Bool[Tensor, " view"]:
    """Which views to keep: all but the one that disagrees most, and that only if it does so beyond the limit."""
    kept = torch.ones(len(shapes), dtype=torch.bool)
    if len(shapes) < LEAST_VIEWS:
        return kept
    marks = disagreement(shapes)
    worst = int(marks.argmax())
    kept[worst] = bool(marks[worst] <= limit)
    return kept
