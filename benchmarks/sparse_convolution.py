"""Submanifold convolution against spconv's CPU wheel: 3 x 3 x 3, float32, the voxels of a sphere's surface.

    pip install spconv        # for this comparison alone
    python benchmarks/sparse_convolution.py [--voxels 20000] [--channels 128] [--rounds 8]

Both run in turn, and the best of the rounds counts, so that other processes disturb both alike. `ratio` is spconv's
time over ours: above 1 we are faster. spconv runs in its training mode, the only one that adds a bias on a CPU.
"""

import argparse
import time
from collections.abc import Callable

import torch

from mvsam3d.nn.sparse import SparseConv3d, SparseGrid, SparseTensor


def shell(voxels: int, resolution: int) -> torch.Tensor:
    """The cells nearest to a sphere, sorted."""
    axis = torch.arange(resolution)
    cells = torch.cartesian_prod(axis, axis, axis)
    distance = ((cells - (resolution - 1) / 2).norm(dim=1) - 0.45 * resolution).abs()
    return cells[distance.argsort()[:voxels].sort().values].int()


def seconds(call: Callable[[], object]) -> tuple[float, float]:
    """Of the clock, and of the processor: all threads together, other processes left out."""
    clock, processor = time.perf_counter(), time.process_time()
    call()
    return time.perf_counter() - clock, time.process_time() - processor


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--voxels", type=int, default=20_000)
    parser.add_argument("--channels", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=8)
    args = parser.parse_args()
    torch.manual_seed(0)
    coords, feats = shell(args.voxels, 64), torch.randn(args.voxels, args.channels)
    ours = SparseConv3d(args.channels, args.channels)
    grid = SparseGrid.batched([coords])
    calls: dict[str, Callable[[], torch.Tensor]] = {
        "ours, map shared": lambda: ours(SparseTensor(feats, grid)).feats,
        "ours, map built": lambda: ours(SparseTensor(feats, SparseGrid.batched([coords]))).feats,
    }
    calls |= spconv_calls(ours, grid, feats)
    outputs = [call() for call in calls.values()]
    difference = max((output - outputs[0]).abs().max().item() for output in outputs)
    rounds = [{name: seconds(call) for name, call in calls.items()} for _ in range(args.rounds)]
    clock, processor = ({name: min(times[name][i] for times in rounds) for name in calls} for i in range(2))
    neighbours = sum(len(block.source) for block in grid.neighbours) / args.voxels
    print(f"{args.voxels} voxels x {args.channels} channels, {torch.get_num_threads()} threads; ", end="")
    print(f"{neighbours:.1f} neighbours each; results differ by {difference:.1e}")
    for name in calls:
        print(f"{name:20s} {clock[name] * 1e3:8.1f} ms, {processor[name] * 1e3:8.1f} ms of processor time")
    for kind in ("map shared", "map built"):
        ratios = [times[f"spconv, {kind}"] / times[f"ours, {kind}"] for times in (clock, processor)]
        print(f"ratio, {kind}: {ratios[0]:.2f}, by processor time {ratios[1]:.2f}")


def spconv_calls(ours: SparseConv3d, grid: SparseGrid, feats: torch.Tensor) -> dict[str, Callable[[], torch.Tensor]]:
    """The same layer by spconv, with the map kept and with the map built anew."""
    try:
        import spconv.pytorch as spconv
    except ImportError as error:
        raise SystemExit("spconv is not installed: pip install spconv") from error
    out_channels, in_channels = ours.conv.weight.shape[0], ours.conv.weight.shape[-1]
    layer = spconv.SubMConv3d(in_channels, out_channels, 3, indice_key="map").train()
    layer.load_state_dict({"weight": ours.conv.weight, "bias": ours.conv.bias})

    def fresh() -> "spconv.SparseConvTensor":
        return spconv.SparseConvTensor(feats, grid.coords, [64, 64, 64], grid.batch_size)

    kept = fresh()
    layer(kept)  # leaves its map in `kept`
    return {"spconv, map shared": lambda: layer(kept).features, "spconv, map built": lambda: layer(fresh()).features}


if __name__ == "__main__":
    with torch.no_grad():
        main()
