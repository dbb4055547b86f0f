"""Maps of a view -> condition tokens with named spans. Keys of the public condition embedder."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, assert_never

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Generator, Tensor, nn

from mvsam3d.errors import InvalidOption
from mvsam3d.models.conv_encoder import ConvConfig, ConvEncoder
from mvsam3d.models.image_encoder import ImageEncoder, VitConfig
from mvsam3d.models.pointmap_encoder import PointmapConfig, PointmapEncoder
from mvsam3d.nn.layers import LayerNorm32
from mvsam3d.types import Conditions, Span

HIDDEN_MULTIPLE = 256  # the projections' hidden width is a multiple of it


@dataclass(frozen=True)
class PrecomputedConfig:
    """No network: every call brings the features of these inputs. For frozen encoders."""

    kind: Literal["precomputed"] = "precomputed"
    width: int = 1024
    prefix: int = 0
    """Leading tokens that are no patches."""


EmbedderNetwork = VitConfig | PointmapConfig | ConvConfig | PrecomputedConfig


@dataclass(frozen=True)
class EmbedderConfig:
    """One network, and the maps that it sees."""

    network: EmbedderNetwork
    inputs: tuple[tuple[str, str], ...]
    """(map, group), in order of their tokens; maps of a group share a learned offset."""
    optional: bool = False
    """A map may be absent; it then has no tokens."""


PUBLIC_IMAGES = (("image", "cropped"), ("rgb_image", "full"))
PUBLIC_MASKS = (("mask", "cropped"), ("rgb_image_mask", "full"))
PUBLIC_POINTMAPS = (("pointmap", "cropped"), ("rgb_pointmap", "full"))


@dataclass(frozen=True)
class ConditionConfig:
    """Which maps condition the flow, and how. Defaults: the public stage 1."""

    embedders: tuple[EmbedderConfig, ...] = (
        EmbedderConfig(VitConfig(), PUBLIC_IMAGES),
        EmbedderConfig(VitConfig(), PUBLIC_MASKS),
        EmbedderConfig(PointmapConfig(), PUBLIC_POINTMAPS),
    )
    projection_multiplier: float = 4.0
    """Hidden width of the projections / fused width, before the cut to 2/3 that gated units take."""
    width: int | None = None
    """Fused width; None: the widest embedder's."""
    drop_sets: tuple[tuple[tuple[str, ...], float], ...] = ((("pointmap", "rgb_pointmap"), 1.0),)
    """Sets of maps that training drops together, with relative weights."""
    dropout_prob: float = 0.1
    """Share of the samples that lose one of the sets in training."""
    frozen: bool = True
    """Do not train anything in it."""

    @property
    def fused_width(self) -> int:
        """Channels of a condition token."""
        return self.width or max(embedder.network.width for embedder in self.embedders)

    @property
    def groups(self) -> tuple[str, ...]:
        """Names of the groups, by first appearance."""
        return tuple(dict.fromkeys(group for embedder in self.embedders for _, group in embedder.inputs))


SLAT_CONDITION = ConditionConfig(  # the public stage 2
    embedders=(
        EmbedderConfig(VitConfig(prenorm_features=True), PUBLIC_IMAGES),
        EmbedderConfig(VitConfig(prenorm_features=True), PUBLIC_MASKS),
    ),
    drop_sets=(),
    dropout_prob=0.0,
)


