"""Velocity with and without condition -> guided velocity.

The branch without condition reads tokens of zeros (`without_condition`), which is not the same as no tokens.
Source: SAM 3D Objects, classifier-free guidance.
"""

from dataclasses import dataclass

from mvsam3d.generation.latents import PerLatent, State, Velocity, combine_by
from mvsam3d.generation.schedule import network_time
from mvsam3d.types import Conditions


@dataclass(frozen=True)
class Guidance:
    """How much and when the condition is pushed beyond itself."""

    strength: float | PerLatent = 7.0
    """s in (1 + s) conditional - s unconditional; one for all latents, or one for each latent of stage 1; 0 is off."""
    interval: tuple[float, float] | None = (0.0, 500.0)
    """Where it is used, in 1000 t, both ends included; None is nowhere."""

    def active(self, t: float) -> bool:
        """Whether a step at time t needs the branch without condition."""
        if isinstance(self.strength, PerLatent):
            strongest = max(vars(self.strength).values())
        else:
            strongest = self.strength
        return strongest > 0 and _within(self.interval, t)


@dataclass(frozen=True)
class PointmapGuidance:
    """Guidance in two steps: by the point map, and by all the rest."""

    strength: float = 7.0
    """s in conditional + p (conditional - without point map) + s (without point map - unconditional)."""
    pointmap_strength: float = 1.0
    """p above."""
    interval: tuple[float, float] | None = (0.0, 500.0)
    """Where it is used, in 1000 t, both ends included; None is nowhere."""


def without_condition(conditions: Conditions) -> Conditions:
    """What the branch without condition reads: the public handling `zeros`, and `add_flag` as its networks read it.

    Tokens of zeros have equal keys and values, so any number of them says the same: there is one, and no span.
    """
    return Conditions(conditions.tokens[:, :1] * 0, ())


def guided(conditional: Velocity[State], unconditional: Velocity[State], how: Guidance) -> Velocity[State]:
    """(1 + s) conditional - s unconditional where guidance is active, else the conditional velocity alone."""

    def velocity(x: State, t: float) -> State:
        with_condition = conditional(x, t)
        if not how.active(t):
            return with_condition
        return combine_by(lambda s, c, u: (1 + s) * c - s * u, how.strength, with_condition, unconditional(x, t))

    return velocity


def guided_by_pointmap(
    conditional: Velocity[State],
    without_pointmap: Velocity[State],
    unconditional: Velocity[State],
    how: PointmapGuidance,
) -> Velocity[State]:
    """Guidance with a strength of its own for the point map."""
    p = how.pointmap_strength

    def velocity(x: State, t: float) -> State:
        with_condition = conditional(x, t)
        if not _within(how.interval, t):
            return with_condition
        others = without_pointmap(x, t), unconditional(x, t)
        return combine_by(lambda s, c, n, u: c + p * (c - n) + s * (n - u), how.strength, with_condition, *others)

    return velocity


def _within(interval: tuple[float, float] | None, t: float) -> bool:
    return interval is not None and interval[0] <= network_time(t) <= interval[1]
