"""Two-stream flow transformer of stage 1: velocities of structure and pose latents. Keys of the public ss_generator."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from mvsam3d.nn.attention import KeyValues, attention
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

Tokens = Float[Tensor, "#batch token channel"]
Condition = Float[Tensor, "#batch key cond"]


@dataclass(frozen=True)
class Context:
    """The condition, as the networks take it."""

    tokens: Condition
    kept: Sequence[KeyValues] | None = None
    """Of the shape's cross-attention in every block, made by `StructureFlow.keys_values`; None: made anew at each call."""

    def of_block(self, block: int) -> "Condition | KeyValues":
        """What the shape's cross-attention of a block attends to."""
        return self.tokens if self.kept is None else self.kept[block]


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

    def enter(self, x: Tokens) -> Float[Tensor, "#batch token width"]:
        """Latent -> stream."""
        out: Tensor = self.input_layer(x) + self.pos_emb
        return out

    def leave(self, h: Float[Tensor, "#batch token width"]) -> Tokens:
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
        """Apply to the normed and modulated streams; the pose stream may be absent, and one shape may stand for all poses."""
        q, k, v = self._qkv(SHAPE, streams[SHAPE])
        out = {SHAPE: self.to_out[SHAPE](attention(q, k, v).flatten(2))}
        if POSE in streams:
            own = self._qkv(POSE, streams[POSE])
            out[POSE] = self.to_out[POSE](attend_to_own_and(*own, k.detach(), v.detach()).flatten(2))
        return out


Heads = Float[Tensor, "#batch token head channel"]


def attend_to_own_and(
    q: Heads,
    k_own: Heads,
    v_own: Heads,
    k: Float[Tensor, "#batch key head channel"],
    v: Float[Tensor, "#batch key head channel"],
) -> Heads:
    """Attention of few queries to their own keys and to others, which may be one row for all queries: nothing is copied."""
    shared = len(k) < len(q)
    b, k_far, v_far = ("", k[0], v[0]) if shared else ("b", k, v)
    far = torch.einsum(f"bqhc,{b}khc->bqhk", q, k_far)
    near = torch.einsum("bqhc,bkhc->bqhk", q, k_own)
    scores = torch.cat([near, far], dim=-1).float() * q.shape[-1] ** -0.5
    looks = torch.softmax(scores, dim=-1).to(v.dtype)
    own = k_own.shape[1]
    return torch.einsum("bqhk,bkhc->bqhc", looks[..., :own], v_own) + torch.einsum(
        f"bqhk,{b}khc->bqhc", looks[..., own:], v_far
    )


