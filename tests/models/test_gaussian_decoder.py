from collections.abc import Mapping
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from mvsam3d.io.ply import ply_rows
from mvsam3d.models.gaussian_decoder import (
    GaussianDecoder,
    GaussianDecoderConfig,
    Rates,
    activated,
    offset_perturbation,
)
from mvsam3d.models.slat_trunk import TrunkConfig
from mvsam3d.nn.sparse import SparseGrid, SparseTensor
from tests.models.test_slat_encoder import trunk_of
from tests.nn.sparse_cases import random_grid
from tests.parity import fixture, manifest


def config_of(public: Mapping[str, Any]) -> GaussianDecoderConfig:
    gaussians = public["representation_config"]
    rates = {name.removeprefix("_"): rate for name, rate in gaussians["lr"].items()}
    return GaussianDecoderConfig(
        trunk=trunk_of(public),
        latent_channels=public["latent_channels"],
        gaussians=gaussians["num_gaussians"],
        voxel_size=gaussians["voxel_size"],
        rates=Rates(**rates),
        scaling_bias=gaussians["scaling_bias"],
        least_scale=gaussians["3d_filter_kernel_size"],
        opacity_bias=gaussians["opacity_bias"],
    )


def _covariance(rotations: Tensor, scales: Tensor) -> Tensor:
    """R S S R^T, upper triangle, R from the quaternion's closed form."""
    w, x, y, z = F.normalize(rotations, dim=1).unbind(1)
    rows = [
        torch.stack([1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)], dim=1),
        torch.stack([2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)], dim=1),
        torch.stack([2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)], dim=1),
    ]
    scaled = torch.stack(rows, dim=1) * scales[:, None]
    full = scaled @ scaled.transpose(1, 2)
    upper = torch.triu_indices(3, 3)
    return full[:, upper[0], upper[1]]


def test_decoder_fixture() -> None:
    case = fixture("stage2", "slat_gs_decoder")
    decoder = GaussianDecoder(config_of(case.meta["config"]))
    decoder.load_state_dict(case.weights)
    x = SparseTensor(case.inputs["feats"], SparseGrid(case.inputs["coords"]))
    raw = decoder.raw(x)
    hidden = decoder.parameters_at(x.coords[:, 1:], raw)
    case.check("network", raw)
    case.check("_xyz", hidden.xyz)
    case.check("_features_dc", hidden.features_dc[:, None])
    case.check("_scaling", hidden.scaling)
    case.check("_rotation", hidden.rotation)
    case.check("_opacity", hidden.opacity[:, None])
    cloud = activated(hidden, decoder.config)
    case.check("xyz", cloud.means)
    case.check("scaling", cloud.scales)
    case.check("rotation", F.normalize(cloud.rotations, dim=1))
    case.check("opacity", cloud.opacities[:, None])
    case.check("covariance", _covariance(cloud.rotations, cloud.scales))
    case.check("ply", torch.from_numpy(ply_rows(cloud)))
    clouds = decoder(x)
    assert torch.equal(torch.cat([part.means for part in clouds]), cloud.means)
    assert [len(part.means) for part in clouds] == [
        decoder.config.gaussians * (rows.stop - rows.start) for rows in x.grid.slices
    ]


def test_offset_perturbation_fixture() -> None:
    case = fixture("stage2", "offset_perturbation")
    for name in case.outputs:  # "g32": 32 Gaussians per voxel
        case.check(name, offset_perturbation(int(name.removeprefix("g")), voxel_size=1.5))


@pytest.mark.parametrize("name", ["slat_decoder_gs", "slat_decoder_gs_4"])
def test_keys_and_shapes_of_the_public_decoders(name: str) -> None:
    public = manifest(name)
    with torch.device("meta"):
        decoder = GaussianDecoder(config_of(public["config"] | {"latent_channels": 8}))
    assert {key: list(value.shape) for key, value in decoder.state_dict().items()} == public["tensors"]
    if name == "slat_decoder_gs":
        assert decoder.config == GaussianDecoderConfig()


def test_a_new_decoder_spreads_neutral_gaussians_over_the_voxels() -> None:
    trunk = TrunkConfig(resolution=16, width=24, blocks=1, heads=2, window=4)
    decoder = GaussianDecoder(GaussianDecoderConfig(trunk, latent_channels=3, gaussians=8))
    grid = random_grid([20], 16)
    cloud = decoder(SparseTensor(torch.randn(20, 3), grid))[0]
    centres = (grid.coords[:, 1:] + 0.5) / 16 - 0.5
    offsets = (cloud.means.view(20, 8, 3) - centres[:, None]) * 16
    assert offsets.abs().max() <= 0.5 + 1e-5  # Hammersley points fill the voxel itself
    torch.testing.assert_close(offsets[0], offsets[7], atol=1e-4, rtol=0)
    torch.testing.assert_close(cloud.opacities, torch.full((160,), 0.1))
    torch.testing.assert_close(cloud.scales, torch.full((160, 3), (0.004**2 + 0.0009**2) ** 0.5))
    torch.testing.assert_close(cloud.rotations, torch.tensor([1.0, 0, 0, 0]).expand(160, 4))


def test_every_parameter_gets_a_gradient() -> None:
    trunk = TrunkConfig(resolution=8, width=24, blocks=2, heads=2, window=4)
    decoder = GaussianDecoder(GaussianDecoderConfig(trunk, latent_channels=3, gaussians=2))
    torch.nn.init.normal_(decoder.out_layer.weight)
    clouds = decoder(SparseTensor(torch.randn(50, 3), random_grid([30, 20], 8)))
    values = [value for cloud in clouds for value in vars(cloud).values()]
    sum((value * torch.randn_like(value)).sum() for value in values).backward()
    assert [name for name, value in decoder.named_parameters() if value.grad is None or not value.grad.any()] == []


@torch.no_grad()
def test_sixty_thousand_voxels_decode() -> None:
    trunk = TrunkConfig(resolution=64, width=16, blocks=2, heads=1)
    decoder = GaussianDecoder(GaussianDecoderConfig(trunk, latent_channels=3, gaussians=2))
    axis = torch.arange(40, dtype=torch.int32)
    solid = torch.cartesian_prod(axis, axis, axis)[:60_000]
    assert len(decoder(SparseTensor(torch.randn(60_000, 3), SparseGrid.batched([solid])))[0].means) == 120_000
