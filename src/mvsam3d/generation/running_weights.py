"""Weights of the views while a stage is sampled: alike at first, and from the step whose attention is recorded, by the evidence."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from jaxtyping import Bool, Float
from torch import Tensor

from mvsam3d.errors import InvalidOption
from mvsam3d.generation.weighting import Evidence, PlainMean, Weighting, mean_weights, needs_entropy, view_weights
from mvsam3d.nn.probe import AttentionProbe, EntropyProbe, Probes
from mvsam3d.types import Conditions


@dataclass(frozen=True)
class Recording:
    """Which attention says how sharply a latent looks at a view."""

    block: int
    """Transformer block, from 0."""
    step: int = 0
    """Sampling step, from 0. Views count alike before it; the step itself is already weighted."""
    hidden: Bool[Tensor, "view patch"] | None = None
    """Patches that do not count (background); None: all count."""


@dataclass(frozen=True)
class Watch:
    """What somebody wants to see of a stage while it is sampled."""

    attention: Callable[[int, slice], AttentionProbe] | None = None
    """Probe for the first evaluation with condition in a step, given the step and the patches of a view's own photo."""
    weights: Callable[[Evidence, Float[Tensor, "view latent"]], None] | None = None
    """Told the weights of the views and what they were made of, once they are known; never for a single view."""
    start: Callable[[Any], None] | None = None
    """Told the noise that the stage starts from."""


class RunningWeights:
    """Gathers the entropy during a run and gives the weights of the moment."""

    def __init__(
        self,
        views: int,
        how: Weighting,
        recording: Recording,
        patches: slice,
        evidence: Evidence,
        watch: Watch,
        spread: Callable[[Float[Tensor, "view latent"]], Float[Tensor, "view latent"]] = lambda weights: weights,
    ) -> None:
        """Begin.

        Args:
            views: their number; one alone needs no weights.
            how: the weighting.
            recording: where attention is recorded.
            patches: keys of a view's own photo.
            evidence: what is known before; with its entropy known, none is recorded.
            watch: observers.
            spread: takes weights from where evidence lives to where velocities do.
        """
        self._how: Weighting = how if views > 1 else PlainMean()
        self._recording, self._patches, self._evidence, self._watch = recording, patches, evidence, watch
        self._spread = spread
        self._step = -1
        self._entropy: EntropyProbe | None = None
        self._first = False
        self.weights = mean_weights(views)
        self._told = views == 1
        if not self._wants_entropy():
            self._settle()

    def _wants_entropy(self) -> bool:
        return needs_entropy(self._how) and self._evidence.entropy is None

    def begin(self, step: int) -> None:
        """A step begins: its first evaluation is the one that is watched."""
        self._step, self._first = step, True

    def probe(self) -> AttentionProbe | None:
        """For the next evaluation with condition."""
        if not self._first:
            return None
        self._first = False
        probes: list[AttentionProbe] = []
        if self._wants_entropy() and self._step == self._recording.step:
            self._entropy = EntropyProbe(self._recording.block, self._patches, self._recording.hidden)
            probes.append(self._entropy)
        if self._watch.attention is not None:
            probes.append(self._watch.attention(self._step, self._patches))
        return Probes(*probes) if probes else None

    def evaluated(self) -> Float[Tensor, "view latent"]:
        """The weights for the velocities of the evaluation just made."""
        if self._entropy is not None:
            self._evidence = replace(self._evidence, entropy=self._entropy.entropy)
            self._entropy = None
            self._settle()
        return self.weights

    def _settle(self) -> None:
        known = [value for value in vars(self._evidence).values() if value is not None]
        if known and not self._told:
            per_latent = view_weights(self._evidence, self._how)
            self.weights = self._spread(per_latent)
            if self._watch.weights is not None:
                self._watch.weights(self._evidence, per_latent)


def check_recording(recording: Recording, *, blocks: int, steps: int, stage: int) -> None:
    """Raises: InvalidOption: no such block or step."""
    for name, value, count in (("block", recording.block, blocks), ("step", recording.step, steps)):
        if not 0 <= value < count:
            raise InvalidOption(
                f"attention of stage {stage} cannot be recorded in {name} {value}: this model has the {name}s 0 to {count - 1}"
            )


def patches(conditions: Conditions) -> slice:
    """The patch tokens of the first input, which is each row's own cropped photo: without class token and registers."""
    span = conditions.spans[0]
    return slice(span.start + span.prefix, span.stop)
