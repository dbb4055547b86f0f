"""Both flows at the public size with random weights: an evaluation beside the machine's own matrix products, and whole runs.

python benchmarks/full_size.py [--device cpu] [--dtype fp32] [--views 1] [--stages structure slat] [--keys anew kept] [--rounds 2]
    [--profile] [--compile default] [--blocks 2] [--tiny] [--out table.json]
python benchmarks/full_size.py --kernels [--device cpu]    # which of torch's kernels are fast on this machine
python benchmarks/full_size.py --device cuda --dtype fp16 --runs --views 1 4 8 [--steps 50] [--out table.json]

An evaluation is one velocity of all views at one time. Its operations are those of `generation/cost.py`; `share` is its rate beside
that of one large matrix product, measured before and after with the same threads and precision. Of all rounds the best counts: one
round has what is built once in it. `--runs` samples both stages in our order of work and in the public one
(`generation/public_schedule.py`: view by view, nothing kept, two evaluations of each view where guidance is on), in turns; there `ratio`
is the public time over ours. `--tiny` goes the same ways with small networks. Weights are drawn where and as they are used, so that a
network takes the memory that it takes in a reconstruction: stage 1 4 GB in fp32, and 1.5 GB for each view whose keys and values are kept.
"""

import argparse
import json
import resource
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mvsam3d.generation import slat_stage, structure_stage
from mvsam3d.generation.budget import MemoryBudget, budget_of, usable_memory
from mvsam3d.generation.cost import Run, SlatCost, StructureCost, slat_run, structure_run
from mvsam3d.generation.guidance import Guidance
from mvsam3d.generation.latents import combine, structure_noise
from mvsam3d.generation.public_schedule import public_slat, public_structure
from mvsam3d.generation.running_weights import Recording
from mvsam3d.generation.slat_stage import SlatSampling, SlatStatistics, sample_slat
from mvsam3d.generation.structure_stage import StructureSampling, sample_structure
from mvsam3d.generation.weighting import ByEntropy
from mvsam3d.io.runs import write_whole
from mvsam3d.models.checkpoints import DTYPES, product_keys
from mvsam3d.models.config import SAM3D
from mvsam3d.models.slat_flow import SlatFlow, SlatFlowConfig
from mvsam3d.models.structure_flow import StructureFlow, StructureFlowConfig
from mvsam3d.nn.attention import attention, attention_plain
from mvsam3d.nn.precision import use_fast_exact_matmul
from mvsam3d.nn.sparse import SparseGrid, SparseTensor
from mvsam3d.types import Conditions, Span, Voxels

Network = TypeVar("Network", bound=nn.Module)


@dataclass(frozen=True)
class Sizes:
    structure: StructureFlowConfig
    slat: SlatFlowConfig
    structure_keys: int
    slat_keys: int
    patches: int
    voxels: int
    product: int
    """Side of the square matrices that stand for the machine."""


FULL = Sizes(SAM3D.structure.flow, SAM3D.slat.flow, 7528, 5496, 1369, 20_000, 3072)
TINY = Sizes(
    StructureFlowConfig(width=32, blocks=2, heads=2, cond_channels=32, grid=4),
    SlatFlowConfig(resolution=16, width=32, cond_channels=32, blocks=2, heads=2, io_channels=(8,)),
    structure_keys=40,
    slat_keys=30,
    patches=9,
    voxels=300,
    product=256,
)


