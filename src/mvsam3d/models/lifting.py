"""Lifting network: what photos show along known cameras, pooled over the views at each cell -> occupancy of the solid.

Any number of views from 1, in any order. A U-Net of the structure VAE's blocks, with a thin path at the full grid; what a small
network sees in each photo joins at half the grid.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from mvsam3d.models.lifted_views import (
    EDGE_FEATURES,
    POOLED_BY_HAND,
    SPOT,
    VIEW_FEATURES,
    WINDOW_CHANNELS,
    LiftedViews,
    edges,
    pooled,
)
from mvsam3d.models.lifting_detail import DetailNetwork, refined
from mvsam3d.models.structure_vae import Down, ResBlock, Up, conv3, output_layer, pixel_shuffle_3d


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
    fine_blocks: int = 0
    """Residual blocks at the full grid, at the end."""
    blocks: int = 1
    """Residual blocks of each level, on either way."""
    photo_channels: int = 0
    """Of what the photo network tells of each spot; 0: there is none, and colours and masks are all."""
    photo_widths: tuple[int, ...] = (32, 64, 96)
    """Width of each of its levels, from a quarter of the window's pixels down."""
    edge_channels: int = 0
    """Width of the network that looks closely at how the outlines run through a cell, at the end; 0: there is none."""
    detail_channels: int = 0
    """Width of the network that answers on a grid twice as fine; 0: there is none."""
    detail_blocks: int = 2
    """Residual blocks of that."""


class PhotoBlock(nn.Module):
    """x + two normed convolutions; starts as the identity."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.GroupNorm(8, channels), nn.GroupNorm(8, channels)
        self.conv1, self.conv2 = (nn.Conv2d(channels, channels, 3, padding=1) for _ in range(2))
        nn.init.zeros_(self.conv2.weight)

    def forward(self, x: Float[Tensor, "photo channel h w"]) -> Float[Tensor, "photo channel h w"]:
        """Apply."""
        out: Tensor = x + self.conv2(F.silu(self.norm2(self.conv1(F.silu(self.norm1(x))))))
        return out


class PhotoNetwork(nn.Module):
    """A U-Net over the window of a photo: what each spot shows, and how far off it is."""

    def __init__(self, config: LiftingConfig) -> None:
        super().__init__()
        widths = config.photo_widths
        half = widths[0] // 2
        self.stem = nn.Sequential(
            nn.Conv2d(WINDOW_CHANNELS, half, 3, 2, 1), nn.SiLU(), nn.Conv2d(half, widths[0], 3, 2, 1)
        )
        self.down_levels = nn.ModuleList(PhotoBlock(width) for width in widths)
        self.halved = nn.ModuleList(nn.Conv2d(finer, coarser, 2, 2) for finer, coarser in pairwise(widths))
        self.middle_levels = nn.ModuleList([PhotoBlock(widths[-1])])
        self.doubled = nn.ModuleList(nn.Conv2d(coarser, finer, 1) for finer, coarser in pairwise(widths))
        self.up_levels = nn.ModuleList(PhotoBlock(width) for width in widths[:-1])
        self.out_layer = nn.Conv2d(widths[0], config.photo_channels, 1)
        self.depth_layer = nn.Conv2d(widths[0], 1, 1)

    def forward(
        self, windows: Float[Tensor, "photo channel h w"]
    ) -> tuple[Float[Tensor, "photo out h4 w4"], Float[Tensor, "photo h4 w4"]]:
        """Features, and depth of the surface behind the object's centre in sizes of the window (for training)."""
        x = self.down_levels[0](self.stem(windows))
        kept = [x]
        for halved, level in zip(self.halved, self.down_levels[1:], strict=True):
            x = level(halved(x))
            kept.append(x)
        for level in self.middle_levels:
            x = level(x)
        for level, doubled, finer in reversed(list(zip(self.up_levels, self.doubled, kept[:-1], strict=True))):
            x = level(F.interpolate(doubled(x), scale_factor=2.0, mode="bilinear") + finer)
        return self.out_layer(x), self.depth_layer(x)[:, 0]


