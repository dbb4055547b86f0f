"""Times of the sampling steps, from 0 (noise) to 1 (data), and what of them the networks are told.

Source: SAM 3D Objects, ShortCut (stage 1) and FlowMatching (stage 2).
"""

import numpy as np
import torch

from mvsam3d.errors import InvalidOption

TIME_SCALE = 1000.0  # networks embed 1000 t and 1000 d


def shortcut_times(steps: int, rescale_t: float = 3.0, *, backwards: bool = False) -> list[float]:
    """steps + 1 times of stage 1, in float64; rescale_t > 1 puts more steps near the noise, 0 and 1 leave them even.

    Raises: InvalidOption: fewer than one step.
    """
    _at_least_one(steps)
    t = np.linspace(0.0, 1.0, steps + 1)
    if rescale_t:
        t = t / (1 + (rescale_t - 1) * (1 - t))
    times: list[float] = (1 - t if backwards else t).tolist()
    return times


def flow_matching_times(steps: int, rescale_t: float = 1.0, *, backwards: bool = False) -> list[float]:
    """The same for stage 2, rounded to float32 at each operation, as its public sampler does."""
    _at_least_one(steps)
    t = torch.linspace(0, 1, steps + 1, dtype=torch.float32)
    if rescale_t:
        t = t / (1 + (rescale_t - 1) * (1 - t))
    times: list[float] = (1 - t if backwards else t).tolist()
    return times


def network_time(t: float) -> float:
    """What a network is given for a time or a step size: 1000 t, in float32."""
    return float(np.float32(TIME_SCALE) * np.float32(t))


def step_size(steps: int, *, distilled: bool) -> float:
    """The d that the stage-1 network is told: 0 in flow mode, 1 / steps in distilled mode, however times are spaced."""
    _at_least_one(steps)
    return 1 / steps if distilled else 0.0


def _at_least_one(steps: int) -> None:
    if steps < 1:
        raise InvalidOption(f"{steps} sampling steps, but at least 1 is needed: raise the number of steps")
