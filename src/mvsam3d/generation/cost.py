"""Floating-point operations of both stages: of the public order of work and of ours, by formula. A multiply-add counts as two.

The formulas count what the networks' matrix products do, no more (norms, activations and softmax are left out); tests hold them
against a counted run at a small size, to the last operation.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

from mvsam3d.generation.guidance import Guidance
from mvsam3d.generation.schedule import flow_matching_times, shortcut_times
from mvsam3d.models.slat_flow import SlatFlowConfig
from mvsam3d.models.structure_flow import POSE_CHANNELS, StructureFlowConfig

POSE_TOKENS = len(POSE_CHANNELS)
SINUSOIDS = 256  # that a time is embedded with


@dataclass(frozen=True)
class Run:
    """A sampling run of several views, weighted by entropy, with Euler steps."""

    views: int
    steps: int
    guided: int
    """Steps in which guidance is active; the first is one of them."""


def structure_run(views: int, steps: int = 50, rescale_t: float = 3.0, guidance: Guidance | None = None) -> Run:
    """Stage 1; the defaults are the public model's."""
    how = guidance or Guidance(7.0)
    return Run(views, steps, sum(how.active(t) for t in shortcut_times(steps, rescale_t)[:-1]))


def slat_run(views: int, steps: int = 25, rescale_t: float = 1.0, guidance: Guidance | None = None) -> Run:
    """Stage 2; the defaults are the public model's."""
    how = guidance or Guidance(1.0)
    return Run(views, steps, sum(how.active(t) for t in flow_matching_times(steps, rescale_t)[:-1]))


@dataclass(frozen=True)
class StructureCost:
    """Stage 1."""

    size: StructureFlowConfig
    keys: int
    """Condition tokens of a view."""
    patches: int
    """Of them, those whose attention is recorded."""

    def public(self, run: Run) -> int:
        """A warm-up step to record attention, then the run: every branch of every view with both streams, keys and values anew."""
        evaluation = self._call() + self._shape_before() + self._shape_after(self._across(kept=False))
        evaluation += self._pose(self._pose_across())
        return run.views * (run.steps + run.guided + _warm_up(run)) * evaluation + self._recorded(run)

    def ours(self, run: Run, *, kept: bool = True) -> int:
        """Attention recorded in the run; `kept`: the memory holds the keys and values of all views."""
        view = self._shape_after(self._across(kept=kept)) + self._pose(self._pose_across(absorbed=True))
        queries = 2 * self._tokens * self.size.width**2  # of the first block, before views differ
        conditional = self._call() + self._shape_before() + run.views * view - (run.views - 1) * queries
        constant = _keys_values(1, self.size) + 2 * self.size.width**2  # of one token of zeros, for each stream
        nothing = self._call() + self._shape_before() + self._shape_after(constant)
        nothing += run.views * self._pose(0) + self.size.blocks * constant
        once = run.views * self.size.blocks * _keys_values(self.keys, self.size) if kept else 0
        return run.steps * conditional + run.guided * nothing + once + self._recorded(run)

    @property
    def _tokens(self) -> int:
        return self.size.grid**3

    def _call(self) -> int:
        """Time and step embedding, modulation of the blocks."""
        return _modulation(self.size) * self.size.blocks + _embedding(self.size.width) * (1 + self.size.step_embedding)

    def _around(self) -> int:
        return 2 * self._tokens * 4 * self.size.width**2 + 4 * self._tokens**2 * self.size.width

    def _shape_before(self) -> int:
        """Input, and self-attention of the first block."""
        return 2 * self._tokens * self.size.latent_channels * self.size.width + self._around()

    def _across(self, *, kept: bool) -> int:
        attended = 2 * self._tokens * 2 * self.size.width**2 + 4 * self._tokens * self.keys * self.size.width
        return attended + (0 if kept else _keys_values(self.keys, self.size))

    def _shape_after(self, across: int) -> int:
        """The rest of the shape stream, given the work of its cross-attention in a block."""
        blocks = (
            self.size.blocks * (across + _network(self._tokens, self.size)) + (self.size.blocks - 1) * self._around()
        )
        return blocks + 2 * self._tokens * self.size.width * self.size.latent_channels

    def _pose(self, across: int) -> int:
        """The pose stream of one view, given the work of its cross-attention in a block."""
        width = self.size.width
        around = 2 * POSE_TOKENS * 4 * width**2 + 4 * POSE_TOKENS * (POSE_TOKENS + self._tokens) * width
        ends = 2 * 2 * width * sum(POSE_CHANNELS.values())
        return self.size.blocks * (around + across + _network(POSE_TOKENS, self.size)) + ends

    def _pose_across(self, *, absorbed: bool = False) -> int:
        """`absorbed`: few queries look through the weights of keys and values, which no token is multiplied with."""
        width, condition = self.size.width, self.size.cond_channels
        ends = 2 * POSE_TOKENS * 2 * width**2
        if absorbed and POSE_TOKENS * self.size.heads < width:
            through = 2 * POSE_TOKENS * 2 * width * condition
            return ends + through + 4 * POSE_TOKENS * self.size.heads * self.keys * condition
        return ends + 4 * POSE_TOKENS * self.keys * width + _keys_values(self.keys, self.size)

    def _recorded(self, run: Run) -> int:
        """Scores of all keys, for the sum of the softmax, and once more those of the patches."""
        return run.views * 2 * self._tokens * (self.keys + self.patches) * self.size.width if run.views > 1 else 0


