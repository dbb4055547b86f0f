"""The transformer that the SLAT encoder and both SLAT decoders share: voxels that attend to each other in windows."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from mvsam3d.nn.layers import FeedForward, LayerNorm32, init_linears, position_embedding
from mvsam3d.nn.sparse import SparseConv3d, SparseSelfAttention, SparseTensor
from mvsam3d.nn.sparse.attention import Window

TORSO = ("input_blocks", "blocks", "out_blocks", "upsample")  # what the public model runs in half precision


@dataclass(frozen=True)
class TrunkConfig:
    """Size of the trunk; the defaults are the public model's."""

    resolution: int = 64
    """Cells along an edge of the grid."""
    width: int = 768
    blocks: int = 12
    heads: int = 12
    mlp_ratio: float = 4.0
    window: int | None = 8
    """Edge of the attention windows in voxels, shifted by half in every second block; None: one window for all."""


class SparseTransformerBlock(nn.Module):
    """x += attn(LN(x)); x += mlp(LN(x)). The norms have no parameters."""

    def __init__(self, width: int, heads: int, mlp_ratio: float, window: Window | None) -> None:
        super().__init__()
        self.norm1 = LayerNorm32(width, eps=1e-6, elementwise_affine=False)
        self.norm2 = LayerNorm32(width, eps=1e-6, elementwise_affine=False)
        self.attn = SparseSelfAttention(width, heads, window)
        self.mlp = FeedForward(width, mlp_ratio)

    def forward(self, x: SparseTensor) -> SparseTensor:
        """Apply."""
        x = x.replace(x.feats + self.attn(x.replace(self.norm1(x.feats))).feats)
        return x.replace(x.feats + self.mlp(self.norm2(x.feats)))


class SlatTrunk(nn.Module):
    """Base of the networks with this trunk. Keys input_layer, blocks.i."""

    def __init__(self, config: TrunkConfig, in_channels: int) -> None:
        super().__init__()
        self.trunk_config = config
        self.input_layer = nn.Linear(in_channels, config.width)
        self.blocks = nn.ModuleList(
            SparseTransformerBlock(config.width, config.heads, config.mlp_ratio, _window(config.window, i))
            for i in range(config.blocks)
        )
        init_linears(self)

    def trunk(self, x: SparseTensor) -> SparseTensor:
        """Features of every voxel after all blocks, in the precision of the blocks' weights."""
        h = self.input_layer(x.feats.to(self.input_layer.weight.dtype))
        h = h.float() + position_embedding(x.coords[:, 1:].float(), self.trunk_config.width)
        out = x.replace(h.to(torso_dtype(self.blocks)))
        for block in self.blocks:
            out = block(out)
        return out


def _window(size: int | None, block: int) -> Window | None:
    return None if size is None else Window(size, size // 2 * (block % 2))


def torso_dtype(torso: nn.Module) -> torch.dtype:
    """Precision of the linear and convolution weights of a part of a network."""
    first = next((m for m in torso.modules() if isinstance(m, nn.Linear)), None)
    return torch.float32 if first is None else first.weight.dtype


def cast_torso(network: nn.Module, dtype: torch.dtype) -> None:
    """Hold linear and convolution weights of the blocks in `dtype`; norms, time embedding and the ends stay."""
    for name, torso in network.named_children():
        if name in TORSO:
            for module in torso.modules():
                if isinstance(module, nn.Linear | SparseConv3d):
                    module.to(dtype)
