"""Active voxels and everything that depends on them alone, computed once: neighbours, windows, other levels.

A grid is built once from its coordinates and lives as long as its owner keeps it: all layers, steps and views that run
on it share its maps. Another level is another grid, so levels cannot overwrite each other's maps.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Bool, Float, Int, Int32
from torch import Tensor

OFFSETS = 27  # of a 3 x 3 x 3 kernel; offset k is (k // 9, k // 3 % 3, k % 3) - 1
COLUMNS = 9  # three offsets each, with one dx and dy
ACTIVE = {  # code of a column, bit i for dz = i - 1 -> its active offsets
    **{1: slice(0, 1, 1), 2: slice(1, 2, 1), 3: slice(0, 2, 1), 4: slice(2, 3, 1)},
    **{5: slice(0, 3, 2), 6: slice(1, 3, 1), 7: slice(0, 3, 1)},
}
LOOKUP_CELLS = 1 << 22  # 16 MB: fourteen objects of 64^3, or one of 128^3
CPU_BLOCK = 2048  # output rows a convolution handles at once: its buffers stay near the core, its products long
MOST_BITS = 32  # of the number of voxels in a window
CUDA_BLOCK = 32768  # few launches, and about 0.5 GB of buffers at 1024 half-precision channels


@dataclass(frozen=True)
class ColumnGroup:
    """Voxels of a block whose neighbours in one column (one dx, dy) are active at the same of the three dz."""

    offsets: slice  # of the 27, as many as neighbours are active in the column
    neighbours: int  # 1 to 3
    voxels: int


@dataclass(frozen=True)
class Neighbours:
    """Active neighbours of the voxels of a block of rows, sorted by group, then by voxel, then by dz.

    An entry is one voxel in one group, so a voxel has up to nine. Whole columns make long matrix products and few
    results to add up: 17 neighbours on a surface are 7 entries.
    """

    rows: slice
    groups: list[ColumnGroup]
    source: Int32[Tensor, " pair"]  # row of the neighbour
    by_voxel: Int32[Tensor, " entry"]  # position of each entry when sorted by voxel
    starts: Int32[Tensor, " voxel"]  # where each voxel's entries start in `by_voxel`

    def parts(self) -> Iterator[tuple[ColumnGroup, Int32[Tensor, " pair"], slice]]:
        """Each group with the rows of its neighbours, [voxels * neighbours], and its place among the entries."""
        pair = entry = 0
        for group in self.groups:
            pairs, entries = group.voxels * group.neighbours, slice(entry, entry + group.voxels)
            yield group, self.source[pair : pair + pairs], entries
            pair, entry = pair + pairs, entries.stop

    def voxels(self) -> Int[Tensor, " entry"]:
        """Row of the voxel of each entry, counted from the block's first."""
        lengths = torch.diff(self.starts, append=self.starts.new_tensor([len(self.by_voxel)]))
        voxel = torch.arange(len(lengths), device=lengths.device).repeat_interleave(lengths)
        return torch.empty_like(voxel).index_copy_(0, self.by_voxel.long(), voxel)


@dataclass(frozen=True)
class Coarsening:
    """The grid at half resolution and how the fine voxels fall into its cells."""

    grid: SparseGrid
    index: Int[Tensor, " voxel"]  # coarse row of each fine row
    children: Int[Tensor, " latent"]  # fine voxels in each coarse cell


@dataclass(frozen=True)
class Bucket:
    """Windows of similar size, padded to one length."""

    rows: Int[Tensor, "window length"]
    valid: Bool[Tensor, "window length"] | None  # None: nothing is padding


@dataclass(frozen=True)
class Windows:
    """All windows of a grid. `inverse` finds each voxel in the concatenation of the flattened buckets."""

    buckets: list[Bucket]
    inverse: Int[Tensor, " voxel"]


