"""Lifting network: what photos show along known cameras, pooled over the views at each cell -> occupancy of the solid.

Any number of views from 1, in any order. A U-Net of the structure VAE's blocks, with a thin path at the full grid.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from mvsam3d.models.structure_vae import Down, ResBlock, Up, conv3, output_layer, pixel_shuffle_3d

# What each cell knows of each view: colour (3), of the object only; mask; distance inside the outline; in the photo; to the camera (3)
COLOUR, MASK, DISTANCE, IN_PHOTO = slice(0, 3), 3, 4, 5
VIEW_FEATURES = 9
POOLED_BY_HAND = (
    3 + 3 + 1 + 1 + 1 + 3 + 1
)  # colour's mean and variance, distance's least and mean, mask's mean, place, number of views


@dataclass(frozen=True)
class LiftingConfig:
    """Size of the network."""

    resolution: int = 32
    view_channels: int = 12
    """What it makes of a view's features at a cell before the mean and the maximum over views."""
    fine_channels: int = 16
    """Of the path at the full grid."""
    channels: tuple[int, ...] = (32, 64, 128)
    """Width of each level of the U-Net, from half the full grid down; each level after the first halves the grid."""
    blocks: int = 1
    """Residual blocks of each level, on either way."""


def pooled(
    features: Float[Tensor, "batch view x y z feature"], learned: Float[Tensor, "batch view x y z channel"]
) -> Float[Tensor, "batch x y z pooled"]:
    """Statistics over the views that neither their order changes nor, but for the last, that all are given twice."""
    batch, views, *size, _ = features.shape
    colour, mask, distance = features[..., COLOUR], features[..., MASK : MASK + 1], features[..., DISTANCE, None]
    shown = mask.sum(1).clamp(min=1e-3)
    mean = (colour * mask).sum(1) / shown
    variance = ((colour - mean[:, None]).square() * mask).sum(1) / shown
    axes = [torch.linspace(-1, 1, n, device=features.device, dtype=features.dtype) for n in size]
    place = torch.stack(torch.meshgrid(*axes, indexing="ij"), -1).expand(batch, -1, -1, -1, -1)
    number = mean.new_full((batch, *size, 1), math.log2(views) / 4)
    known = [mean, variance, distance.amin(1), distance.mean(1), mask.mean(1), place, number]
    return torch.cat([learned.mean(1), learned.amax(1), *known], -1)


class LiftingNetwork(nn.Module):
    """Features of the views at each cell -> logits of occupancy, inside included."""

    def __init__(self, config: LiftingConfig) -> None:
        super().__init__()
        self.config = config
        widths, fine = config.channels, config.fine_channels
        self.view_layer = nn.Linear(VIEW_FEATURES, config.view_channels)
        self.input_layer = nn.Linear(2 * config.view_channels + POOLED_BY_HAND, fine)
        self.halved = nn.ModuleList(Down(finer, coarser) for finer, coarser in pairwise((fine, *widths)))
        self.down_levels = nn.ModuleList(self._level(width) for width in widths)
        self.doubled = nn.ModuleList(Up(coarser, finer) for finer, coarser in pairwise(widths))
        self.up_levels = nn.ModuleList(self._level(width) for width in widths[:-1])
        self.to_fine = nn.Conv3d(widths[0], 8 * fine, 1)
        self.fine = conv3(fine, fine)
        self.out_layer = output_layer(fine, 1)

    def _level(self, width: int) -> nn.Sequential:
        return nn.Sequential(*(ResBlock(width) for _ in range(self.config.blocks)))

    def forward(self, features: Float[Tensor, "batch view x y z feature"]) -> Float[Tensor, "batch x y z"]:
        """Logits; see `views.lifted` for the features."""
        known = pooled(features, F.gelu(self.view_layer(features)))
        x = fine = F.gelu(self.input_layer(known)).permute(0, 4, 1, 2, 3)  # channels last in memory already
        kept = []
        for halved, level in zip(self.halved, self.down_levels, strict=True):
            x = level(halved(x))
            kept.append(x)
        for level, doubled, finer in reversed(list(zip(self.up_levels, self.doubled, kept[:-1], strict=True))):
            x = level(doubled(x) + finer)
        logits: Tensor = self.out_layer(self.fine(pixel_shuffle_3d(self.to_fine(x)) + fine))
        return logits[:, 0]
