"""Rigid and similarity transforms as 4 x 4 matrices on column vectors, named target_from_source."""

import torch
from jaxtyping import Float
from torch import Tensor


def similarity(
    rotation: Float[Tensor, "*rows 3 3"], translation: Float[Tensor, "*rows 3"], scale: Float[Tensor, "*rows"]
) -> Float[Tensor, "*rows 4 4"]:
    """p_target = scale * rotation p_source + translation."""
    upper = torch.cat([scale[..., None, None] * rotation, translation[..., None]], -1)
    last = upper.new_tensor([0.0, 0.0, 0.0, 1.0]).expand(*upper.shape[:-2], 1, 4)
    return torch.cat([upper, last], -2)


def rigid(rotation: Float[Tensor, "*rows 3 3"], translation: Float[Tensor, "*rows 3"]) -> Float[Tensor, "*rows 4 4"]:
    """p_target = rotation p_source + translation."""
    return similarity(rotation, translation, torch.ones_like(translation[..., 0]))


def inverse(target_from_source: Float[Tensor, "*rows 4 4"]) -> Float[Tensor, "*rows 4 4"]:
    """source_from_target of a rigid or similarity transform, without solving: (s R)⁻¹ = (s R)ᵀ / s²."""
    scaled, translation = target_from_source[..., :3, :3], target_from_source[..., :3, 3]
    squared = scaled.square().sum((-1, -2)) / 3  # |s R|² = 3 s²
    back = scaled.transpose(-1, -2) / squared[..., None, None]
    return similarity(back, -(back @ translation[..., None])[..., 0], torch.ones_like(squared))


def transformed(
    target_from_source: Float[Tensor, "4 4"], points_source: Float[Tensor, "*rows 3"]
) -> Float[Tensor, "*rows 3"]:
    """The points in the target frame."""
    return points_source @ target_from_source[:3, :3].T + target_from_source[:3, 3]
