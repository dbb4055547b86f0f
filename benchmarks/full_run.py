"""A whole run of the public model's size with random weights, photos to GLB and PLY: time and memory beside what was foretold.

python -m benchmarks.full_run FOLDER [--photos examples/sofa] [--views 1] [--steps 1 1] [--dtype auto] [--memory-budget 12]
    [--tiny] [--out table.json]

FOLDER gets `hf`, a checkpoint as it is published (12 GB, made once; names, prefixes and precisions are the real ones), a depth map
for the photos, and `result`, what `mvsam3d reconstruct` makes of them. Random weights know no objects. So that all that follows works on
what objects have, some weights are chosen: kernels of the structure decoder are alike in all directions, and the bias of its last layer
leaves 15,000 voxels of a run's first noise, the inside dropped; the flows' last layers are small, so that latents stay near the noise;
signed distances of the mesh are -1 / R in active voxels, so that the surface goes around them.

Memory is what the process holds (resident, mapped files included) at most while a network is loaded and at work, less what it held
before the first came; `foretold` is by `generation/footprint.py`, the same numbers as in `mvsam3d doctor`.
"""

import argparse
import json
import logging
import resource
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from mvsam3d.flags import Reconstruct, job_from_flags
from mvsam3d.generation.budget import MemoryBudget
from mvsam3d.generation.footprint import Footprint, footprints
from mvsam3d.generation.latents import structure_noise
from mvsam3d.generation.voxels import VoxelsConfig, occupied_voxels
from mvsam3d.geometry.cameras import centred_intrinsics
from mvsam3d.io.depth import write_depth_npz
from mvsam3d.io.photos import load_photos
from mvsam3d.io.runs import write_whole
from mvsam3d.jobs import Job, Loaded, planned, run_job
from mvsam3d.meshing.isosurface import SDF
from mvsam3d.models import public_config
from mvsam3d.models.bundle import COMES, GOES
from mvsam3d.models.checkpoints import weight_bytes
from mvsam3d.models.mesh_decoder import MeshDecoder
from mvsam3d.models.slat_flow import SlatFlow
from mvsam3d.models.structure_flow import StructureFlow
from mvsam3d.models.structure_vae import StructureDecoder, Up, grid_from_tokens
from mvsam3d.views.depth_maps import resized
from tests.models import public_folder

GB = 1e9
VOXELS = 15_000  # of 64^3; in another grid as many as a surface has
SEED = 42
CALM = 0.002  # of the flows' last layers
NEAR, FAR = 1.5, 3.0  # depth of the object's middle and of all else
PROCESS_RES = 504
EACH = 0.02  # seconds between two looks at what is resident


# --- a checkpoint and a depth map --------------------------------------------------------------------------------------------


@torch.no_grad()
def shaped(name: str, network: nn.Module, size: public_folder.Size) -> None:
    """Choose the weights that make what a random network says like what is said of an object."""
    if isinstance(network, StructureFlow | SlatFlow):
        for key, value in network.named_parameters():
            if key.endswith(("out_layer.weight", "out_layer.bias")):
                value.mul_(CALM)
    elif isinstance(network, MeshDecoder):
        network.out_layer.weight[SDF] = 0
        network.out_layer.bias[SDF] = 0
    elif isinstance(network, StructureDecoder):
        _smooth(network)
        _occupy(network, size)


def _smooth(network: StructureDecoder) -> None:
    for part in network.modules():
        if isinstance(part, nn.Conv3d):
            mean = part.weight.mean(dim=(2, 3, 4), keepdim=True)
            part.weight.copy_((mean * part.weight[0, 0].numel() ** 0.5).expand_as(part.weight))
        if isinstance(part, Up):  # the eight cells that a cell becomes are alike
            for value in part.conv.parameters():
                value.copy_(value[::8].repeat_interleave(8, dim=0))


def _occupy(network: StructureDecoder, size: public_folder.Size) -> None:
    """The bias at which so many cells of the noise that a run begins with are occupied and near an empty one, by halving.

    It is sought above the median, as no object fills half of the grid.
    """
    noise = structure_noise(size.grids[0] ** 3, network.config.latent_channels, torch.Generator().manual_seed(SEED))
    logits = network(grid_from_tokens(noise.shape))[0, 0]
    wanted = VOXELS * len(logits) ** 2 // 64**2
    low, high = float(logits.median()), float(logits.max())
    for _ in range(30):
        middle = (low + high) / 2
        many = len(occupied_voxels(logits, VoxelsConfig(middle)).coords) > wanted
        low, high = (middle, high) if many else (low, middle)
    last = network.out_layer[2]
    assert isinstance(last, nn.Conv3d)
    assert last.bias is not None
    last.bias.sub_(high)


