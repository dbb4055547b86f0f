"""Evidence of the views at each latent -> how much each view counts there. Used by both stages."""

from dataclasses import dataclass
from typing import assert_never

import torch
from jaxtyping import Float
from torch import Tensor

from mvsam3d.errors import InvalidOption


@dataclass(frozen=True)
class Evidence:
    """What the views say about each latent."""

    entropy: Float[Tensor, "view latent"]  # 0 = looks at one patch of the view, 1 = at all alike


@dataclass(frozen=True)
class PlainMean:
    """All views count alike, everywhere."""


@dataclass(frozen=True)
class ByEntropy:
    """Views a latent attends to sharply count more."""

    alpha: float = 30.0
    """Contrast between views; 0 counts all alike."""
    floor: float = 1e-3
    """Least weight of a view, before the last renormalisation."""


Weighting = PlainMean | ByEntropy  # one more strategy: a function, a dataclass, a case, a test


def softmax_weights(score: Float[Tensor, "view latent"], *, alpha: float, floor: float) -> Float[Tensor, "view latent"]:
    """Weights of the views at each latent, larger for a larger score.

    Args:
        score: any finite score; for entropy weighting, minus the normalised entropy, in [-1, 0].
        alpha: contrast, per unit of score; 0 counts all views alike, large keeps the best only.
        floor: least weight before the last renormalisation, in [0, 1 / views].
    Returns: weights >= 0 that sum to 1 over the views.
    Raises: InvalidOption: the views cannot all have `floor`.
    Source: MV-SAM3D, Gibbs weighting of views.
    """
    most = 1 / len(score)
    if not 0 <= floor <= most:
        raise InvalidOption(f"floor = {floor}, but {len(score)} views leave room for 0 to {most:.4f}: lower it")
    weights = torch.softmax(alpha * score, dim=0).clamp(min=floor)
    return weights / weights.sum(dim=0, keepdim=True)


def mean_weights(views: int) -> Float[Tensor, "view 1"]:
    """Equal weights, which need no evidence; they hold for any number of latents."""
    return torch.full((views, 1), 1 / views)


def view_weights(evidence: Evidence, how: Weighting) -> Float[Tensor, "view latent"]:
    """Weights by the chosen strategy. Raises: InvalidOption."""
    match how:
        case PlainMean():
            return mean_weights(len(evidence.entropy)).to(evidence.entropy).expand_as(evidence.entropy)
        case ByEntropy(alpha, floor):
            return softmax_weights(-evidence.entropy, alpha=alpha, floor=floor)
        case _:
            assert_never(how)
