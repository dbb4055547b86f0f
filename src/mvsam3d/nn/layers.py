"""Small layers shared by the networks of both stages. Attribute names follow the public checkpoints' keys."""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn


class LayerNorm32(nn.LayerNorm):
    """LayerNorm over the last axis, computed in float32 whatever the input is."""

    def forward(self, input: Float[Tensor, "*rows channel"]) -> Float[Tensor, "*rows channel"]:
        """Normalise."""
        weight = None if self.weight is None else self.weight.float()
        bias = None if self.bias is None else self.bias.float()
        return F.layer_norm(input.float(), self.normalized_shape, weight, bias, self.eps).to(input.dtype)


class MultiHeadRMSNorm(nn.Module):
    """x / max(|x|, 1e-12) * gamma * sqrt(channel) over the channels of each head, in float32."""

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.scale = math.sqrt(channels)
        self.gamma = nn.Parameter(torch.ones(heads, channels))

    def forward(self, x: Float[Tensor, "*rows head channel"]) -> Float[Tensor, "*rows head channel"]:
        """Normalise."""
        return (F.normalize(x.float(), dim=-1) * self.gamma * self.scale).to(x.dtype)


def sinusoids(t: Float[Tensor, " batch"], channels: int = 256) -> Float[Tensor, "batch channels"]:
    """[cos(t f), sin(t f)], f_k = 10000^(-k / half): time embedding, cosines first, float32."""
    half = channels // 2
    f = torch.exp(-math.log(10000.0) * torch.arange(half, dtype=torch.float32, device=t.device) / half)
    angles = t.float()[:, None] * f
    return torch.cat([angles.cos(), angles.sin()], dim=-1)


class TimestepEmbedder(nn.Module):
    """256 sinusoids of a time (already times 1000), then a two-layer network. Keys mlp.0, mlp.2."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(256, width), nn.SiLU(), nn.Linear(width, width))

    def forward(self, t: Float[Tensor, " batch"]) -> Float[Tensor, "batch channel"]:
        """Embed."""
        first = self.mlp[0]
        assert isinstance(first, nn.Linear)
        out: Tensor = self.mlp(sinusoids(t).to(first.weight.dtype))
        return out


def position_embedding(coords: Float[Tensor, "*rows axis"], channels: int) -> Float[Tensor, "*rows channels"]:
    """Per axis [sin(c f), cos(c f)], f_k = 10000^(-k / n), n = channels // axes // 2; axes concatenated, zero-padded.

    Sines first here, cosines first in the time embedding: both as in the public model.
    """
    axes = coords.shape[-1]
    n = channels // axes // 2
    f = 1.0 / 10000 ** (torch.arange(n, dtype=torch.float32, device=coords.device) / n)
    angles = coords.float()[..., None] * f
    table = torch.cat([angles.sin(), angles.cos()], dim=-1).flatten(-2)
    return F.pad(table, (0, channels - table.shape[-1]))


class FeedForward(nn.Module):
    """Linear, GELU (tanh), Linear. Keys mlp.0, mlp.2."""

    def __init__(self, width: int, ratio: float) -> None:
        super().__init__()
        hidden = int(width * ratio)
        self.mlp = nn.Sequential(nn.Linear(width, hidden), nn.GELU(approximate="tanh"), nn.Linear(hidden, width))

    def forward(self, x: Float[Tensor, "*rows channel"]) -> Float[Tensor, "*rows channel"]:
        """Apply."""
        out: Tensor = self.mlp(x)
        return out


def open_gates(modulation: nn.Sequential) -> None:
    """Let a block's self-attention and network act from the start: modulation is shift, scale, gate of each, gates third and sixth."""
    linear = modulation[1]
    assert isinstance(linear, nn.Linear)
    gates = torch.zeros(6, linear.out_features // 6)
    gates[[2, 5]] = 1.0
    with torch.no_grad():
        linear.bias.copy_(gates.flatten())


def init_linears(module: nn.Module) -> None:
    """Initialisation for training from scratch (public systems): Xavier-uniform linears, zero biases."""
    for m in module.modules():
        if isinstance(m, nn.Linear):
            nn.init.xavier_uniform_(m.weight)
            if m.bias is not None:
                nn.init.zeros_(m.bias)