class SparseGrid:
    """Active voxels of a batch: rows (batch, x, y, z), the rows of one batch element contiguous."""

    def __init__(self, coords: Int32[Tensor, "voxel 4"], batch_size: int | None = None) -> None:
        """`batch_size` defaults to the largest batch index + 1: needed where the last elements have no voxel."""
        counts = torch.bincount(coords[:, 0].long(), minlength=batch_size or 0)
        stops = counts.cumsum(0).tolist()
        assert bool((coords[:, 0].diff() >= 0).all()), (
            "the rows of one batch element must be contiguous, in batch order"
        )
        self.coords = coords.contiguous()
        self.batch_size = len(stops)
        self.slices = [slice(start, stop) for start, stop in zip([0, *stops], stops)]
        self._windows: dict[tuple[int, int], Windows] = {}

    @classmethod
    def batched(cls, elements: Sequence[Int32[Tensor, "_ 3"]]) -> SparseGrid:
        """The grid of one or several objects, from the coordinates (x, y, z) of each."""
        rows = [torch.nn.functional.pad(coords, (1, 0), value=i) for i, coords in enumerate(elements)]
        return cls(torch.cat(rows), batch_size=len(elements))

    def __len__(self) -> int:
        """Number of active voxels."""
        return len(self.coords)

    def spread(self, per_element: Float[Tensor, "batch channel"]) -> Float[Tensor, "rows channel"]:
        """Each voxel's row of a tensor with one row per batch element; one row alone stays one, to be broadcast."""
        return per_element if len(per_element) == 1 else per_element.index_select(0, self._element)

    @cached_property
    def _element(self) -> Int[Tensor, " voxel"]:
        return self.coords[:, 0].long()

    @cached_property
    def neighbours(self) -> list[Neighbours]:
        """Blocks of rows with their active neighbours, themselves included."""
        block = CPU_BLOCK if self.coords.device.type == "cpu" else CUDA_BLOCK
        table = neighbour_table(self.coords)
        return [_neighbours(table, slice(i, min(i + block, len(self)))) for i in range(0, len(self), block)]

    @cached_property
    def coarse(self) -> Coarsening:
        """Half resolution: cells c // 2, sorted by batch, x, y, z."""
        halves = torch.cat([self.coords[:, :1], self.coords[:, 1:] // 2], dim=1)
        keys, index, children = torch.unique(_keys(halves, 0), return_inverse=True, return_counts=True)
        coords = self.coords.new_empty(len(keys), 4)
        coords[index] = halves
        return Coarsening(SparseGrid(coords, self.batch_size), index, children)

    @cached_property
    def fine(self) -> SparseGrid:
        """Double resolution: each voxel's eight children in consecutive rows, z fastest."""
        child = torch.arange(8, dtype=torch.int32, device=self.coords.device)
        steps = torch.stack([child * 0, child >> 2 & 1, child >> 1 & 1, child & 1], dim=1)
        scale = self.coords.new_tensor([1, 2, 2, 2])
        return SparseGrid((self.coords[:, None] * scale + steps).flatten(0, 1), self.batch_size)

    def windows(self, size: int, shift: int) -> Windows:
        """Groups of voxels of one batch element with equal (c + shift) // size on every axis."""
        if (size, shift) not in self._windows:
            self._windows[size, shift] = _windows(self.coords, size, shift)
        return self._windows[size, shift]


def _keys(coords: Int32[Tensor, "voxel 4"], margin: int) -> Int[Tensor, " voxel"]:
    """One number per voxel, sorted like (batch, x, y, z), for cubes with an empty margin of this width."""
    size = _side(coords, margin)
    b, x, y, z = coords.long().unbind(1)
    return ((b * size + x + margin) * size + y + margin) * size + z + margin


def _side(coords: Int32[Tensor, "voxel 4"], margin: int) -> int:
    return (int(coords[:, 1:].max()) if len(coords) else 0) + 1 + 2 * margin


def neighbour_table(coords: Int32[Tensor, "voxel 4"]) -> Int32[Tensor, "27 voxel"]:
    """Row of the neighbour of each voxel at each of the 27 offsets, -1 where it is not active.

    On a small grid every cell is looked up (ten times faster), else searched: memory never grows with the cells.
    """
    keys, size = _keys(coords, 1), _side(coords, 1)  # the empty margin keeps neighbours from wrapping around
    cells = (int(coords[-1, 0]) + 1) * size**3 if len(coords) else 0
    return _looked_up(keys, size, cells) if cells <= LOOKUP_CELLS else _searched(keys, size)


def _looked_up(keys: Int[Tensor, " voxel"], size: int, cells: int) -> Int32[Tensor, "27 voxel"]:
    volume = keys.new_full((cells,), -1, dtype=torch.int32)
    volume[keys] = torch.arange(len(keys), dtype=torch.int32, device=keys.device)
    k = torch.arange(OFFSETS, device=keys.device)[:, None]
    return volume[keys + ((k // 9 - 1) * size + k // 3 % 3 - 1) * size + k % 3 - 1]


def _searched(keys: Int[Tensor, " voxel"], size: int) -> Int32[Tensor, "27 voxel"]:
    """The three neighbours of a column (same dx, dy) are next to each other among the sorted keys: nine searches do."""
    ordered, order = keys.sort()
    ordered = torch.cat(
        [ordered, ordered.new_full((3,), torch.iinfo(torch.int64).max)]
    )  # a search may end past the last
    order = torch.cat([order, order.new_zeros(3)]).int()
    table = order.new_empty(OFFSETS, len(keys))
    for column in range(COLUMNS):
        wanted = keys + ((column // 3 - 1) * size + column % 3 - 1) * size - 1
        position = torch.searchsorted(ordered, wanted)
        for dz in range(3):
            found = ordered[position] == wanted + dz
            table[3 * column + dz] = torch.where(found, order[position], -1)
            position += found
    return table


def _neighbours(table: Int32[Tensor, "27 voxel"], rows: slice) -> Neighbours:
    part = table[:, rows].reshape(COLUMNS, 3, -1)
    active = (part >= 0).int()
    code = active[:, 0] + 2 * active[:, 1] + 4 * active[:, 2]  # which dz of the column are active
    group = torch.arange(COLUMNS, dtype=torch.int32, device=table.device)[:, None] * 8 + code
    entries = group.flatten().argsort(stable=True)
    entries = entries[code.flatten()[entries] > 0]
    column, voxel = entries // part.shape[2], entries % part.shape[2]
    candidates = part[column, :, voxel].flatten()
    per_voxel = torch.bincount(voxel, minlength=part.shape[2])
    return Neighbours(
        rows=rows,
        groups=_groups(torch.bincount(group.flatten(), minlength=8 * COLUMNS).tolist()),
        source=candidates[candidates >= 0],
        by_voxel=voxel.argsort(stable=True).int(),
        starts=(per_voxel.cumsum(0) - per_voxel).int(),
    )


def _groups(voxels: list[int]) -> list[ColumnGroup]:
    """The groups that occur, from the number of voxels of each column and code."""
    groups = []
    for column in range(COLUMNS):
        for code, chosen in ACTIVE.items():
            count, first = voxels[8 * column + code], 3 * column
            if count:
                offsets = slice(first + chosen.start, first + chosen.stop, chosen.step)
                groups.append(ColumnGroup(offsets, len(range(3)[chosen]), count))
    return groups


def _windows(coords: Int32[Tensor, "voxel 4"], size: int, shift: int) -> Windows:
    cells = torch.cat([coords[:, :1], (coords[:, 1:] + shift) // size], dim=1)
    _, window, lengths = torch.unique(_keys(cells, 0), return_inverse=True, return_counts=True)
    rows = window.argsort(stable=True)  # window by window
    starts = lengths.cumsum(0) - lengths
    padded = padded_lengths(lengths)
    inverse = torch.empty_like(rows)
    buckets, before = [], 0
    for length in torch.unique(padded).tolist():
        chosen = padded == length
        step = torch.arange(length, device=coords.device)
        valid = step < lengths[chosen, None]
        members = rows[starts[chosen, None] + torch.where(valid, step, 0)]
        inverse[members[valid]] = before + valid.flatten().nonzero()[:, 0]
        buckets.append(Bucket(members, None if bool(valid.all()) else valid))
        before += valid.numel()
    return Windows(buckets, inverse)


def padded_lengths(lengths: Int[Tensor, " window"]) -> Int[Tensor, " window"]:
    """Lengths rounded up to 1, 2, 3, 4, 6, 8, 12, 16, 24, ...: at most half as long again, few different ones."""
    powers = 2 ** torch.arange(
        MOST_BITS, device=lengths.device
    )  # whole numbers: float32 would err, and not all devices have float64
    power = powers[torch.searchsorted(powers, lengths)]
    return torch.where((lengths <= power * 3 // 4) & (power >= 4), power * 3 // 4, power)
