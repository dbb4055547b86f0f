"""Velocity of the structured latents (stage 2): fine convolutions around a transformer on a coarser grid."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from mvsam3d.errors import InvalidOption
from mvsam3d.models.slat_trunk import torso_dtype
from mvsam3d.nn.layers import FeedForward, LayerNorm32, TimestepEmbedder, init_linears, open_gates, position_embedding
from mvsam3d.nn.probe import AttentionProbe
from mvsam3d.nn.sparse import (
    KeyValues,
    SparseConv3d,
    SparseCrossAttention,
    SparseGrid,
    SparseSelfAttention,
    SparseTensor,
    downsample,
    upsample,
)

Resampling = Literal["down", "up"] | None
Context = Float[Tensor, "batch token channel"] | Sequence[KeyValues]  # tokens, or what every block makes of them


@dataclass(frozen=True)
class SlatFlowConfig:
    """Size of the stage-2 flow; the defaults are the public model's."""

    resolution: int = 64
    """Cells along an edge of the grid."""
    in_channels: int = 8
    out_channels: int = 8
    width: int = 1024
    cond_channels: int = 1024
    blocks: int = 24
    heads: int = 16
    mlp_ratio: float = 4.0
    patch_size: int = 2
    """How much coarser the transformer's grid is: a power of 2."""
    io_res_blocks: int = 2
    """Residual blocks per level, on the way down and on the way up."""
    io_channels: tuple[int, ...] = (128,)
    """Width of each level above the transformer, finest first: log2(patch_size) of them."""
    qk_rms_norm: bool = True
    use_skip_connection: bool = True
    """The way up sees the features of the way down."""

    def __post_init__(self) -> None:
        if 2 ** len(self.io_channels) != self.patch_size:
            raise InvalidOption(
                f"patch_size {self.patch_size} with {len(self.io_channels)} io_channels: each level halves the "
                f"resolution, so give log2(patch_size) widths, or patch_size {2 ** len(self.io_channels)}"
            )


class SparseResBlock3d(nn.Module):
    """Two convolutions around a modulation by the time. Resampling comes before everything, also on the skip path."""

    def __init__(self, channels: int, emb_channels: int, out_channels: int, resampling: Resampling = None) -> None:
        super().__init__()
        self.resampling = resampling
        self.norm1 = LayerNorm32(channels, eps=1e-6)
        self.norm2 = LayerNorm32(out_channels, eps=1e-6, elementwise_affine=False)
        self.conv1 = SparseConv3d(channels, out_channels)
        self.conv2 = SparseConv3d(out_channels, out_channels)
        self.emb_layers = nn.Sequential(nn.SiLU(), nn.Linear(emb_channels, 2 * out_channels))
        same = channels == out_channels
        self.skip_connection = nn.Identity() if same else nn.Linear(channels, out_channels)

    def forward(
        self, x: SparseTensor, emb: Float[Tensor, "#batch channel"], onto: SparseGrid | None = None
    ) -> SparseTensor:
        """Apply; `onto` is the grid that a block which doubles the resolution leads back to."""
        scale, shift = self.emb_layers(emb).chunk(2, dim=-1)
        x = self._resampled(x, onto)
        h = self.conv1(x.replace(F.silu(self.norm1(x.feats))))
        modulated = self.norm2(h.feats) * (1 + x.grid.spread(scale)) + x.grid.spread(shift)
        h = self.conv2(x.replace(F.silu(modulated)))
        return x.replace(h.feats + self.skip_connection(x.feats))

    def _resampled(self, x: SparseTensor, onto: SparseGrid | None) -> SparseTensor:
        if self.resampling == "down":
            return downsample(x)
        if self.resampling == "up":
            assert onto is not None, "upsampling needs the grid to go back to"
            return upsample(x, onto)
        return x


