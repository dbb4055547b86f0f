"""Task: the structure flow with its condition encoder, and pose latents for the first of the views shown."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from mvsam3d.generation.latents import PerLatent, combine, structure_noise
from mvsam3d.generation.pose import encode_poses
from mvsam3d.generation.structure_stage import network_velocity
from mvsam3d.geometry.occupancy import occupancy_iou
from mvsam3d.models.structure_flow import StructureFlow
from mvsam3d.models.structure_vae import StructureDecoder, grid_from_tokens
from mvsam3d.models.view_tokens import ViewTokens
from mvsam3d.training.data import Shards
from mvsam3d.training.tasks.structure_vae import occupancy_loss
from mvsam3d.training.view_batch import ViewBatch, drawn_views, with_strangers
from mvsam3d.types import Conditions, StructureLatents

WEIGHTS = PerLatent(shape=1.0, rotation_6d=0.3, translation=0.3, scale=0.1, translation_scale=0.0)


@dataclass(frozen=True)
class FlowTraining:
    """What a flow is trained on."""

    at_noise: float = 0.75
    """Share of samples at t = 0, where the best answer is the mean over all objects that fit the photos: a flow that is still weak
    does best in one step, and that step is learnt here. The rest draws t = sigmoid(N(-1, 1)), as the public model."""
    unconditional: float = 0.05
    """Share of samples whose tokens are zeroed, for guidance."""
    pointmap: float = 0.05
    """Share of batches that show point maps."""
    views: tuple[float, ...] = (0.45, 0.25, 0.1, 0.2)
    """Chance of 1, 2, ... views."""
    strangers: float = 0.0
    """Share of the objects with three or more views, one of which shows another object: the answer stays that of the others."""
    decoded: float = 0.0
    """Weight of the loss of the decoded occupancy (cross-entropy and Dice) where t = 0. The decoder learns with the flow, for means of
    many latents decode to less than any of them; so that it stays the VAE's decoder, it is shown some true latents too."""
    most_decoded: int = 12
    """Predictions of a batch that it is shown: decoding takes as long as predicting."""
    kept_decoded: int = 4
    """True latents of a batch that it is shown."""


def view_count(shards: Shards) -> int:
    """Views of each object."""
    return int(shards.tensors[0]["mask"].shape[1])


def chosen_views(
    shards: Shards, size: int, training: FlowTraining, rng: np.random.Generator
) -> Int64[np.ndarray, "batch view"]:
    """Which views of each object a batch shows: as many of each, in random order."""
    chances = np.array(training.views)
    count = int(rng.choice(len(chances), p=chances / chances.sum())) + 1
    total = view_count(shards)
    return np.stack([rng.permutation(total)[:count] for _ in range(size)])


class StructureNetworks(nn.Module):
    """Condition encoder, flow, and the VAE's decoder."""

    def __init__(self, condition: ViewTokens, flow: StructureFlow, decoder: StructureDecoder) -> None:
        super().__init__()
        self.condition, self.flow, self.decoder = condition, flow, decoder

    def decoded(self, shape: Float[Tensor, "batch latent channel"]) -> Float[Tensor, "batch r r r"]:
        """Occupancy logits of latents."""
        logits: Tensor = self.decoder(grid_from_tokens(shape, self.decoder.config.token_patch))
        return logits[:, 0]


@dataclass(frozen=True)
class StructureBatch:
    """Views and what they show."""

    views: ViewBatch
    latents: Float[Tensor, "batch latent channel"]
    solid: Bool[Tensor, "batch x y z"]


