"""Structured latents -> Gaussians: a fixed number per voxel, spread over it and at most 0.75 voxels from its centre."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from mvsam3d.models.slat_trunk import SlatTrunk, TrunkConfig
from mvsam3d.nn.sparse import SparseTensor
from mvsam3d.types import GaussianCloud

CHANNELS = (3, 3, 3, 4, 1)  # of a Gaussian: offset, colour, scale, rotation, opacity; in this order in the output


@dataclass(frozen=True)
class Rates:
    """Factors on the network's raw output: how fast each property learns."""

    xyz: float = 1.0
    features_dc: float = 1.0
    scaling: float = 1.0
    rotation: float = 0.1
    opacity: float = 1.0


@dataclass(frozen=True)
class GaussianDecoderConfig:
    """Size of the decoder and meaning of its output; the defaults are the public model's."""

    trunk: TrunkConfig = field(default_factory=TrunkConfig)
    latent_channels: int = 8
    gaussians: int = 32
    """Per voxel."""
    voxel_size: float = 1.5
    """Edge of the cube around a voxel's centre in which its Gaussians stay, in voxels."""
    rates: Rates = field(default_factory=Rates)
    scaling_bias: float = 0.004
    """Standard deviation of a Gaussian for raw output 0, without the least one; the edge of the object's cube is 1."""
    least_scale: float = 0.0009
    """Least standard deviation, added in squares (the 3D filter of mip-splatting)."""
    opacity_bias: float = 0.1
    """Opacity for raw output 0."""


@dataclass(frozen=True)
class GaussianParameters:
    """The Gaussians before activation, voxel by voxel. Positions are about in [0, 1]."""

    xyz: Float[Tensor, "gaussian 3"]
    features_dc: Float[Tensor, "gaussian 3"]
    scaling: Float[Tensor, "gaussian 3"]
    rotation: Float[Tensor, "gaussian 4"]  # w, x, y, z; to be added to the identity
    opacity: Float[Tensor, " gaussian"]


class GaussianDecoder(SlatTrunk):
    """Keys input_layer, blocks.i, out_layer, offset_perturbation."""

    offset_perturbation: Tensor

    def __init__(self, config: GaussianDecoderConfig) -> None:
        super().__init__(config.trunk, config.latent_channels)
        self.config = config
        self.out_layer = nn.Linear(config.trunk.width, sum(CHANNELS) * config.gaussians)
        nn.init.zeros_(self.out_layer.weight)
        nn.init.zeros_(self.out_layer.bias)
        self.register_buffer("offset_perturbation", offset_perturbation(config.gaussians, config.voxel_size))

    def forward(self, x: SparseTensor) -> list[GaussianCloud]:
        """The Gaussians of each batch element, `gaussians` consecutive rows per voxel."""
        per_voxel = self.config.gaussians
        cloud = self.cloud(x.coords[:, 1:], self.raw(x))
        return [_rows(cloud, slice(rows.start * per_voxel, rows.stop * per_voxel)) for rows in x.grid.slices]

    def raw(self, x: SparseTensor) -> Float[Tensor, "voxel channel"]:
        """Output of the network."""
        h = self.trunk(x).feats.to(self.out_layer.weight.dtype)
        out: Tensor = self.out_layer(F.layer_norm(h, h.shape[-1:])).float()
        return out

    def cloud(self, coords: Int[Tensor, "voxel 3"], raw: Float[Tensor, "voxel channel"]) -> GaussianCloud:
        """Gaussians from the network's output at these cells."""
        return activated(self.parameters_at(coords, raw), self.config)

    def parameters_at(self, coords: Int[Tensor, "voxel 3"], raw: Float[Tensor, "voxel channel"]) -> GaussianParameters:
        """Hidden parameters from the network's output at these cells."""
        count, rates, resolution = self.config.gaussians, self.config.rates, self.config.trunk.resolution
        blocks = raw.split_with_sizes([channels * count for channels in CHANNELS], dim=1)
        xyz, dc, scaling, rotation, opacity = (b.reshape(len(raw), count, -1) for b in blocks)
        offset = torch.tanh(xyz * rates.xyz + self.offset_perturbation.float()) * (0.5 * self.config.voxel_size)
        return GaussianParameters(
            xyz=((coords[:, None] + 0.5 + offset) / resolution).flatten(0, 1),
            features_dc=(dc * rates.features_dc).flatten(0, 1),
            scaling=(scaling * rates.scaling).flatten(0, 1),
            rotation=(rotation * rates.rotation).flatten(0, 1),
            opacity=(opacity * rates.opacity).flatten(),
        )


def activated(parameters: GaussianParameters, config: GaussianDecoderConfig) -> GaussianCloud:
    """Parameters -> Gaussians in the object frame."""
    bias = config.scaling_bias + math.log(-math.expm1(-config.scaling_bias))  # inverse of softplus
    scales = torch.sqrt(F.softplus(parameters.scaling + bias) ** 2 + config.least_scale**2)
    identity = parameters.rotation.new_tensor([1.0, 0.0, 0.0, 0.0])
    logit = math.log(config.opacity_bias / (1 - config.opacity_bias))
    return GaussianCloud(
        means=parameters.xyz - 0.5,
        scales=scales,
        rotations=parameters.rotation + identity,
        opacities=torch.sigmoid(parameters.opacity + logit),
        sh_dc=parameters.features_dc,
    )


def offset_perturbation(gaussians: int, voxel_size: float) -> Float[Tensor, "gaussian 3"]:
    """What spreads the Gaussians of a voxel from the start: tanh of it, times voxel_size / 2, is a Hammersley point."""
    points = [[i / gaussians, _radical_inverse(i, 2), _radical_inverse(i, 3)] for i in range(gaussians)]
    return torch.atanh((torch.tensor(points) * 2 - 1) / voxel_size)


def _radical_inverse(number: int, base: int) -> float:
    """The digits of the number mirrored at the point."""
    value, place = 0.0, 1.0
    while number:
        place /= base
        number, digit = divmod(number, base)
        value += digit * place
    return value


def _rows(cloud: GaussianCloud, rows: slice) -> GaussianCloud:
    return GaussianCloud(**{name: value[rows] for name, value in vars(cloud).items()})
