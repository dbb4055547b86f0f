"""Memory of a stage while it is sampled: it must not grow with the views, beyond what grows by their nature."""

import weakref
from collections.abc import Callable

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten

from mvsam3d.generation import slat_stage, structure_stage
from mvsam3d.generation.budget import MemoryBudget
from mvsam3d.generation.guidance import Guidance
from mvsam3d.generation.running_weights import Recording
from mvsam3d.generation.slat_stage import SlatSampling, SlatStatistics, sample_slat
from mvsam3d.generation.structure_stage import StructureSampling, sample_structure
from mvsam3d.generation.weighting import ByEntropy
from mvsam3d.models.slat_flow import SlatFlow, SlatFlowConfig
from mvsam3d.models.structure_flow import StructureFlow, StructureFlowConfig
from mvsam3d.types import Conditions, Span, Voxels
from tests.generation.test_savings import awake

KEYS, CHANNELS = 200, 32


class Peak(TorchDispatchMode):
    """Most bytes of tensors made in its block that were alive at once; each storage counts once."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.most = 0
        self._known: set[int] = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        given = {x.untyped_storage()._cdata for x in tree_flatten((args, kwargs))[0] if isinstance(x, torch.Tensor)}
        for x in tree_flatten(out)[0]:
            if isinstance(x, torch.Tensor):
                storage = x.untyped_storage()
                if storage._cdata not in self._known | given:
                    self._add(storage)
        return out

    def _add(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        self._known.add(key)
        self.now += size
        self.most = max(self.most, self.now)

        def gone() -> None:
            self._known.discard(key)
            self.now -= size

        weakref.finalize(storage, gone)


def peak(work: Callable[[], object]) -> int:
    with torch.no_grad(), Peak() as memory:
        work()
    return memory.most


def views(count: int) -> Conditions:
    return Conditions(torch.randn(count, KEYS, CHANNELS), (Span("image", 0, 60),))


def noise() -> torch.Generator:
    return torch.Generator().manual_seed(5)


def test_the_meter_counts_what_is_alive() -> None:
    def work() -> None:
        a = torch.zeros(1000)  # 4 kB
        for _ in range(5):
            b = a + 1  # 4 kB more, replaced each time: the next is made before the last is gone
        del a, b

    assert 8000 <= peak(work) <= 12000


@pytest.mark.parametrize("kept", [False, True])
def test_stage_1(kept: bool) -> None:
    size = StructureFlowConfig(width=32, blocks=3, heads=2, cond_channels=CHANNELS, grid=6, latent_channels=4)
    network = awake(StructureFlow(size))
    config = StructureSampling(steps=3, guidance=Guidance(1.0), weighting=ByEntropy(), recording=Recording(1))

    def run(count: int) -> int:
        seen = views(count)
        budget = MemoryBudget(1, 1 << 40 if kept else 0)

        def work() -> None:
            chunks = structure_stage.view_chunks(network, seen, config, budget)
            velocity = structure_stage.network_velocity(network, step_size=0.0)
            sample_structure(velocity, chunks, (216, 4), config, noise())

        return peak(work)

    few, many = run(2), run(16)
    latents = 216 * 4 * 4  # the velocities of the views, before they are fused, a few times
    room = 14 * (6 * latents + 2 * 216 * 4) + 20_000  # and their entropies
    if kept:
        room += 14 * structure_stage.view_cost(network, views(1)).keys_values
    assert many - few < room
    one_row = structure_stage.view_cost(network, views(1)).activations
    assert (
        few > one_row / 2
    )  # what does grow with the views, when they are all evaluated at once, is not small beside that
    assert 14 * one_row > room or kept


def test_stage_2() -> None:
    size = SlatFlowConfig(
        resolution=16, in_channels=4, out_channels=4, width=32, cond_channels=CHANNELS, blocks=3, heads=2, io_channels=(16,)
    )  # fmt: skip
    network, statistics = awake(SlatFlow(size)), SlatStatistics((0.0,) * 4, (1.0,) * 4)
    cells = torch.cartesian_prod(*[torch.arange(16, dtype=torch.int32)] * 3)
    voxels = Voxels(cells[((cells - 7.5).norm(dim=1) - 6).abs() < 0.8], 16)
    config = SlatSampling(steps=3, guidance=Guidance(1.0), weighting=ByEntropy(), recording=Recording(1))

    def run(count: int) -> int:
        seen = views(count)

        def work() -> None:
            chunks = slat_stage.view_chunks(network, seen, voxels, config, MemoryBudget(1, 0))
            sample_slat(slat_stage.network_velocity(network), chunks, voxels, statistics, config, noise())

        return peak(work)

    few, many = run(2), run(16)
    per_view = len(voxels.coords) * 4 * 4  # a velocity
    assert many - few < 14 * 6 * per_view + 100_000
    assert slat_stage.view_cost(network, views(1), len(voxels.coords)).activations > 10 * per_view
