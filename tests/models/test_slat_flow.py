from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from mvsam3d.errors import InvalidOption
from mvsam3d.generation.guidance import Guidance, guided
from mvsam3d.generation.schedule import flow_matching_times, network_time
from mvsam3d.generation.solver import states
from mvsam3d.models.slat_flow import ModulatedSparseCrossBlock, SlatFlow, SlatFlowConfig, SparseResBlock3d
from mvsam3d.models.slat_trunk import SparseTransformerBlock, cast_torso
from mvsam3d.nn.layers import TimestepEmbedder, position_embedding, sinusoids
from mvsam3d.nn.probe import EntropyProbe
from mvsam3d.nn.sparse import SparseGrid, SparseTensor
from mvsam3d.nn.sparse.attention import Window
from mvsam3d.training.flow_losses import between, flow_matching_loss, line_velocity
from tests.nn.sparse_cases import random_grid, shell_grid
from tests.parity import Fixture, fixture, manifest

BACKBONE = "reverse_fn.backbone."
# de-normalisation of the public pipeline.yaml, which the sampling fixtures end with
MEAN = (0.12211431, 0.37204156, -1.26521907, -2.05276058, -3.10432536, -0.11294304, -0.85146744, 0.45506954)
STD = (2.37326008, 2.13174402, 2.2413953, 2.30589401, 2.1191894, 1.8969511, 2.41684989, 2.08374642)

TINY = SlatFlowConfig(
    resolution=8, in_channels=4, out_channels=4, width=24, cond_channels=6, blocks=2, heads=2, io_channels=(8,)
)


def config_of(public: Mapping[str, Any]) -> SlatFlowConfig:
    return SlatFlowConfig(
        resolution=public["resolution"],
        in_channels=public["in_channels"],
        out_channels=public["out_channels"],
        width=public["model_channels"],
        cond_channels=public["cond_channels"],
        blocks=public["num_blocks"],
        heads=public["num_heads"],
        mlp_ratio=float(public["mlp_ratio"]),
        patch_size=public["patch_size"],
        io_res_blocks=public["num_io_res_blocks"],
        io_channels=tuple(public["io_block_channels"]),
        qk_rms_norm=public["qk_rms_norm"],
        use_skip_connection=public.get("use_skip_connection", True),
    )


def _random(config: SlatFlowConfig) -> SlatFlow:
    """Also where training starts from zero."""
    torch.manual_seed(0)
    network = SlatFlow(config)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return network.eval()


def test_embeddings_fixture() -> None:
    case = fixture("stage2", "embeddings")
    embedder = TimestepEmbedder(case.meta["config"]["hidden_size"])
    embedder.load_state_dict(case.weights)
    case.check("sinusoid", sinusoids(case.inputs["t"], case.meta["config"]["frequency_embedding_size"]))
    case.check("t_emb", embedder(case.inputs["t"]))
    for name in (name for name in case.outputs if name.startswith("ape")):
        case.check(name, position_embedding(case.inputs["coords"].float(), int(name.removeprefix("ape"))))


def test_transformer_block_fixture() -> None:
    case = fixture("stage2", "sparse_transformer_block_swin")
    config = case.meta["config"]
    window = Window(config["window_size"], config["shift_window"])
    block = SparseTransformerBlock(config["channels"], config["num_heads"], float(config["mlp_ratio"]), window)
    block.load_state_dict(case.weights)
    case.check("feats", block(SparseTensor(case.inputs["feats"], SparseGrid(case.inputs["coords"]))).feats)


def test_modulated_block_fixture() -> None:
    case = fixture("stage2", "modulated_sparse_cross_block")
    public = case.meta["config"]
    config = SlatFlowConfig(
        width=public["channels"],
        cond_channels=public["ctx_channels"],
        heads=public["num_heads"],
        mlp_ratio=float(public["mlp_ratio"]),
        qk_rms_norm=public["qk_rms_norm"],
    )
    block = ModulatedSparseCrossBlock(config)
    block.load_state_dict(case.weights)
    x = SparseTensor(case.inputs["feats"], SparseGrid(case.inputs["coords"]))
    case.check("feats", block(x, case.inputs["mod"], case.inputs["context"]).feats)


@pytest.mark.parametrize("name", ["sparse_resblock", "sparse_resblock_down", "sparse_resblock_up"])
def test_residual_block_fixture(name: str) -> None:
    case = fixture("stage2", name)
    config = case.meta["config"]
    resampling = "down" if config.get("downsample") else "up" if config.get("upsample") else None
    block = SparseResBlock3d(config["channels"], config["emb_channels"], config["out_channels"], resampling)
    block.load_state_dict(case.weights)
    grid = SparseGrid(case.inputs["coords"])
    if resampling == "up":
        assert torch.equal(grid.coarse.grid.coords, case.inputs["coarse_coords"])
        out = block(SparseTensor(case.inputs["coarse_feats"], grid.coarse.grid), case.inputs["emb"], grid)
    else:
        out = block(SparseTensor(case.inputs["feats"], grid), case.inputs["emb"])
    case.check("feats", out.feats)
    case.check("coords", out.coords)


