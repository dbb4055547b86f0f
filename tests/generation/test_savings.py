"""The shared, cached and shortened work of both stages against the public order of work, written plainly."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from mvsam3d.generation import slat_stage, structure_stage
from mvsam3d.generation.budget import MemoryBudget, ViewCost, in_chunks
from mvsam3d.generation.guidance import Guidance
from mvsam3d.generation.public_schedule import public_slat, public_structure
from mvsam3d.generation.running_weights import Recording
from mvsam3d.generation.slat_stage import SlatSampling, SlatStatistics, sample_slat
from mvsam3d.generation.structure_stage import StructureSampling, sample_structure
from mvsam3d.generation.weighting import ByEntropy, PlainMean
from mvsam3d.models.slat_flow import SlatFlow, SlatFlowConfig
from mvsam3d.models.structure_flow import StructureFlow, StructureFlowConfig
from mvsam3d.nn.sparse import SparseGrid, SparseTensor
from mvsam3d.types import Conditions, Span, Voxels

VIEWS = 3
STRUCTURE = StructureFlowConfig(
    width=24,
    blocks=3,
    heads=2,
    mlp_ratio=2.0,
    cond_channels=10,
    grid=3,
    latent_channels=4,
    freeze_shared_parameters=False,
)
SLAT = SlatFlowConfig(
    resolution=8, in_channels=4, out_channels=4, width=24, cond_channels=10, blocks=3, heads=2, mlp_ratio=2.0,
    io_res_blocks=2, io_channels=(12,),
)  # fmt: skip
STATISTICS = SlatStatistics((0.0, 1.0, 2.0, 3.0), (1.0, 2.0, 1.0, 0.5))
# one view at a time; two; all: with and without keys and values of all, of some, of none
BUDGETS = [MemoryBudget(activations, keys) for activations in (1, 1 << 40) for keys in (0, 8000, 1 << 40)]


def awake(network: torch.nn.Module) -> torch.nn.Module:
    """Layers that start at zero get random values, so that all of them are seen."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * (0.5 if parameter.dim() > 1 else 0.1))
    return network.eval().requires_grad_(False)


def views(count: int = VIEWS) -> Conditions:
    tokens = (
        torch.randn(count, 9, 10, generator=torch.Generator().manual_seed(2))
        * torch.arange(1, count + 1)[:, None, None]
    )
    return Conditions(tokens, (Span("image", 0, 5, 1), Span("mask", 5, 9)))


def voxels() -> Voxels:
    cells = torch.cartesian_prod(*[torch.arange(8, dtype=torch.int32)] * 3)
    return Voxels(cells[torch.rand(len(cells), generator=torch.Generator().manual_seed(3)) < 0.3], 8)


def noise() -> torch.Generator:
    return torch.Generator().manual_seed(5)


def structure(network: StructureFlow, config: StructureSampling, budget: MemoryBudget, predicts_data: bool = False):
    velocity = structure_stage.network_velocity(network, step_size=0.0, predicts_data=predicts_data)
    chunks = structure_stage.view_chunks(network, views(), config, budget)
    return sample_structure(velocity, chunks, (27, 4), config, noise())


