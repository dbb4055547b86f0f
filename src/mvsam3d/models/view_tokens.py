"""Views of one object -> the condition tokens of each view: of that view alone, or of all views together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor, nn

from mvsam3d.models.condition import ConditionConfig, ConditionEmbedder, JointViews
from mvsam3d.types import Conditions


def with_rgba(maps: Mapping[str, Float[Tensor, "_ _ _ _"]]) -> dict[str, Float[Tensor, "_ _ _ _"]]:
    """The maps, and "rgba": the crop and its mask as one map of four channels."""
    return {**maps, "rgba": torch.cat([maps["image"], maps["mask"]], dim=1)}


class ViewTokens(nn.Module):
    """The condition embedder and, in a model trained on several views at once, what tells its views apart."""

    def __init__(self, config: ConditionConfig, *, joint: bool) -> None:
        super().__init__()
        self.embedder = ConditionEmbedder(config)
        self.joint = JointViews(config.fused_width) if joint else None

    def forward(self, maps: Mapping[str, Float[Tensor, "_ _ _ _"]], views: int) -> Conditions:
        """Tokens of a batch of objects, [batch * view, ...] maps -> a row per object if joint, else a row per view."""
        conditions: Conditions = self.embedder(with_rgba(maps))
        if self.joint is None:
            return conditions
        joined: Conditions = self.joint(conditions, views)
        return joined

    def of_object(
        self,
        maps: Mapping[str, Float[Tensor, "_ _ _ _"]],
        *,
        together: bool,
        features: Mapping[str, Float[Tensor, "_ _ _"]] | None = None,
    ) -> Conditions:
        """A row of tokens for each view of one object.

        Args:
            maps: [view, channel, h, w] by name.
            together: each row holds the tokens of all views, its own first; else those of its own view alone.
            features: of maps that have been encoded already (`models.embeddings`).
        """
        conditions: Conditions = self.embedder(with_rgba(maps), features=features)
        if self.joint is None:
            return conditions
        if not together:
            joined: Conditions = self.joint(conditions, 1)
            return joined
        views = len(conditions.tokens)
        order = [[view, *(other for other in range(views) if other != view)] for view in range(views)]
        rows = conditions.tokens[torch.tensor(order)].flatten(0, 1)
        joined = self.joint(replace(conditions, tokens=rows), views)
        return joined
