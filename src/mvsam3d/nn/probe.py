"""What attention reveals, for callers that ask: how sharply each latent looks at the patches of an image."""

import math
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
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
    """Entropy of the attention of one block over a span of keys (the patches of one image).

    Attention is the softmax over all keys, averaged over the heads; it is then cut to the span and made to sum to 1
    there. Source: MV-SAM3D, weights from attention. The full [latent, key] map is never stored.
    """

    def __init__(self, block: int, span: slice) -> None:
        """`block`: number of the block, from 0; `span`: keys that count, start and stop given."""
        self.block, self.span = block, span
        self._entropy: Tensor | None = None

    @property
    def entropy(self) -> Float[Tensor, "batch latent"]:
        """Entropy in nats / ln(patches), about 0 (one patch) to 1 (all alike), of the last call that was recorded."""
        assert self._entropy is not None, f"no network call has reached block {self.block} with this probe"
        return self._entropy

    def wants(self, block: int) -> bool:
        """Only the chosen block."""
        return block == self.block

    @torch.no_grad()
    def record(
        self, block: int, q: Float[Tensor, "batch latent head channel"], k: Float[Tensor, "batch key head channel"]
    ) -> None:
        """Compute the entropy, in float32."""
        if self.wants(block):
            rows = [span_entropy(q[row], k[row], self.span) for row in range(len(q))]
            self._entropy = torch.stack(rows)


def span_entropy(
    q: Float[Tensor, "latent head channel"], k: Float[Tensor, "key head channel"], span: slice
) -> Float[Tensor, " latent"]:
    """Entropy of the attention over the span, in blocks of queries."""
    blocks = torch.split(q, QUERY_BLOCK)
    return torch.cat([patch_entropy(span_attention(block, k, span)[None])[0] for block in blocks])


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