class ModulatedSparseCrossBlock(nn.Module):
    """Self-attention, cross-attention and network of a voxel; the time modulates the first and the last."""

    def __init__(self, config: SlatFlowConfig) -> None:
        super().__init__()
        width, heads = config.width, config.heads
        self.norm1 = LayerNorm32(width, eps=1e-6, elementwise_affine=False)
        self.norm2 = LayerNorm32(width, eps=1e-6)
        self.norm3 = LayerNorm32(width, eps=1e-6, elementwise_affine=False)
        self.self_attn = SparseSelfAttention(width, heads, qk_rms_norm=config.qk_rms_norm)
        self.cross_attn = SparseCrossAttention(width, heads, config.cond_channels)
        self.mlp = FeedForward(width, config.mlp_ratio)
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(width, 6 * width))

    def forward(
        self,
        x: SparseTensor,
        emb: Float[Tensor, "#batch channel"],
        context: Float[Tensor, "batch token condition"] | KeyValues,
        *,
        probe: AttentionProbe | None = None,
        block: int = 0,
    ) -> SparseTensor:
        """Apply; `probe` sees the cross-attention as that of block number `block`."""
        return self.look_across(self.look_around(x, emb), emb, context, probe=probe, block=block)

    def look_around(self, x: SparseTensor, emb: Float[Tensor, "#batch channel"]) -> SparseTensor:
        """The part before the first look at the condition: self-attention."""
        shift, scale, gate = self._modulation(x, emb, slice(0, 3))
        h = self.self_attn(x.replace(self.norm1(x.feats) * (1 + scale) + shift))
        return x.replace(x.feats + h.feats * gate)

    def look_across(
        self,
        x: SparseTensor,
        emb: Float[Tensor, "#batch channel"],
        context: Float[Tensor, "batch token condition"] | KeyValues,
        *,
        probe: AttentionProbe | None = None,
        block: int = 0,
    ) -> SparseTensor:
        """The rest: cross-attention and network."""
        shift, scale, gate = self._modulation(x, emb, slice(3, 6))
        h = self.cross_attn(x.replace(self.norm2(x.feats)), context, probe=probe, block=block)
        x = x.replace(x.feats + h.feats)
        return x.replace(x.feats + self.mlp(self.norm3(x.feats) * (1 + scale) + shift) * gate)

    def show(
        self,
        x: SparseTensor,
        context: Float[Tensor, "batch token condition"] | KeyValues,
        probe: AttentionProbe,
        block: int,
    ) -> None:
        """Show a probe what the cross-attention would look at, after `look_around`, and stop there."""
        kv = context if isinstance(context, KeyValues) else self.cross_attn.keys_values(context)
        self.cross_attn.show(x.replace(self.norm2(x.feats)), kv, probe, block)

    def _modulation(self, x: SparseTensor, emb: Float[Tensor, "#batch channel"], parts: slice) -> list[Tensor]:
        """Some of the six: shift, scale and gate of self-attention, then of the network."""
        linear, width = self.adaLN_modulation[1], emb.shape[1]
        assert isinstance(linear, nn.Linear)
        rows = slice(parts.start * width, parts.stop * width)
        modulation = F.linear(F.silu(emb), linear.weight[rows], linear.bias[rows])
        return [x.grid.spread(part) for part in modulation.chunk(parts.stop - parts.start, dim=-1)]


