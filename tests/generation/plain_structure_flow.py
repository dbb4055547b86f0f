"""Plain twin of the stage-1 network: written to be read, straight from recorded weights, one formula per line."""

from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from mvsam3d.generation.latents import PUBLIC_NAMES, Velocity
from mvsam3d.generation.schedule import network_time
from mvsam3d.nn.attention import attention_plain
from mvsam3d.nn.layers import sinusoids
from mvsam3d.types import StructureLatents

POSE = "6drotation_normalized"  # name of the stream that the four pose latents share
STREAM = {"shape": ["shape"], POSE: [POSE, "translation", "scale", "translation_scale"]}


@dataclass
class PlainStructureFlow:
    """Velocity of the five latents; `looks[block]`: attention of its shape stream to the tokens, mean of the heads."""

    weights: dict[str, Tensor]
    heads: int
    blocks: int
    looks: dict[int, Tensor] = field(default_factory=dict)

    def __call__(self, x: StructureLatents, t: Tensor, d: Tensor | None, tokens: Tensor) -> StructureLatents:
        """`t` and `d` are times 1000, one per sample."""
        emb = self.embedded("t_embedder", t) + (0 if d is None else self.embedded("d_embedder", d))
        streams = {s: torch.cat([self.entered(x, name) for name in names], 1) for s, names in STREAM.items()}
        for i in range(self.blocks):
            streams = self.block(i, streams, emb, tokens)
        out = {
            PUBLIC_NAMES[name]: self.linear(f"latent_mapping.{name}.out_layer", F.layer_norm(h, h.shape[-1:]))
            for s, names in STREAM.items()
            for name, h in zip(
                names, streams[s].split([streams[s].shape[1] // len(names)] * len(names), 1), strict=True
            )
        }
        return StructureLatents(**out)

    def linear(self, key: str, x: Tensor) -> Tensor:
        return F.linear(x, self.weights[f"{key}.weight"], self.weights[f"{key}.bias"])

    def embedded(self, key: str, t: Tensor) -> Tensor:
        return self.linear(f"{key}.mlp.2", F.silu(self.linear(f"{key}.mlp.0", sinusoids(t))))

    def entered(self, x: StructureLatents, name: str) -> Tensor:
        key = f"latent_mapping.{name}"
        return self.linear(f"{key}.input_layer", getattr(x, PUBLIC_NAMES[name])) + self.weights[f"{key}.pos_emb"]

    def split(self, x: Tensor, parts: int) -> list[Tensor]:
        return list(x.unflatten(-1, (parts, self.heads, -1)).unbind(2))

    def rms(self, key: str, x: Tensor) -> Tensor:
        return F.normalize(x, dim=-1) * self.weights[f"{key}.gamma"] * x.shape[-1] ** 0.5

    def block(self, i: int, streams: dict[str, Tensor], emb: Tensor, tokens: Tensor) -> dict[str, Tensor]:
        key = f"blocks.{i}"
        parts = self.linear(f"{key}.adaLN_modulation.1", F.silu(emb))[:, None].chunk(6, -1)
        shift_a, scale_a, gate_a, shift_m, scale_m, gate_m = parts
        qkv = {}
        for s, x in streams.items():
            h = F.layer_norm(x, x.shape[-1:], eps=1e-6) * (1 + scale_a) + shift_a
            q, k, v = self.split(self.linear(f"{key}.self_attn.to_qkv.{s}", h), 3)
            qkv[s] = (
                self.rms(f"{key}.self_attn.q_rms_norm.{s}", q),
                self.rms(f"{key}.self_attn.k_rms_norm.{s}", k),
                v,
            )
        out = {}
        for s, x in streams.items():
            q, k, v = qkv[s]
            if s == POSE:  # the pose looks at the shape, and sends no gradient there
                k, v = (torch.cat([own, qkv["shape"][j].detach()], 1) for j, own in ((1, k), (2, v)))
            x = x + self.linear(f"{key}.self_attn.to_out.{s}", attention_plain(q, k, v).flatten(2)) * gate_a
            norm = self.weights[f"{key}.norm2.{s}.weight"], self.weights[f"{key}.norm2.{s}.bias"]
            x = x + self.cross(f"{key}.cross_attn.{s}", F.layer_norm(x, x.shape[-1:], *norm, eps=1e-6), tokens, i, s)
            h = F.layer_norm(x, x.shape[-1:], eps=1e-6) * (1 + scale_m) + shift_m
            hidden = F.gelu(self.linear(f"{key}.mlp.{s}.mlp.0", h), approximate="tanh")
            out[s] = x + self.linear(f"{key}.mlp.{s}.mlp.2", hidden) * gate_m
        return out

    def cross(self, key: str, x: Tensor, tokens: Tensor, i: int, stream: str) -> Tensor:
        q = self.split(self.linear(f"{key}.to_q", x), 1)[0]
        k, v = self.split(self.linear(f"{key}.to_kv", tokens), 2)
        if stream == "shape":
            scores = torch.einsum("bqhc,bkhc->bhqk", q, k) * q.shape[-1] ** -0.5
            self.looks[i] = scores.softmax(-1).mean(1)
        return self.linear(f"{key}.to_out", attention_plain(q, k, v).flatten(2))


def structure_velocity(network: PlainStructureFlow, tokens: Tensor, d: float | None) -> Velocity[StructureLatents]:
    """One view's velocity; `d` in [0, 1], None for networks without step size."""
    step = None if d is None else torch.tensor([network_time(d)])

    def velocity(x: StructureLatents, t: float) -> StructureLatents:
        return network(x, torch.tensor([network_time(t)]), step, tokens)

    return velocity
