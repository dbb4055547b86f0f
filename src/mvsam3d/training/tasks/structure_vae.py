"""Task: the structure VAE, from solid grids."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from mvsam3d.geometry.occupancy import occupancy_iou
from mvsam3d.models.structure_vae import Posterior, StructureDecoder, StructureEncoder, StructureVaeConfig
from mvsam3d.training.data import Shards


class StructureVae(nn.Module):
    """Encoder and decoder."""

    def __init__(self, config: StructureVaeConfig) -> None:
        super().__init__()
        self.encoder, self.decoder = StructureEncoder(config), StructureDecoder(config)


def dice_loss(logits: Float[Tensor, "batch 1 x y z"], solid: Float[Tensor, "batch 1 x y z"]) -> Float[Tensor, ""]:
    """1 - (2 sum(p y) + 1) / (sum p + sum y + 1), mean over objects (TRELLIS)."""
    return dice_of_chances(logits.sigmoid(), solid)


def dice_of_chances(chance: Float[Tensor, "batch 1 x y z"], true: Float[Tensor, "batch 1 x y z"]) -> Float[Tensor, ""]:
    """The same of chances."""
    both, either = (chance * true).sum((1, 2, 3, 4)), (chance + true).sum((1, 2, 3, 4))
    return (1 - (2 * both + 1) / (either + 1)).mean()


def occupancy_loss(logits: Float[Tensor, "batch 1 x y z"], solid: Bool[Tensor, "batch x y z"]) -> Float[Tensor, ""]:
    """Cross-entropy and Dice."""
    truth = solid[:, None].float()
    return F.binary_cross_entropy_with_logits(logits.float(), truth) + dice_loss(logits.float(), truth)


def kl_loss(posterior: Posterior) -> Float[Tensor, ""]:
    """0.5 mean(mean^2 + exp(logvar) - logvar - 1)."""
    return 0.5 * (posterior.mean**2 + posterior.logvar.exp() - posterior.logvar - 1).mean()


class StructureVaeTask:
    """Reconstruct solid grids; a random mirror or quarter turn about the vertical makes more of them."""

    def __init__(
        self, config: StructureVaeConfig, train: Shards, held_out: Shards, *, resolution: int, kl: float = 1e-3
    ) -> None:
        self.networks = StructureVae(config)
        self.train, self.held_out, self.resolution, self.kl = train, held_out, resolution, kl

    def draw(self, size: int, rng: np.random.Generator) -> Bool[np.ndarray, "row x y z"]:
        """Solid grids."""
        self.train.refresh()
        solid = self.train.solid(rng.integers(len(self.train), size=size), self.resolution)
        return np.stack([np.rot90(grid[:: int(rng.choice([-1, 1]))], int(rng.integers(4))) for grid in solid])

    def loss(self, batch: Bool[np.ndarray, "row x y z"], noise: torch.Generator) -> tuple[Tensor, Mapping[str, Tensor]]:
        """Cross-entropy, Dice and a little KL."""
        device = next(self.networks.parameters()).device
        solid = torch.from_numpy(np.ascontiguousarray(batch))[:, None].float().to(device)
        posterior = self.networks.encoder(solid)
        eps = torch.randn(posterior.mean.shape, generator=noise).to(device)
        occupancy = occupancy_loss(self.networks.decoder(posterior.sample(eps)), solid[:, 0] > 0)
        kl = kl_loss(posterior)
        return occupancy + self.kl * kl, {"occupancy": occupancy, "kl": kl}

    @torch.no_grad()
    def evaluate(self, networks: nn.Module) -> Mapping[str, float]:
        """Reconstruction from the mean: IoU of the solid and of its surface; spread of the latents."""
        assert isinstance(networks, StructureVae)
        device = next(networks.parameters()).device
        rows = np.arange(min(len(self.held_out), 200))
        solid = torch.from_numpy(self.held_out.solid(rows, self.resolution)).to(device)
        mean = networks.encoder(solid[:, None].float()).mean
        scores = occupancy_iou(networks.decoder(mean)[:, 0] > 0, solid)
        return {
            "iou": float(scores.solid.mean()),
            "surface_iou": float(scores.surface.mean()),
            "latent_std": float(mean.std()),
        }
