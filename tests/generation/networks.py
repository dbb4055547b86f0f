"""Small public networks with recorded weights, as velocity fields."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from mvsam3d.generation.latents import Velocity
from mvsam3d.generation.schedule import network_time
from mvsam3d.models.slat_flow import SlatFlow, SlatFlowConfig
from mvsam3d.nn.probe import AttentionProbe
from mvsam3d.nn.sparse import SparseGrid, SparseTensor
from tests.parity import Fixture

PREFIX = "reverse_fn.backbone."


def backbone_weights(f: Fixture) -> dict[str, Tensor]:
    return {key.removeprefix(PREFIX): value for key, value in f.weights.items()}


def slat_flow(f: Fixture) -> SlatFlow:
    config: dict[str, Any] = f.meta["config"]["model"]
    network = SlatFlow(
        SlatFlowConfig(
            resolution=config["resolution"],
            in_channels=config["in_channels"],
            out_channels=config["out_channels"],
            width=config["model_channels"],
            cond_channels=config["cond_channels"],
            blocks=config["num_blocks"],
            heads=config["num_heads"],
            mlp_ratio=float(config["mlp_ratio"]),
            patch_size=config["patch_size"],
            io_res_blocks=config["num_io_res_blocks"],
            io_channels=tuple(config["io_block_channels"]),
            qk_rms_norm=config["qk_rms_norm"],
            use_skip_connection=config.get("use_skip_connection", True),
        )
    )
    network.load_state_dict(backbone_weights(f))
    return network


def slat_velocity(
    network: SlatFlow, grid: SparseGrid, tokens: Tensor, probe: AttentionProbe | None = None
) -> Velocity[Tensor]:
    def velocity(x: Tensor, t: float) -> Tensor:
        return network(SparseTensor(x[0], grid), torch.tensor([network_time(t)]), tokens, probe=probe).feats[None]

    return velocity


def slat_step_network(network: SlatFlow, grid: SparseGrid, tokens: Tensor) -> Callable[[Tensor, Tensor], Tensor]:
    """Of x_t and times per sample, for losses."""
    return lambda x, t: network(SparseTensor(x[0], grid), 1000 * t, tokens).feats[None]