@dataclass(frozen=True)
class SlatCost:
    """Stage 2, on the levels of a grid, the voxels first, the transformer's tokens last."""

    size: SlatFlowConfig
    keys: int
    """Condition tokens of a view."""
    patches: int
    """Of them, those whose attention is recorded."""
    rows: tuple[int, ...]
    """Active cells of each level."""
    pairs: tuple[int, ...]
    """Pairs of neighbours on each level, a cell and itself among them: what a convolution multiplies."""
    block: int = 6
    """Transformer block whose attention is recorded."""

    def public(self, run: Run) -> int:
        """A warm-up step to record attention, then the run: every branch of every view, keys and values anew."""
        evaluation = self._call() + self._before() + self._after(self._across(kept=False))
        return run.views * (run.steps + run.guided + _warm_up(run)) * evaluation + self._recorded(run)

    def ours(self, run: Run, *, kept: bool = True, noise_compat: bool = False) -> int:
        """`kept`: the memory holds the keys and values of all views; `noise_compat`: attention recorded at a draw of its own."""
        conditional = self._call() + self._before() + run.views * self._after(self._across(kept=kept))
        constant = _keys_values(1, self.size) + 2 * self.size.width**2
        nothing = self._call() + self._before() + self._after(constant)
        once = run.views * self.size.blocks * _keys_values(self.keys, self.size) if kept else 0
        warm_up = self._short(run, kept=kept) if noise_compat and run.views > 1 else 0
        return run.steps * conditional + run.guided * nothing + once + warm_up + self._recorded(run)

    def _short(self, run: Run, *, kept: bool) -> int:
        """To the queries and keys of the recorded block, and no further."""
        tokens, width = self.rows[-1], self.size.width
        blocks = self.block * (self._across(kept=kept) + _network(tokens, self.size) + self._around())
        last = 2 * tokens * width**2 + (0 if kept else _keys_values(self.keys, self.size))
        modulation = self._modulated(self._down()) + (2 * self.block + 1) * _modulation(self.size) // 2
        return _embedding(width) + modulation + self._before() + run.views * (blocks + last)

    def _call(self) -> int:
        """Time embedding, modulation of the blocks and of the residual blocks."""
        return (
            _embedding(self.size.width)
            + self.size.blocks * _modulation(self.size)
            + self._modulated(self._down() + self._up())
        )

    def _modulated(self, blocks: list[tuple[int, int, int]]) -> int:
        return sum(2 * self.size.width * 2 * out for _, out, _ in blocks)

    def _down(self) -> list[tuple[int, int, int]]:
        """Residual blocks on the way down: channels in and out, level."""
        blocks = []
        for level, (channels, below) in enumerate(pairwise((*self.size.io_channels, self.size.width))):
            blocks += [(channels, channels, level)] * (self.size.io_res_blocks - 1) + [(channels, below, level + 1)]
        return blocks

    def _up(self) -> list[tuple[int, int, int]]:
        seen = 2 if self.size.use_skip_connection else 1
        blocks = []
        for level, (channels, below) in reversed(list(enumerate(pairwise((*self.size.io_channels, self.size.width))))):
            blocks += [(seen * below, channels, level)]
            blocks += [(seen * channels, channels, level)] * (self.size.io_res_blocks - 1)
        return blocks

    def _residual(self, blocks: list[tuple[int, int, int]]) -> int:
        work = 0
        for ins, outs, level in blocks:
            work += 2 * self.pairs[level] * (ins + outs) * outs
            work += 2 * self.rows[level] * ins * outs * (ins != outs)
        return work

    def _around(self) -> int:
        tokens = self.rows[-1]
        return 2 * tokens * 4 * self.size.width**2 + 4 * tokens**2 * self.size.width

    def _before(self) -> int:
        """Input layer, way down, self-attention of the first block."""
        first = self.size.io_channels[0] if self.size.io_channels else self.size.width
        return 2 * self.rows[0] * self.size.in_channels * first + self._residual(self._down()) + self._around()

    def _across(self, *, kept: bool) -> int:
        tokens = self.rows[-1]
        attended = 2 * tokens * 2 * self.size.width**2 + 4 * tokens * self.keys * self.size.width
        return attended + (0 if kept else _keys_values(self.keys, self.size))

    def _after(self, across: int) -> int:
        """The rest, given the work of the cross-attention in a block."""
        first = self.size.io_channels[0] if self.size.io_channels else self.size.width
        blocks = (
            self.size.blocks * (across + _network(self.rows[-1], self.size)) + (self.size.blocks - 1) * self._around()
        )
        return blocks + self._residual(self._up()) + 2 * self.rows[0] * first * self.size.out_channels

    def _recorded(self, run: Run) -> int:
        return run.views * 2 * self.rows[-1] * (self.keys + self.patches) * self.size.width if run.views > 1 else 0


Size = StructureFlowConfig | SlatFlowConfig


def _warm_up(run: Run) -> int:
    """Evaluations of a view only to record its attention: with and without condition."""
    return 2 if run.views > 1 else 0


def _embedding(width: int) -> int:
    return 2 * (SINUSOIDS * width + width**2)


def _modulation(size: Size) -> int:
    return 2 * size.width * 6 * size.width


def _keys_values(keys: int, size: Size) -> int:
    return 2 * keys * size.cond_channels * 2 * size.width


def _network(tokens: int, size: Size) -> int:
    return 4 * tokens * size.width * int(size.mlp_ratio * size.width)
