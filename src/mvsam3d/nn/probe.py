"""What attention reveals, for callers that ask: how sharply each latent looks at the patches of an image."""

import math
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

QUERY_BLOCK = 1024  # queries at once: 31 MB of scores per head at 7528 keys


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
            parts = [
                patch_entropy(span_attention(q[:, i : i + QUERY_BLOCK], k, self.span))
                for i in range(0, q.shape[1], QUERY_BLOCK)
            ]
            self._entropy = torch.cat(parts, dim=1)


def span_attention(
    q: Float[Tensor, "batch latent head channel"], k: Float[Tensor, "batch key head channel"], span: slice
) -> Float[Tensor, "batch latent patch"]:
    """Mean over the heads of softmax over all keys, at the keys of the span."""
    heads, scale = q.shape[2], 1 / math.sqrt(q.shape[3])
    total = torch.zeros((), device=q.device)
    for head in range(heads):
        scores = torch.matmul(q[:, :, head].float() * scale, k[:, :, head].float().transpose(1, 2))
        total = total + scores.softmax(-1)[:, :, span]
    return total / heads


def patch_entropy(attention: Float[Tensor, "batch latent patch"]) -> Float[Tensor, "batch latent"]:
    """Entropy of each row once it sums to 1, in nats / ln(patches). A row of zeros gives 0: fully sure, as upstream."""
    p = attention / attention.sum(-1, keepdim=True).clamp(min=1e-10)
    return -(p * torch.log(p + 1e-10)).sum(-1) / math.log(attention.shape[-1])
