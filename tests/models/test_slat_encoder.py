from collections.abc import Mapping
from typing import Any

import torch

from mvsam3d.models.slat_encoder import SlatEncoder, SlatEncoderConfig
from mvsam3d.models.slat_trunk import TrunkConfig
from mvsam3d.nn.sparse import SparseGrid, SparseTensor
from tests.nn.sparse_cases import random_grid
from tests.parity import fixture


def trunk_of(public: Mapping[str, Any]) -> TrunkConfig:
    return TrunkConfig(
        resolution=public["resolution"],
        width=public["model_channels"],
        blocks=public["num_blocks"],
        heads=public["num_heads"],
        mlp_ratio=float(public["mlp_ratio"]),
        window=public["window_size"] if public["attn_mode"] == "swin" else None,
    )


def test_encoder_fixture() -> None:
    case = fixture("stage2", "slat_encoder")
    public = case.meta["config"]
    encoder = SlatEncoder(SlatEncoderConfig(trunk_of(public), public["in_channels"], public["latent_channels"]))
    encoder.load_state_dict(case.weights)
    posterior = encoder(SparseTensor(case.inputs["feats"], SparseGrid(case.inputs["coords"])))
    case.check("mean", posterior.mean)
    case.check("z", posterior.mean)
    case.check("logvar", posterior.logvar)
    case.check("z_sampled", posterior.sample(case.inputs["eps"]))


def test_every_parameter_gets_a_gradient() -> None:
    trunk = TrunkConfig(resolution=8, width=24, blocks=2, heads=2, window=4)
    encoder, grid = SlatEncoder(SlatEncoderConfig(trunk, 5, 3)), random_grid([30, 20], 8)
    posterior = encoder(SparseTensor(torch.randn(50, 5), grid))
    (posterior.sample(torch.randn(50, 3)) * torch.randn(50, 3)).sum().backward()
    assert [name for name, value in encoder.named_parameters() if value.grad is None or not value.grad.any()] == []
