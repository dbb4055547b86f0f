"""Follow a velocity field from noise to data. The solvers know nothing of guidance, views or networks."""

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Literal, assert_never

from mvsam3d.generation.latents import State, Velocity, combine

Method = Literal["euler", "midpoint", "rk4"]


def solve(velocity: Velocity[State], x: State, times: Sequence[float], method: Method = "euler") -> State:
    """The state at the last of `times`, from `x` at the first."""
    for t, t_next in pairwise(times):
        x = step(velocity, x, t, t_next, method)
    return x


def states(velocity: Velocity[State], x: State, times: Sequence[float], method: Method = "euler") -> Iterator[State]:
    """The state after each step, for progress, previews and tests."""
    for t, t_next in pairwise(times):
        x = step(velocity, x, t, t_next, method)
        yield x


def step(velocity: Velocity[State], x: State, t: float, t_next: float, method: Method) -> State:
    """One step from t to t_next."""
    match method:
        case "euler":
            return _moved(x, t_next - t, velocity(x, t))
        case "midpoint":
            return _midpoint(velocity, x, t, t_next)
        case "rk4":
            return _rk4(velocity, x, t, t_next)
        case _:
            assert_never(method)


def _moved(x: State, dt: float, slope: State) -> State:
    return combine(lambda a, b: a + dt * b, x, slope)


def _midpoint(velocity: Velocity[State], x: State, t: float, t_next: float) -> State:
    dt = t_next - t
    return _moved(x, dt, velocity(_moved(x, dt / 2, velocity(x, t)), t + dt / 2))


def _rk4(velocity: Velocity[State], x: State, t: float, t_next: float) -> State:
    """The classical Runge-Kutta step."""
    dt = t_next - t
    k1 = velocity(x, t)
    k2 = velocity(_moved(x, dt / 2, k1), t + dt / 2)
    k3 = velocity(_moved(x, dt / 2, k2), t + dt / 2)
    k4 = velocity(_moved(x, dt, k3), t_next)
    return _moved(x, dt, combine(lambda a, b, c, d: (a + 2 * b + 2 * c + d) / 6, k1, k2, k3, k4))