def test_whole_network_fixture() -> None:
    case = fixture("stage2", "slat_flow_model")
    network = SlatFlow(config_of(case.meta["config"])).eval()
    network.load_state_dict(case.weights)
    x = SparseTensor(case.inputs["feats"], SparseGrid(case.inputs["coords"]))
    case.check("feats", network(x, case.inputs["t"], case.inputs["cond"]).feats)
    emb = network.t_embedder(case.inputs["t"])
    tokens, _ = network.to_tokens(x, emb)
    case.check("tokens_before_blocks", tokens.feats)
    case.check("token_coords", tokens.coords)
    for block in network.blocks:
        tokens = block(tokens, emb, case.inputs["cond"])
    case.check("tokens_after_blocks", tokens.feats)


def _generator(case: Fixture) -> tuple[SlatFlow, SparseGrid]:
    network = SlatFlow(config_of(case.meta["config"]["model"])).eval()
    network.load_state_dict({key.removeprefix(BACKBONE): value for key, value in case.weights.items()})
    return network, SparseGrid(case.inputs["coords"])


@pytest.mark.parametrize("name", ["slat_flow_sampling", "slat_flow_sampling_rescaled"])
@torch.no_grad()
def test_sampling_fixture(name: str) -> None:
    case = fixture("stage2", name)
    config = case.meta["config"]
    network, grid = _generator(case)
    cond = network.keys_values(case.inputs["cond"])
    none = network.keys_values(torch.zeros_like(case.inputs["cond"][:, :1]))  # one zero token does for all

    def conditional(x: Tensor, t: float) -> Tensor:
        return network(SparseTensor(x[0], grid), torch.tensor([network_time(t)]), cond).feats[None]

    def unconditional(x: Tensor, t: float) -> Tensor:
        return network(SparseTensor(x[0], grid), torch.tensor([network_time(t)]), none).feats[None]

    times = flow_matching_times(config["steps"], float(config["rescale_t"]))
    case.check("t_seq", torch.tensor(times))
    case.check("v0_cond", conditional(case.inputs["noise"], 0.0))
    case.check("v0_uncond", unconditional(case.inputs["noise"], 0.0))
    lowest, highest = config["cfg_interval"]
    how = Guidance(float(config["cfg_strength"]), (float(lowest), float(highest)))
    steps = list(states(guided(conditional, unconditional, how), case.inputs["noise"], times))
    for i, x in enumerate(steps, start=1):
        case.check(f"x_{i}", x)
    case.check("slat", steps[-1][0] * torch.tensor(STD) + torch.tensor(MEAN))


def test_loss_fixture() -> None:
    case = fixture("stage2", "slat_flow_matching_loss")
    network, grid = _generator(case)
    x0, x1, t = case.inputs["noise"], case.inputs["x1"], case.inputs["t"]

    def velocity(x: Tensor, t: Tensor) -> Tensor:
        return network(SparseTensor(x[0], grid), 1000 * t, case.inputs["cond"]).feats[None]

    case.check("x_t", between(x0, x1, t))
    case.check("target", line_velocity(x0, x1))
    case.check("loss", flow_matching_loss(velocity, x1, x0, t)[None])


def test_keys_and_shapes_of_the_public_generator() -> None:
    public = manifest("slat_generator")
    group = public["groups"]["generator"]
    prefix = group["prefix"] + BACKBONE
    with torch.device("meta"):
        state = SlatFlow(SlatFlowConfig()).state_dict()
    expected = {k.removeprefix(prefix): v for k, v in public["tensors"].items() if k.startswith(group["prefix"])}
    assert {key: list(value.shape) for key, value in state.items()} == expected
    assert (len(state), sum(value.numel() for value in state.values())) == (group["tensors"], group["elements"])
    full = public["config"]["module"]["generator"]["backbone"]["reverse_fn"]["backbone"]
    assert config_of(full) == SlatFlowConfig()


@pytest.mark.parametrize("levels", [1, 2])
@pytest.mark.parametrize("io_res_blocks", [1, 2])
@pytest.mark.parametrize("use_skip_connection", [True, False])
def test_elements_of_a_batch_do_not_meet(levels: int, io_res_blocks: int, use_skip_connection: bool) -> None:
    shape = {"patch_size": 2**levels, "io_channels": (8, 12)[:levels], "io_res_blocks": io_res_blocks}
    network = _random(replace(TINY, use_skip_connection=use_skip_connection, **shape))
    grid, cond, t = random_grid([40, 70], 8), torch.randn(2, 5, 6), torch.tensor([100.0, 800.0])
    x = torch.randn(110, 4)
    together = network(SparseTensor(x, grid), t, cond).feats
    for i, rows in enumerate(grid.slices):
        alone = network(
            SparseTensor(x[rows], SparseGrid.batched([grid.coords[rows, 1:]])), t[i : i + 1], cond[i : i + 1]
        )
        torch.testing.assert_close(together[rows], alone.feats, atol=1e-5, rtol=1e-5)  # sums in another order