@dataclass(frozen=True)
class Place:
    """Where and how it is computed."""

    device: torch.device
    dtype: torch.dtype

    def autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32)

    def seconds(self, work: Callable[[], object]) -> float:
        self._wait()
        start = time.perf_counter()
        work()
        self._wait()
        return time.perf_counter() - start

    def clock_and_processor(self, work: Callable[[], object]) -> tuple[float, float]:
        """Seconds of the clock, and of this process on the processor, all threads together."""
        before = time.process_time()
        clock = self.seconds(work)
        return clock, time.process_time() - before

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def forget_peak(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()

    def peak_gib(self) -> float:
        """Since it was forgotten; on a CPU of the process so far."""
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated() / 2**30
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20

    @property
    def name(self) -> str:
        if self.device.type == "cuda":
            return torch.cuda.get_device_name()
        return f"cpu, {torch.get_num_threads()} threads"


@dataclass(frozen=True)
class Evaluated:
    stage: str
    views: int
    kept: bool
    """Keys and values of the condition are there already, as in all steps of a run but the first."""
    seconds: float
    tflop: float
    gflops: float
    peak_gflops: float
    """Of one large matrix product."""
    share: float
    share_by_processor: float | None
    """The same by the seconds of this process on the processor, which other processes do not prolong; None on a GPU."""
    memory_gib: float


@dataclass(frozen=True)
class Sampled:
    stage: str
    views: int
    steps: int
    public_seconds: float
    ours_seconds: float
    ratio: float
    """Public time over ours."""
    operations: float
    """Public operations over ours."""
    public_gib: float
    ours_gib: float


def random_network(make: Callable[[], Network], name: str, place: Place) -> Network:
    """A network whose weights are drawn in the precision and on the device where they are used; `name` as in `Models`."""
    with torch.device("meta"):
        network = make()
    half, noise = set(product_keys(name, network)), torch.Generator(place.device).manual_seed(0)

    def drawn(key: str, value: Tensor) -> Tensor:
        reach = (3 / value[0].numel()) ** 0.5 if value.dim() > 1 else 1.0  # outputs vary as inputs do
        dtype = place.dtype if key in half else value.dtype
        return torch.empty(value.shape, dtype=dtype, device=place.device).uniform_(-reach, reach, generator=noise)

    network.load_state_dict({key: drawn(key, value) for key, value in network.state_dict().items()}, assign=True)
    return network.eval().requires_grad_(False)


def matrix_gflops(side: int, place: Place, rounds: int) -> tuple[float, float]:
    """The best of several square products, by the clock and by the processor's seconds."""
    side = side if place.device.type == "cpu" else max(side, min(8192, 2 * side))
    a, b = (torch.randn(side, side, device=place.device).to(place.dtype) for _ in range(2))
    clock, processor = _best(place, lambda: a @ b, rounds)
    return 2 * side**3 / clock / 1e9, 2 * side**3 / processor / 1e9


def _best(place: Place, work: Callable[[], object], rounds: int) -> tuple[float, float]:
    times = [place.clock_and_processor(work) for _ in range(rounds)]
    return min(clock for clock, _ in times), min(processor for _, processor in times)


def conditions(views: int, keys: int, channels: int, patches: int, place: Place) -> Conditions:
    tokens = torch.randn(views, keys, channels, generator=torch.Generator().manual_seed(2))
    return Conditions(tokens.to(place.device, place.dtype), (Span("image", 0, patches + 1, 1),))


def shell(count: int, side: int) -> Voxels:
    """The cells nearest to a sphere."""
    cells = torch.cartesian_prod(*[torch.arange(side, dtype=torch.int32)] * 3)
    distance = ((cells - (side - 1) / 2).norm(dim=1) - 0.45 * side).abs()
    return Voxels(cells[distance.argsort()[:count].sort().values], side)


def slat_cost(sizes: Sizes, voxels: Voxels) -> SlatCost:
    grid = SparseGrid.batched([voxels.coords])
    levels = [grid]
    for _ in sizes.slat.io_channels:
        levels.append(levels[-1].coarse.grid)
    pairs = tuple(sum(len(block.source) for block in level.neighbours) for level in levels)
    rows, block = tuple(len(level) for level in levels), _recording(6, sizes.slat.blocks).block
    return SlatCost(sizes.slat, sizes.slat_keys, sizes.patches, rows, pairs, block)


def structure_cost(sizes: Sizes) -> StructureCost:
    return StructureCost(sizes.structure, sizes.structure_keys, sizes.patches)


def _recording(block: int, blocks: int) -> Recording:
    return Recording(min(block, blocks - 1))


def one_evaluation(cost: StructureCost | SlatCost, views: int, kept: bool) -> int:
    """Operations of a step without guidance: what a run of two has more than a run of one."""
    return cost.ours(Run(views, 2, 0), kept=kept) - cost.ours(Run(views, 1, 0), kept=kept)


# --- one evaluation ----------------------------------------------------------------------------------------------------


def structure_evaluation(
    network: StructureFlow, sizes: Sizes, views: int, place: Place, *, kept: bool
) -> Callable[[], Tensor]:
    size = network.config
    seen = conditions(views, sizes.structure_keys, size.cond_channels, sizes.patches, place)
    x = structure_noise(size.grid**3, size.latent_channels, _noise(), batch=views, device=place.device)
    x = replace(x, shape=x.shape[:1])
    velocity = structure_stage.network_velocity(network, step_size=0.0 if size.step_embedding else None)
    if kept:
        with place.autocast():
            seen = replace(seen, kept=network.keys_values(seen.tokens))
    return lambda: velocity(x, 0.25, seen).shape


def slat_evaluation(
    network: SlatFlow, sizes: Sizes, voxels: Voxels, views: int, place: Place, *, kept: bool
) -> Callable[[], Tensor]:
    size = network.config
    seen = conditions(views, sizes.slat_keys, size.cond_channels, sizes.patches, place)
    coords = voxels.coords.to(place.device)
    onto, grid = SparseGrid.batched([coords] * views), SparseGrid.batched([coords])
    x = SparseTensor(torch.randn(len(grid), size.in_channels, device=place.device), grid)
    velocity = slat_stage.network_velocity(network)
    if kept:
        with place.autocast():
            seen = replace(seen, kept=network.keys_values(seen.tokens))
    return lambda: velocity(x, 0.25, seen, onto=onto).feats


def evaluated(
    stage: str, call: Callable[[], Tensor], operations: int, views: int, kept: bool, side: int, place: Place, rounds: int
) -> Evaluated:  # fmt: skip
    results: list[Tensor] = []
    peaks = [matrix_gflops(side, place, 3)]
    place.forget_peak()
    with place.autocast():
        clock, processor = _best(place, lambda: results.append(call()), rounds)
    assert bool(results[-1].isfinite().all()), "not a number"
    memory = place.peak_gib()
    peaks.append(matrix_gflops(side, place, 3))
    peak, by_processor = (max(values) for values in zip(*peaks, strict=True))
    rate, alone = operations / clock / 1e9, operations / processor / 1e9 / by_processor
    shared = alone if place.device.type == "cpu" else None
    row = Evaluated(stage, views, kept, clock, operations / 1e12, rate, peak, rate / peak, shared, memory)
    print(
        f"| {stage} | {views} | {'kept' if kept else 'anew'} | {row.seconds:.3f} | {row.tflop:.3g} | {row.gflops:.0f} | "
        f"{row.peak_gflops:.0f} | {row.share:.2f} | {'' if shared is None else f'{shared:.2f}'} | {row.memory_gib:.1f} |",
        flush=True,
    )
    return row


def profiled(call: Callable[[], Tensor], place: Place) -> None:
    with place.autocast(), torch.profiler.profile() as seen:
        call()
    print(seen.key_averages().table(sort_by=f"self_{place.device.type}_time_total", row_limit=20))


# --- whole runs --------------------------------------------------------------------------------------------------------


class Sent:
    """A network on a device, for the public order of work, which keeps its state on the CPU: one small copy each way in a call."""

    def __init__(self, network: Any, device: torch.device) -> None:
        self.config, self._network, self._device = network.config, network, device
        self._grids: dict[int, SparseGrid] = {}

    def __call__(self, x: Any, t: Tensor, tokens: Tensor, *step: Tensor | None, probe: Any = None) -> Any:
        rest = [None if d is None else d.to(self._device) for d in (t, *step)]
        if not isinstance(x, SparseTensor):
            out = self._network(combine(self._there, x), rest[0], tokens, *rest[1:], probe=probe)
            return combine(lambda velocity: velocity.cpu(), out)
        if id(x.grid) not in self._grids:
            self._grids[id(x.grid)] = SparseGrid(x.grid.coords.to(self._device))
        out = self._network(SparseTensor(self._there(x.feats), self._grids[id(x.grid)]), rest[0], tokens, probe=probe)
        return SparseTensor(out.feats.cpu(), x.grid)

    def _there(self, value: Tensor) -> Tensor:
        return value.to(self._device)


def structure_runs(
    network: StructureFlow, sizes: Sizes, views: int, steps: int, place: Place
) -> list[Callable[[], Any]]:
    """The public order of work, and ours."""
    size = network.config
    seen = conditions(views, sizes.structure_keys, size.cond_channels, sizes.patches, place)
    how = StructureSampling(steps, guidance=Guidance(7.0), weighting=ByEntropy(), recording=_recording(9, size.blocks))
    budget = _budget(place)

    def ours() -> object:
        velocity = structure_stage.network_velocity(network, step_size=0.0 if size.step_embedding else None)
        chunks = structure_stage.view_chunks(network, seen, how, budget)
        return sample_structure(velocity, chunks, (size.grid**3, size.latent_channels), how, _noise())

    sent: Any = Sent(network, place.device)
    return [lambda: public_structure(sent, seen, how, _noise()), ours]


def slat_runs(
    network: SlatFlow, sizes: Sizes, voxels: Voxels, views: int, steps: int, place: Place
) -> list[Callable[[], Any]]:
    size = network.config
    seen = conditions(views, sizes.slat_keys, size.cond_channels, sizes.patches, place)
    how = SlatSampling(
        steps, guidance=Guidance(1.0), weighting=ByEntropy(), recording=_recording(6, size.blocks), noise_compat=True
    )
    statistics, budget = SlatStatistics((0.0,) * size.in_channels, (1.0,) * size.in_channels), _budget(place)

    def ours() -> object:
        velocity, show = slat_stage.network_velocity(network), slat_stage.network_attention(network)
        chunks = slat_stage.view_chunks(network, seen, voxels, how, budget)
        return sample_slat(velocity, chunks, voxels, statistics, how, _noise(), show_attention=show)

    sent: Any = Sent(network, place.device)
    return [lambda: public_slat(sent, seen, voxels, statistics, how, _noise()), ours]


def _noise() -> torch.Generator:
    return torch.Generator().manual_seed(1)


def _budget(place: Place) -> MemoryBudget:
    """As in a reconstruction; the weights are there already."""
    return MemoryBudget() if place.device.type == "cpu" else budget_of(usable_memory(place.device), 0)


def sampled(
    stage: str, ways: Sequence[Callable[[], Any]], views: int, steps: int, operations: float, place: Place, rounds: int
) -> Sampled:
    taken: list[list[float]] = [[] for _ in ways]
    memory = [0.0 for _ in ways]
    for _ in range(rounds + 1):
        for i, way in enumerate(ways):
            place.forget_peak()
            with place.autocast():
                taken[i].append(place.seconds(way))
            memory[i] = place.peak_gib()
    public, ours = (min(times[1:]) for times in taken)  # the first is for warming up
    row = Sampled(stage, views, steps, public, ours, public / ours, operations, *memory)
    print(
        f"| {stage} | {views} | {steps} | {row.public_seconds:.2f} | {row.ours_seconds:.2f} | {row.ratio:.2f} | {row.operations:.2f} | "
        f"{row.public_gib:.1f} | {row.ours_gib:.1f} |",
        flush=True,
    )
    return row


# --- kernels -----------------------------------------------------------------------------------------------------------


@torch.no_grad()
def kernels(place: Place, scale: int) -> dict[str, float]:
    """GFLOP/s of the products that the networks are made of, in the ways torch offers; `scale` divides the sizes."""
    tokens, width, keys, channels, grid = 4096 // scale, 1024 // scale, 7528 // scale, 512 // scale, 16
    found: dict[str, float] = {}

    def measure(name: str, work: int, function: Callable[..., object], *values: Tensor) -> None:
        function(*values)
        found[name] = work / min(place.seconds(lambda: function(*values)) for _ in range(3)) / 1e9
        print(f"| {name} | {found[name]:.0f} |", flush=True)

    def measure_all(tag: str, dtype: torch.dtype) -> None:
        def some(*shape: int) -> Tensor:
            return torch.randn(shape).to(place.device, dtype)

        measure(f"linear, {tag}", 8 * tokens * width**2, F.linear, some(tokens, width), some(4 * width, width))
        looked = some(1, tokens, 4, 64), some(1, keys, 4, 64), some(1, keys, 4, 64)
        measure(f"attention, {tag}", 4 * 4 * 64 * tokens * keys, attention, *looked)
        if dtype == torch.float32:
            measure(f"attention written out, {tag}", 4 * 4 * 64 * tokens * keys, attention_plain, *looked)
            cube, kernel = some(1, channels, grid, grid, grid), some(channels, channels, 3, 3, 3)
            work, convolved = 54 * channels**2 * grid**3, partial(F.conv3d, padding=1)
            measure(f"3D convolution, {tag}", work, convolved, cube, kernel)
            last = [value.to(memory_format=torch.channels_last_3d) for value in (cube, kernel)]
            measure(f"3D convolution, channels last, {tag}", work, convolved, *last)

    print("| kernel | GFLOP/s |\n|---|---|")
    measure_all("fp32", torch.float32)
    if place.device.type == "cpu" and use_fast_exact_matmul():
        measure_all("fp32 by oneDNN", torch.float32)
    for name in ("bf16", "fp16"):
        measure_all(name, DTYPES[name])
    return found


# --- the command -------------------------------------------------------------------------------------------------------


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--dtype", default="fp32", choices=list(DTYPES))
    parser.add_argument("--views", type=int, nargs="+", default=[1])
    parser.add_argument("--stages", nargs="+", default=["structure", "slat"], choices=["structure", "slat"])
    parser.add_argument(
        "--keys", nargs="+", default=["anew", "kept"], choices=["anew", "kept"], help="of the condition"
    )
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--steps", type=int, help="of --runs; left out, 50 and 25")
    parser.add_argument("--runs", action="store_true")
    parser.add_argument("--kernels", action="store_true")
    parser.add_argument("--profile", action="store_true")
    parser.add_argument(
        "--compile", choices=["default", "reduce-overhead", "max-autotune"], help="mode of torch.compile"
    )
    parser.add_argument("--blocks", type=int, help="of each network, so that little time tells; left out, all")
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    if options.device == "cuda" and not torch.cuda.is_available():
        raise SystemExit("torch finds no CUDA device here: leave --device out, or run this where there is one")
    place, sizes = Place(torch.device(options.device), DTYPES[options.dtype]), TINY if options.tiny else FULL
    if options.blocks is not None:
        flows = (replace(flow, blocks=options.blocks) for flow in (sizes.structure, sizes.slat))
        sizes = replace(sizes, **dict(zip(("structure", "slat"), flows, strict=True)))
    content: dict[str, Any] = {
        "device": place.name,
        "torch": torch.__version__,
        "options": {**vars(options), "out": None},
    }
    print(place.name)
    if options.kernels:
        content["kernels"] = kernels(place, 16 if options.tiny else 1)
    else:
        content["oneDNN"] = use_fast_exact_matmul()
        content["runs" if options.runs else "evaluations"] = measured(options, sizes, place)
    if options.out is not None:
        write_whole(options.out, (json.dumps(content, indent=1, allow_nan=False) + "\n").encode())


def measured(options: argparse.Namespace, sizes: Sizes, place: Place) -> list[dict[str, Any]]:
    heads = "stage | views | keys | s | TFLOP | GFLOP/s | matrix peak | share | by processor time | GiB"
    if options.runs:
        heads = "stage | views | steps | public, s | ours, s | ratio | of operations | public, GiB | ours, GiB"
    print(f"| {heads} |\n" + "|---" * (heads.count("|") + 1) + "|")
    rows: list[Evaluated | Sampled] = []
    for stage in options.stages:
        rows += (structure_rows if stage == "structure" else slat_rows)(options, sizes, place)
    return [asdict(row) for row in rows]


def structure_rows(options: argparse.Namespace, sizes: Sizes, place: Place) -> Iterator[Evaluated | Sampled]:
    network = random_network(lambda: StructureFlow(sizes.structure), "structure_flow", place)
    compile_blocks(network, options.compile)
    cost, steps = structure_cost(sizes), options.steps or 50
    for views in options.views:
        if options.runs:
            ways, run = structure_runs(network, sizes, views, steps, place), structure_run(views, steps)
            yield sampled("structure", ways, views, steps, cost.public(run) / cost.ours(run), place, options.rounds)
            continue
        for kept in (way == "kept" for way in options.keys):
            call, work = (
                structure_evaluation(network, sizes, views, place, kept=kept),
                one_evaluation(cost, views, kept),
            )
            yield evaluated("structure", call, work, views, kept, sizes.product, place, options.rounds)
            if options.profile:
                profiled(call, place)


def slat_rows(options: argparse.Namespace, sizes: Sizes, place: Place) -> Iterator[Evaluated | Sampled]:
    network = random_network(lambda: SlatFlow(sizes.slat), "slat_flow", place)
    compile_blocks(network, options.compile)
    voxels = shell(sizes.voxels, sizes.slat.resolution)
    cost, steps = slat_cost(sizes, voxels), options.steps or 25
    for views in options.views:
        if options.runs:
            ways, run = slat_runs(network, sizes, voxels, views, steps, place), slat_run(views, steps)
            operations = cost.public(run) / cost.ours(run, noise_compat=True)
            yield sampled("slat", ways, views, steps, operations, place, options.rounds)
            continue
        for kept in (way == "kept" for way in options.keys):
            call = slat_evaluation(network, sizes, voxels, views, place, kept=kept)
            work = one_evaluation(cost, views, kept)
            yield evaluated("slat", call, work, views, kept, sizes.product, place, options.rounds)
            if options.profile:
                profiled(call, place)


def compile_blocks(network: StructureFlow | SlatFlow, mode: str | None) -> None:
    if mode is not None:
        for block in network.blocks:
            block.compile(mode=mode)


if __name__ == "__main__":
    main()
