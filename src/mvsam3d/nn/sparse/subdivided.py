"""Convolution of a subdivided tensor, computed from the coarse rows.

The eight children of a voxel carry equal features, so the 27 sites around a child hold only 2 x 2 x 2 different rows:
with the weights of equal rows added up first, a child takes 8 products instead of 27, and no features are repeated.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from typing import Any

import torch
from jaxtyping import Float, Int, Int32
from torch import Tensor

from mvsam3d.nn.sparse.convolution import SparseConv3d, _product_dtype, _working_dtype
from mvsam3d.nn.sparse.grid import neighbour_table
from mvsam3d.nn.sparse.tensor import SparseTensor, subdivide

BLOCK = 1024  # coarse rows at once: the buffers of a child stay in the cache
# [child, neighbour, kernel offset] along an axis: the lower child reaches coarse cells -1 and 0, the upper one 0 and 1
SHARED = (((1.0, 0.0, 0.0), (0.0, 1.0, 1.0)), ((1.0, 1.0, 0.0), (0.0, 0.0, 1.0)))
PARITIES = tuple(product((0, 1), repeat=3))  # children in row order, neighbours in the order of the matrices
# number of each child's eight neighbours among the 27 offsets
OFFSETS = [[9 * (x + a) + 3 * (y + b) + (z + c) for a, b, c in PARITIES] for x, y, z in PARITIES]


def subdivided_conv3(x: SparseTensor, conv: SparseConv3d) -> SparseTensor:
    """`conv(subdivide(x))` for a kernel of 3, in less time and memory; equal up to rounding."""
    dtype = _working_dtype(x.feats.device.type, conv.conv.weight.dtype)
    # sums of weights in float32 or better, whatever the products are made in
    matrices = _matrices(conv.conv.weight.to(torch.promote_types(dtype, torch.float32)))
    table = neighbour_table(x.coords)
    table[table < 0] = len(x.feats)  # the row of zeros that `_padded` adds
    out: Tensor = _Conv.apply(x.feats.to(dtype), matrices, table)  # type: ignore[no-untyped-call]
    return SparseTensor(out + conv.conv.bias.to(dtype), x.grid.fine)


def subdivided_rows(x: SparseTensor, conv: SparseConv3d, table: Int32[Tensor, "27 row"]) -> Float[Tensor, "fine out"]:
    """The children of some rows alone, without gradients. `table`: their columns of the neighbour table of `x`, -1 for none."""
    dtype = _working_dtype(x.feats.device.type, conv.conv.weight.dtype)
    matrices = _matrices(conv.conv.weight.to(torch.promote_types(dtype, torch.float32)))
    known = torch.where(table < 0, len(x.feats), table)
    return _gather_multiply(x.feats.to(dtype), matrices, known) + conv.conv.bias.to(dtype)


def subdivided_conv3_plain(x: SparseTensor, conv: SparseConv3d) -> SparseTensor:
    """The same, row by row of the fine grid."""
    out: SparseTensor = conv(subdivide(x))
    return out


def _matrices(weight: Float[Tensor, "out 3 3 3 channel"]) -> Float[Tensor, "8 8 channel out"]:
    """Per child and coarse neighbour, the sum of the kernel's matrices that meet this neighbour."""
    shared = torch.tensor(SHARED, dtype=weight.dtype, device=weight.device)
    summed = torch.einsum("oxyzc,adx,bey,gfz->abgdefco", weight, shared, shared, shared)
    return summed.flatten(3, 5).flatten(0, 2)


class _Conv(torch.autograd.Function):
    """[voxel, channel] -> [8 voxel, out], without bias."""

    @staticmethod
    def forward(ctx: Any, feats: Tensor, matrices: Tensor, table: Tensor) -> Tensor:
        ctx.save_for_backward(feats, matrices, table)
        return _gather_multiply(feats, matrices, table)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        feats, matrices, table = ctx.saved_tensors
        grad = grads[0].contiguous().view(len(feats), 8, -1)
        to_feats = _to_feats(grad, matrices, table) if ctx.needs_input_grad[0] else None
        to_matrices = _to_matrices(feats, grad, table) if ctx.needs_input_grad[1] else None
        return to_feats, to_matrices, None


def _gather_multiply(
    feats: Float[Tensor, "voxel channel"], matrices: Float[Tensor, "8 8 channel out"], table: Int32[Tensor, "27 row"]
) -> Float[Tensor, "fine out"]:
    padded = _padded(feats)
    matrices = matrices.flatten(1, 2).to(padded.dtype)
    out = feats.new_empty(table.shape[1], 8, matrices.shape[2])
    for rows, child in _pieces(table.shape[1]):
        around = padded.index_select(0, _rows(table[:, rows], OFFSETS[child])).view(-1, matrices.shape[1])
        out[rows, child] = around @ matrices[child]
    return out.flatten(0, 1)


def _to_feats(
    grad: Float[Tensor, "voxel 8 out"], matrices: Float[Tensor, "8 8 channel out"], table: Int32[Tensor, "27 voxel"]
) -> Float[Tensor, "voxel channel"]:
    """A row is its neighbours' neighbour at the opposite offset: gather what the children there send back."""
    padded = _padded(grad.flatten(1)).view(-1, grad.shape[2])
    back = matrices.transpose(2, 3).flatten(1, 2).to(padded.dtype)
    total = grad.new_zeros(len(grad), back.shape[2])
    for rows, child in _pieces(len(grad)):
        voxel = _rows(table[:, rows], [26 - k for k in OFFSETS[child]])
        total[rows] += padded.index_select(0, 8 * voxel + child).view(-1, back.shape[1]) @ back[child]
    return total


def _to_matrices(
    feats: Float[Tensor, "voxel channel"], grad: Float[Tensor, "voxel 8 out"], table: Int32[Tensor, "27 voxel"]
) -> Float[Tensor, "8 8 channel out"]:
    padded = _padded(feats)
    channels, out = feats.shape[1], grad.shape[2]
    total = padded.new_zeros(8, 8 * channels, out, dtype=torch.promote_types(padded.dtype, torch.float32))
    for rows, child in _pieces(len(feats)):
        around = padded.index_select(0, _rows(table[:, rows], OFFSETS[child])).view(-1, 8 * channels)
        total[child] += around.T @ grad[rows, child].to(padded.dtype)
    return total.view(8, 8, channels, out)


def _padded(feats: Float[Tensor, "voxel channel"]) -> Float[Tensor, "padded channel"]:
    """A row of zeros at the end, for neighbours that are not active, in the precision of products."""
    return torch.nn.functional.pad(feats.to(_product_dtype(feats)), (0, 0, 0, 1))


def _rows(table: Int32[Tensor, "27 voxel"], offsets: list[int]) -> Int[Tensor, " pair"]:
    """Row of each voxel's neighbours at these offsets, voxel by voxel."""
    return table[offsets].T.reshape(-1)


def _pieces(voxels: int) -> Iterator[tuple[slice, int]]:
    for start in range(0, voxels, BLOCK):
        for child in range(8):
            yield slice(start, min(start + BLOCK, voxels)), child