class StructureFlowTask:
    """Predict the structure latents x1 from noise and the views; all views of an object are seen at once."""

    def __init__(
        self,
        networks: StructureNetworks,
        train: Shards,
        held_out: Mapping[str, Shards],
        *,
        resolution: int,
        training: FlowTraining,
    ) -> None:
        self.networks = networks.requires_grad_(True)
        if not training.decoded:
            self.networks.decoder.requires_grad_(False)
        self.train, self.held_out, self.resolution, self.training = train, held_out, resolution, training

    def draw(self, size: int, rng: np.random.Generator) -> StructureBatch:
        """Random objects with one number of views for the whole batch."""
        self.train.refresh(most=1)
        rows = rng.integers(len(self.train), size=size)
        chosen = chosen_views(self.train, size, self.training, rng)
        views = drawn_views(self.train, rows, chosen, pointmap=rng.random() < self.training.pointmap, images=True)
        if self.training.strangers and views.count > 2:
            strange = rng.random(size) < self.training.strangers
            views = with_strangers(views, strange, int(rng.integers(1, views.count)))
        solid = torch.from_numpy(self.train.solid(rows, self.resolution))
        return StructureBatch(views, torch.from_numpy(self.train.rows(rows, "latents")).float(), solid)

    def targets(self, batch: StructureBatch) -> StructureLatents:
        """Latents of the objects and of their poses in the first view."""
        return encode_poses(batch.views.poses, batch.views.moments.scale, batch.views.moments.shift, batch.latents)

    def loss(self, batch: StructureBatch, noise: torch.Generator) -> tuple[Tensor, Mapping[str, Tensor]]:
        """Squared error of the predicted end of the path, latent by latent, and the loss of what the shape decodes to."""
        assert isinstance(self.networks, StructureNetworks)
        device = next(self.networks.parameters()).device
        size, tokens, channels = batch.latents.shape
        start = structure_noise(tokens, channels, noise, batch=size)
        t = torch.sigmoid(torch.randn(size, generator=noise) - 1)
        t = torch.where(torch.rand(size, generator=noise) < self.training.at_noise, 0.0, t)
        kept = (torch.rand(size, generator=noise) >= self.training.unconditional).float()
        end = self.targets(batch)
        noisy = (t > 0).float()[
            :, None, None
        ]  # at t = 0 from zeros, the mean of the noise: the answer is the same for all noise
        x = combine(lambda a, b: ((1 - t[:, None, None]) * noisy * a + t[:, None, None] * b).to(device), start, end)
        conditions = self.networks.condition(batch.views.to(device).maps, batch.views.count)
        out = self.networks.flow(x, (1000 * t).to(device), cond=conditions.tokens * kept[:, None, None].to(device))
        errors = {
            name: (getattr(out, name).float() - getattr(end, name).to(device)).square().mean((1, 2))
            for name in vars(WEIGHTS)
        }
        parts = {name: error.mean() for name, error in errors.items() if name != "translation_scale"}
        total = torch.stack([getattr(WEIGHTS, name) * error for name, error in errors.items()]).sum(0).mean()
        at_noise = (t == 0) & (kept > 0)
        parts["shape_at_noise"] = errors["shape"][at_noise.to(device)].mean()
        if self.training.decoded:
            rows = at_noise.nonzero()[: self.training.most_decoded, 0]
            kept_rows = torch.arange(min(self.training.kept_decoded, size))
            latents = torch.cat([out.shape[rows.to(device)].float(), batch.latents[kept_rows].to(device)])
            solid = torch.cat([batch.solid[rows], batch.solid[kept_rows]]).to(device)
            parts["decoded"] = occupancy_loss(self.networks.decoded(latents)[:, None], solid)
            total = total + self.training.decoded * parts["decoded"]
        return total, parts

    @torch.no_grad()
    def evaluate(self, networks: nn.Module) -> Mapping[str, float]:
        """IoU of the solid on held-out objects, from one step, by number of views."""
        assert isinstance(networks, StructureNetworks)
        scores: dict[str, float] = {}
        for name, shards in self.held_out.items():
            rows = np.arange(min(len(shards), 100))
            for count in (1, view_count(shards)):
                batch = drawn_views(
                    shards, rows, np.tile(np.arange(count), (len(rows), 1)), pointmap=False, images=True
                )
                logits = self.predicted(networks, networks.condition(batch.maps, count), steps=1)
                truth = torch.from_numpy(shards.solid(rows, self.resolution))
                result = occupancy_iou(logits > 0, truth)
                scores[f"{name}_iou_{count}"] = float(result.solid.mean())
                scores[f"{name}_surface_{count}"] = float(result.surface.mean())
        return scores

    def predicted(
        self, networks: StructureNetworks, conditions: Conditions, *, steps: int
    ) -> Float[Tensor, "batch r r r"]:
        """Occupancy logits of a batch of different objects."""
        velocity = network_velocity(networks.flow, predicts_data=True)
        config = networks.flow.config
        noise = structure_noise(
            config.grid**3, config.latent_channels, torch.Generator().manual_seed(0), batch=len(conditions.tokens)
        )
        noise = combine(lambda latent: latent * (steps > 1), noise)
        x, times = noise, torch.linspace(0, 1, steps + 1).tolist()
        for t, t_next in pairwise(times):
            x = combine(lambda a, v, dt=t_next - t: a + dt * v, x, velocity(x, t, conditions))
        return networks.decoded(x.shape)
