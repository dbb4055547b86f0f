"""A shape that is known beforehand -> another start or another velocity of stage 1: what cameras show, say, as latents of the structure.

Each way takes a velocity field and returns one, as guidance does, or gives the state to start from; the poses are left alone. Which of
them helps was measured (`benchmarks/guidance.py`, docs/log.md).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from mvsam3d.generation.latents import Velocity
from mvsam3d.types import StructureLatents

Shape = Float[Tensor, "1 latent channel"]
Schedule = Callable[[float], float]  # time, 0 = noise, 1 = data -> strength
LEAST_LEFT = 1e-3  # of the path: a velocity that would still bring about anything in less is not asked for


@dataclass(frozen=True)
class Steering:
    """What sampling does with a known shape."""

    known: Float[Tensor, "1 latent channel"] | None = None
    """Latents to begin from, noised."""
    start: float = 0.0
    """Time to which they are noised; 0 is noise alone."""
    corrected: Callable[[Velocity[StructureLatents]], Velocity[StructureLatents]] = lambda velocity: velocity
    """`pulled` or `climbed`, with all but the velocity given."""

    def begun(self, noise: StructureLatents) -> StructureLatents:
        """The state to start from."""
        return noise if self.known is None else noised(self.known, noise, self.start)

    def times(self, times: list[float]) -> list[float]:
        """Those of a whole path, on what is left of it."""
        return [self.start + (1 - self.start) * t for t in times]


def constant(strength: float, until: float = 1.0) -> Schedule:
    """The same strength up to a time, then none: late steps make what no view shows fit what views do."""
    return lambda t: strength if t < until else 0.0


def noised(known: Shape, noise: StructureLatents, t: float) -> StructureLatents:
    """The state at time t on the straight path from noise to the known shape: sampling goes on from there.

    Source: Meng et al., SDEdit (ICLR 2022), for a rectified flow.
    """
    return replace(noise, shape=(1 - t) * noise.shape + t * known)


def pulled(velocity: Velocity[StructureLatents], known: Shape, share: Schedule) -> Velocity[StructureLatents]:
    """Where the path would end is moved to the known shape by a share of the way: v + s (known - end) / (1 - t)."""

    def corrected(x: StructureLatents, t: float) -> StructureLatents:
        said, s = velocity(x, t), share(t)
        left = 1 - t
        if s == 0 or left < LEAST_LEFT:
            return said
        end = x.shape + left * said.shape
        return replace(said, shape=said.shape + s * (known - end) / left)

    return corrected


def climbed(
    velocity: Velocity[StructureLatents],
    decoder: Callable[[Shape], Float[Tensor, "x y z"]],
    chance: Float[Tensor, "x y z"],
    rate: Schedule,
) -> Velocity[StructureLatents]:
    """Where the path would end is moved up the likelihood of what is known: a step of length `rate` along its gradient.

    Args:
        velocity: of the model.
        decoder: structure latents to logits of occupancy.
        chance: of occupancy in each cell, in [0, 1]; 0.5 says nothing.
        rate: length of the step at a time, in standard deviations of the latents (root mean square over all of them).
    Source: Chung et al., diffusion posterior sampling (ICLR 2023), on the predicted endpoint without the network's own gradient.
    """

    def corrected(x: StructureLatents, t: float) -> StructureLatents:
        said, length = velocity(x, t), rate(t)
        left = 1 - t
        if length == 0 or left < LEAST_LEFT:
            return said
        end = x.shape + left * said.shape
        slope = _slope(end, decoder, chance)
        size = slope.square().mean().sqrt()
        if size == 0:
            return said
        return replace(said, shape=said.shape + length * slope / (size * left))

    return corrected


def _slope(end: Shape, decoder: Callable[[Shape], Float[Tensor, "x y z"]], chance: Float[Tensor, "x y z"]) -> Shape:
    """Gradient of the expected log likelihood of occupancy."""
    with torch.enable_grad():
        at = end.detach().requires_grad_()
        likelihood = -F.binary_cross_entropy_with_logits(decoder(at), chance.to(at), reduction="sum")
        (slope,) = torch.autograd.grad(likelihood, at)
    return slope
