"""Two-stream flow transformer of stage 1: velocities of structure and pose latents. Keys of the public ss_generator."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from mvsam3d.nn.attention import attention
from mvsam3d.nn.layers import (
    FeedForward,
    LayerNorm32,
    MultiHeadRMSNorm,
    TimestepEmbedder,
    init_linears,
    open_gates,
    position_embedding,
)
from mvsam3d.nn.probe import AttentionProbe
from mvsam3d.types import StructureLatents

SHAPE, POSE = "shape", "6drotation_normalized"  # the two streams, by their public names
POSE_CHANNELS = {POSE: 6, "translation": 3, "scale": 3, "translation_scale": 1}  # one token each, in the stream's order

Tokens = Float[Tensor, "batch token channel"]
Modulation = tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]


@dataclass(frozen=True)
class StructureFlowConfig:
    """Size of the network. Defaults: the public size."""

    width: int = 1024
    blocks: int = 24
    heads: int = 16
    mlp_ratio: float = 4.0
    cond_channels: int = 1024
    grid: int = 16
    """Side of the latent grid: grid^3 tokens, cell (x, y, z) is token x grid^2 + y grid + z."""
    latent_channels: int = 8
    learned_positions: bool = False
    """Train the positions of the structure tokens; else a fixed table, whose sum of three axes alone tells tokens apart slowly."""
    step_embedding: bool = True
    """The network can be told the step size d (shortcut models)."""
    freeze_shared_parameters: bool = True
    """Do not train the time embedding and the modulation of the blocks (the release's last phase of training)."""


class Latent(nn.Module):
    """One latent's way into its stream and out; positions are learned, or a fixed table (in checkpoints too)."""

    pos_emb: Tensor

    def __init__(
        self, channels: int, width: int, table: Float[Tensor, "latent width"] | None = None, *, tokens: int = 1
    ) -> None:
        super().__init__()
        self.input_layer = nn.Linear(channels, width)
        self.out_layer = nn.Linear(width, channels)
        if table is None:
            self.pos_emb = nn.Parameter(torch.randn(tokens, width))
        else:
            self.register_buffer("pos_emb", table)

    def enter(self, x: Tokens) -> Float[Tensor, "batch token width"]:
        """Latent -> stream."""
        out: Tensor = self.input_layer(x) + self.pos_emb
        return out

    def leave(self, h: Float[Tensor, "batch token width"]) -> Tokens:
        """Stream -> velocity of the latent."""
        out: Tensor = self.out_layer(plain_norm(h, eps=1e-5))
        return out


def shape_positions(grid: int, width: int) -> Float[Tensor, "latent width"]:
    """The fixed table of positions of a grid's cells, in the order of their tokens."""
    axis = torch.arange(grid, dtype=torch.float32)
    return position_embedding(torch.cartesian_prod(axis, axis, axis), width)


def plain_norm(x: Tokens, eps: float = 1e-6) -> Tokens:
    """LayerNorm without parameters, in float32."""
    return F.layer_norm(x.float(), x.shape[-1:], eps=eps).to(x.dtype)


class JointSelfAttention(nn.Module):
    """Self-attention of both streams: the shape sees itself; the pose sees itself and, without gradient, the shape."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.to_qkv = nn.ModuleDict({name: nn.Linear(width, 3 * width) for name in (SHAPE, POSE)})
        self.q_rms_norm = nn.ModuleDict({name: MultiHeadRMSNorm(width // heads, heads) for name in (SHAPE, POSE)})
        self.k_rms_norm = nn.ModuleDict({name: MultiHeadRMSNorm(width // heads, heads) for name in (SHAPE, POSE)})
        self.to_out = nn.ModuleDict({name: nn.Linear(width, width) for name in (SHAPE, POSE)})

    def _qkv(self, name: str, h: Tokens) -> tuple[Tensor, Tensor, Tensor]:
        q, k, v = self.to_qkv[name](h).unflatten(-1, (3, self.heads, -1)).unbind(2)
        return self.q_rms_norm[name](q), self.k_rms_norm[name](k), v

    def forward(self, streams: dict[str, Tensor]) -> dict[str, Tensor]:
        """Apply to the normed and modulated streams; the pose stream may be absent."""
        q, k, v = self._qkv(SHAPE, streams[SHAPE])
        out = {SHAPE: self.to_out[SHAPE](attention(q, k, v).flatten(2))}
        if POSE in streams:
            q_pose, k_pose, v_pose = self._qkv(POSE, streams[POSE])
            keys, values = torch.cat([k_pose, k.detach()], dim=1), torch.cat([v_pose, v.detach()], dim=1)
            out[POSE] = self.to_out[POSE](attention(q_pose, keys, values).flatten(2))
        return out


class CrossAttention(nn.Module):
    """Attention of a stream to the condition tokens."""

    def __init__(self, width: int, cond_channels: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.to_q = nn.Linear(width, width)
        self.to_kv = nn.Linear(cond_channels, 2 * width)
        self.to_out = nn.Linear(width, width)

    def forward(
        self, h: Tokens, cond: Float[Tensor, "batch key cond"], probe: AttentionProbe | None = None, block: int = 0
    ) -> Tokens:
        """Apply; a probe that wants this block receives its queries and keys."""
        q: Tensor = self.to_q(h).unflatten(-1, (self.heads, -1))
        k, v = self.to_kv(cond).unflatten(-1, (2, self.heads, -1)).unbind(2)
        if probe is not None and probe.wants(block):
            probe.record(block, q, k)
        out: Tensor = self.to_out(attention(q, k, v).flatten(2))
        return out


class Block(nn.Module):
    """One block of both streams; the modulation by time is shared between them."""

    def __init__(self, config: StructureFlowConfig) -> None:
        super().__init__()
        width, heads = config.width, config.heads
        self.norm2 = nn.ModuleDict({name: LayerNorm32(width, eps=1e-6) for name in (SHAPE, POSE)})
        self.self_attn = JointSelfAttention(width, heads)
        self.cross_attn = nn.ModuleDict(
            {name: CrossAttention(width, config.cond_channels, heads) for name in (SHAPE, POSE)}
        )
        self.mlp = nn.ModuleDict({name: FeedForward(width, config.mlp_ratio) for name in (SHAPE, POSE)})
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(width, 6 * width))

    def forward(
        self,
        streams: dict[str, Tensor],
        emb: Float[Tensor, "#batch width"],
        cond: Float[Tensor, "batch key cond"],
        probe: AttentionProbe | None = None,
        block: int = 0,
    ) -> dict[str, Tensor]:
        """Apply to one or both streams; only the shape's cross-attention is probed."""
        shift1, scale1, gate1, shift2, scale2, gate2 = self.adaLN_modulation(emb)[:, None].chunk(6, dim=-1)
        attended = self.self_attn({n: plain_norm(x) * (1 + scale1) + shift1 for n, x in streams.items()})
        out = {}
        for name, x in streams.items():
            x = x + attended[name] * gate1
            x = x + self.cross_attn[name](self.norm2[name](x), cond, probe if name == SHAPE else None, block)
            out[name] = x + self.mlp[name](plain_norm(x) * (1 + scale2) + shift2) * gate2
        return out


class StructureFlow(nn.Module):
    """Velocity of the five latents, given time, step size and condition tokens."""

    def __init__(self, config: StructureFlowConfig) -> None:
        super().__init__()
        self.config = config
        self.t_embedder = TimestepEmbedder(config.width)
        self.d_embedder = TimestepEmbedder(config.width) if config.step_embedding else None
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.blocks))
        self.latent_mapping = nn.ModuleDict({name: Latent(n, config.width) for name, n in POSE_CHANNELS.items()})
        table = None if config.learned_positions else shape_positions(config.grid, config.width)
        self.latent_mapping[SHAPE] = Latent(config.latent_channels, config.width, table, tokens=config.grid**3)
        self._init_weights()
        if config.freeze_shared_parameters:
            self.t_embedder.requires_grad_(False)
            for block in self.blocks:
                block.adaLN_modulation.requires_grad_(False)

    def _init_weights(self) -> None:
        """As the public system: blocks start with closed gates, the step size without effect."""
        init_linears(self)
        for name, parameter in self.named_parameters():
            if name.endswith("adaLN_modulation.1.weight") or name == "d_embedder.mlp.2.weight":
                nn.init.zeros_(parameter)
            elif name.startswith("t_embedder") and name.endswith("weight"):
                nn.init.normal_(parameter, std=0.02)

    def open_gates(self) -> None:
        """Let every block act from the start: closed gates make long runs stable and short ones slow."""
        for block in self.blocks:
            assert isinstance(block, Block)
            open_gates(block.adaLN_modulation)

    def _latent(self, name: str) -> Latent:
        latent = self.latent_mapping[name]
        assert isinstance(latent, Latent)
        return latent

    def enter(self, latents: StructureLatents) -> dict[str, Tensor]:
        """The two streams: the shape's tokens, and the pose's four in the order of POSE_CHANNELS."""
        parts = {
            POSE: latents.rotation_6d,
            "translation": latents.translation,
            "scale": latents.scale,
            "translation_scale": latents.translation_scale,
        }
        pose = torch.cat([self._latent(name).enter(parts[name]) for name in POSE_CHANNELS], dim=1)
        return {SHAPE: self._latent(SHAPE).enter(latents.shape), POSE: pose}

    def _run(
        self,
        streams: dict[str, Tensor],
        t: Tensor,
        cond: Tensor,
        d: Tensor | None,
        cfg: bool,
        probe: AttentionProbe | None,
    ) -> dict[str, Tensor]:
        emb = self.t_embedder(t)
        if d is not None:
            assert self.d_embedder is not None, "this network was built without a step size"
            emb = emb + self.d_embedder(d)
        if cfg:
            cond = cond * 0
        for i, block in enumerate(self.blocks):
            streams = block(streams, emb, cond, probe, i)
        return streams

    def forward(
        self,
        latents: StructureLatents,
        t: Float[Tensor, " #batch"],
        cond: Float[Tensor, "batch key cond"],
        d: Float[Tensor, " #batch"] | None = None,
        *,
        cfg: bool = False,
        probe: AttentionProbe | None = None,
    ) -> StructureLatents:
        """Velocity of all latents.

        Args:
            latents: the state at time t.
            t: 1000 x time, 0 = noise, 1000 = data; one for all or one each.
            cond: condition tokens.
            d: 1000 x step size; 0 is not the same as None, which leaves the step embedding out.
            cfg: the unconditional pass: the tokens count as zeros (not: as absent).
            probe: receives queries and keys of the shape's cross-attention in the blocks it wants.
        """
        streams = self._run(self.enter(latents), t, cond, d, cfg, probe)
        pose = dict(zip(POSE_CHANNELS, torch.split(streams[POSE], 1, dim=1), strict=True))
        out = {name: self._latent(name).leave(h) for name, h in {**pose, SHAPE: streams[SHAPE]}.items()}
        return StructureLatents(out[SHAPE], out[POSE], out["translation"], out["scale"], out["translation_scale"])

    def shape_velocity(
        self,
        shape: Float[Tensor, "batch latent channel"],
        t: Float[Tensor, " #batch"],
        cond: Float[Tensor, "batch key cond"],
        d: Float[Tensor, " #batch"] | None = None,
        *,
        cfg: bool = False,
        probe: AttentionProbe | None = None,
    ) -> Float[Tensor, "batch latent channel"]:
        """Velocity of the shape alone: what `forward` gives for any pose, without the pose stream's work."""
        latent = self._latent(SHAPE)
        return latent.leave(self._run({SHAPE: latent.enter(shape)}, t, cond, d, cfg, probe)[SHAPE])