@pytest.mark.parametrize("weighting", [PlainMean(), ByEntropy(alpha=200.0)])
@pytest.mark.parametrize("budget", BUDGETS)
@torch.no_grad()
def test_structure_equals_the_public_order_of_work(weighting, budget: MemoryBudget) -> None:
    network = awake(StructureFlow(STRUCTURE))
    config = StructureSampling(steps=4, guidance=Guidance(2.0), weighting=weighting, recording=Recording(1))
    ours, public = structure(network, config, budget), public_structure(network, views(), config, noise())
    torch.testing.assert_close(ours.shape, public.shape, atol=1e-4, rtol=1e-4)  # float32 in another order, four steps
    for name in ("rotation_6d", "translation", "scale", "translation_scale"):
        torch.testing.assert_close(getattr(ours, name)[:1], getattr(public, name), atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_weights_matter_in_the_comparison() -> None:
    """The test above could not tell a run that forgets its weights, if they did nothing."""
    network = awake(StructureFlow(STRUCTURE))
    plain = StructureSampling(steps=4, guidance=Guidance(2.0), recording=Recording(1))
    weighted = replace(plain, weighting=ByEntropy(alpha=200.0))
    a, b = (structure(network, config, MemoryBudget()).shape for config in (plain, weighted))
    assert float((a - b).abs().max()) > 0.01  # a hundred times the tolerance


@torch.no_grad()
def test_every_view_keeps_the_pose_it_would_have_as_the_first() -> None:
    """The plain mean does not know an order: view 2 put first has, in the public order of work, the pose that we give it third."""
    network = awake(StructureFlow(STRUCTURE))
    config = StructureSampling(steps=3, guidance=Guidance(2.0))
    turned = replace(views(), tokens=views().tokens.roll(1, dims=0))
    ours, public = structure(network, config, MemoryBudget()), public_structure(network, turned, config, noise())
    torch.testing.assert_close(ours.rotation_6d[2:], public.rotation_6d, atol=1e-4, rtol=1e-4)


def slat(network: SlatFlow, config: SlatSampling, budget: MemoryBudget, predicts_data: bool = False) -> Tensor:
    velocity = slat_stage.network_velocity(network, predicts_data=predicts_data)
    chunks = slat_stage.view_chunks(network, views(), voxels(), config, budget)
    show = slat_stage.network_attention(network)
    return sample_slat(velocity, chunks, voxels(), STATISTICS, config, noise(), show_attention=show).features


@pytest.mark.parametrize("weighting", [PlainMean(), ByEntropy(alpha=200.0)])
@pytest.mark.parametrize("budget", BUDGETS)
@torch.no_grad()
def test_slat_equals_the_public_order_of_work(weighting, budget: MemoryBudget) -> None:
    network = awake(SlatFlow(SLAT))
    config = SlatSampling(
        steps=3, guidance=Guidance(1.5), weighting=weighting, recording=Recording(1), noise_compat=True
    )
    public = public_slat(network, views(), voxels(), STATISTICS, config, noise())
    torch.testing.assert_close(slat(network, config, budget), public.features, atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_attention_of_stage_2_recorded_in_the_run_needs_no_second_draw(monkeypatch: pytest.MonkeyPatch) -> None:
    """Recorded at the run's own noise in step 0: as the public order of work, if its second draw were the first again."""
    network = awake(SlatFlow(SLAT))
    config = SlatSampling(steps=3, guidance=Guidance(1.5), weighting=ByEntropy(alpha=200.0), recording=Recording(1))

    first = torch.randn(1, len(voxels().coords), 4, generator=noise())
    monkeypatch.setattr("mvsam3d.generation.public_schedule.slat_noise", lambda *_, **__: first)
    public = public_slat(network, views(), voxels(), STATISTICS, config, noise())
    torch.testing.assert_close(slat(network, config, MemoryBudget()), public.features, atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_data_prediction_goes_the_same_ways() -> None:
    network, config = awake(StructureFlow(STRUCTURE)), StructureSampling(steps=2, guidance=Guidance(1.0))
    public = public_structure(network, views(), config, noise(), predicts_data=True)
    ours = structure(network, config, MemoryBudget(1, 0), predicts_data=True)
    torch.testing.assert_close(ours.shape, public.shape, atol=1e-4, rtol=1e-4)
    slat_network, slat_config = awake(SlatFlow(SLAT)), SlatSampling(steps=2, guidance=Guidance(1.0))
    expected = public_slat(slat_network, views(), voxels(), STATISTICS, slat_config, noise(), predicts_data=True)
    ours_slat = slat(slat_network, slat_config, MemoryBudget(), predicts_data=True)
    torch.testing.assert_close(ours_slat, expected.features, atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_the_short_way_to_the_attention_ends_at_the_recorded_block() -> None:
    network = awake(SlatFlow(SLAT))
    shown: list[int] = []

    class Probe:
        def wants(self, block: int) -> bool:
            return block == 1

        def record(self, block: int, q: Tensor, k: Tensor) -> None:
            shown.append(block)

    grid = SparseGrid.batched([voxels().coords])
    x = SparseTensor(torch.randn(len(grid), 4), grid)
    network.blocks[1].mlp.forward = _unreachable
    network.out_layer.forward = _unreachable
    network.show_attention(x, torch.zeros(1), views(1).tokens, Probe())
    assert shown == [1]


def _unreachable(*_: object) -> None:
    raise AssertionError("nothing after the recorded attention is needed")


@torch.no_grad()
def test_a_later_step_can_be_recorded() -> None:
    """Before it all views count alike: the same first steps as the plain mean, other last ones."""
    network = awake(StructureFlow(STRUCTURE))
    plain = StructureSampling(steps=4, guidance=Guidance(0.0), rescale_t=1.0)
    late = replace(plain, weighting=ByEntropy(alpha=200.0), recording=Recording(1, step=3))
    whole, last = structure(network, plain, MemoryBudget()), structure(network, late, MemoryBudget())
    assert not torch.allclose(whole.shape, last.shape, atol=1e-3)
    beyond = replace(plain, weighting=ByEntropy(alpha=200.0), recording=Recording(1, step=4))  # a step that never comes
    torch.testing.assert_close(structure(network, beyond, MemoryBudget()).shape, whole.shape)


def test_chunks_fit_the_budget() -> None:
    cost, made = ViewCost(activations=100, keys_values=10), []
    chunks = in_chunks(views(5), cost, MemoryBudget(250, 45), lambda tokens: made.append(len(tokens)) or [tokens])
    assert [len(chunk.tokens) for chunk in chunks] == [2, 2, 1]
    assert [chunk.kept is not None for chunk in chunks] == [True, True, False]
    assert made == [2, 2]
    torch.testing.assert_close(torch.cat([chunk.tokens for chunk in chunks]), views(5).tokens)
    (alone, *_), none = (
        in_chunks(views(3), cost, MemoryBudget(1, 1), list),
        in_chunks(views(3), cost, MemoryBudget(), None),
    )
    assert len(alone.tokens) == 1
    assert none[0].kept is None
