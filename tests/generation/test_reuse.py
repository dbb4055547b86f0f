from itertools import pairwise

import pytest
import torch

from mvsam3d.errors import InvalidOption
from mvsam3d.generation.latents import combine, structure_noise
from mvsam3d.generation.reuse import Reuse, asked
from mvsam3d.generation.solver import step
from mvsam3d.types import StructureLatents

NOISE, SLOPE, CURVE = (structure_noise(5, 2, torch.Generator().manual_seed(seed)) for seed in range(3))
TIMES = [0.0, 0.05, 0.15, 0.3, 0.5, 0.75, 1.0]  # uneven, as stage 1 has them
STEPS = len(TIMES) - 1


class Counted:
    """A velocity that is a line in time, and the times it was asked for."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def __call__(self, x: StructureLatents, t: float) -> StructureLatents:
        self.times.append(t)
        return combine(lambda a, b: a + t * b, SLOPE, CURVE)


def run(velocity: object) -> StructureLatents:
    x = NOISE
    for t, t_next in pairwise(TIMES):
        x = step(velocity, x, t, t_next, "euler")  # type: ignore[arg-type]
    return x


def test_a_shape_that_moves_along_a_line_is_carried_on_exactly() -> None:
    every_step, some = Counted(), Counted()
    full, carried = run(every_step), run(Reuse(some, STEPS, 2))
    assert some.times == [0.0, 0.05, 0.3, 0.75]  # the first two, each second one from there, the last
    torch.testing.assert_close(carried.shape, full.shape)
    assert len(every_step.times) == STEPS


def test_poses_keep_their_last_velocity() -> None:
    carried = run(Reuse(Counted(), STEPS, 3))  # asked at 0, .05, .5, .75
    answers = [0.0, 0.05, 0.05, 0.05, 0.5, 0.75]
    moved = sum(
        (after - t) * (SLOPE.scale + answer * CURVE.scale) for (t, after), answer in zip(pairwise(TIMES), answers)
    )
    torch.testing.assert_close(carried.scale, NOISE.scale + moved)


def test_asked_in_every_step_nothing_changes() -> None:
    full, same = run(Counted()), run(Reuse(Counted(), STEPS, 1))
    assert all(torch.equal(getattr(full, name), value) for name, value in vars(same).items())


def test_which_steps_are_asked() -> None:
    assert [asked(i, 8, 3) for i in range(8)] == [True, True, False, False, True, False, False, True]
    assert all(asked(i, 2, 9) for i in range(2))
    with pytest.raises(InvalidOption, match="0-th step"):
        Reuse(Counted(), STEPS, 0)
