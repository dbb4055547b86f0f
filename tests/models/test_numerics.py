"""What precision, batches, threads, paging and seeds may change in the networks and in both sampled stages, and what not."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from mvsam3d.generation.latents import combine
from mvsam3d.models import public_config
from mvsam3d.models.bundle import Models
from mvsam3d.models.checkpoints import open_checkpoint
from mvsam3d.models.slat_flow import SlatFlow
from mvsam3d.models.structure_flow import StructureFlow
from mvsam3d.nn.layers import LayerNorm32, MultiHeadRMSNorm
from mvsam3d.nn.sparse import SparseGrid, SparseTensor
from mvsam3d.options import ReconstructionConfig
from mvsam3d.pipeline import occupancy_logits, structure_latents, structured_latents
from mvsam3d.types import StructureLatents, Voxels
from tests.models import public_configs, public_folder
from tests.models.test_slat_flow import config_of
from tests.models.test_structure_flow import LATENTS
from tests.parity import fixture

HALVES = [torch.bfloat16, torch.float16]
Velocity = Callable[
    ..., Tensor
]  # (state, time, seen) -> all velocities in a row: factors of the recorded state and condition


def flat(latents: StructureLatents) -> Tensor:
    return torch.cat([value.float().flatten() for value in vars(latents).values()])


def structure_case() -> tuple[StructureFlow, StructureLatents, dict[str, Tensor]]:
    """The recorded stage-1 network, its state and other inputs."""
    case = fixture("stage1", "ss_flow")
    network = StructureFlow(public_configs.structure_flow(case.meta["config"])).eval()
    network.load_state_dict(case.weights)
    state = StructureLatents(**{ours: case.inputs[f"latents/{public}"] for public, ours in LATENTS.items()})
    return network, state, case.inputs


def structure() -> Velocity:
    network, latents, inputs = structure_case()

    def velocity(state: float = 1.0, time: float | None = None, seen: float = 1.0) -> Tensor:
        t = inputs["t"] if time is None else torch.full_like(inputs["t"], time)
        x = combine(lambda latent: state * latent, latents)
        return flat(network(x, t, seen * inputs["cond"], inputs["d"]))

    return velocity


def slat() -> Velocity:
    case = fixture("stage2", "slat_flow_model")
    network = SlatFlow(config_of(case.meta["config"])).eval()
    network.load_state_dict(case.weights)
    grid = SparseGrid(case.inputs["coords"])

    def velocity(state: float = 1.0, time: float | None = None, seen: float = 1.0) -> Tensor:
        t = case.inputs["t"] if time is None else torch.full_like(case.inputs["t"], time)
        x = SparseTensor(state * case.inputs["feats"], grid)
        out: Tensor = network(x, t, seen * case.inputs["cond"]).feats
        return out.flatten()

    return velocity


NETWORKS = pytest.mark.parametrize("network", [structure, slat])


def off(actual: Tensor, exact: Tensor) -> float:
    return float((actual.float() - exact).norm() / exact.norm())


@NETWORKS
@pytest.mark.parametrize(("dtype", "most"), [(torch.bfloat16, 1e-2), (torch.float16, 2e-3)])  # 8 and 11 bits
@torch.no_grad()
def test_half_precision_is_within_a_hundredth(network: Callable[[], Velocity], dtype: torch.dtype, most: float) -> None:
    velocity = network()
    for seen in (1.0, 0.0):
        exact = velocity(seen=seen)
        with torch.autocast("cpu", dtype):
            rough = velocity(seen=seen)
        assert 0 < off(rough, exact) < most


@NETWORKS
@pytest.mark.parametrize("dtype", [torch.float32, *HALVES])
@pytest.mark.parametrize(
    ("state", "seen"), [(0.0, 0.0), (0.0, 1.0), (1e3, 1.0), (1.0, 1e3), (1e3, 1e3), (1e-30, 1e-30)]
)
@torch.no_grad()
def test_extreme_inputs_give_numbers(
    network: Callable[[], Velocity], dtype: torch.dtype, state: float, seen: float
) -> None:
    """States and conditions a thousand times too large leave room to where float16 ends; vanishing ones and zeros divide nothing by 0."""
    velocity = network()
    for time in (0.0, 1000.0):
        with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
            assert bool(velocity(state, time, seen).isfinite().all())


@pytest.mark.parametrize("dtype", [torch.float32, *HALVES])
def test_norms_of_rows_without_spread_are_zero(dtype: torch.dtype) -> None:
    assert not MultiHeadRMSNorm(8, 3)(torch.zeros(2, 3, 8, dtype=dtype)).any()
    assert not LayerNorm32(8, eps=1e-6)(torch.full((2, 8), 1000.0, dtype=dtype)).any()


@NETWORKS
@torch.no_grad()
def test_threads_change_the_rounding_at_most(network: Callable[[], Velocity]) -> None:
    velocity, before, found = network(), torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            found.append(velocity())
    finally:
        torch.set_num_threads(before)
    assert max(off(other, found[0]) for other in found[1:]) < 1e-5


@torch.no_grad()
def test_views_together_are_the_views_alone() -> None:
    """Of stage 1; `test_slat_flow` has the like for stage 2, `generation/test_savings` for whole runs of both."""
    network, latents, inputs = structure_case()
    one = combine(lambda latent: latent[:1], latents)
    t, d, cond = inputs["t"][:1], inputs["d"][:1], torch.cat([inputs["cond"], 3 * inputs["cond"].flip(1)])
    poses = combine(lambda latent: latent.expand(len(cond), -1, -1), one)
    together = network(replace(poses, shape=one.shape), t, cond, d)
    for view in range(len(cond)):
        alone = network(one, t, cond[view : view + 1], d)
        row = combine(lambda latent, view=view: latent[view : view + 1], together)
        assert off(flat(row), flat(alone)) < 1e-4


# --- both stages, sampled by a whole folder in the published layout ----------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    path = tmp_path_factory.mktemp("hf")
    public_config.VITS[public_folder.TINY_VIT] = public_folder.VIT
    public_folder.write_public_folder(path)
    yield path
    del public_config.VITS[public_folder.TINY_VIT]


@torch.no_grad()
def sampled(models: Models, seed: int) -> tuple[Tensor, ...]:
    """All that two views give: structure and poses, logits, structured latents on fixed voxels."""
    drawn, side = torch.Generator().manual_seed(0), public_folder.SIDE
    channels = {"image": 3, "rgb_image": 3, "mask": 1, "rgb_image_mask": 1, "pointmap": 3, "rgb_pointmap": 3}
    maps = {name: torch.rand(2, count, side, side, generator=drawn) for name, count in channels.items()}
    noise = torch.Generator().manual_seed(seed)
    config = replace(ReconstructionConfig(), structure_steps=2, slat_steps=2)
    latents = structure_latents(models, maps, config, noise)
    resolution = models.config.slat.flow.resolution
    cells = torch.cartesian_prod(*[torch.arange(6, dtype=torch.int32)] * 3)
    appearance = structured_latents(models, maps, Voxels(cells, resolution), config, noise)
    return (*vars(latents).values(), occupancy_logits(models, latents), appearance.features)


def same(a: tuple[Tensor, ...], b: tuple[Tensor, ...]) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_paging_changes_no_bit_and_a_seed_says_all(folder: Path, dtype: torch.dtype) -> None:
    checkpoint = open_checkpoint(folder)
    there = checkpoint.models(dtype=dtype, paged=False)
    first = sampled(there, 1)
    assert same(sampled(checkpoint.models(dtype=dtype, paged=True), 1), first)
    assert same(sampled(there, 1), first)
    other = sampled(there, 2)
    assert not any(torch.equal(a, b) for a, b in zip(first, other, strict=True))