class CrossAttention(nn.Module):
    """Attention of a stream to the condition tokens."""

    def __init__(self, width: int, cond_channels: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.to_q = nn.Linear(width, width)
        self.to_kv = nn.Linear(cond_channels, 2 * width)
        self.to_out = nn.Linear(width, width)

    def keys_values(self, cond: Condition) -> KeyValues:
        """Keys and values: they depend on the condition alone."""
        return KeyValues(*self.to_kv(cond).unflatten(-1, (2, self.heads, -1)).unbind(2))

    def forward(
        self, h: Tokens, context: Condition | KeyValues, probe: AttentionProbe | None = None, block: int = 0
    ) -> Float[Tensor, "#batch #token channel"]:
        """Apply; a probe that wants this block receives its queries and keys. One row may stand for all of the condition's rows.

        Returns a single token, to be broadcast, if the condition is one: it takes all the attention, whatever the queries are.
        """
        kv = context if isinstance(context, KeyValues) else self.keys_values(context)
        probed = probe is not None and probe.wants(block)
        if kv.k.shape[1] == 1 and not probed:
            constant: Tensor = self.to_out(kv.v.flatten(2))
            return constant
        q: Tensor = self.to_q(h).unflatten(-1, (self.heads, -1)).expand(len(kv.k), -1, -1, -1)
        if probe is not None and probed:
            probe.record(block, q, kv.k)
        out: Tensor = self.to_out(attention(q, kv.k, kv.v).flatten(2))
        return out

    def of_few(self, h: Tokens, cond: Condition) -> Tokens:
        """The same for few queries, without a key or value of any token: a query looks at the tokens through the keys' weights.

        q (W c + b) = (Wᵀ q) c + q b, where q b is alike for all tokens and drops out of the softmax; the values' weights are
        applied to the mean of the tokens that each head sees. For 4 queries of 16 heads this is 1/30 of the work.
        """
        width, cond_channels = self.to_q.out_features, self.to_kv.in_features
        to_k, to_v = self.to_kv.weight.view(2, self.heads, -1, cond_channels)
        q = self.to_q(h).unflatten(-1, (self.heads, -1)) * (width // self.heads) ** -0.5
        looks = torch.einsum("bqhc,hcd->bhqd", q, to_k).flatten(1, 2)  # a query of every head, in the tokens' channels
        seen = torch.softmax((looks @ cond.transpose(1, 2)).float(), dim=-1).to(cond.dtype) @ cond
        values = torch.einsum("bhqd,hcd->bqhc", seen.view(len(seen), self.heads, -1, cond_channels), to_v).flatten(2)
        out: Tensor = self.to_out(values + self.to_kv.bias[width:])
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
        context: Context,
        probe: AttentionProbe | None = None,
        block: int = 0,
    ) -> dict[str, Tensor]:
        """Apply to one or both streams; only the shape's cross-attention is probed, and only its keys are kept."""
        shift1, scale1, gate1, shift2, scale2, gate2 = self.adaLN_modulation(emb)[:, None].chunk(6, dim=-1)
        attended = self.self_attn({n: plain_norm(x) * (1 + scale1) + shift1 for n, x in streams.items()})
        out = {}
        for name, x in streams.items():
            x = x + attended[name] * gate1
            x = x + self._across(name, self.norm2[name](x), context, probe, block)
            out[name] = x + self.mlp[name](plain_norm(x) * (1 + scale2) + shift2) * gate2
        return out

    def _across(
        self, name: str, h: Tokens, context: Context, probe: AttentionProbe | None, block: int
    ) -> Float[Tensor, "#batch #token channel"]:
        layer = self.cross_attn[name]
        assert isinstance(layer, CrossAttention)
        if name == SHAPE:
            shape: Tensor = layer(h, context.of_block(block), probe, block)
            return shape
        few = h.shape[1] * layer.heads < h.shape[2] and context.tokens.shape[1] > 1
        pose: Tensor = layer.of_few(h, context.tokens) if few else layer(h, context.tokens)
        return pose


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

    def keys_values(self, cond: Condition) -> list[KeyValues]:
        """What the shape's cross-attention of each block makes of the condition; it may be kept over all steps."""
        layers = (block.cross_attn[SHAPE] for block in self.blocks if isinstance(block, Block))
        return [layer.keys_values(cond) for layer in layers if isinstance(layer, CrossAttention)]

    def _run(
        self,
        streams: dict[str, Tensor],
        t: Tensor,
        cond: Tensor | Context,
        d: Tensor | None,
        cfg: bool,
        probe: AttentionProbe | None,
    ) -> dict[str, Tensor]:
        emb = self.t_embedder(t)
        if d is not None:
            assert self.d_embedder is not None, "this network was built without a step size"
            emb = emb + self.d_embedder(d)
        context = cond if isinstance(cond, Context) else Context(cond)
        if cfg:  # zeros give equal keys and values: one token of zeros says the same, unless somebody wants to see all
            context = Context(0 * (context.tokens[:, :1] if probe is None else context.tokens))
        for i, block in enumerate(self.blocks):
            streams = block(streams, emb, context, probe, i)
        return streams

    def forward(
        self,
        latents: StructureLatents,
        t: Float[Tensor, " #batch"],
        cond: Condition | Context,
        d: Float[Tensor, " #batch"] | None = None,
        *,
        cfg: bool = False,
        probe: AttentionProbe | None = None,
    ) -> StructureLatents:
        """Velocity of all latents.

        Args:
            latents: the state at time t; a shape of one row stands for all rows of the condition, and what comes before the first
                look at the condition is then done once.
            t: 1000 x time, 0 = noise, 1000 = data; one for all or one each.
            cond: condition tokens, or with the keys and values made of them.
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
        shape: Float[Tensor, "#batch latent channel"],
        t: Float[Tensor, " #batch"],
        cond: Condition | Context,
        d: Float[Tensor, " #batch"] | None = None,
        *,
        cfg: bool = False,
        probe: AttentionProbe | None = None,
    ) -> Float[Tensor, "#batch latent channel"]:
        """Velocity of the shape alone: what `forward` gives for any pose, without the pose stream's work."""
        latent = self._latent(SHAPE)
        return latent.leave(self._run({SHAPE: latent.enter(shape)}, t, cond, d, cfg, probe)[SHAPE])
