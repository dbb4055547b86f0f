"""The formulas against runs whose matrix products are counted one by one."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from mvsam3d.generation import slat_stage, structure_stage
from mvsam3d.generation.budget import MemoryBudget
from mvsam3d.generation.cost import SlatCost, StructureCost, slat_run, structure_run
from mvsam3d.generation.guidance import Guidance
from mvsam3d.generation.public_schedule import public_slat, public_structure
from mvsam3d.generation.running_weights import Recording
from mvsam3d.generation.slat_stage import SlatSampling, sample_slat
from mvsam3d.generation.structure_stage import StructureSampling, sample_structure
from mvsam3d.generation.weighting import ByEntropy
from mvsam3d.models.config import SAM3D
from mvsam3d.models.slat_flow import SlatFlow
from mvsam3d.models.structure_flow import CrossAttention, StructureFlow
from mvsam3d.nn.sparse import SparseGrid
from tests.generation.test_savings import SLAT, STATISTICS, STRUCTURE, awake, noise, views, voxels

GUIDANCE, STEPS = Guidance(2.0), 5
NOTHING, ALL = MemoryBudget(1 << 40, 0), MemoryBudget(1 << 40, 1 << 40)


def _attention(q, k, v, *_, out_val=None, **__):
    """Products of an attention on the CPU, which torch itself does not count."""
    batch, heads, queries, channels = q
    return 2 * batch * heads * queries * k[-2] * (channels + v[-1])


MORE = {torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention}


def counted(work) -> int:
    with FlopCounterMode(display=False, custom_mapping=MORE) as counter, torch.no_grad():
        work()
    return counter.get_total_flops()


@pytest.mark.parametrize("count", [1, 3])
def test_structure(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    network = awake(StructureFlow(STRUCTURE))
    config = StructureSampling(STEPS, guidance=GUIDANCE, weighting=ByEntropy(), recording=Recording(1))
    cost, run = StructureCost(STRUCTURE, keys=9, patches=4), structure_run(count, STEPS, 3.0, GUIDANCE)

    def ours(budget: MemoryBudget) -> None:
        velocity = structure_stage.network_velocity(network, step_size=0.0)
        chunks = structure_stage.view_chunks(network, views(count), config, budget)
        sample_structure(velocity, chunks, (27, 4), config, noise())

    assert 0 < run.guided < run.steps
    assert cost.ours(run, kept=False) == counted(lambda: ours(NOTHING))
    assert cost.ours(run) == counted(lambda: ours(ALL))
    monkeypatch.setattr(CrossAttention, "of_few", CrossAttention.forward)  # the pose's keys and values for every token
    assert cost.public(run) == counted(lambda: public_structure(network, views(count), config, noise()))


@pytest.mark.parametrize("count", [1, 3])
def test_slat(count: int) -> None:
    network, run = awake(SlatFlow(SLAT)), slat_run(count, STEPS, 1.0, GUIDANCE)
    grid = SparseGrid.batched([voxels().coords])
    levels = (grid, grid.coarse.grid)
    pairs = tuple(sum(len(block.source) for block in level.neighbours) for level in levels)
    cost = SlatCost(SLAT, keys=9, patches=4, rows=tuple(len(level) for level in levels), pairs=pairs, block=1)
    config = SlatSampling(STEPS, guidance=GUIDANCE, weighting=ByEntropy(), recording=Recording(1), noise_compat=True)

    def ours(budget: MemoryBudget) -> None:
        velocity = slat_stage.network_velocity(network)
        chunks = slat_stage.view_chunks(network, views(count), voxels(), config, budget)
        show = slat_stage.network_attention(network)
        sample_slat(velocity, chunks, voxels(), STATISTICS, config, noise(), show_attention=show)

    assert 0 < run.guided < run.steps
    assert cost.public(run) == counted(
        lambda: public_slat(network, views(count), voxels(), STATISTICS, config, noise())
    )
    assert cost.ours(run, kept=False, noise_compat=True) == counted(lambda: ours(NOTHING))
    assert cost.ours(run, noise_compat=True) == counted(lambda: ours(ALL))


def test_the_public_evaluations_have_the_known_size() -> None:
    """Reference figures of the public system: 38 and 13 guided steps, 9.09 TFLOP an evaluation of stage 1."""
    run = structure_run(1)
    assert (run.guided, slat_run(1).guided) == (38, 13)
    cost = StructureCost(SAM3D.structure.flow, keys=7528, patches=1369)
    assert round(cost.public(run) / (run.steps + run.guided) / 1e12, 2) == 9.09
