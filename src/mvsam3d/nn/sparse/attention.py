"""Attention of sparse tensors: full and in windows among voxels, and across to tokens. No [N, N] mask anywhere."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from mvsam3d.nn.attention import KeyValues, attention
from mvsam3d.nn.layers import MultiHeadRMSNorm
from mvsam3d.nn.probe import AttentionProbe
from mvsam3d.nn.sparse.grid import SparseGrid, Windows
from mvsam3d.nn.sparse.tensor import SparseTensor


@dataclass(frozen=True)
class Window:
    """Attention within cubes of `size` voxels; the coordinates are shifted by `shift` before they are cut up."""

    size: int
    shift: int = 0


class SparseSelfAttention(nn.Module):
    """Attention among the voxels of each batch element. Keys to_qkv, to_out, and with norm q_rms_norm, k_rms_norm."""

    def __init__(self, width: int, heads: int, window: Window | None = None, *, qk_rms_norm: bool = False) -> None:
        """`window`: None lets every voxel see all of its element."""
        super().__init__()
        self.heads, self.window = heads, window
        self.to_qkv = nn.Linear(width, 3 * width)
        self.q_rms_norm = MultiHeadRMSNorm(width // heads, heads) if qk_rms_norm else None
        self.k_rms_norm = MultiHeadRMSNorm(width // heads, heads) if qk_rms_norm else None
        self.to_out = nn.Linear(width, width)

    def forward(self, x: SparseTensor) -> SparseTensor:
        """Attend."""
        qkv = self.to_qkv(x.feats).unflatten(-1, (3, self.heads, -1))
        if self.q_rms_norm is not None and self.k_rms_norm is not None:
            q, k, v = qkv.unbind(1)
            qkv = torch.stack([self.q_rms_norm(q), self.k_rms_norm(k), v], dim=1)
        if self.window is None:
            out = attend_full(qkv, x.grid)
        else:
            out = attend_windows(qkv, x.grid.windows(self.window.size, self.window.shift))
        return x.replace(self.to_out(out.flatten(1)))


class SparseCrossAttention(nn.Module):
    """Attention from voxels to the dense tokens of their batch element. Keys to_q, to_kv, to_out."""

    def __init__(self, width: int, heads: int, context_width: int) -> None:
        super().__init__()
        self.heads = heads
        self.to_q = nn.Linear(width, width)
        self.to_kv = nn.Linear(context_width, 2 * width)
        self.to_out = nn.Linear(width, width)

    def keys_values(self, context: Float[Tensor, "batch token channel"]) -> KeyValues:
        """Keys and values: they depend on the context alone."""
        k, v = self.to_kv(context).unflatten(-1, (2, self.heads, -1)).unbind(2)
        return KeyValues(k, v)

    def forward(
        self,
        x: SparseTensor,
        context: Float[Tensor, "batch token channel"] | KeyValues,
        *,
        probe: AttentionProbe | None = None,
        block: int = 0,
    ) -> SparseTensor:
        """Attend; `probe` is shown queries and keys as those of block number `block`."""
        kv = context if isinstance(context, KeyValues) else self.keys_values(context)
        probed = probe is not None and probe.wants(block)
        if kv.k.shape[1] == 1 and not probed:  # a single key takes all the attention, whatever the queries are
            return x.replace(x.grid.spread(self.to_out(kv.v.flatten(1))).expand(len(x.grid), -1))
        q = self.to_q(x.feats).unflatten(-1, (self.heads, -1))
        if probe is not None and probed:
            probe.record(block, _stacked(q, x.grid), kv.k)
        return x.replace(self.to_out(attend_across(q, kv, x.grid).flatten(1)))

    def show(self, x: SparseTensor, kv: KeyValues, probe: AttentionProbe, block: int) -> None:
        """Show a probe queries and keys, without attending."""
        probe.record(block, _stacked(self.to_q(x.feats).unflatten(-1, (self.heads, -1)), x.grid), kv.k)


def _lengths(grid: SparseGrid) -> set[int]:
    return {rows.stop - rows.start for rows in grid.slices}


def _stacked(rows: Float[Tensor, "voxel head channel"], grid: SparseGrid) -> Float[Tensor, "batch latent head channel"]:
    """Rows per element. A probe speaks of batches of one object (its views), whose elements are equally long."""
    assert len(_lengths(grid)) == 1, "attention can be probed where all elements have equally many voxels"
    return rows.reshape(grid.batch_size, -1, *rows.shape[1:])


def attend_full(qkv: Float[Tensor, "voxel 3 head channel"], grid: SparseGrid) -> Float[Tensor, "voxel head channel"]:
    """Every voxel attends to all voxels of its element."""
    if len(_lengths(grid)) == 1:
        return attention(*qkv.reshape(grid.batch_size, -1, *qkv.shape[1:]).unbind(2)).flatten(0, 1)
    return torch.cat([attention(*qkv[None, rows].unbind(2))[0] for rows in grid.slices])


def attend_across(
    q: Float[Tensor, "voxel head channel"], kv: KeyValues, grid: SparseGrid
) -> Float[Tensor, "voxel head channel"]:
    """Every voxel attends to all keys of its element."""
    assert len(kv.k) == grid.batch_size, f"{len(kv.k)} contexts for {grid.batch_size} elements"
    if len(_lengths(grid)) == 1:
        return attention(_stacked(q, grid), kv.k, kv.v).flatten(0, 1)
    parts = [attention(q[None, rows], kv.k[i : i + 1], kv.v[i : i + 1])[0] for i, rows in enumerate(grid.slices)]
    return torch.cat(parts)


def attend_windows(qkv: Float[Tensor, "voxel 3 head channel"], windows: Windows) -> Float[Tensor, "voxel head channel"]:
    """Every voxel attends to all voxels of its window; one batched call per bucket of similar windows."""
    parts = []
    for bucket in windows.buckets:
        q, k, v = qkv[bucket.rows].permute(2, 0, 3, 1, 4)  # window, head, length, channel
        mask = None if bucket.valid is None else bucket.valid[:, None, None]
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        parts.append(out.transpose(1, 2).flatten(0, 1))
    return torch.cat(parts).index_select(0, windows.inverse)


def attend_groups_plain(
    qkv: Float[Tensor, "voxel 3 head channel"], group: Int[Tensor, " voxel"]
) -> Float[Tensor, "voxel head channel"]:
    """Every voxel attends to all voxels of its group, with a dense mask: twin of `attend_full`, `attend_windows`."""
    q, k, v = qkv.unbind(1)
    scores = torch.einsum("qhc,khc->hqk", q, k) / math.sqrt(q.shape[-1])
    scores = scores.masked_fill(group[:, None] != group, -math.inf)
    return torch.einsum("hqk,khc->qhc", scores.softmax(-1), v)