class SpotNetwork(nn.Module):
    """What the photos' features say of each cell of the half grid, by where the cell is before each camera; mean and maximum over views."""

    def __init__(self, config: LiftingConfig) -> None:
        super().__init__()
        known = config.photo_channels + VIEW_FEATURES + SPOT - 2
        self.layers = nn.Sequential(nn.Linear(known, 48), nn.GELU(), nn.Linear(48, 32), nn.GELU())
        self.out_layer = nn.Linear(64, config.channels[0])
        nn.init.zeros_(self.out_layer.weight)
        nn.init.zeros_(self.out_layer.bias)

    def forward(
        self, photos: Float[Tensor, "photo channel h w"], views: LiftedViews
    ) -> Float[Tensor, "batch width x2 y2 z2"]:
        """To be added to the U-Net's first level; zero at first."""
        batch, count, *size, _ = views.features.shape
        photos = photos.view(-1, count, *photos.shape[1:]).expand(batch, -1, -1, -1, -1).flatten(0, 1)
        spots = views.spots.flatten(0, 1)
        at = spots[..., :2].reshape(len(spots), -1, 1, 2)
        seen = F.grid_sample(photos, at, align_corners=False)[..., 0].transpose(1, 2)
        coarse = F.avg_pool3d(views.features.flatten(0, 1).permute(0, 4, 1, 2, 3), 2).flatten(2).transpose(1, 2)
        told = self.layers(torch.cat([seen, coarse, spots[..., 2:].reshape(len(spots), -1, SPOT - 2)], -1))
        told = told.view(batch, count, *(side // 2 for side in size), -1)
        out: Tensor = self.out_layer(torch.cat([told.mean(1), told.amax(1)], -1)).permute(0, 4, 1, 2, 3)
        return out


class EdgeNetwork(nn.Module):
    """What to add to a cell's logit for the way the outlines run through it, which the U-Net sees blurred; zero at first."""

    def __init__(self, config: LiftingConfig) -> None:
        super().__init__()
        width = config.edge_channels
        known = 1 + config.fine_channels + EDGE_FEATURES
        self.layers = nn.Sequential(nn.Linear(known, width), nn.GELU(), nn.Linear(width, width), nn.GELU())
        self.out_layer = nn.Linear(width, 1)
        nn.init.zeros_(self.out_layer.weight)
        nn.init.zeros_(self.out_layer.bias)

    def forward(
        self,
        logits: Float[Tensor, "batch x y z"],
        fine: Float[Tensor, "batch channel x y z"],
        features: Float[Tensor, "batch view x y z feature"],
    ) -> Float[Tensor, "batch x y z"]:
        """Apply to the logits so far, the features that they were read from, and what is known of each view."""
        known = [torch.tanh(logits / 4)[..., None], fine.permute(0, 2, 3, 4, 1), edges(features)]
        out: Tensor = self.out_layer(self.layers(torch.cat(known, -1)))[..., 0]
        return out


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
        self.fine_levels = nn.ModuleList(ResBlock(fine) for _ in range(config.fine_blocks))
        self.out_layer = output_layer(fine, 1)
        self.photo = PhotoNetwork(config) if config.photo_channels else None
        self.spot = SpotNetwork(config) if config.photo_channels else None
        self.edge = EdgeNetwork(config) if config.edge_channels else None
        self.detail = (
            DetailNetwork(fine, config.detail_channels, config.detail_blocks) if config.detail_channels else None
        )

    def _level(self, width: int) -> nn.Sequential:
        return nn.Sequential(*(ResBlock(width) for _ in range(self.config.blocks)))

    def forward(self, views: LiftedViews) -> Float[Tensor, "batch x y z"]:
        """Logits."""
        return self.with_fine(views)[0]

    def detailed(
        self,
        logits: Float[Tensor, "batch x y z"],
        fine: Float[Tensor, "batch channel x y z"],
        finer: Float[Tensor, "batch view x2 y2 z2 feature"],
    ) -> Float[Tensor, "batch x2 y2 z2"]:
        """Logits on a grid twice as fine, only of a network with a detail network.

        Args:
            logits: of this grid, see `with_fine`.
            fine: what they were read from.
            finer: of each view at the cells of that grid.
        """
        assert self.detail is not None, "there is a detail network"
        out: Tensor = self.detail(refined(logits[:, None])[:, 0], refined(fine), finer)
        return out

    def with_fine(
        self, views: LiftedViews
    ) -> tuple[
        Float[Tensor, "batch x y z"],
        Float[Tensor, "batch channel x y z"],
        Float[Tensor, "shown view h4 w4"] | None,
    ]:
        """Logits, the features that they are read from, and what the photo network takes for the surface's depth, see there."""
        known = pooled(views.features, F.gelu(self.view_layer(views.features)))
        x = fine = F.gelu(self.input_layer(known)).permute(0, 4, 1, 2, 3)  # channels last in memory already
        x, depth = self.halved[0](x), None
        if self.photo is not None and self.spot is not None:
            photos, depth = self.photo(views.windows.flatten(0, 1))
            x, depth = x + self.spot(photos, views), depth.unflatten(0, views.windows.shape[:2])
        x = self.down_levels[0](x)
        kept = [x]
        for halved, level in zip(self.halved[1:], self.down_levels[1:], strict=True):
            x = level(halved(x))
            kept.append(x)
        for level, doubled, finer in reversed(list(zip(self.up_levels, self.doubled, kept[:-1], strict=True))):
            x = level(doubled(x) + finer)
        x = self.fine(pixel_shuffle_3d(self.to_fine(x)) + fine)
        for level in self.fine_levels:
            x = level(x)
        x = self.out_layer[:-1](x)
        logits: Tensor = self.out_layer[-1](x)[:, 0]
        if self.edge is not None:
            logits = logits + self.edge(logits, x, views.features)
        return logits, x, depth
