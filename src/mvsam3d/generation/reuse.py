"""Fewer calls of a network: between the steps in which it is asked, its velocity is carried on from what it said before.

A velocity field in, a velocity field out; guidance and fusion lie inside, the solver outside. The shape's velocity changes slowly along the
path and is carried on along the line through the last two answers; the poses' keeps its last value, for it turns abruptly near the end.
"""

from __future__ import annotations

from dataclasses import replace

from mvsam3d.errors import InvalidOption
from mvsam3d.generation.latents import Velocity
from mvsam3d.types import StructureLatents

FIRST = 2  # steps in which the network is asked in any case: a line needs two


def asked(step: int, steps: int, every: int) -> bool:
    """Whether the network is asked in a step: in the first two, the last, and each `every`-th from the second on."""
    return every == 1 or step < FIRST or step == steps - 1 or (step - FIRST + 1) % every == 0


class Reuse:
    """One run: it remembers what the network said. For solvers that look once at each step."""

    def __init__(self, velocity: Velocity[StructureLatents], steps: int, every: int) -> None:
        """Begin a run of `steps` steps. Raises: InvalidOption: `every` is below 1."""
        if every < 1:
            raise InvalidOption(f"the network cannot be asked in every {every}-th step: give 1 (always) or more")
        self._velocity, self._steps, self._every = velocity, steps, every
        self._step = 0
        self._said: list[tuple[float, StructureLatents]] = []  # the last two answers and their times

    def __call__(self, x: StructureLatents, t: float) -> StructureLatents:
        """The velocity in the next step."""
        step, self._step = self._step, self._step + 1
        if asked(step, self._steps, self._every):
            said = self._velocity(x, t)
            self._said = [*self._said[-1:], (t, said)]
            return said
        (before, first), (last, second) = self._said
        share = (t - last) / (last - before)
        return replace(second, shape=second.shape + share * (second.shape - first.shape))
