"""Views that show something else than the others: another object, a wrong mask.

What each view alone says of the shape, beyond what is said without any view, is compared by its direction. A view is an outlier if it
agrees with the others much less than they agree with each other.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

LEAST_VIEWS = 4  # among two others there is but one pair, which tells too little of how much views agree
OUTLIER = 0.5  # of a cosine that a view agrees less, chosen on generated objects: see docs/log.md


def disagreement(
    shapes: Float[Tensor, "view latent channel"], unseen: Float[Tensor, "1 latent channel"]
) -> Float[Tensor, " view"]:
    """Mean cosine among the others minus mean cosine to the others, for each view: 0 if it agrees as they do, up to 2.

    Args:
        shapes: structure latents predicted from each view alone; at least LEAST_VIEWS.
        unseen: the same without any view.
    """
    views = len(shapes)
    said = F.normalize((shapes - unseen).flatten(1).float(), dim=1)
    cosines = said @ said.T
    to_others = (cosines.sum(1) - cosines.diagonal()) / (views - 1)
    pairs = (views - 1) * (views - 2)  # among the others, in both orders
    among = (cosines.sum() - cosines.diagonal().sum() - 2 * (views - 1) * to_others) / pairs
    return among - to_others


def agreeing(
    shapes: Float[Tensor, "view latent channel"], unseen: Float[Tensor, "1 latent channel"], limit: float = OUTLIER
) -> Bool[Tensor, " view"]:
    """Which views to keep: all but the one that disagrees most, and that only if it does so beyond the limit."""
    kept = torch.ones(len(shapes), dtype=torch.bool)
    if len(shapes) < LEAST_VIEWS:
        return kept
    marks = disagreement(shapes, unseen)
    worst = int(marks.argmax())
    kept[worst] = bool(marks[worst] <= limit)
    return kept
