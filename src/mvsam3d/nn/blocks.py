"""The transformer block of the image and point-map encoders. Attribute names follow the public checkpoints' keys."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from mvsam3d.nn.attention import attention
from mvsam3d.nn.layers import LayerNorm32


class SelfAttention(nn.Module):
    """Multi-head attention of a sequence to itself; rows of `qkv`: q, k, v, each head after head."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        assert width % heads == 0, f"{heads} heads do not divide width {width}"
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Float[Tensor, "batch token channel"]) -> Float[Tensor, "batch token channel"]:
        """Apply."""
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).unbind(2)
        out: Tensor = self.proj(attention(q, k, v).flatten(2))
        return out


class GeluMlp(nn.Module):
    """Linear, exact GELU, Linear. Keys fc1, fc2."""

    def __init__(self, width: int, ratio: float) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, int(width * ratio))
        self.act = nn.GELU()
        self.fc2 = nn.Linear(int(width * ratio), width)

    def forward(self, x: Float[Tensor, "batch token channel"]) -> Float[Tensor, "batch token channel"]:
        """Apply."""
        out: Tensor = self.fc2(self.act(self.fc1(x)))
        return out


class LayerScale(nn.Module):
    """A learned factor per channel. Key gamma."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(width))

    def forward(self, x: Float[Tensor, "batch token channel"]) -> Float[Tensor, "batch token channel"]:
        """Apply."""
        return x * self.gamma


class VitBlock(nn.Module):
    """x += ls1(attn(norm1 x)); x += ls2(mlp(norm2 x)). Norms with eps 1e-6; ls1 and ls2 only with `layer_scale`."""

    def __init__(self, width: int, heads: int, mlp_ratio: float, *, layer_scale: bool) -> None:
        super().__init__()
        self.norm1 = LayerNorm32(width, eps=1e-6)
        self.attn = SelfAttention(width, heads)
        self.ls1 = LayerScale(width) if layer_scale else nn.Identity()
        self.norm2 = LayerNorm32(width, eps=1e-6)
        self.mlp = GeluMlp(width, mlp_ratio)
        self.ls2 = LayerScale(width) if layer_scale else nn.Identity()

    def forward(self, x: Float[Tensor, "batch token channel"]) -> Float[Tensor, "batch token channel"]:
        """Apply."""
        x = x + self.ls1(self.attn(self.norm1(x)))
        out: Tensor = x + self.ls2(self.mlp(self.norm2(x)))
        return out


def init_vit(module: nn.Module) -> None:
    """Initialisation for training from scratch (DINOv2, timm): linears N(0, 0.02), zero biases."""
    for m in module.modules():
        if isinstance(m, nn.Linear):
            nn.init.trunc_normal_(m.weight, std=0.02)
            nn.init.zeros_(m.bias)
