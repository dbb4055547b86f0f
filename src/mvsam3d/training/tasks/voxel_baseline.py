"""Task: the voxel baseline, from photos without cameras to the solid in the object frame."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from mvsam3d.geometry.occupancy import iou, occupancy_iou
from mvsam3d.models.view_tokens import with_rgba
from mvsam3d.models.voxel_baseline import VoxelBaseline, VoxelBaselineConfig, occupied
from mvsam3d.training.data import Shards
from mvsam3d.training.tasks.structure_flow import FlowTraining, chosen_views, view_count
from mvsam3d.training.view_batch import drawn_views

MEASURED = 100  # held-out objects of each kind, as of the structure flow
AT_ONCE = 50  # objects that are predicted at a time
THRESHOLDS = (0.3, 0.4, 0.5)  # among which the last is chosen; the source's is 0.3
CHOSEN_ON = 200  # training objects, for the threshold


@dataclass(frozen=True)
class VoxelBaselineTraining:
    """What the network is shown."""

    views: tuple[float, ...] = (0.25, 0.25, 0.25, 0.25)
    """Chance of 1, 2, ... views."""


@dataclass(frozen=True)
class VoxelBatch:
    """Crops, those of an object next to each other, and the solids they show."""

    rgba: Float[Tensor, "_ 4 h w"]
    views: int
    solid: Bool[Tensor, "batch x y z"]


class VoxelBaselineTask:
    """Predict the solid: cross-entropy of each voxel, as the source trains."""

    def __init__(
        self,
        config: VoxelBaselineConfig,
        train: Shards,
        held_out: Mapping[str, Shards],
        training: VoxelBaselineTraining,
    ) -> None:
        self.networks = VoxelBaseline(config)
        self.config, self.train, self.held_out, self.training = config, train, held_out, training

    def draw(self, size: int, rng: np.random.Generator) -> VoxelBatch:
        """Random objects with one number of views for the whole batch."""
        self.train.refresh(most=1)
        rows = rng.integers(len(self.train), size=size)
        return shown(self.train, rows, chosen_views(self.train, size, FlowTraining(views=self.training.views), rng))

    def loss(self, batch: VoxelBatch, noise: torch.Generator) -> tuple[Tensor, Mapping[str, Tensor]]:
        """Cross-entropy of the fused volume, and its overlap with the truth."""
        device = next(self.networks.parameters()).device
        solid = batch.solid.to(device)
        logits = self.networks(batch.rgba.to(device), batch.views).float()
        found = iou(occupied(logits.detach(), self.config.threshold), solid).mean()
        return F.binary_cross_entropy_with_logits(logits, solid.float()), {"iou": found}

    @torch.no_grad()
    def evaluate(self, networks: nn.Module) -> Mapping[str, float]:
        """IoU of the solid and of its surface on held-out objects, by number of views, at the config's threshold."""
        assert isinstance(networks, VoxelBaseline)
        scores: dict[str, float] = {}
        for name, shards in self.held_out.items():
            rows = np.arange(min(len(shards), MEASURED))
            for count in sorted({1, min(2, view_count(shards)), view_count(shards)}):
                logits = predicted(networks, shards, rows, np.tile(np.arange(count), (len(rows), 1)))
                truth = torch.from_numpy(shards.solid(rows, self.config.resolution))
                result = occupancy_iou(occupied(logits, self.config.threshold), truth)
                scores[f"{name}_iou_{count}"] = float(result.solid.mean())
                scores[f"{name}_surface_{count}"] = float(result.surface.mean())
        return scores


def shown(shards: Shards, rows: np.ndarray, chosen: np.ndarray) -> VoxelBatch:
    """The views `chosen` [batch, view] of the objects `rows`."""
    views = drawn_views(shards, rows, chosen, pointmap=False, images=True)
    side = round((8 * shards.tensors[0]["solid"].shape[-1]) ** (1 / 3))
    return VoxelBatch(with_rgba(views.maps)["rgba"], views.count, torch.from_numpy(shards.solid(rows, side)))


@torch.no_grad()
def predicted(
    network: VoxelBaseline, shards: Shards, rows: np.ndarray, chosen: np.ndarray
) -> Float[Tensor, "batch x y z"]:
    """Logits of objects from the views `chosen` [batch, view], on the CPU."""
    device = next(network.parameters()).device
    parts = []
    for start in range(0, len(rows), AT_ONCE):
        batch = shown(shards, rows[start : start + AT_ONCE], chosen[start : start + AT_ONCE])
        parts.append(network(batch.rgba.to(device), batch.views).float().cpu())
    return torch.cat(parts)


def threshold_scores(network: VoxelBaseline, train: Shards, seed: int) -> dict[float, float]:
    """Mean IoU of the solid at each of THRESHOLDS, on training objects shown by 1 to 4 views, each number as often.

    Held-out objects choose nothing, so that what they are measured by stays what it is.
    """
    rng = np.random.default_rng([seed, CHOSEN_ON])
    counts = range(1, min(4, view_count(train)) + 1)
    rows = rng.permutation(len(train))[:CHOSEN_ON]
    found: dict[float, list[Tensor]] = {threshold: [] for threshold in THRESHOLDS}
    for count, part in zip(counts, np.array_split(rows, len(counts)), strict=True):
        if len(part):
            chosen = np.stack([rng.permutation(view_count(train))[:count] for _ in part])
            logits = predicted(network, train, part, chosen)
            truth = torch.from_numpy(train.solid(part, network.config.resolution))
            for threshold, values in found.items():
                values.append(iou(occupied(logits, threshold), truth))
    return {threshold: float(torch.cat(values).mean()) for threshold, values in found.items()}
