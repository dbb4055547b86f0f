"""Task: the SLAT flow with its condition encoder, on the latents that the SLAT encoder gives for the true surface."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int32
from torch import Tensor, nn

from mvsam3d.generation.slat_stage import SlatStatistics
from mvsam3d.models.slat_flow import SlatFlow
from mvsam3d.models.view_tokens import ViewTokens
from mvsam3d.nn.sparse import SparseGrid, SparseTensor
from mvsam3d.training.data import Shards
from mvsam3d.training.slat_data import SlatShards
from mvsam3d.training.tasks.slat_vae import SlatVae, SlatVaeTask, VoxelBatch
from mvsam3d.training.tasks.structure_flow import FlowTraining, chosen_views, view_count
from mvsam3d.training.view_batch import ViewBatch, drawn_views


class SlatNetworks(nn.Module):
    """Condition encoder and flow."""

    def __init__(self, condition: ViewTokens, flow: SlatFlow) -> None:
        super().__init__()
        self.condition, self.flow = condition, flow


@dataclass(frozen=True)
class SlatBatch:
    """Views and the surface they show."""

    views: ViewBatch
    coords: tuple[Int32[Tensor, "_ 3"], ...]  # of each object
    latents: Float[Tensor, "voxel channel"]  # normalised


class SlatFlowTask:
    """Predict the normalised latents x1 at the true voxels from noise and the views."""

    def __init__(
        self,
        networks: SlatNetworks,
        vae: SlatVaeTask,
        statistics: SlatStatistics,
        train: tuple[Shards, SlatShards],
        held_out: tuple[Shards, SlatShards],
        *,
        training: FlowTraining,
    ) -> None:
        self.networks, self.vae, self.train, self.held_out, self.training = networks, vae, train, held_out, training
        self.mean, self.std = torch.tensor(statistics.mean), torch.tensor(statistics.std)
        self._encoded: dict[int, tuple[Int32[Tensor, "voxel 3"], Float[Tensor, "voxel channel"]]] = {}

    def draw(self, size: int, rng: np.random.Generator) -> SlatBatch:
        """Random objects with one number of views for the whole batch."""
        views, voxels = self.train
        rows = rng.integers(len(voxels), size=size)
        chosen = chosen_views(views, size, self.training, rng)
        coords, latents = zip(*(self.encoded(int(row)) for row in rows), strict=True)
        return SlatBatch(drawn_views(views, rows, chosen, pointmap=False, images=True), coords, torch.cat(latents))

    def encoded(self, row: int) -> tuple[Int32[Tensor, "voxel 3"], Float[Tensor, "voxel channel"]]:
        """Active voxels and latents of a training object; computed once, object by object, so that they do not depend on the batch."""
        if row not in self._encoded:
            targets = self.train[1][row]
            device = next(self.vae.networks.parameters()).device
            self._encoded[row] = torch.from_numpy(targets.coords), self.latents(VoxelBatch.of([targets], device)).cpu()
        return self._encoded[row]

    def loss(self, batch: SlatBatch, noise: torch.Generator) -> tuple[Tensor, Mapping[str, Tensor]]:
        """Squared error of the predicted latents."""
        assert isinstance(self.networks, SlatNetworks)
        device = next(self.networks.parameters()).device
        grid, end = SparseGrid.batched([c.to(device) for c in batch.coords]), batch.latents.to(device)
        size = len(batch.coords)
        start = torch.randn(end.shape, generator=noise).to(end)  # at t = 0 from zeros, as in stage 1
        t = torch.sigmoid(torch.randn(size, generator=noise) - 1)
        t = torch.where(torch.rand(size, generator=noise) < self.training.at_noise, 0.0, t).to(device)
        kept = (torch.rand(size, generator=noise) >= self.training.unconditional).float().to(device)
        at = grid.spread(t[:, None])
        x = SparseTensor((1 - at) * (at > 0) * start + at * end, grid)
        conditions = self.networks.condition(batch.views.to(device).maps, batch.views.count)
        out = self.networks.flow(x, 1000 * t, conditions.tokens * kept[:, None, None])
        error = (out.feats.float() - end).square().mean(1)
        at_noise = (grid.spread((t == 0)[:, None].float()) > 0)[:, 0].expand(len(error))
        return error.mean(), {"at_noise": error[at_noise].mean()}

    @torch.no_grad()
    def latents(self, targets: VoxelBatch) -> Float[Tensor, "voxel channel"]:
        """Normalised latents of the true surface."""
        assert isinstance(self.vae.networks, SlatVae)
        mean = self.vae.networks.encoder(targets.features()).mean
        normalised: Tensor = (mean - self.mean.to(mean)) / self.std.to(mean)
        return normalised

    @torch.no_grad()
    def evaluate(self, networks: nn.Module) -> Mapping[str, float]:
        """Error of the latents and losses after decoding, in one step on held-out objects with one and four views."""
        assert isinstance(networks, SlatNetworks)
        assert isinstance(self.vae.networks, SlatVae)
        views, voxels = self.held_out
        scores: dict[str, float] = {}
        rows = np.arange(min(len(voxels), 16))
        for count in (1, view_count(views)):
            batch = drawn_views(views, rows, np.tile(np.arange(count), (len(rows), 1)), pointmap=False, images=True)
            conditions = networks.condition(batch.maps, count)
            for i in rows:
                targets = VoxelBatch.of([voxels[int(i)]])
                x = SparseTensor(torch.zeros(len(targets.sdf), len(self.mean)), targets.grid)
                out = networks.flow(x, torch.zeros(1), conditions.tokens[i : i + 1]).feats
                decoded = self.vae.decoded(self.vae.networks, x.replace(out * self.std + self.mean), targets)
                values = {"latent": (out - self.latents(targets)).square().mean(), **decoded}
                for name, value in values.items():
                    key = f"held_out_{name}_{count}"
                    scores[key] = scores.get(key, 0.0) + float(value) / len(rows)
        return scores
