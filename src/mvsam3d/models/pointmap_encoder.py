"""Point map -> one token per window of points. Keys of the public PointPatchEmbed."""

from dataclasses import dataclass
from typing import Literal, assert_never

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Generator, Tensor, nn

from mvsam3d.nn.blocks import VitBlock, init_vit

Remap = Literal["linear", "sinh", "exp", "sinh_exp", "exp_disparity"]
Points = Float[Tensor, "*rows 3"]


@dataclass(frozen=True)
class PointmapConfig:
    """Size of the encoder. Defaults: the public size."""

    kind: Literal["pointmap"] = "pointmap"
    input_size: int = 256
    """Point maps are resized (nearest) to this square."""
    patch_size: int = 8
    width: int = 512
    heads: int = 16
    mlp_ratio: float = 2.0
    remap: Remap = "linear"
    """How coordinates are squeezed before the network sees them."""
    dropout_prob: float = 0.0
    """In training, the share of maps whose tokens give way to a learned one; more than 0 adds that token's key."""
    frozen: bool = False
    """Do not train it."""

    @property
    def prefix(self) -> int:
        """Leading tokens that are no patches."""
        return 0


def remap_points(points: Points, how: Remap) -> Points:
    """Squeeze coordinates. `exp` and the two with a logarithm of z expect z > -1 and z > 0."""
    xy, z = points[..., :2], points[..., 2:]
    match how:
        case "linear":
            return points
        case "sinh":
            return torch.asinh(points)
        case "exp":
            return torch.cat([xy / (1 + z), torch.log1p(z)], dim=-1)
        case "sinh_exp":
            return torch.cat([torch.asinh(xy), torch.log(z)], dim=-1)
        case "exp_disparity":
            return torch.cat([xy / z, torch.log(z)], dim=-1)
        case _:
            assert_never(how)


def unmap_points(points: Points, how: Remap) -> Points:
    """The inverse of `remap_points`."""
    xy, z = points[..., :2], points[..., 2:]
    match how:
        case "linear":
            return points
        case "sinh":
            return torch.sinh(points)
        case "exp":
            return torch.cat([xy * torch.exp(z), torch.expm1(z)], dim=-1)
        case "sinh_exp":
            return torch.cat([torch.sinh(xy), torch.exp(z)], dim=-1)
        case "exp_disparity":
            return torch.cat([xy * torch.exp(z), torch.exp(z)], dim=-1)
        case _:
            assert_never(how)


class PointmapEncoder(nn.Module):
    """Windows of points, each summed up by one attention block into one token; windows row by row."""

    def __init__(self, config: PointmapConfig) -> None:
        super().__init__()
        self.config = config
        width, grid = config.width, config.input_size // config.patch_size
        self.point_proj = nn.Linear(3, width)
        self.invalid_xyz_token = nn.Parameter(torch.zeros(width))
        self.cls_token = nn.Parameter(torch.randn(1, 1, width) * 0.02)
        self.pos_embed_window = nn.Parameter(torch.randn(1, 1 + config.patch_size**2, width) * 0.02)
        self.pos_embed = nn.Parameter(torch.randn(1, width, grid, grid) * 0.02)
        self.blocks = nn.Sequential(VitBlock(width, config.heads, config.mlp_ratio, layer_scale=False))
        self.dropped_xyz_token = nn.Parameter(torch.zeros(width)) if config.dropout_prob > 0 else None
        init_vit(self.blocks)
        if config.frozen:
            self.requires_grad_(False)

    def point_features(self, pointmap: Float[Tensor, "batch 3 h w"]) -> Float[Tensor, "batch size size channel"]:
        """A feature per point of the resized map; points that are not finite get a learned one."""
        size = self.config.input_size
        points = F.interpolate(pointmap, size=(size, size), mode="nearest").permute(0, 2, 3, 1)
        valid = points.isfinite().all(dim=-1, keepdim=True)
        features = self.point_proj(remap_points(torch.where(valid, points, 0.0), self.config.remap))
        return torch.where(valid, features, self.invalid_xyz_token.to(features.dtype))

    def forward(
        self,
        pointmap: Float[Tensor, "batch 3 h w"],
        *,
        drop: Bool[Tensor, " batch"] | None = None,
        generator: Generator | None = None,
    ) -> Float[Tensor, "batch token channel"]:
        """Encode maps of any size, NaN or infinite where points are missing.

        Args:
            pointmap: normalised points.
            drop: maps whose tokens give way to the learned one; by default a draw in training, none otherwise.
            generator: for that draw, on the CPU.
        """
        features = self.point_features(pointmap)
        batch, size, _, width = features.shape
        patch = self.config.patch_size
        grid = size // patch
        windows = features.reshape(batch, grid, patch, grid, patch, width).transpose(2, 3).reshape(-1, patch**2, width)
        x = torch.cat([self.cls_token.expand(len(windows), -1, -1), windows], dim=1) + self.pos_embed_window
        tokens: Tensor = self.blocks(x)[:, 0].reshape(batch, grid**2, width)
        if self.dropped_xyz_token is not None:
            if drop is None and self.training:
                drop = torch.rand(batch, generator=generator) < self.config.dropout_prob
            if drop is not None:
                tokens = torch.where(drop[:, None, None].to(tokens.device), self.dropped_xyz_token, tokens)
        return tokens + self.pos_embed.flatten(2).transpose(1, 2)
