"""Image features at active voxels -> distribution of the structured latents. Only training needs it."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from mvsam3d.models.slat_trunk import SlatTrunk, TrunkConfig
from mvsam3d.nn.sparse import SparseTensor


@dataclass(frozen=True)
class SlatEncoderConfig:
    """Size of the encoder; the defaults are TRELLIS's."""

    trunk: TrunkConfig = field(default_factory=TrunkConfig)
    in_channels: int = 1024
    """Features per voxel: the mean of the image features of the views that see its centre."""
    latent_channels: int = 8


@dataclass(frozen=True)
class SlatPosterior:
    """Normal distribution of the latents of each voxel."""

    mean: Float[Tensor, "voxel channel"]
    logvar: Float[Tensor, "voxel channel"]

    def sample(self, noise: Float[Tensor, "voxel channel"]) -> Float[Tensor, "voxel channel"]:
        """mean + std * noise."""
        return self.mean + torch.exp(0.5 * self.logvar) * noise


class SlatEncoder(SlatTrunk):
    """Keys input_layer, blocks.i, out_layer."""

    def __init__(self, config: SlatEncoderConfig) -> None:
        super().__init__(config.trunk, config.in_channels)
        self.config = config
        self.out_layer = nn.Linear(config.trunk.width, 2 * config.latent_channels)
        nn.init.xavier_uniform_(self.out_layer.weight)
        nn.init.zeros_(self.out_layer.bias)

    def forward(self, x: SparseTensor) -> SlatPosterior:
        """Encode; rows as in `x`."""
        h = self.trunk(x).feats.to(self.out_layer.weight.dtype)
        mean, logvar = self.out_layer(F.layer_norm(h, h.shape[-1:])).float().chunk(2, dim=-1)
        return SlatPosterior(mean, logvar)
