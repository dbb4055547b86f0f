"""Structured latents -> signed distances, deformations, weights and colours at cells four times as fine."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int32, Int64
from torch import Tensor, nn

from mvsam3d.models.slat_trunk import SlatTrunk, TrunkConfig
from mvsam3d.nn.sparse import SparseConv3d, SparseGroupNorm32, SparseTensor
from mvsam3d.nn.sparse.grid import SparseGrid, neighbour_table
from mvsam3d.nn.sparse.subdivided import subdivided_conv3, subdivided_rows
from mvsam3d.types import CubeField

GEOMETRY_CHANNELS = 8 + 8 * 3 + 21  # of a cell: sdf and deformation at its corners, weights of FlexiCubes
COLOUR_CHANNELS = 8 * 6  # rgb and normal at its corners
PART_ROWS = 1 << 14  # before the last subdivision: 131,072 cells, of 53 MB of features


@dataclass(frozen=True)
class MeshDecoderConfig:
    """Size of the decoder; the defaults are the public model's."""

    trunk: TrunkConfig = field(default_factory=TrunkConfig)
    latent_channels: int = 8
    narrowing: tuple[int, ...] = (4, 8)
    """Each subdivision halves the cells and leaves the trunk's width / this many channels."""
    groups: int = 32
    """Of the group norms."""
    colour: bool = True
    """Whether cells carry colours and normals."""

    @property
    def resolution(self) -> int:
        """Cells along an edge of the decoded field."""
        return self.trunk.resolution << len(self.narrowing)


class SubdivideBlock(nn.Module):
    """Residual block that turns each voxel into eight.

    Keys act_layers.0, out_layers.0.conv, out_layers.1, out_layers.3.conv, skip_connection.conv.
    """

    def __init__(self, channels: int, out_channels: int, groups: int) -> None:
        super().__init__()
        # tuples keep the types and register nothing; the lists below give the public keys
        self._norms = SparseGroupNorm32(groups, channels), SparseGroupNorm32(groups, out_channels)
        self._convs = SparseConv3d(channels, out_channels), SparseConv3d(out_channels, out_channels)
        self.act_layers = nn.ModuleList([self._norms[0]])
        self.out_layers = nn.ModuleList([self._convs[0], self._norms[1], nn.SiLU(), self._convs[1]])
        self.skip_connection = nn.Identity() if channels == out_channels else SparseConv3d(channels, out_channels, 1)
        for parameter in self._convs[1].parameters():  # the block starts as its skip path
            nn.init.zeros_(parameter)

    def forward(self, x: SparseTensor, chunk_rows: int | None = None) -> SparseTensor:
        """Apply; for `chunk_rows` see `MeshDecoder.forward`."""
        h: SparseTensor = self._norms[0](x)
        h = subdivided_conv3(h.replace(F.silu(h.feats)), self._convs[0])
        if chunk_rows is None:
            h = self._norms[1](h)
            h = h.replace(F.silu(h.feats))
        else:
            norm_silu_(h, self._norms[1], chunk_rows)
        h = self._convs[1](h)
        skip = self.skip_connection(x).feats
        h.feats.view(len(skip), 8, -1).add_(skip[:, None])  # children of a voxel are consecutive and share its skip
        return h

    def in_parts(
        self, x: SparseTensor, part_rows: int
    ) -> Iterator[tuple[Int64[Tensor, " row"], Float[Tensor, "row channel"]]]:
        """The fine rows in order, a part at a time: their numbers and features. One batch element, no gradients."""
        with torch.no_grad():
            h = self._norms[0](x)
            h = h.replace(F.silu(h.feats))
            table = neighbour_table(x.coords)
            scale, shift = self._statistics(h, table, part_rows)
            for start in range(0, len(h.feats), part_rows):
                own = torch.arange(start, min(start + part_rows, len(h.feats)), device=table.device)
                around = torch.unique(table[:, own])  # the halo, and the part itself
                around = around[around >= 0].long()
                middle = subdivided_rows(h, self._convs[0], table[:, around])
                middle = F.silu(torch.addcmul(shift, middle.float(), scale).to(middle.dtype))
                place = torch.searchsorted(around, own)
                fine = (8 * place[:, None] + torch.arange(8, device=place.device)).flatten()
                grid = SparseGrid(x.coords[around], 1).fine
                out = self._convs[1](SparseTensor(middle, grid)).feats[fine]
                skip = self.skip_connection(SparseTensor(x.feats[own], SparseGrid(x.coords[own], 1))).feats
                out.view(len(skip), 8, -1).add_(skip[:, None])
                yield (8 * own[:, None] + torch.arange(8, device=own.device)).flatten(), out

    def _statistics(
        self, h: SparseTensor, table: Int32[Tensor, "27 voxel"], part_rows: int
    ) -> tuple[Float[Tensor, " channel"], Float[Tensor, " channel"]]:
        """Scale and shift of the second norm, from all parts: means and sums of squares around them, brought together pair by pair."""
        norm = self._norms[1]
        count, mean, squares = 0, torch.zeros(norm.groups), torch.zeros(norm.groups)
        for start in range(0, len(h.feats), part_rows):
            middle = subdivided_rows(h, self._convs[0], table[:, start : start + part_rows]).float()
            grouped = middle.view(len(middle), norm.groups, -1)
            variance, own = (value.cpu().double() for value in torch.var_mean(grouped, dim=(0, 2), correction=0))
            size = len(middle) * grouped.shape[2]
            away, both = own - mean, count + size
            mean, squares = mean + away * (size / both), squares + variance * size + away**2 * (count * size / both)
            count = both
        channels = len(norm.weight)
        factor = torch.rsqrt(squares / max(count, 1) + 1e-5)
        scale = _per_channel(factor.float(), channels).to(h.feats.device) * norm.weight.float()
        return scale, norm.bias.float() - _per_channel(mean.float(), channels).to(h.feats.device) * scale