def checkpoint(folder: Path, size: public_folder.Size) -> Path:
    """The folder of the checkpoint; made if it is not there."""
    made = folder / "hf"
    if not (made / "slat_decoder_mesh.ckpt").is_file():  # the last that is written
        public_folder.write_public_folder(made, size, partial(shaped, size=size))
    return made


def depth_map(folder: Path, scene: Path) -> Path:
    """da3_output.npz: the object's mask stands before a wall, and bulges."""
    photos, _ = load_photos(scene)
    depth, lenses = [], []
    for photo in photos:
        width, height = resized((photo.mask.shape[1], photo.mask.shape[0]), PROCESS_RES)
        rows = (np.arange(height) * photo.mask.shape[0]) // height
        columns = (np.arange(width) * photo.mask.shape[1]) // width
        mask = photo.mask[rows][:, columns]
        away = np.hypot(*np.meshgrid(np.linspace(-1, 1, width), np.linspace(-1, 1, height)))
        depth.append(np.where(mask, NEAR + 0.3 * away, FAR).astype(np.float32))
        lens = centred_intrinsics(width, height)
        lens[:2, 2] -= 0.5  # of these files pixels are counted from the centre of the first
        lenses.append(lens)
    turns = [2 * np.pi * i / len(photos) for i in range(len(photos))]
    cameras = [[[np.cos(a), 0, np.sin(a), 0], [0, 1, 0, 0], [-np.sin(a), 0, np.cos(a), NEAR]] for a in turns]
    path = folder / "da3_output.npz"
    write_depth_npz(
        path,
        depth=np.stack(depth),
        camera_from_world=np.array(cameras),
        intrinsics=np.stack(lenses),
        image_files=[f"{photo.name}.jpg" for photo in photos],
        process_res=PROCESS_RES,
    )
    return path


# --- what is watched ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Watched:
    """A network at work, or a stage in which none is."""

    name: str
    seconds: float
    resident: int
    """Bytes at most, mapped files among them."""
    own: int
    """Bytes at most without mapped files."""


