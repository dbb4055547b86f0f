"""Submanifold convolution: the active sites stay the same, inactive neighbours count as zero.

Weights are stored as in the public checkpoints (spconv's KRSC): [out, kx, ky, kz, in].
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int32
from torch import Tensor, nn

from mvsam3d.nn.sparse.grid import OFFSETS, SparseGrid
from mvsam3d.nn.sparse.tensor import SparseTensor


class SparseConv3d(nn.Module):
    """Submanifold convolution of kernel 3 or 1. Keys conv.weight, conv.bias."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int = 3) -> None:
        super().__init__()
        assert kernel_size in (1, 3), f"kernel {kernel_size}: only 1 and 3 are used"
        self.conv = _Kernel(in_channels, out_channels, kernel_size)

    def forward(self, x: SparseTensor) -> SparseTensor:
        """Convolve, in autocast's precision where that is on, else in that of the weights."""
        dtype = _working_dtype(x.feats.device.type, self.conv.weight.dtype)
        feats, weight, bias = (value.to(dtype) for value in (x.feats, self.conv.weight, self.conv.bias))
        if weight.shape[1] == 1:
            return x.replace(torch.addmm(bias, feats, reinterpreted(weight)))
        return x.replace(submanifold_conv3(feats, x.grid, weight, bias))


class _Kernel(nn.Module):
    """Weight and bias; uniform within 1 / sqrt(fan in), as spconv initialises both."""

    def __init__(self, in_channels: int, out_channels: int, size: int) -> None:
        super().__init__()
        bound = 1 / math.sqrt(size**3 * in_channels)
        self.weight = nn.Parameter(torch.empty(out_channels, size, size, size, in_channels).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(out_channels).uniform_(-bound, bound))


def _working_dtype(device: str, parameters: torch.dtype) -> torch.dtype:
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else parameters


def reinterpreted(weight: Float[Tensor, "out 1 1 1 channel"]) -> Float[Tensor, "channel out"]:
    """Matrix of a kernel-1 convolution: spconv reads the weight's memory as [in, out] without transposing it.

    The public models were trained that way. x @ matrix + bias is the layer.
    """
    return weight.reshape(weight.shape[-1], weight.shape[0])


def submanifold_conv3(
    feats: Float[Tensor, "voxel channel"],
    grid: SparseGrid,
    weight: Float[Tensor, "out 3 3 3 channel"],
    bias: Float[Tensor, " out"],
) -> Float[Tensor, "voxel out"]:
    """Cross-correlation with a 3 x 3 x 3 kernel: y[p] = bias + sum over o of weight[o] @ x[p + o], o from -1 to 1.

    Per block of rows: gather the neighbours by groups that share a part of the kernel, multiply, add up each voxel's.
    """
    out: Tensor = _Conv3.apply(feats, weight, bias, grid)  # type: ignore[no-untyped-call]
    return out


def submanifold_conv3_plain(
    feats: Float[Tensor, "voxel channel"],
    coords: Int32[Tensor, "voxel 4"],
    weight: Float[Tensor, "out 3 3 3 channel"],
    bias: Float[Tensor, " out"],
) -> Float[Tensor, "voxel out"]:
    """The same on a dense volume: slow, memory of the whole cube."""
    size, batch = int(coords[:, 1:].max()) + 1, int(coords[:, 0].max()) + 1
    b, x, y, z = coords.long().unbind(1)
    volume = feats.new_zeros(batch, size, size, size, feats.shape[1])
    volume = volume.index_put((b, x, y, z), feats).permute(0, 4, 1, 2, 3)
    out = F.conv3d(volume, weight.permute(0, 4, 1, 2, 3), bias, padding=1)
    return out.permute(0, 2, 3, 4, 1)[b, x, y, z]


class _Conv3(torch.autograd.Function):
    """Kernel-3 convolution. Offsets k and 26 - k are opposite, so the same map serves the way back."""

    @staticmethod
    def forward(ctx: Any, feats: Tensor, weight: Tensor, bias: Tensor, grid: SparseGrid) -> Tensor:
        ctx.save_for_backward(feats, weight)
        ctx.grid = grid
        return _gather_multiply(feats, grid, weight.flatten(1, 3).permute(1, 2, 0), bias)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None, None]:
        feats, weight = ctx.saved_tensors
        grad = grads[0].contiguous()
        to_feats = to_weight = to_bias = None
        if ctx.needs_input_grad[0]:
            to_feats = _gather_multiply(grad, ctx.grid, weight.flatten(1, 3).flip(1).permute(1, 0, 2), None)
        if ctx.needs_input_grad[1]:
            to_weight = _weight_gradient(feats, grad, ctx.grid).permute(2, 0, 1).reshape(weight.shape).to(weight.dtype)
        if ctx.needs_input_grad[2]:
            to_bias = grad.sum(0)
        return to_feats, to_weight, to_bias, None


def _product_dtype(feats: Float[Tensor, "voxel channel"]) -> torch.dtype:
    """Half precision is for GPUs: a CPU without bf16 units multiplies it forty times slower than float32."""
    return torch.float32 if feats.device.type == "cpu" and feats.dtype != torch.float64 else feats.dtype


def _gather_multiply(
    feats: Float[Tensor, "voxel channel"],
    grid: SparseGrid,
    matrices: Float[Tensor, "27 channel out"],
    bias: Float[Tensor, " out"] | None,
) -> Float[Tensor, "voxel out"]:
    """y[p] = bias + sum over k of x[neighbour k of p] @ matrices[k]."""
    dtype = _product_dtype(feats)
    matrices = matrices.to(dtype).contiguous()
    out = feats.new_empty(len(feats), matrices.shape[2])
    for block in grid.neighbours:
        products = feats.new_empty(len(block.by_voxel), matrices.shape[2], dtype=dtype)
        for group, source, entries in block.parts():
            gathered = feats.index_select(0, source).to(dtype).view(group.voxels, -1)
            torch.mm(gathered, matrices[group.offsets].reshape(gathered.shape[1], -1), out=products[entries])
        total = F.embedding_bag(block.by_voxel, products, block.starts, mode="sum")
        out[block.rows] = total if bias is None else total.add_(bias)
    return out


def _weight_gradient(
    feats: Float[Tensor, "voxel channel"], grad: Float[Tensor, "voxel out"], grid: SparseGrid
) -> Float[Tensor, "27 channel out"]:
    """Sum over the pairs of each offset of x[neighbour]^T grad[voxel], accumulated in float32 or better."""
    dtype = _product_dtype(feats)
    total = feats.new_zeros(OFFSETS, feats.shape[1], grad.shape[1], dtype=torch.promote_types(dtype, torch.float32))
    for block in grid.neighbours:
        arriving, voxels = grad[block.rows].to(dtype), block.voxels()
        for group, source, entries in block.parts():
            gathered = feats.index_select(0, source).to(dtype).view(group.voxels, -1)
            products = gathered.T @ arriving.index_select(0, voxels[entries])
            total[group.offsets] += products.view(group.neighbours, *total.shape[1:])
    return total
