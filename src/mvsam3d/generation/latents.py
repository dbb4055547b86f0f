"""Arithmetic on what is sampled: one tensor in stage 2, five latents in stage 1; and the noise to start from."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import torch
from jaxtyping import Float
from torch import Generator, Tensor

from mvsam3d.types import StructureLatents

State = TypeVar("State", Tensor, StructureLatents)
Velocity = Callable[[State, float], State]  # (x_t, t) -> dx/dt; t = 0 is noise, t = 1 is data

PUBLIC_NAMES = {  # of the public model -> ours; the noise of the latents is drawn in the order of the public names
    "6drotation_normalized": "rotation_6d",
    "scale": "scale",
    "shape": "shape",
    "translation": "translation",
    "translation_scale": "translation_scale",
}


@dataclass(frozen=True)
class PerLatent:
    """A number for each latent of stage 1: guidance strength, weight of a loss."""

    shape: float
    rotation_6d: float
    translation: float
    scale: float
    translation_scale: float


def combine(function: Callable[..., Tensor], first: State, *others: State) -> State:
    """`function` of the states, latent by latent."""
    return combine_by(lambda _, *tensors: function(*tensors), 0.0, first, *others)


def combine_by(function: Callable[..., Tensor], numbers: float | PerLatent, first: State, *others: State) -> State:
    """`function(number, *tensors)` latent by latent, with one number for all latents or one for each."""
    results = terms(function, numbers, first, *others)
    if isinstance(first, Tensor):
        return results[0]
    return StructureLatents(**dict(zip(PUBLIC_NAMES.values(), results, strict=True)))


def terms(function: Callable[..., Tensor], numbers: float | PerLatent, first: State, *others: State) -> list[Tensor]:
    """The same, as a list: for results that are no latents."""
    if isinstance(first, Tensor):
        assert not isinstance(numbers, PerLatent), "a plain tensor has no latents to tell apart"
        return [function(numbers, first, *others)]
    states = (first, *others)
    return [
        function(_number(numbers, name), *(getattr(state, name) for state in states)) for name in PUBLIC_NAMES.values()
    ]


def structure_noise(
    tokens: int, channels: int, noise: Generator, *, batch: int = 1, device: torch.device | str = "cpu"
) -> StructureLatents:
    """Standard normal stage-1 latents, drawn on the CPU so that every device starts from the same noise."""
    sizes = {"rotation_6d": (1, 6), "scale": (1, 3), "shape": (tokens, channels), "translation": (1, 3)}
    sizes["translation_scale"] = (1, 1)
    drawn = {name: torch.randn(batch, *sizes[name], generator=noise) for name in PUBLIC_NAMES.values()}
    return StructureLatents(**{name: latent.to(device) for name, latent in drawn.items()})


def slat_noise(
    voxels: int, channels: int, noise: Generator, *, device: torch.device | str = "cpu"
) -> Float[Tensor, "1 voxel channel"]:
    """Standard normal stage-2 latents, drawn on the CPU."""
    return torch.randn(1, voxels, channels, generator=noise).to(device)


def _number(numbers: float | PerLatent, name: str) -> float:
    value: float = getattr(numbers, name) if isinstance(numbers, PerLatent) else numbers
    return value