class SlatFlow(nn.Module):
    """Velocity network of stage 2. Keys as in the public generator below `reverse_fn.backbone.`."""

    def __init__(self, config: SlatFlowConfig) -> None:
        super().__init__()
        self.config = config
        widths = (*config.io_channels, config.width)
        self.t_embedder = TimestepEmbedder(config.width)
        self.input_layer = nn.Linear(config.in_channels, widths[0])
        self.input_blocks = nn.ModuleList(_way_down(config))
        self.blocks = nn.ModuleList(ModulatedSparseCrossBlock(config) for _ in range(config.blocks))
        self.out_blocks = nn.ModuleList(_way_up(config))
        self.out_layer = nn.Linear(widths[0], config.out_channels)
        self._initialise()

    def open_gates(self) -> None:
        """Let every block act from the start, as `StructureFlow.open_gates`."""
        for module in self.modules():
            if isinstance(module, ModulatedSparseCrossBlock):
                open_gates(module.adaLN_modulation)

    def forward(
        self,
        x: SparseTensor,
        t: Float[Tensor, " #batch"],
        cond: Context,
        *,
        probe: AttentionProbe | None = None,
        onto: SparseGrid | None = None,
    ) -> SparseTensor:
        """Velocity at each voxel, in the precision of `x`.

        Args:
            x: noisy latents; build its grid once and pass the same one at every step, it keeps the neighbour maps.
            t: time of each batch element, times 1000: 0 is noise, 1000 is data.
            cond: condition tokens, or `keys_values` of them. Without condition the public model attends to zeros: a
                single token of zeros gives the same result as many.
            probe: is shown the queries and keys of the cross-attention of the blocks it wants.
            onto: the grid of x once for each row of the condition, if x is one state that all rows share: what comes before
                the first look at the condition is then done once.
        """
        tokens, skips, emb = self._before_condition(x, t, onto)
        for i, block in enumerate(self._blocks()):
            rest = block.look_across if i == 0 else block  # the first has looked around
            tokens = rest(tokens, emb, self._context(cond, i), probe=probe, block=i)
        h = self.from_tokens(tokens, skips, emb, onto or x.grid).feats.to(self.out_layer.weight.dtype)
        out = self.out_layer(F.layer_norm(h, h.shape[-1:])).to(x.feats.dtype)
        return SparseTensor(out, onto or x.grid)

    def show_attention(
        self,
        x: SparseTensor,
        t: Float[Tensor, " #batch"],
        cond: Context,
        probe: AttentionProbe,
        *,
        onto: SparseGrid | None = None,
    ) -> None:
        """Show a probe the blocks it wants, and do no more than that needs: nothing after the last of them."""
        wanted = [i for i in range(len(self.blocks)) if probe.wants(i)]
        if not wanted:
            return
        tokens, _, emb = self._before_condition(x, t, onto)
        for i, block in enumerate(self._blocks()):
            tokens = tokens if i == 0 else block.look_around(tokens, emb)
            if i == wanted[-1]:
                block.show(tokens, self._context(cond, i), probe, i)
                return
            tokens = block.look_across(tokens, emb, self._context(cond, i), probe=probe, block=i)

    def _before_condition(
        self, x: SparseTensor, t: Float[Tensor, " #batch"], onto: SparseGrid | None
    ) -> tuple[SparseTensor, list[SparseTensor], Tensor]:
        """All that is alike for all conditions, then a row of it for each: tokens, results of the way down, time embedding."""
        emb = self.t_embedder(t).to(torso_dtype(self.blocks))
        tokens, skips = self.to_tokens(x, emb)
        tokens = self._blocks()[0].look_around(tokens, emb)
        if onto is None:
            return tokens, skips, emb
        assert x.grid.batch_size == 1, "one state is shared by all conditions"
        grids = {id(x.grid): onto}
        fine, copied = x.grid, onto
        while id(tokens.grid) not in grids:
            fine, copied = fine.coarse.grid, copied.coarse.grid
            grids[id(fine)] = copied
        rows = onto.batch_size
        tokens, *skips = [SparseTensor(h.feats.repeat(rows, 1), grids[id(h.grid)]) for h in (tokens, *skips)]
        return tokens, skips, emb

    def _blocks(self) -> list[ModulatedSparseCrossBlock]:
        return [block for block in self.blocks if isinstance(block, ModulatedSparseCrossBlock)]

    def _context(self, cond: Context, block: int) -> Tensor | KeyValues:
        return cond.to(torso_dtype(self.blocks)) if isinstance(cond, Tensor) else cond[block]

    def keys_values(self, cond: Float[Tensor, "batch token channel"]) -> list[KeyValues]:
        """What the cross-attention of each block makes of the condition; it may be kept over all steps."""
        cond = cond.to(torso_dtype(self.blocks))
        return [block.cross_attn.keys_values(cond) for block in self._blocks()]

    def to_tokens(
        self, x: SparseTensor, emb: Float[Tensor, "#batch channel"]
    ) -> tuple[SparseTensor, list[SparseTensor]]:
        """Input of the transformer, positions added, and the result of each block on the way down."""
        dtype = torso_dtype(self.blocks)
        h = x.replace(self.input_layer(x.feats.to(self.input_layer.weight.dtype)).to(dtype))
        skips = []
        for block in self.input_blocks:
            h = block(h, emb)
            skips.append(h)
        positions = position_embedding(h.coords[:, 1:].float(), self.config.width)
        return h.replace(h.feats.to(dtype) + positions.to(dtype)), skips

    def from_tokens(
        self, h: SparseTensor, skips: list[SparseTensor], emb: Float[Tensor, "#batch channel"], grid: SparseGrid
    ) -> SparseTensor:
        """From the transformer's output back to the voxels of `grid`."""
        backwards = [*(skip.grid for skip in reversed(skips)), grid]
        for block, skip, (_, onto) in zip(self.out_blocks, reversed(skips), pairwise(backwards)):
            if self.config.use_skip_connection:
                h = h.replace(torch.cat([h.feats, skip.feats.to(h.feats.dtype)], dim=1))
            h = block(h, emb, onto)
        return h

    def _initialise(self) -> None:
        """As the public systems train from scratch: every block starts as the identity, the velocity as zero."""
        init_linears(self)
        for layer in (self.t_embedder.mlp[0], self.t_embedder.mlp[2]):
            assert isinstance(layer, nn.Linear)
            nn.init.normal_(layer.weight, std=0.02)
        for module in self.modules():
            if isinstance(module, ModulatedSparseCrossBlock):
                _zero(module.adaLN_modulation[1])
            if isinstance(module, SparseResBlock3d):
                _zero(module.conv2)
        _zero(self.out_layer)


def _zero(module: nn.Module) -> None:
    for parameter in module.parameters():
        nn.init.zeros_(parameter)


def _way_down(config: SlatFlowConfig) -> list[SparseResBlock3d]:
    blocks = []
    for channels, below in pairwise((*config.io_channels, config.width)):
        blocks += [SparseResBlock3d(channels, config.width, channels) for _ in range(config.io_res_blocks - 1)]
        blocks.append(SparseResBlock3d(channels, config.width, below, "down"))
    return blocks


def _way_up(config: SlatFlowConfig) -> list[SparseResBlock3d]:
    seen = 2 if config.use_skip_connection else 1
    blocks = []
    for channels, below in reversed(list(pairwise((*config.io_channels, config.width)))):
        blocks.append(SparseResBlock3d(seen * below, config.width, channels, "up"))
        more = range(config.io_res_blocks - 1)
        blocks += [SparseResBlock3d(seen * channels, config.width, channels) for _ in more]
    return blocks
