"""Whole trajectories of the public samplers with small networks."""

from typing import Any

import pytest
import torch

from mvsam3d.generation.evidence import on_voxels, tokens_of
from mvsam3d.generation.fusion import fused
from mvsam3d.generation.guidance import Guidance, guided
from mvsam3d.generation.latents import PUBLIC_NAMES, PerLatent, Velocity
from mvsam3d.generation.schedule import flow_matching_times, shortcut_times, step_size
from mvsam3d.generation.solver import states
from mvsam3d.generation.weighting import ByEntropy, Evidence, mean_weights, view_weights
from mvsam3d.nn.probe import EntropyProbe, patch_entropy, span_attention
from mvsam3d.nn.sparse import SparseGrid
from mvsam3d.types import StructureLatents, Voxels
from tests.generation.networks import backbone_weights, slat_flow, slat_velocity
from tests.generation.plain_structure_flow import PlainStructureFlow, structure_velocity
from tests.parity import Fixture, fixture, names


@pytest.mark.parametrize("name", names("stage2", "slat_flow_sampling") or ["slat_flow_sampling"])
@torch.no_grad()
def test_recorded_stage2_sampling(name: str) -> None:
    f = fixture("stage2", name)
    config = f.meta["config"]
    network, grid = slat_flow(f), SparseGrid(f.inputs["coords"])
    conditional = slat_velocity(network, grid, f.inputs["cond"])
    unconditional = slat_velocity(network, grid, 0 * f.inputs["cond"])
    times = flow_matching_times(config["steps"], float(config["rescale_t"]))
    f.check("t_seq", torch.tensor(times))
    f.check("v0_cond", conditional(f.inputs["noise"], 0.0))
    f.check("v0_uncond", unconditional(f.inputs["noise"], 0.0))
    how = Guidance(float(config["cfg_strength"]), tuple(map(float, config["cfg_interval"])))
    for i, x in enumerate(states(guided(conditional, unconditional, how), f.inputs["noise"], times), start=1):
        f.check(f"x_{i}", x)


class RowProbe:
    """Keeps the attention of the first latent over all keys."""

    def __init__(self, block: int) -> None:
        self.block = block

    def wants(self, block: int) -> bool:
        return block == self.block

    def record(self, block: int, q: torch.Tensor, k: torch.Tensor) -> None:
        self.row = span_attention(q[0, :1], k[0], slice(None))[0]


@torch.no_grad()
def test_recorded_multi_view_stage2() -> None:
    f = fixture("multiview", "trajectory_stage2")
    sampler, capture = f.meta["config"]["sampler"], f.meta["config"]["capture"]
    network, grid = slat_flow(f), SparseGrid(f.inputs["coords"])
    views = [tokens[None] for tokens in f.inputs["cond"]]
    warm_up = f.inputs["noise_warmup"][None]
    for v, tokens in enumerate(views):
        row = RowProbe(capture["layer"])
        slat_velocity(network, grid, tokens, row)(warm_up, 0.0)
        f.check(f"attention_row0_view{v}", row.row)

    probes = [EntropyProbe(capture["layer"], slice(*capture["patch_region"])) for _ in views]
    for tokens, probe in zip(views, probes, strict=True):
        slat_velocity(network, grid, tokens, probe)(warm_up, 0.0)
    evidence = Evidence(torch.cat([probe.entropy for probe in probes]))
    weighting = f.meta["config"]["weighting"]
    per_token = view_weights(evidence, ByEntropy(weighting["alpha"], weighting["min_weight"]))
    coords, token = tokens_of(Voxels(f.inputs["coords"][:, 1:], f.meta["config"]["model"]["resolution"]))
    weights = on_voxels(per_token, token)
    f.check("entropy_tokens", evidence.entropy)
    f.check("weights_tokens", per_token)
    f.check("weights_voxels", weights)
    f.check("coords_tokens", torch.nn.functional.pad(coords, (1, 0)))
    f.check("idx", token)

    times = flow_matching_times(sampler["steps"], float(sampler["rescale_t"]))
    f.check("t", torch.tensor(times[:-1]))
    how = Guidance(sampler["cfg_strength"], tuple(map(float, sampler["cfg_interval"])))
    unconditional = slat_velocity(network, grid, 0 * views[0])
    fields = [slat_velocity(network, grid, tokens) for tokens in views]
    for name, w in {"average": mean_weights(len(views)), "weighted": weights}.items():
        velocity = guided(fused(fields, w), unconditional, how)
        f.check(name, torch.cat(list(states(velocity, f.inputs["noise_main"][None], times))))


def structure_flow(f: Fixture, config: dict[str, Any]) -> PlainStructureFlow:
    return PlainStructureFlow(backbone_weights(f), config["num_heads"], config["num_blocks"])


def recorded_noise(f: Fixture, *, batched: bool) -> StructureLatents:
    latents = {ours: f.inputs[f"noise/{public}"] for public, ours in PUBLIC_NAMES.items()}
    return StructureLatents(**{name: x if batched else x[None] for name, x in latents.items()})