def test_a_new_network_stands_still_and_learns() -> None:
    network, grid = SlatFlow(TINY), random_grid([30], 8)
    out = network(SparseTensor(torch.randn(30, 4), grid), torch.tensor([500.0]), torch.randn(1, 5, 6)).feats
    assert not out.any()
    (out - 1).square().sum().backward()
    assert network.out_layer.weight.grad is not None
    assert network.out_layer.weight.grad.abs().max() > 0


def test_every_parameter_gets_a_gradient() -> None:
    network, grid = _random(TINY), random_grid([30, 20], 8)
    out = network(SparseTensor(torch.randn(50, 4), grid), torch.tensor([500.0, 1.0]), torch.randn(2, 5, 6)).feats
    out.square().sum().backward()
    assert [name for name, value in network.named_parameters() if value.grad is None or not value.grad.any()] == []


def test_probe_measures_the_chosen_block_only() -> None:
    network, grid = _random(TINY), random_grid([40], 8)
    two = SparseGrid.batched([grid.coords[:, 1:]] * 2)
    x, cond, t = torch.randn(40, 4), 3 * torch.randn(2, 9, 6), torch.tensor([500.0])
    probes = [EntropyProbe(block, slice(1, 9)) for block in (0, 1)]
    for probe in probes:
        network(SparseTensor(torch.cat([x, x]), two), t.expand(2), cond, probe=probe)
    tokens = len(grid.coarse.grid)
    assert probes[0].entropy.shape == (2, tokens)
    assert not torch.allclose(probes[0].entropy, probes[1].entropy, atol=1e-4)
    for view in range(2):  # the entropy of a view does not depend on the batch it is computed in
        alone = EntropyProbe(1, slice(1, 9))
        network(SparseTensor(x, grid), t, cond[view : view + 1], probe=alone)
        torch.testing.assert_close(alone.entropy[0], probes[1].entropy[view], atol=1e-5, rtol=1e-5)


def test_half_precision_stays_near_single() -> None:
    network, grid = _random(TINY), random_grid([60], 8)
    x, t, cond = SparseTensor(torch.randn(60, 4), grid), torch.tensor([300.0]), torch.randn(1, 5, 6)
    exact = network(x, t, cond).feats
    cast_torso(network, torch.bfloat16)
    assert network.blocks[0].norm2.weight.dtype == network.input_layer.weight.dtype == torch.float32
    mixed = network(x, t, cond).feats
    whole = network.bfloat16()(x, t, cond).feats
    for out in (mixed, whole):
        assert out.dtype == torch.float32
        assert (out - exact).norm() < 0.05 * exact.norm()  # 8 bits, some twenty roundings in a row


def test_autocast_stays_near_single() -> None:
    network, grid = _random(TINY), random_grid([60], 8)
    x, t, cond = SparseTensor(torch.randn(60, 4), grid), torch.tensor([300.0]), torch.randn(1, 5, 6)
    exact = network(x, t, cond).feats
    with torch.autocast("cpu", torch.bfloat16):
        out = network(x, t, cond).feats
    assert (out - exact).norm() < 0.05 * exact.norm()


def test_patch_size_must_fit_the_levels() -> None:
    with pytest.raises(InvalidOption, match="log2"):
        SlatFlowConfig(patch_size=4)


@pytest.mark.parametrize("voxels", [42_001, 60_000])
@torch.no_grad()
def test_large_objects_run(voxels: int) -> None:
    network = _random(replace(TINY, width=16, blocks=1, heads=1, io_channels=(4,)))
    x = SparseTensor(torch.randn(voxels, 4), shell_grid(voxels, 64))
    out = network(x, torch.tensor([0.0]), torch.randn(1, 5, 6))
    assert out.feats.shape == (voxels, 4)
    assert bool(out.feats.isfinite().all())


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_cuda_agrees_with_cpu(dtype: torch.dtype) -> None:
    network, coords = _random(TINY), random_grid([100, 60], 8).coords
    x, t, cond = torch.randn(160, 4), torch.tensor([300.0, 700.0]), torch.randn(2, 5, 6)
    exact = network(SparseTensor(x, SparseGrid(coords)), t, cond).feats
    cast_torso(network, dtype)
    moved = SparseTensor(x.cuda(), SparseGrid(coords.cuda()))
    out = network.cuda()(moved, t.cuda(), cond.cuda()).feats.cpu()
    tolerance = 1e-2 if dtype == torch.float32 else 0.05  # TF32 where it is on; 8 bits
    assert (out - exact).norm() < tolerance * exact.norm()
