"""Scaled dot-product attention of dense sequences: torch's kernels, and the plain twin that tests compare with."""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True)
class KeyValues:
    """Keys and values of a context, which may be kept over steps."""

    k: Float[Tensor, "batch key head channel"]
    v: Float[Tensor, "batch key head channel"]


def attention(
    q: Float[Tensor, "batch token head channel"],
    k: Float[Tensor, "batch key head channel"],
    v: Float[Tensor, "batch key head value"],
) -> Float[Tensor, "batch token head value"]:
    """softmax(q kᵀ / sqrt(channel)) v per head, no mask, by torch's best backend."""
    out = F.scaled_dot_product_attention(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2))
    return out.transpose(1, 2)


def attention_plain(
    q: Float[Tensor, "batch token head channel"],
    k: Float[Tensor, "batch key head channel"],
    v: Float[Tensor, "batch key head value"],
) -> Float[Tensor, "batch token head value"]:
    """The same, written out."""
    scores = torch.einsum("bqhc,bkhc->bhqk", q, k) / math.sqrt(q.shape[-1])
    return torch.einsum("bhqk,bkhc->bqhc", scores.softmax(-1), v)