@dataclass(frozen=True)
class DecodedParts:
    """A field that is made while it is read: once, part by part."""

    coords: Int32[Tensor, "voxel 3"]
    resolution: int
    parts: Iterator[tuple[Int64[Tensor, " row"], Float[Tensor, "row channel"]]]
    """Numbers of rows, in order, and their features."""


class MeshDecoder(SlatTrunk):
    """Keys input_layer, blocks.i, upsample.i, out_layer."""

    def __init__(self, config: MeshDecoderConfig) -> None:
        super().__init__(config.trunk, config.latent_channels)
        self.config = config
        widths = [config.trunk.width, *(config.trunk.width // n for n in config.narrowing)]
        self.upsample = nn.ModuleList(SubdivideBlock(a, b, config.groups) for a, b in pairwise(widths))
        self.out_layer = nn.Linear(widths[-1], GEOMETRY_CHANNELS + COLOUR_CHANNELS * config.colour)
        nn.init.zeros_(self.out_layer.weight)
        nn.init.zeros_(self.out_layer.bias)

    def forward(self, x: SparseTensor, chunk_rows: int | None = None) -> list[CubeField]:
        """The field of each batch element; eight to the power of the subdivisions rows per voxel, consecutive.

        Args:
            chunk_rows: without gradients only: fine rows at a time wherever rows do not need each other, group norm in
                separate passes for the statistics and in place. The same result in about half the memory.
        """
        assert chunk_rows is None or not torch.is_grad_enabled(), "chunks work in place: call under torch.no_grad()"
        h = self.trunk(x)
        for block in self.upsample:
            h = block(h, chunk_rows)
        features = self._features(h.feats, chunk_rows or max(len(h.feats), 1))
        coords = h.coords[:, 1:].contiguous()
        return [CubeField(coords[rows], features[rows], self.config.resolution) for rows in h.grid.slices]

    def in_parts(self, x: SparseTensor, part_rows: int = PART_ROWS) -> DecodedParts:
        """The field of one object, a part of its rows at a time: what `forward` gives, in a fraction of the memory.

        Only the last subdivision is made in parts. Each is computed with a halo of the cells around it, so that its convolutions see
        all they would see; the group norm between them, which needs all rows, takes its statistics in a first pass.

        Args:
            x: structured latents, one batch element.
            part_rows: rows before the last subdivision in a part; eight times as many come out.
        """
        assert x.grid.batch_size == 1, "parts are of one object"
        assert not torch.is_grad_enabled(), "parts are made anew at each pass: call under torch.no_grad()"
        h = self.trunk(x)
        for block in self._subdivisions()[:-1]:
            h = block(h, 8 * part_rows)
        scale = h.coords.new_tensor([2, 2, 2])
        steps = torch.cartesian_prod(*[torch.arange(2, dtype=torch.int32, device=h.feats.device)] * 3)
        fine = (h.coords[:, None, 1:] * scale + steps).flatten(0, 1)
        return DecodedParts(fine, self.config.resolution, self._parts(h, part_rows))

    def _parts(
        self, x: SparseTensor, part_rows: int
    ) -> Iterator[tuple[Int64[Tensor, " row"], Float[Tensor, "row channel"]]]:
        last = self._subdivisions()[-1]
        for rows, feats in last.in_parts(x, part_rows):
            yield rows, self.out_layer(feats.to(self.out_layer.weight.dtype)).float()

    def _subdivisions(self) -> list[SubdivideBlock]:
        return [block for block in self.upsample if isinstance(block, SubdivideBlock)]

    def _features(self, feats: Float[Tensor, "voxel width"], chunk_rows: int) -> Float[Tensor, "voxel channel"]:
        dtype = self.out_layer.weight.dtype
        if chunk_rows >= len(feats):
            whole: Tensor = self.out_layer(feats.to(dtype)).float()
            return whole
        out = torch.empty(len(feats), self.out_layer.out_features, device=feats.device)
        for start in range(0, len(feats), chunk_rows):
            rows = slice(start, start + chunk_rows)
            out[rows] = self.out_layer(feats[rows].to(dtype))
        return out


def norm_silu_(x: SparseTensor, norm: SparseGroupNorm32, chunk_rows: int) -> None:
    """SiLU(norm(x)) in place, exact: the mean, then the variance, then the values, each over chunks of rows."""
    for element in x.grid.slices:
        chunks = [
            x.feats[start : min(start + chunk_rows, element.stop)]
            for start in range(element.start, element.stop, chunk_rows)
        ]
        if not chunks:
            continue
        grouped = (element.stop - element.start) * (x.feats.shape[1] // norm.groups)
        mean = _group_sums(chunks, norm.groups) / grouped
        channel_mean = _per_channel(mean, x.feats.shape[1])
        squares = sum((_group_sums([(part.float() - channel_mean).square()], norm.groups) for part in chunks), mean * 0)
        scale = _per_channel(torch.rsqrt(squares / grouped + 1e-5), x.feats.shape[1]) * norm.weight.float()
        shift = norm.bias.float() - channel_mean * scale
        for part in chunks:
            part.copy_(F.silu(torch.addcmul(shift, part.float(), scale).to(part.dtype)))


def _group_sums(chunks: list[Float[Tensor, "_ channel"]], groups: int) -> Float[Tensor, " group"]:
    """Sums over rows and the channels of each group; of all chunks in float64, as up to 4 million rows are added: on the CPU, not all
    devices have that."""
    sums = torch.stack([part.float().sum(dim=0) for part in chunks])
    whole = sums.cpu().double().view(len(chunks), groups, -1).sum(dim=(0, 2))
    return whole.float().to(sums.device)


def _per_channel(values: Float[Tensor, " group"], channels: int) -> Float[Tensor, " channel"]:
    return values.repeat_interleave(channels // len(values))
