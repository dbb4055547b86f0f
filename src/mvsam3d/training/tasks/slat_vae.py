"""Task: the SLAT encoder with the Gaussian and mesh decoders, from signed distances and colours in the active voxels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from mvsam3d.models.gaussian_decoder import GaussianDecoder, GaussianDecoderConfig
from mvsam3d.models.mesh_decoder import MeshDecoder, MeshDecoderConfig
from mvsam3d.models.slat_encoder import SlatEncoder, SlatEncoderConfig
from mvsam3d.nn.sparse import SparseGrid, SparseTensor
from mvsam3d.training.slat_data import LATTICE, SUBDIVISION, SlatShards, VoxelTargets
from mvsam3d.training.slat_losses import (
    GaussianSurfaceWeights,
    corner_colour_loss,
    gaussian_surface_loss,
    kl_divergence,
    lattice_of_corners,
    samples_from_lattice,
    signed_distance_loss,
)
from mvsam3d.types import CubeField

NEAR = 0.6  # voxels from the surface within which a corner's colour can show
PIECE = 11  # edge of the cubes that training cuts out, in voxels
SHOWN = 3**3 * 4  # features of a voxel: distance and colour at every other lattice point


@dataclass(frozen=True)
class SlatVaeConfig:
    """Sizes of the three networks."""

    encoder: SlatEncoderConfig = field(default_factory=SlatEncoderConfig)
    gaussians: GaussianDecoderConfig = field(default_factory=GaussianDecoderConfig)
    mesh: MeshDecoderConfig = field(default_factory=MeshDecoderConfig)


class SlatVae(nn.Module):
    """Encoder and both decoders."""

    def __init__(self, config: SlatVaeConfig) -> None:
        super().__init__()
        self.encoder = SlatEncoder(config.encoder)
        self.gaussian_decoder = GaussianDecoder(config.gaussians)
        self.mesh_decoder = MeshDecoder(config.mesh)


@dataclass(frozen=True)
class VoxelBatch:
    """Voxel targets of several objects, end to end."""

    grid: SparseGrid
    sdf: Float[Tensor, "voxel point"]  # in voxels
    colour: Float[Tensor, "voxel point 3"]

    @classmethod
    def of(cls, targets: Sequence[VoxelTargets], device: torch.device | str = "cpu") -> VoxelBatch:
        """The batch of some objects."""
        grid = SparseGrid.batched([torch.from_numpy(t.coords).to(device) for t in targets])
        sdf = torch.from_numpy(np.concatenate([t.sdf for t in targets])).to(device)
        colour = torch.from_numpy(np.concatenate([t.colour for t in targets])).to(device)
        return cls(grid, sdf, colour)

    def features(self) -> SparseTensor:
        """What the encoder is shown: distances and colours at every other lattice point, about in [-1, 1]."""
        steps = torch.arange(0, LATTICE, 2)
        rows = ((steps[:, None, None] * LATTICE + steps[:, None]) * LATTICE + steps).flatten().to(self.sdf.device)
        parts = [self.sdf[:, rows].clamp(-1, 1), (self.colour[:, rows] * 2 - 1).flatten(1)]
        return SparseTensor(torch.cat(parts, dim=1), self.grid)


def piece(targets: VoxelTargets, rng: np.random.Generator) -> VoxelTargets:
    """The voxels of a cube around a random one."""
    centre = targets.coords[rng.integers(len(targets.coords))]
    kept = (np.abs(targets.coords - centre) <= PIECE // 2).all(1)
    return VoxelTargets(targets.coords[kept], targets.sdf[kept], targets.colour[kept])


class SlatVaeTask:
    """Encode the surface inside each voxel, and decode it as distances at fine corners and as Gaussians on it."""

    def __init__(self, config: SlatVaeConfig, train: SlatShards, held_out: SlatShards, *, kl: float = 1e-4) -> None:
        self.networks = SlatVae(config)
        self.config, self.train, self.held_out, self.kl = config, train, held_out, kl
        self.corners = lattice_of_corners(SUBDIVISION.bit_length() - 1)

    def draw(self, size: int, rng: np.random.Generator) -> list[VoxelTargets]:
        """Pieces of objects: both decoders work locally, and small pieces of many objects teach more than whole ones."""
        return [piece(self.train[int(i)], rng) for i in rng.integers(len(self.train), size=size)]

    def loss(self, batch: list[VoxelTargets], noise: torch.Generator) -> tuple[Tensor, Mapping[str, Tensor]]:
        """Distances and colours at corners, Gaussians on surface samples, a little KL."""
        assert isinstance(self.networks, SlatVae)
        targets = VoxelBatch.of(batch, next(self.networks.parameters()).device)
        posterior = self.networks.encoder(targets.features())
        eps = torch.randn(posterior.mean.shape, generator=noise).to(posterior.mean)
        parts = self.decoded(self.networks, SparseTensor(posterior.sample(eps), targets.grid), targets)
        parts["kl"] = kl_divergence(posterior.mean, posterior.logvar)
        total = parts["sdf"] + parts["colour"] + 0.2 * parts["gaussians"] + self.kl * parts["kl"]
        return total, parts

    def decoded(self, networks: SlatVae, latents: SparseTensor, targets: VoxelBatch) -> dict[str, Tensor]:
        """Losses of what both decoders make of some latents."""
        fields = networks.mesh_decoder(latents)
        field = CubeField(
            torch.cat([f.coords for f in fields]), torch.cat([f.features for f in fields]), fields[0].resolution
        )
        corners = self.corners.to(targets.sdf.device)
        sdf = targets.sdf[:, corners].flatten(0, 1)
        near: Bool[Tensor, "cell 8"] = sdf.abs() < NEAR
        resolution = self.config.mesh.trunk.resolution
        raw = networks.gaussian_decoder.raw(latents)
        cloud = networks.gaussian_decoder.cloud(latents.coords[:, 1:], raw)
        samples = samples_from_lattice(
            targets.sdf / resolution,
            targets.colour,
            latents.coords[:, 1:] / resolution - 0.5,
            spacing=1 / (resolution * SUBDIVISION),
            reach=0.6 / (resolution * SUBDIVISION),
        )
        spacing = 1 / (resolution * self.config.gaussians.gaussians**0.5)
        return {
            "sdf": signed_distance_loss(field, sdf, truncation=1.0),
            "colour": corner_colour_loss(field, targets.colour[:, corners].flatten(0, 1), near),
            "gaussians": gaussian_surface_loss(cloud, samples, spacing=spacing, weights=GaussianSurfaceWeights()),
        }

    @torch.no_grad()
    def evaluate(self, networks: nn.Module) -> Mapping[str, float]:
        """The same losses from the mean, on held-out objects."""
        assert isinstance(networks, SlatVae)
        device = next(networks.parameters()).device
        sums: dict[str, float] = {}
        count = min(len(self.held_out), 16)
        for i in range(count):
            targets = VoxelBatch.of([self.held_out[i]], device)
            latents = SparseTensor(networks.encoder(targets.features()).mean, targets.grid)
            for name, value in self.decoded(networks, latents, targets).items():
                sums[f"held_out_{name}"] = sums.get(f"held_out_{name}", 0.0) + float(value) / count
        return sums


@torch.no_grad()
def latent_statistics(networks: SlatVae, shards: SlatShards, objects: int = 200) -> tuple[list[float], list[float]]:
    """Mean and standard deviation of each latent channel over some objects, each object counted alike."""
    means, squares = [], []
    device = next(networks.parameters()).device
    for i in range(min(objects, len(shards))):
        latents = networks.encoder(VoxelBatch.of([shards[i]], device).features()).mean
        means.append(latents.mean(0))
        squares.append(latents.square().mean(0))
    mean = torch.stack(means).mean(0)
    return mean.tolist(), (torch.stack(squares).mean(0) - mean.square()).sqrt().tolist()
