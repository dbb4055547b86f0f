import math
import re
from dataclasses import fields, replace

import pytest
import torch

from mvsam3d.models.structure_flow import SHAPE, StructureFlow, StructureFlowConfig, shape_positions
from mvsam3d.nn.layers import TimestepEmbedder, sinusoids
from mvsam3d.nn.probe import EntropyProbe
from mvsam3d.types import StructureLatents
from tests.models import public_configs
from tests.parity import fixture, manifest, names

PUBLIC_NAMES = {"rotation_6d": "6drotation_normalized"}  # others are called alike
LATENTS = {PUBLIC_NAMES.get(f.name, f.name): f.name for f in fields(StructureLatents)}
SMALL = StructureFlowConfig(
    width=32, blocks=2, heads=2, cond_channels=12, grid=3, latent_channels=5, freeze_shared_parameters=False
)


def built(case):
    """The network of a fixture, and its latents, which ask for gradients."""
    base = fixture("stage1", case.meta["config"]["same_as"]) if "same_as" in case.meta["config"] else case
    network = StructureFlow(public_configs.structure_flow(base.meta["config"]))
    network.load_state_dict(base.weights)
    leaves = {ours: base.inputs[f"latents/{public}"].clone().requires_grad_() for public, ours in LATENTS.items()}
    return network.eval(), StructureLatents(**leaves), base.inputs


def small_network():
    """With random numbers where training would start from zeros, so that every path counts."""
    torch.manual_seed(0)
    network = StructureFlow(SMALL).eval()
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return network


def small_inputs(batch=2):
    torch.manual_seed(1)
    sizes = {
        "shape": (27, 5),
        "rotation_6d": (1, 6),
        "translation": (1, 3),
        "scale": (1, 3),
        "translation_scale": (1, 1),
    }
    latents = StructureLatents(**{name: torch.randn(batch, *size) for name, size in sizes.items()})
    return latents, torch.full((1,), 300.0), torch.randn(batch, 7, 12)


@pytest.mark.parametrize("name", [n for n in names("stage1", "ss_flow") if "grads" not in n])
def test_velocities_agree_with_the_public_network(name):
    case = fixture("stage1", name)
    network, latents, inputs = built(case)
    t, d, cond = inputs["t"], inputs["d"], inputs["cond"]
    results = {
        "velocity": network(latents, t, cond, d),
        "velocity_no_d": network(latents, t, cond),
        "velocity_cfg": network(latents, t, cond, d, cfg=True),
        "velocity_shared_t": network(latents, t[:1], cond, d[:1]),
    }
    streams = network.enter(latents)
    for key in case.outputs:
        kind, latent = key.split("/")
        case.check(key, streams[latent] if kind == "projected" else getattr(results[kind], LATENTS[latent]))


@pytest.mark.parametrize("name", names("stage1", "ss_flow_grads"))
def test_gradients_agree_with_the_public_network(name):
    case = fixture("stage1", name)
    network, latents, inputs = built(case)
    cond = inputs["cond"].clone().requires_grad_()
    parameters = dict(network.named_parameters())
    assert sorted(key for key, p in parameters.items() if not p.requires_grad) == case.meta["frozen_parameters"]

    def losses():
        velocity = network(latents, inputs["t"], cond, inputs["d"])
        return {public: getattr(velocity, ours).square().mean() for public, ours in LATENTS.items()}

    loss = sum(losses().values())
    loss.backward()
    actual = {"loss": loss, "grad_cond": cond.grad}
    actual |= {f"grad/{key}": p.grad for key, p in parameters.items() if p.grad is not None}
    actual |= {f"grad_latents/{public}": getattr(latents, ours).grad for public, ours in LATENTS.items()}
    pose_losses = losses()
    del pose_losses[SHAPE]
    actual["pose_loss"] = pose_loss = sum(pose_losses.values())
    only_shape = [p for key, p in parameters.items() if p.requires_grad and ".shape." in key]
    wanted = [latents.translation, latents.shape, *only_shape]
    actual["pose_loss_grad_translation"], *absent = torch.autograd.grad(pose_loss, wanted, allow_unused=True)
    assert all(gradient is None for gradient in absent)
    for key in case.outputs:
        case.check(key, actual[key])