class Watch(logging.Handler):
    """Told by the log when networks come and go, and by the progress when stages do; looks at the process's memory all the time."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.rows: list[Watched] = []
        self.base: tuple[int, int] | None = None
        self._begun: dict[str, tuple[float, list[int]]] = {}
        self._done = threading.Event()
        self._looking = threading.Thread(target=self._look, daemon=True)

    def emit(self, record: logging.LogRecord) -> None:
        if record.msg in (COMES, GOES) and isinstance(record.args, tuple):
            (self.begin if record.msg == COMES else self.end)(str(record.args[0]))

    def progress(self, stage: str, done: int, of: int) -> None:
        if stage in ("mesh", "poses", "outlines", "texture", "writing"):
            if done == 0:
                self.begin(stage)
            elif done == of and stage in self._begun:
                self.end(stage)

    def begin(self, name: str) -> None:
        self.base = self.base or resident()
        self._begun[name] = time.perf_counter(), [0, 0]

    def end(self, name: str) -> None:
        start, most = self._begun.pop(name)
        now = resident()
        self.rows.append(Watched(name, time.perf_counter() - start, *(max(a, b) for a, b in zip(most, now))))
        print(
            f"{name}: {self.rows[-1].seconds:.1f} s, {self.rows[-1].resident / GB:.2f} GB", file=sys.stderr, flush=True
        )

    @contextmanager
    def watching(self) -> Iterator[None]:
        package = logging.getLogger("mvsam3d")
        package.setLevel(logging.DEBUG)
        package.addHandler(self)
        self._looking.start()
        try:
            yield
        finally:
            self._done.set()
            self._looking.join()
            package.removeHandler(self)

    def _look(self) -> None:
        while not self._done.wait(EACH):
            now = resident()
            for _, most in list(self._begun.values()):
                most[:] = (max(a, b) for a, b in zip(most, now))


def resident() -> tuple[int, int]:
    """Bytes of this process in memory: all, and without mapped files."""
    pages = [int(value) for value in Path("/proc/self/statm").read_text().split()]
    size = resource.getpagesize()
    return pages[1] * size, (pages[1] - pages[2]) * size


# --- the run -----------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Row:
    """A stage, foretold and measured; bytes."""

    network: str
    seconds: float
    weights: int
    kept: int
    activations: int
    foretold: int
    measured: int
    measured_own: int
    """Without mapped files, in which float32 weights lie."""
    ratio: float
    """Measured over foretold."""


def measured(job: Job) -> tuple[list[Row], list[Watched], dict[str, Any]]:
    loaded = Loaded(job.model, job.device, job.dtype)
    budget = planned(loaded, job.memory)
    watch = Watch()
    with watch.watching():
        report = run_job(job, progress=watch.progress)
    assert watch.base is not None
    stages = foretold(job, loaded, budget, len(report["views"]), report["voxels"]["count"])
    found = {row.name: row for row in watch.rows}
    rows = []
    for stage in stages:
        seen = found["mesh" if stage.network == "surface" else stage.network]
        most, own = seen.resident - watch.base[0], seen.own - watch.base[1]
        sizes = (stage.weights, stage.kept, stage.activations, stage.total)
        rows.append(Row(stage.network, seen.seconds, *sizes, most, own, most / stage.total))
    return rows, [row for row in watch.rows if row.name in ("poses", "outlines", "texture", "writing")], report


def foretold(job: Job, loaded: Loaded, budget: MemoryBudget, views: int, voxels: int) -> Sequence[Footprint]:
    models = loaded.checkpoint.empty()
    weights = {network: weight_bytes(models, network, loaded.dtype) for network in loaded.checkpoint.parts}
    return footprints(
        loaded.size,
        weights,
        views=views,
        voxels=voxels,
        dtype=loaded.dtype,
        budget=budget,
        steps=(job.structure_steps or 2, job.slat_steps or 2),
    )


def told(rows: Sequence[Row], rest: Sequence[Watched]) -> None:
    print(
        "| network | s | weights | kept | activations | foretold, GB | measured, GB | without files | ratio |\n"
        + "|---" * 9
        + "|"
    )
    for row in rows:
        sizes = (row.weights, row.kept, row.activations, row.foretold, row.measured, row.measured_own)
        text = " | ".join(f"{size / GB:.2f}" for size in sizes)
        print(f"| {row.network} | {row.seconds:.1f} | {text} | {row.ratio:.2f} |")
    for stage in rest:
        print(f"| {stage.name} | {stage.seconds:.1f} |" + " |" * 7)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--photos", type=Path, default=Path(__file__).parents[1] / "examples" / "sofa")
    parser.add_argument("--views", type=int, default=1)
    parser.add_argument("--steps", type=int, nargs=2, default=[1, 1], help="of both stages")
    parser.add_argument("--dtype", default="auto", choices=["auto", "fp32", "bf16", "fp16"])
    parser.add_argument("--memory-budget", type=float, help="GiB; left out: what is free, less a tenth")
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--make", action="store_true", help="the checkpoint only")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    if options.tiny:
        public_config.VITS[public_folder.TINY_VIT] = public_folder.VIT
    options.folder.mkdir(parents=True, exist_ok=True)
    model = checkpoint(options.folder, public_folder.TINY if options.tiny else public_folder.PUBLISHED)
    if options.make:
        return
    depth = depth_map(options.folder, options.photos)
    names = [photo.name for photo in load_photos(options.photos)[0]][: options.views]
    flags = Reconstruct(
        options.photos,
        views=",".join(names),
        model=str(model),
        seed=SEED,
        out=options.folder / "result",
        overwrite=True,
        dtype=options.dtype,
        memory_budget=options.memory_budget,
        no_cache=True,
        stage1_steps=options.steps[0],
        stage2_steps=options.steps[1],
        da3_output=depth,
    )
    job = job_from_flags(flags)
    start = time.perf_counter()
    rows, rest, report = measured(job)
    told(rows, rest)
    whole = {"seconds": time.perf_counter() - start, "threads": torch.get_num_threads(), "torch": torch.__version__}
    whole |= {name: report[name] for name in ("voxels", "gaussians", "mesh", "peak_memory_mib")}
    print(json.dumps(whole))
    content = whole | {"options": {**vars(options), "folder": None, "photos": None, "out": None}}
    content |= {"stages": [asdict(row) for row in rows], "rest": [asdict(row) for row in rest]}
    if options.out is not None:
        write_whole(options.out, (json.dumps(content, indent=1, allow_nan=False) + "\n").encode())


if __name__ == "__main__":
    main()
