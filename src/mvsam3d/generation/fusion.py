"""Velocities of the views -> one. All views move one shared state; nothing but velocities is fused.

Source: MV-SAM3D: the shape is the weighted mean over the views, pose latents follow view 0.
"""

from collections.abc import Sequence
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from mvsam3d.generation.latents import State, Velocity
from mvsam3d.types import StructureLatents

Weights = Float[Tensor, "view latent"]  # or [view, 1]: one weight per view


def fused(per_view: Sequence[Velocity[State]], weights: Weights) -> Velocity[State]:
    """At each latent, the weighted mean of the views' velocities."""

    def velocity(x: State, t: float) -> State:
        return fuse([view(x, t) for view in per_view], weights)

    return velocity


def fuse(velocities: Sequence[State], weights: Weights) -> State:
    """One velocity of the velocities of all views, at one state and time.

    Weights that sum to 1 over the views let guidance come before or after: fusing the conditional velocities and
    guiding once gives the same with fewer network calls.
    """
    first = velocities[0]
    if isinstance(first, Tensor):
        return _weighted(velocities, weights)
    return replace(first, shape=_weighted([_shape(velocity) for velocity in velocities], weights))


def _shape(velocity: StructureLatents | Tensor) -> Tensor:
    assert isinstance(velocity, StructureLatents), "velocities of one kind"
    return velocity.shape


def _weighted(velocities: Sequence[Tensor], weights: Weights) -> Tensor:
    views, latents = weights.shape
    assert views == len(velocities), f"{views} rows of weights for {len(velocities)} views"
    assert latents in (1, velocities[0].shape[-2]), f"{latents} weights for {velocities[0].shape[-2]} latents"
    return torch.stack([w[:, None].to(v) * v for w, v in zip(weights, velocities, strict=True)]).sum(0)
