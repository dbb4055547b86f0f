"""What attention reveals, for callers that ask: how sharply each latent looks at the patches of an image."""

import math
from collections.abc import Callable, Collection
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float
from torch import Tensor

QUERY_BLOCK = 512  # queries at once
KEY_BLOCK = 2048  # keys at once: 4 MB of scores of a head


@runtime_checkable
class AttentionProbe(Protocol):
    """An observer of cross-attention, passed to a network's call."""

    def wants(self, block: int) -> bool:
        """Whether block number `block` shall be recorded."""

    def record(
        self, block: int, q: Float[Tensor, "batch latent head channel"], k: Float[Tensor, "batch key head channel"]
    ) -> None:
        """Receive the queries and keys of a block, as they go into the attention."""


class EntropyProbe:
    """Entropy of the attention of one block over a span of keys (the patches of one image), for the rows of one evaluation.

    Attention is the softmax over all keys, averaged over the heads; it is then cut to the span and made to sum to 1
    there. Source: MV-SAM3D, weights from attention. The full [latent, key] map is never stored.
    """

    def __init__(self, block: int, span: slice, hidden: Bool[Tensor, "batch patch"] | None = None) -> None:
        """The probe of one evaluation, whose rows may arrive in several calls, one after the other.

        Args:
            block: number of the block, from 0.
            span: keys that count, start and stop given.
            hidden: patches of the span that shall not count, for each row (background); None: all count.
        """
        self.block, self.span, self.hidden = block, span, hidden
        self._rows: list[Float[Tensor, " latent"]] = []

    @property
    def entropy(self) -> Float[Tensor, "batch latent"]:
        """Entropy in nats / ln(patches), about 0 (one patch) to 1 (all alike), of all rows recorded."""
        assert self._rows, f"no network call has reached block {self.block} with this probe"
        return torch.stack(self._rows)

    def wants(self, block: int) -> bool:
        """Only the chosen block."""
        return block == self.block

    @torch.no_grad()
    def record(
        self, block: int, q: Float[Tensor, "batch latent head channel"], k: Float[Tensor, "batch key head channel"]
    ) -> None:
        """Compute the entropy of some rows, in float32."""
        if self.wants(block):
            for row in range(len(q)):
                hidden = None if self.hidden is None else self.hidden[len(self._rows)]
                self._rows.append(span_entropy(q[row], k[row], self.span, hidden))


class MapProbe:
    """Hands on the attention of some blocks, mean of the heads, over a span of keys: to be saved or drawn.

    A probe serves one evaluation, whose rows may arrive in several calls, one after the other.
    """

    def __init__(
        self, blocks: Collection[int], span: slice, sink: Callable[[int, int, Float[Tensor, "latent patch"]], None]
    ) -> None:
        """`sink` is told block, row and attention, float32 on the CPU, as soon as they are known."""
        self._blocks, self._span, self._sink = blocks, span, sink
        self._seen = dict.fromkeys(blocks, 0)

    def wants(self, block: int) -> bool:
        """The chosen blocks."""
        return block in self._blocks

    @torch.no_grad()
    def record(
        self, block: int, q: Float[Tensor, "batch latent head channel"], k: Float[Tensor, "batch key head channel"]
    ) -> None:
        """Hand on the rows, each in blocks of queries put together."""
        if not self.wants(block):
            return
        for row in range(len(q)):
            parts = [span_attention(part, k[row], self._span).cpu() for part in torch.split(q[row], QUERY_BLOCK)]
            self._sink(block, self._seen[block], torch.cat(parts))
            self._seen[block] += 1


class Probes:
    """Several probes at once."""

    def __init__(self, *probes: AttentionProbe) -> None:
        self._probes = probes

    def wants(self, block: int) -> bool:
        """Whatever one of them wants."""
        return any(probe.wants(block) for probe in self._probes)

    def record(
        self, block: int, q: Float[Tensor, "batch latent head channel"], k: Float[Tensor, "batch key head channel"]
    ) -> None:
        """Show it to those that want it."""
        for probe in self._probes:
            if probe.wants(block):
                probe.record(block, q, k)


def span_entropy(
    q: Float[Tensor, "latent head channel"],
    k: Float[Tensor, "key head channel"],
    span: slice,
    hidden: Bool[Tensor, " patch"] | None = None,
) -> Float[Tensor, " latent"]:
    """Entropy of the attention over the span, in blocks of queries; hidden patches are left out, and of the number of patches too."""
    rows = []
    for block in torch.split(q, QUERY_BLOCK):
        looks = span_attention(block, k, span)
        rows.append(patch_entropy((looks if hidden is None else looks[:, ~hidden])[None])[0])
    return torch.cat(rows)


def span_attention(
    q: Float[Tensor, "latent head channel"], k: Float[Tensor, "key head channel"], span: slice
) -> Float[Tensor, "latent patch"]:
    """Mean over the heads of the softmax over all keys, at the keys of the span, in float32.

    The softmax's denominator is gathered block by block of keys, as a log-sum-exp; scores are kept for the keys of the span alone.
    """
    heads, scale = q.shape[1], 1 / math.sqrt(q.shape[2])
    looked = torch.zeros(len(q), len(range(*span.indices(len(k)))), device=q.device)
    for head in range(heads):
        queries, keys = q[:, head].float() * scale, k[:, head].float()
        total = torch.stack(
            [torch.logsumexp(queries @ block.T, 1) for block in torch.split(keys, KEY_BLOCK)]
        ).logsumexp(0)
        looked += torch.exp(queries @ keys[span].T - total[:, None])
    return looked / heads


def patch_entropy(attention: Float[Tensor, "batch latent patch"]) -> Float[Tensor, "batch latent"]:
    """Entropy of each row once it sums to 1, in nats / ln(patches). A row of zeros gives 0: fully sure, as upstream."""
    p = attention / attention.sum(-1, keepdim=True).clamp(min=1e-10)
    return -(p * torch.log(p + 1e-10)).sum(-1) / math.log(attention.shape[-1])