class SwiGlu(nn.Module):
    """w2(silu(w1 x) * w3 x), no biases."""

    def __init__(self, width_in: int, width_out: int, multiplier: float) -> None:
        super().__init__()
        hidden = int(2 * int(multiplier * width_out) / 3)
        hidden = -(-hidden // HIDDEN_MULTIPLE) * HIDDEN_MULTIPLE
        self.w1 = nn.Linear(width_in, hidden, bias=False)
        self.w2 = nn.Linear(hidden, width_out, bias=False)
        self.w3 = nn.Linear(width_in, hidden, bias=False)

    def forward(self, x: Float[Tensor, "batch token channel"]) -> Float[Tensor, "batch token out"]:
        """Apply."""
        out: Tensor = self.w2(F.silu(self.w1(x)) * self.w3(x))
        return out


def build_embedder(config: EmbedderNetwork) -> nn.Module:
    """The network of a config."""
    match config:
        case VitConfig():
            return ImageEncoder(config)
        case PointmapConfig():
            return PointmapEncoder(config)
        case ConvConfig():
            return ConvEncoder(config)
        case PrecomputedConfig():
            return nn.Identity()
        case _:
            assert_never(config)


def draw_dropped(config: ConditionConfig, batch: int, generator: Generator | None) -> dict[str, Bool[Tensor, " batch"]]:
    """For each map that can be dropped, the samples of a training batch that lose it; drawn on the CPU."""
    if not config.drop_sets or config.dropout_prob == 0:
        return {}
    weights = torch.tensor([weight for _, weight in config.drop_sets])
    chosen = torch.multinomial(weights, batch, replacement=True, generator=generator)
    dropped = torch.rand(batch, generator=generator) < config.dropout_prob
    lost: dict[str, Tensor] = {}
    for i, (names, _) in enumerate(config.drop_sets):
        for name in names:
            lost[name] = lost.get(name, torch.zeros(batch, dtype=torch.bool)) | (dropped & (chosen == i))
    return lost


class ConditionEmbedder(nn.Module):
    """Maps of a view -> condition tokens: embedder, projection, offset of the map's group; all maps in a row."""

    def __init__(self, config: ConditionConfig) -> None:
        super().__init__()
        self.config = config
        width = config.fused_width
        self.module_list = nn.ModuleList(build_embedder(embedder.network) for embedder in config.embedders)
        self.projection_nets = nn.ModuleList(
            nn.Sequential(
                LayerNorm32(embedder.network.width),
                SwiGlu(embedder.network.width, width, config.projection_multiplier),
            )
            for embedder in config.embedders
        )
        # the public checkpoints have one row more than groups
        self.idx_emb = nn.Parameter(torch.randn(len(config.groups) + 1, width) * 0.02)
        if config.frozen:
            self.requires_grad_(False).eval()

    def _inputs(self, given: Iterable[str]) -> Iterator[tuple[int, str, str]]:
        """(embedder, map, group) of all maps to embed, in order. Raises: InvalidOption: one is missing."""
        names = set(given)
        for i, embedder in enumerate(self.config.embedders):
            for name, group in embedder.inputs:
                if name in names:
                    yield i, name, group
                elif not embedder.optional:
                    raise InvalidOption(
                        f"this model needs the map {name!r} of every view, and got {sorted(names)}: "
                        "give it, or use a model that does without"
                    )

    def features(self, maps: Mapping[str, Float[Tensor, "batch _ _ _"]]) -> dict[str, Float[Tensor, "batch _ _"]]:
        """The embedders' outputs by map, before projection: what a frozen embedder's cache holds.

        Args:
            maps: [batch, channel, h, w] by name; maps that no embedder sees are ignored.
        """
        return {
            name: self.module_list[i](maps[name])
            for i, embedder in enumerate(self.config.embedders)
            for name, _ in embedder.inputs
            if name in maps
        }

    def forward(
        self,
        maps: Mapping[str, Float[Tensor, "batch _ _ _"]],
        *,
        features: Mapping[str, Float[Tensor, "batch _ _"]] | None = None,
        drop: Sequence[str] = (),
        generator: Generator | None = None,
    ) -> Conditions:
        """Embed the maps of a batch of views.

        Args:
            maps: image, rgb_image, mask, rgb_image_mask, pointmap, rgb_pointmap, as [batch, channel, h, w]: those that
                the config asks for; others are ignored.
            features: outputs of `features`, which then stand for these maps.
            drop: maps whose tokens become zero; they keep their places.
            generator: for the draw of dropped maps in training, on the CPU.

        Raises: InvalidOption: a map is missing that the config does not call optional.
        """
        known = dict(features or {})
        parts: list[Tensor] = []
        spans: list[Span] = []
        start, lost = 0, None
        for i, name, group in self._inputs({**maps, **known}):
            feature = known[name] if name in known else self.module_list[i](maps[name])
            tokens = self.projection_nets[i](feature) + self.idx_emb[self.config.groups.index(group)]
            if self.training and lost is None:
                lost = draw_dropped(self.config, len(tokens), generator)
            if name in drop:
                tokens = tokens * 0
            elif lost and name in lost:
                tokens = tokens * (~lost[name])[:, None, None].to(tokens)
            parts.append(tokens)
            spans.append(Span(name, start, start + tokens.shape[1], self.config.embedders[i].network.prefix))
            start += tokens.shape[1]
        if not parts:
            raise InvalidOption("no map was given that this model can see: give at least an image and its mask")
        return Conditions(torch.cat(parts, dim=1), tuple(spans))


class JointViews(nn.Module):
    """Tokens of all views of an object in one sequence, the reference view's told from the others'."""

    def __init__(self, width: int) -> None:
        super().__init__()
        # row 0: the view whose camera the pose latents refer to, row 1: all others
        self.view_emb = nn.Parameter(torch.randn(2, width) * 0.02)

    def forward(self, conditions: Conditions, views: int) -> Conditions:
        """[batch * view, token, channel] -> [batch, view * token, channel].

        Args:
            conditions: the views of an object follow each other, its reference view first.
            views: number of views of each object, the same in the whole batch.
        Returns: spans are named "VIEW/MAP", such as "0/mask".
        """
        rows, count, width = conditions.tokens.shape
        assert rows % views == 0, f"{rows} views are not {views} of each object"
        row = torch.ones(views, dtype=torch.long)
        row[0] = 0
        tokens = conditions.tokens.reshape(-1, views, count, width) + self.view_emb[row][:, None]
        spans = tuple(
            Span(f"{view}/{span.name}", view * count + span.start, view * count + span.stop, span.prefix)
            for view in range(views)
            for span in conditions.spans
        )
        return Conditions(tokens.flatten(1, 2), spans)