@pytest.mark.parametrize("name", names("stage1", "shape_position_embedder"))
def test_positions_agree_with_the_public_table(name):
    case = fixture("stage1", name)
    tables = {
        name: shape_positions(size["resolution"] // size["patch_size"], size["model_channels"])
        for name, size in case.meta["config"].items()
        if name in ("tiny", "full")
    }
    case.check("tiny", tables["tiny"])
    case.check("full_rows", tables["full"][case.inputs["rows"]])


@pytest.mark.parametrize("name", names("stage1", "timestep_embedder"))
def test_time_embedding_agrees_with_the_public_one(name):
    case = fixture("stage1", name)
    embedder = TimestepEmbedder(case.meta["config"]["hidden_size"])
    embedder.load_state_dict(case.weights)
    case.check("emb", embedder(case.inputs["t"]))
    case.check("freq", sinusoids(case.inputs["t"], case.meta["config"]["frequency_embedding_size"]))
    scalar = float(
        re.findall(r"t = ([\d.]+\d)", " ".join(case.meta["notes"]))[0]
    )  # a 0-d input, recorded in a note only
    case.check("emb_scalar", embedder(torch.tensor([scalar])))


def test_default_size_has_the_keys_of_the_public_checkpoint():
    public = manifest("ss_generator")
    config = public["config"]["generator"]["backbone"]["reverse_fn"]["backbone"]
    assert public_configs.structure_flow(config) == StructureFlowConfig()
    with torch.device("meta"):
        network = StructureFlow(StructureFlowConfig())
    prefix = public["groups"]["generator"]["prefix"] + "reverse_fn.backbone."
    wanted = {k.removeprefix(prefix): shape for k, shape in public["tensors"].items() if k.startswith(prefix)}
    assert {key: list(value.shape) for key, value in network.state_dict().items()} == wanted
    assert [prefix + key for key, _ in network.named_buffers()] == public["buffers"]


def test_the_shape_alone_moves_as_with_any_pose():  # law, and twin of the two-stream path
    network, (latents, t, cond) = small_network(), small_inputs()
    alone = network.shape_velocity(latents.shape, t, cond, torch.zeros(1))
    other = replace(latents, translation=latents.translation + 5)
    for state in (latents, other):
        torch.testing.assert_close(network(state, t, cond, torch.zeros(1)).shape, alone)
    assert not torch.equal(network(other, t, cond).rotation_6d, network(latents, t, cond).rotation_6d)


def test_the_probe_sees_the_cross_attention_of_its_block():
    network, (latents, t, cond) = small_network(), small_inputs()
    probe = EntropyProbe(1, slice(0, 7))
    network(latents, t, cond, probe=probe)
    assert probe.entropy.shape == (2, 27)
    alone = EntropyProbe(1, slice(0, 7))
    network.shape_velocity(latents.shape, t, cond, probe=alone)
    torch.testing.assert_close(alone.entropy, probe.entropy)
    none = EntropyProbe(1, slice(0, 7))
    network(latents, t, cond, cfg=True, probe=none)  # equal keys: attention looks at all alike
    torch.testing.assert_close(none.entropy, torch.ones(2, 27))


def test_training_from_scratch_starts_as_the_public_system_does():
    network = StructureFlow(SMALL)
    assert not network.blocks[0].adaLN_modulation[1].weight.any()
    assert not network.d_embedder.mlp[2].weight.any()
    deviation = network.t_embedder.mlp[2].weight.std()
    assert abs(deviation / 0.02 - 1) < 5 / math.sqrt(2 * 32 * 32)  # five deviations of a deviation of 1024 draws
    assert all(p.requires_grad for p in network.parameters())


def test_bf16_autocast_stays_near_float32():  # bf16 keeps 8 bits; two blocks lose a few of them
    network, (latents, t, cond) = small_network(), small_inputs()
    exact = network(latents, t, cond).shape
    with torch.autocast("cpu", torch.bfloat16):
        rough = network(latents, t, cond).shape.float()
    assert (rough - exact).abs().max() < 0.05 * exact.abs().max()