def strength(value: float | dict[str, float]) -> float | PerLatent:
    if isinstance(value, dict):
        return PerLatent(**{PUBLIC_NAMES[public]: float(one) for public, one in value.items()})
    return float(value)


def interval(config: dict[str, Any]) -> tuple[float, float]:
    low, high = config["interval"]
    return float(low), float(high)


@torch.no_grad()
def test_recorded_stage1_sampling() -> None:
    f = fixture("stage1", "shortcut_sampling")
    guidance = f.meta["config"]["reverse_fn"]
    network, noise = structure_flow(f, guidance["backbone"]), recorded_noise(f, batched=True)
    checked = set()
    for name, variant in f.meta["variants"].items():
        d = step_size(variant["steps"], distilled=not variant["no_shortcut"])
        fields = [structure_velocity(network, tokens, d) for tokens in (f.inputs["cond"], 0 * f.inputs["cond"])]
        velocity = guided(*fields, Guidance(strength(variant["strength"]), interval(guidance)))
        times = shortcut_times(variant["steps"], float(variant["rescale_t"]))
        for i, x in enumerate(states(velocity, noise, times)):
            for public, ours in PUBLIC_NAMES.items():
                f.check(f"{name}/step{i}/{public}", getattr(x, ours))
                checked.add(f"{name}/step{i}/{public}")
    assert checked == set(f.outputs)


@torch.no_grad()
def test_recorded_solvers() -> None:
    f = fixture("stage1", "flow_matching_sampling")
    guidance = f.meta["config"]["reverse_fn"]
    network, noise = structure_flow(f, guidance["backbone"]), recorded_noise(f, batched=True)
    fields = [structure_velocity(network, tokens, None) for tokens in (f.inputs["cond"], 0 * f.inputs["cond"])]
    velocity = guided(*fields, Guidance(strength(guidance["strength"]), interval(guidance)))
    checked = set()
    for name, variant in f.meta["variants"].items():
        if "solver_method" not in variant:
            continue  # only times are recorded: see test_schedule
        times = flow_matching_times(variant["steps"], float(variant["rescale_t"]))
        for i, x in enumerate(states(velocity, noise, times, variant["solver_method"])):
            for public, ours in PUBLIC_NAMES.items():
                if f"{name}/step{i}/{public}" in f.outputs:
                    f.check(f"{name}/step{i}/{public}", getattr(x, ours))
                    checked.add(f"{name}/step{i}/{public}")
    assert checked == set(f.outputs)


@torch.no_grad()
def test_recorded_multi_view_stage1() -> None:
    f = fixture("multiview", "trajectory_stage1")
    config = f.meta["config"]
    sampler, capture, weighting, distilled = (config[k] for k in ("sampler", "capture", "weighting", "distilled"))
    network, noise = structure_flow(f, config["model"]), recorded_noise(f, batched=False)
    views = [tokens[None] for tokens in f.inputs["cond"]]

    def entropy(d: float, *, check: bool) -> torch.Tensor:
        rows = []
        for v, tokens in enumerate(views):
            structure_velocity(network, tokens, d)(noise, 0.0)
            look = network.looks[capture["layer"]]
            if check:
                f.check(f"attention_row0_view{v}", look[0, 0])
            rows.append(patch_entropy(look[:, :, slice(*capture["patch_region"])]).mean(0))
        return torch.stack(rows)

    def trajectory(name: str, weights: torch.Tensor, how: Guidance, steps: int, d: float) -> None:
        fields: list[Velocity[StructureLatents]] = [structure_velocity(network, tokens, d) for tokens in views]
        unconditional = structure_velocity(network, 0 * views[0], d)
        times = shortcut_times(steps, float(sampler["rescale_t"]))
        path = list(states(guided(fused(fields, weights), unconditional, how), noise, times))
        for public, ours in PUBLIC_NAMES.items():
            f.check(f"{name}/{public}", torch.cat([getattr(x, ours) for x in path]))

    how = ByEntropy(weighting["alpha"], weighting["min_weight"])
    evidence = Evidence(entropy(float(sampler["d"]), check=True))
    weights = view_weights(evidence, how)
    f.check("entropy", evidence.entropy)
    f.check("weights", weights)
    f.check("t", torch.tensor(shortcut_times(sampler["steps"], float(sampler["rescale_t"]))[:-1]))
    push = Guidance(sampler["cfg_strength"], interval({"interval": sampler["cfg_interval"]}))
    trajectory("weighted", weights, push, sampler["steps"], 0.0)
    trajectory("average", mean_weights(len(views)), push, sampler["steps"], 0.0)
    trajectory("per_view", f.inputs["view_weights"][:, None], push, sampler["steps"], 0.0)
    # The one-step warm-up of the distilled mode is told a step of 1.
    weights = view_weights(Evidence(entropy(step_size(1, distilled=True), check=False)), how)
    f.check("weights_distilled", weights)
    steps = distilled["steps"]
    off = Guidance(float(distilled["cfg_strength"]))
    trajectory("distilled", weights, off, steps, step_size(steps, distilled=True))
