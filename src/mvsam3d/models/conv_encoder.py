"""A small convolutional image encoder, for models trained from little: it learns from thousands of photos what a
vision transformer learns from millions, because it need not learn that neighbouring pixels belong together."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from mvsam3d.nn.layers import LayerNorm32

NORM_CHANNELS = 8  # of a group
LEAST_SHARE = 1e-3  # of a cell that the mask must cover for it to have a colour


@dataclass(frozen=True)
class ConvConfig:
    """Size of the encoder. Each width is a level; every level halves the image."""

    kind: Literal["conv"] = "conv"
    input_size: int = 112
    in_channels: int = 4
    """Colour and mask."""
    widths: tuple[int, ...] = (16, 32, 64, 128)
    """The last level makes the tokens: (input_size / 2^levels)^2 patches."""
    blocks: int = 1
    """Residual blocks at each level but the first."""
    colour_cells: int = 0
    """Each token is also shown the object's mean colours in so many cells along an edge of its patch (the first: of the photo), past all
    convolutions: appearance has to be copied, and shape networks forget it. 0: not."""

    @property
    def width(self) -> int:
        """Channels of a token."""
        return self.widths[-1]

    @property
    def prefix(self) -> int:
        """Leading tokens that are no patches: the mean of all."""
        return 1

    @property
    def side(self) -> int:
        """Patches along an edge."""
        return int(self.input_size // 2 ** len(self.widths))


class ConvBlock(nn.Module):
    """x + two normed convolutions."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = (nn.GroupNorm(channels // NORM_CHANNELS, channels) for _ in range(2))
        self.conv1, self.conv2 = (nn.Conv2d(channels, channels, 3, padding=1) for _ in range(2))

    def forward(self, x: Float[Tensor, "batch channel h w"]) -> Float[Tensor, "batch channel h w"]:
        """Apply."""
        h = self.norm2(self.conv1(F.silu(self.norm1(x))))
        out: Tensor = x + self.conv2(F.silu(h))
        return out


def object_colours(images: Float[Tensor, "batch 4 h w"], side: int) -> Float[Tensor, "batch 4 side side"]:
    """Mean colour within the mask, in [-1, 1], and the mask's share, in [-1, 1], of side x side cells; cells outside the mask are 0."""
    rgb, mask = images[:, :3], images[:, 3:]
    share = F.adaptive_avg_pool2d(mask, side)
    colour = F.adaptive_avg_pool2d(rgb * mask, side) / share.clamp(min=LEAST_SHARE)
    return torch.cat([(colour * 2 - 1) * (share > LEAST_SHARE), share * 2 - 1], dim=1)


class ConvEncoder(nn.Module):
    """Image -> a token for the whole and one per patch, row by row, with learned positions."""

    def __init__(self, config: ConvConfig) -> None:
        super().__init__()
        self.config = config
        layers: list[nn.Module] = []
        for level, (before, width) in enumerate(pairwise((config.in_channels, *config.widths))):
            layers.append(nn.Conv2d(before, width, 3, stride=2, padding=1))
            layers += [ConvBlock(width) for _ in range(config.blocks if level else 0)]
        self.layers = nn.Sequential(*layers)
        self.pos_emb = nn.Parameter(torch.randn(1 + config.side**2, config.width) * 0.5)
        self.norm = LayerNorm32(config.width)
        self.colours = nn.Linear(4 * config.colour_cells**2, config.width) if config.colour_cells else None

    def forward(self, images: Float[Tensor, "batch colour h w"]) -> Float[Tensor, "batch token channel"]:
        """Encode images in [0, 1], of any size."""
        size = self.config.input_size
        if tuple(images.shape[-2:]) != (size, size):
            images = F.interpolate(images, (size, size), mode="bilinear", antialias=True)
        pixels = (images * 2 - 1).contiguous(memory_format=torch.channels_last)  # convolutions are faster so
        patches = self.layers(pixels).flatten(2).transpose(1, 2)
        tokens: Tensor = self.norm(torch.cat([patches.mean(1, keepdim=True), patches], dim=1)) + self.pos_emb
        return tokens if self.colours is None else tokens + self.colours(self._colours(images))

    def _colours(self, images: Float[Tensor, "batch 4 h w"]) -> Float[Tensor, "batch token cell"]:
        cells = self.config.colour_cells
        whole, fine = object_colours(images, cells), object_colours(images, cells * self.config.side)
        patches = F.pixel_unshuffle(fine, cells).flatten(2).transpose(1, 2)
        return torch.cat([whole.flatten(1)[:, None], patches], dim=1)
