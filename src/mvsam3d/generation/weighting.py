"""Evidence of the views at each latent -> how much each view counts there. Used by both stages."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, assert_never

import torch
from jaxtyping import Float
from torch import Tensor

from mvsam3d.errors import InvalidOption

LEAST_SUM = 1e-10  # of the views' weights at a latent, to divide by


@dataclass(frozen=True)
class Evidence:
    """What the views say about each latent. None: not gathered, because no weighting asked for it."""

    entropy: Float[Tensor, "view latent"] | None = None  # 0 = looks at one patch of the view, 1 = at all alike
    visibility: Float[Tensor, "view latent"] | None = None  # 1 = seen by the view's camera, 0 = hidden


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


@dataclass(frozen=True)
class ByVisibility:
    """Views whose camera sees a latent count more. Where all see it or none does, all count alike."""

    alpha: float = 30.0
    """Contrast between views; 0 counts all alike."""
    floor: float = 1e-3
    """Least weight of a view, before the last renormalisation."""


@dataclass(frozen=True)
class Mixed:
    """Weights by entropy and by visibility, brought together.

    Raises: InvalidOption: the share is no share.
    """

    entropy_alpha: float = 30.0
    visibility_alpha: float = 30.0
    floor: float = 1e-3
    """Least weight of a view, in both and in what becomes of them."""
    combine: Literal["average", "multiply"] = "average"
    visibility_share: float = 0.5
    """Of an average: 0 is entropy alone, 1 visibility alone."""

    def __post_init__(self) -> None:
        if not 0 <= self.visibility_share <= 1:
            raise InvalidOption(f"a visibility share of {self.visibility_share} is no share: give 0 to 1")


@dataclass(frozen=True)
class ByScore:
    """Views that score higher at a latent count more, by any score of the evidence: see docs/extending.md."""

    score: Callable[[Evidence], Tensor]
    """Evidence -> a finite score [view, latent] or [view, 1], larger for views to be trusted more."""
    needs: frozenset[Literal["entropy", "visibility"]] = frozenset()
    """What of the evidence has to be gathered for it."""
    alpha: float = 30.0
    """Contrast between views, per unit of score; 0 counts all alike."""
    floor: float = 1e-3
    """Least weight of a view, before the last renormalisation."""


Weighting = PlainMean | ByEntropy | ByVisibility | Mixed | ByScore


def needs_entropy(how: Weighting) -> bool:
    """Whether attention has to be recorded for it."""
    return isinstance(how, ByEntropy | Mixed) or (isinstance(how, ByScore) and "entropy" in how.needs)


def needs_visibility(how: Weighting) -> bool:
    """Whether cameras have to be known for it."""
    return isinstance(how, ByVisibility | Mixed) or (isinstance(how, ByScore) and "visibility" in how.needs)


def check_floor(how: Weighting, views: int) -> None:
    """Raises: InvalidOption: the views cannot all have the weighting's floor."""
    if not isinstance(how, PlainMean):
        _check_floor(how.floor, views)


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
    _check_floor(floor, len(score))
    return _floored(torch.softmax(alpha * score, dim=0), floor)


def _floored(weights: Float[Tensor, "view latent"], floor: float) -> Float[Tensor, "view latent"]:
    raised = weights.clamp(min=floor)
    return raised / raised.sum(dim=0, keepdim=True).clamp(min=LEAST_SUM)


def _check_floor(floor: float, views: int) -> None:
    most = 1 / views
    if not 0 <= floor <= most:
        raise InvalidOption(f"floor = {floor}, but {views} views leave room for 0 to {most:.4f}: lower it")


def mean_weights(views: int) -> Float[Tensor, "view 1"]:
    """Equal weights, which need no evidence; they hold for any number of latents."""
    return torch.full((views, 1), 1 / views)


def view_weights(evidence: Evidence, how: Weighting) -> Float[Tensor, "view latent"]:
    """Weights by the chosen strategy. Raises: InvalidOption."""
    match how:
        case PlainMean():
            known = evidence.entropy if evidence.entropy is not None else evidence.visibility
            assert known is not None, "no evidence: mean_weights needs none"
            return mean_weights(len(known)).to(known).expand_as(known)
        case ByEntropy(alpha, floor):
            return softmax_weights(-_given(evidence.entropy, "entropy"), alpha=alpha, floor=floor)
        case ByVisibility(alpha, floor):
            return softmax_weights(_given(evidence.visibility, "visibility"), alpha=alpha, floor=floor)
        case ByScore(score=score, alpha=alpha, floor=floor):
            return softmax_weights(score(evidence), alpha=alpha, floor=floor)
        case Mixed(entropy_alpha, visibility_alpha, floor, combine, share):
            sharp = view_weights(evidence, ByEntropy(entropy_alpha, floor))
            seen = view_weights(evidence, ByVisibility(visibility_alpha, floor))
            if combine == "average":
                return _floored((1 - share) * sharp + share * seen, floor)
            product = sharp * seen
            return _floored(product / product.sum(0, keepdim=True).clamp(min=LEAST_SUM), floor)
        case _:
            assert_never(how)


def _given(known: Float[Tensor, "view latent"] | None, name: str) -> Float[Tensor, "view latent"]:
    assert known is not None, f"this weighting needs the {name} of every view"
    return known
