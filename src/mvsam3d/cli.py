"""Command line: parse, call, print; no logic."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from mvsam3d.errors import MvSam3dError, NotReady
from mvsam3d.flags import Reconstruct, job_from_flags, public_folder, without_photos_flag

if TYPE_CHECKING:
    from mvsam3d.evaluation.runner import Standing
    from mvsam3d.pipeline import Progress

INTERRUPTED = 130  # exit status of a command ended by Ctrl-C
SHOWN = ("result", "preview")  # beginnings of the files that are named at the end


@dataclass(frozen=True)
class View:
    """Show a result's mesh and splat side by side in the browser."""

    folder: Annotated[Path, tyro.conf.Positional]
    """A result folder."""
    port: int = 8080
    no_browser: bool = False
    """Only serve the page."""


@dataclass(frozen=True)
class Cameras:
    """Where photos were taken from, by matching points -> cameras.json (needs pip install "mvsam3d[pose]")."""

    photos: Annotated[Path, tyro.conf.Positional]
    """Folder of the photos and masks of one object."""
    object: str | None = None
    """The mask folder; may be left out if there is only one."""
    views: str | None = None
    """Names of the photos to use, as 0,2,5; all if left out."""
    out: Path | None = None
    """File to write; <name of the photos' folder>_cameras.json if left out. An existing one is not overwritten."""


@dataclass(frozen=True)
class Depth:
    """Depth Anything 3 on photos -> da3_output.npz, scene.glb, depth pictures (needs its package and weights)."""

    photos: Annotated[Path, tyro.conf.Positional]
    """Folder of photos, or a scene with images/."""
    out: Annotated[Path | None, tyro.conf.arg(aliases=("--output-dir", "--output-path"))] = None
    """Folder to make; da3_outputs/<name of the photos' folder> if left out."""
    model_path: str | None = None
    """Folder of weights, or a name on the Hugging Face hub; found in checkpoints/ and the hub's cache if left out."""
    process_res: int = 504
    """Longest side of a photo as the network sees it, pixels."""
    no_vis: bool = False
    """No scene.glb and no pictures."""
    device: str = "cpu"


@dataclass(frozen=True)
class Downsample:
    """Thin out the points of a GLB or PLY: the mean of each cell, every n-th point, or a share by chance."""

    source: Annotated[Path, tyro.conf.Positional]
    """GLB or PLY: points, a mesh (its vertices), or Gaussians."""
    output: Annotated[Path, tyro.conf.arg(aliases=["-o"])]
    """.ply or .glb."""
    voxel: float | None = None
    """Side of the cells."""
    uniform: int | None = None
    """Every so many points."""
    random: float | None = None
    """Share to keep, in (0, 1]."""
    seed: int = 42
    """Of --random."""


@dataclass(frozen=True)
class Train:
    """Train the networks of a recipe, one part after the other; goes on from where an earlier call stopped."""

    recipe: Annotated[str, tyro.conf.Positional]
    """Name of the recipe: small, tiny (to try the trainer), or baseline (a network of another kind, to compare with)."""
    run: Path = Path("runs/small")
    """Folder of the run: checkpoints, metrics, plots."""
    data: Path = Path("cache")
    """Folder of the training shards."""
    part: Literal["structure_vae", "structure_flow", "slat_vae", "slat_flow", "lifting", "lifting_detail"] | None = None
    """Train this part only; all in order if left out."""
    minutes: float | None = None
    """Stop after so many minutes; the next call continues."""
    steps: int | None = None
    """Length of each part's whole run, instead of the recipe's."""
    device: Literal["cpu", "cuda"] = "cpu"
    precision: Literal["fp32", "bf16"] = "fp32"
    threads: int = 0
    """Of the trainer on a CPU; 0: all cores."""
    workers: int = 0
    """Processes that make data beside the trainer; 0: make what is missing first, in this process."""
    shards: int | None = None
    """Shards of training data to make, instead of the recipe's number."""
    meshes: Path | None = None
    """Folder (or zip) of meshes with index.json, to train on beside generated objects."""
    start: str | None = None
    """Run folder, checkpoint folder or model name whose weights the parts begin with; the autoencoders are then kept as they are."""
    seed: int | None = None
    """Of weights, draws and noise, instead of the recipe's."""
    export: Path | None = None
    """Write a checkpoint folder of the run's averaged weights, and train nothing."""


@dataclass(frozen=True)
class Evaluate:
    """Systems on a folder of true objects -> tables with intervals, and a page to look at; an ended run goes on where it stopped."""

    folder: Annotated[Path, tyro.conf.Positional]
    """Textured meshes (GLB, OBJ, PLY; or with index.json), or photos of real objects with cameras.json and mesh.glb."""
    out: Path
    """Folder of the results; one that was begun with the same options is gone on with."""
    views: str = "1,4"
    """Numbers of photos that go in, with commas."""
    systems: tuple[str, ...] = ("ours", "ours:cameras=no", "hull")
    """Each [LABEL=]KIND[:REST]. ours, plain-mean, best-single-view (an oracle): OPTION=VALUE,... of model, cameras (yes, no), fusion,
    weighting, shape_only (yes: stage 1 alone, for protocols that measure solids). hull. baseline:weights=FILE of `train baseline`.
    external:COMMAND with {photos} {masks} {cameras} {out}, run without a shell. folder:PATH of results made elsewhere. external@truth and
    folder@truth: meshes in the cameras' world. The first is compared with the others."""
    protocol: str = "default"
    """default, P1 (EscherNet GSO), P3 (ReconViaGen), P4 (ReconPlusGen), P5 (Mix3R), P7 (ShapeNet-R2N2): cameras, alignment, metrics."""
    split: str | None = None
    """Of a folder with index.json: val, train."""
    up: Literal["y", "z"] = "y"
    """Axis that points up in the true meshes; those of an index.json and of photographed scenes have +Z up in any case."""
    objects: int | None = None
    """At most so many, evenly spread over the folder."""
    seed: int = 0
    jobs: int | None = None
    """Answers made at a time, each by a process; 1 if left out, with --ray all CPUs of the cluster."""
    ray: bool = False
    """Let a Ray cluster do it (the one that RAY_ADDRESS names, or this machine); needs pip install "mvsam3d[ray]"."""
    time_limit: float = 1800.0
    """Seconds that an external command may take for one object."""
    device: str = "cpu"
    """Of our networks: cpu, cuda, cuda:1, mps."""
    lpips: Path | None = None
    """Folder with the weights of LPIPS (AlexNet); without it LPIPS is named as missing."""


@dataclass(frozen=True)
class Convert:
    """A checkpoint folder, the public one too -> one of our own: safetensors, each copied backbone once."""

    source: Annotated[Path, tyro.conf.Positional]
    """Folder of a checkpoint."""
    out: Annotated[Path, tyro.conf.Positional]
    """Folder to make."""
    dtype: Literal["fp32", "bf16", "fp16"] = "fp32"
    """Of the weights of matrix products; norms and positions stay fp32."""
    overwrite: bool = False
    """Replace a checkpoint that is there."""


@dataclass(frozen=True)
class Doctor:
    """Is this machine ready for this checkpoint? Versions, devices, files, memory and time of a run, a short try. Exit status 0: yes."""

    model: str = "small"
    """As for reconstruct."""
    device: str = "cpu"
    dtype: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    views: int = 4
    """Photos of the run whose memory and time are told."""
    voxels: int | None = None
    """Its active voxels: 5,000 to 30,000 with the public model; 20,000 if left out."""
    memory_budget: float | None = None
    """GiB of the device that may be used; left out: what is free, less a tenth."""
    no_hashes: bool = False
    """Do not read all weights to compare them with what was published."""


Command = (
    Annotated[Reconstruct, tyro.conf.subcommand("reconstruct")]
    | Annotated[Cameras, tyro.conf.subcommand("cameras")]
    | Annotated[Depth, tyro.conf.subcommand("depth")]
    | Annotated[Downsample, tyro.conf.subcommand("downsample")]
    | Annotated[View, tyro.conf.subcommand("view")]
    | Annotated[Convert, tyro.conf.subcommand("convert")]
    | Annotated[Doctor, tyro.conf.subcommand("doctor")]
    | Annotated[Train, tyro.conf.subcommand("train")]
    | Annotated[Evaluate, tyro.conf.subcommand("evaluate")]
)


def main(arguments: list[str] | None = None) -> int:
    """Entry point of `mvsam3d`. Returns the exit status."""
    command: Command = _parsed(Command, "mvsam3d", arguments)
    return _guarded("mvsam3d", lambda: _dispatch(command))


def public_main(arguments: list[str] | None = None) -> int:
    """Entry point of run_inference_weighted.py: the same flags, both stages weighted by entropy, results where it puts them."""
    flags: Reconstruct = _parsed(Reconstruct, "run_inference_weighted.py", arguments)
    flags = replace(flags, weighting=flags.weighting or "entropy", debug_images=True)
    return _guarded("run_inference_weighted.py", lambda: _reconstruct(flags, public_folder(flags, datetime.now())))


def _parsed(kind: Any, name: str, arguments: list[str] | None) -> Any:
    """What a command line says; exits with status 2 where it says nothing that is known."""
    given = without_photos_flag(sys.argv[1:] if arguments is None else arguments)
    return tyro.cli(kind, prog=name, args=given, config=(tyro.conf.FlagCreatePairsOff,))


def _guarded(name: str, run: Callable[[], None]) -> int:
    """Exit status of a command; what is wrong with the input is one line."""
    try:
        run()
    except MvSam3dError as error:
        print(f"{name}: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"{name}: {error.filename or 'a file'} cannot be used: {error.strerror or error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"{name}: interrupted", file=sys.stderr)
        return INTERRUPTED
    return 0


def _dispatch(command: Command) -> None:
    match command:
        case Reconstruct():
            _reconstruct(command)
        case Cameras():
            _cameras(command)
        case Depth():
            _depth(command)
        case Downsample():
            _downsample(command)
        case View():
            _view(command)
        case Convert():
            _convert(command)
        case Doctor():
            _doctor(command)
        case Train():
            _train(command)
        case Evaluate():
            _evaluate(command)


def _reconstruct(flags: Reconstruct, out: Path | None = None) -> None:
    from mvsam3d.jobs import run_job
    from mvsam3d.results import FORMATS

    job = job_from_flags(flags, out)
    with _progress(quiet=flags.quiet) as progress, _warnings(quiet=flags.quiet):
        run_job(job, progress=progress)
    if flags.quiet:
        return
    for file in sorted(job.out.rglob("*")):
        if file.name.startswith(SHOWN) and file.is_file():
            print(file)
    if len(job.formats) == len(FORMATS):
        print(f"to look at it: mvsam3d view {job.out if len(job.objects) == 1 else job.out / str(job.objects[0])}")


def _cameras(command: Cameras) -> None:
    from mvsam3d.io.cameras import check_new, write_cameras
    from mvsam3d.io.photos import load_photos
    from mvsam3d.perception.structure_from_motion import find_cameras

    out = command.out or Path(f"{command.photos.resolve().name}_cameras.json")
    check_new(out)
    views = None if command.views is None else command.views.split(",")
    photos, _ = load_photos(command.photos, object_name=command.object, views=views)
    with _warnings(quiet=False):
        found = find_cameras(photos)
    write_cameras(out, found.cameras)
    for line in found.lines():
        print(line)
    print(out)


def _depth(command: Depth) -> None:
    from mvsam3d.perception.depth_anything import DepthOptions, run_depth

    out = command.out or Path("da3_outputs") / command.photos.resolve().name
    options = DepthOptions(command.photos, out, command.model_path, command.process_res, command.no_vis, command.device)
    run_depth(options)
    print(f"{out}/da3_output.npz")


def _downsample(command: Downsample) -> None:
    from mvsam3d.io.point_clouds import Downsampling, chosen_thinning, downsample

    how = chosen_thinning(voxel=command.voxel, uniform=command.uniform, random=command.random, seed=command.seed)
    done = downsample(Downsampling(command.source, command.output, how))
    print(f"{command.output}: {done.after:,} of {done.before:,} points")


class _Lines(logging.Handler):
    """A line on stderr for each record."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print it."""
        print(f"{record.levelname.lower()}: {record.getMessage()}", file=sys.stderr)


@contextmanager
def _warnings(*, quiet: bool) -> Iterator[None]:
    """Show what the package warns of; None of it when quiet."""
    handler, package = _Lines(logging.WARNING), logging.getLogger("mvsam3d")
    if not quiet:
        package.addHandler(handler)
    try:
        yield
    finally:
        package.removeHandler(handler)


@contextmanager
def _progress(*, quiet: bool) -> Iterator[Progress | None]:
    """A bar over all stages, with the stage's name and the time left; None when quiet."""
    if quiet:
        yield None
        return
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    from mvsam3d.jobs import share_done

    columns = (TextColumn("{task.description:<12}"), BarColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns, transient=True) as bars:
        bar = bars.add_task("loading", total=1.0)
        yield lambda stage, done, of: bars.update(bar, description=stage, completed=share_done(stage, done, of))


def _view(command: View) -> None:
    from mvsam3d.serve.view import serve_view

    serve_view(command.folder, port=command.port, open_browser=not command.no_browser, announce=print)


def _convert(command: Convert) -> None:
    from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn

    from mvsam3d.models.checkpoints import DTYPES, checkpoint_folder
    from mvsam3d.models.convert import convert_checkpoint

    with Progress(BarColumn(), DownloadColumn(), TimeRemainingColumn(), transient=True) as bars:
        bar = bars.add_task("writing", total=None)
        done = convert_checkpoint(
            checkpoint_folder(str(command.source)),
            command.out,
            DTYPES[command.dtype],
            overwrite=command.overwrite,
            progress=lambda written, of: bars.update(bar, completed=written, total=of),
        )
    for copy, original in done.shared.items():
        print(f"{copy}* is written once, as {original}*")
    print(f"{done.folder}: {done.bytes / 2**20:,.1f} MiB of weights")


def _doctor(command: Doctor) -> None:
    from mvsam3d.doctor import Examination, Finding, examine

    def told(finding: Finding) -> None:
        print(f"{'!!' if finding.wrong else 'ok'} {finding.name + ':':<18} {finding.text}", flush=True)

    memory = None if command.memory_budget is None else int(command.memory_budget * 2**30)
    what = Examination(
        command.model,
        command.device,
        command.dtype,
        command.views,
        command.voxels,
        memory,
        hashes=not command.no_hashes,
    )
    if not examine(what, told):
        raise NotReady("not ready: see the lines that begin with !!")


def _train(command: Train) -> None:
    from mvsam3d.training.recipes import RunOptions, export_run, train_recipe

    options = RunOptions(
        run=command.run,
        data=command.data,
        part=command.part,
        minutes=command.minutes,
        steps=command.steps,
        device=command.device,
        precision=command.precision,
        threads=command.threads,
        workers=command.workers,
        shards=command.shards,
        meshes=command.meshes,
        start=command.start,
        seed=command.seed,
    )
    if command.export is not None:
        export_run(command.recipe, options, command.export)
        print(f"{command.export}: checkpoint of {command.run}")
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description:<60}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns) as bars:
        bar = bars.add_task(command.recipe)
        train_recipe(
            command.recipe,
            options,
            lambda text, done, of: bars.update(bar, description=text, completed=done, total=of),
        )


def _evaluate(command: Evaluate) -> None:
    from mvsam3d.evaluation.runner import Evaluation, evaluate, view_counts
    from mvsam3d.evaluation.systems import parse_systems
    from mvsam3d.evaluation.tables import as_markdown

    job = Evaluation(
        folder=command.folder,
        out=command.out,
        systems=parse_systems(command.systems, device=command.device, limit=command.time_limit),
        views=view_counts(command.views),
        protocol=command.protocol,
        split=command.split,
        up=command.up,
        objects=command.objects,
        seed=command.seed,
        jobs=command.jobs,
        ray=command.ray,
        lpips=command.lpips,
    )
    with _standing() as progress, _warnings(quiet=False):
        result = evaluate(job, progress)
    print(as_markdown(result.summary, result.facts, whole=False))
    for file in result.files:
        print(file)
    result.check()


@contextmanager
def _standing() -> Iterator[Callable[[Standing], None]]:
    """A bar with what is done, what failed and the time left; lines where there is no terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    console = Console(stderr=True)
    if not console.is_terminal:
        yield lambda now: print(_standing_line(now), file=sys.stderr, flush=True)
        return
    columns = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("{task.description}"))
    with Progress(*columns, console=console, transient=True) as bars:
        bar = bars.add_task("", total=None)
        yield lambda now: bars.update(bar, completed=now.done, total=now.of, description=_standing_line(now))


def _standing_line(now: Standing) -> str:
    left = "" if now.seconds_left is None else f", {_duration(now.seconds_left)} left"
    failed = f", {now.failed} failed" if now.failed else ""
    return f"{now.done} of {now.of}{failed}{left}: {now.doing}"


def _duration(seconds: float) -> str:
    minutes, hours = round(seconds / 60), round(seconds / 3600, 1)
    if seconds < 90:
        return f"{round(seconds)} s"
    return f"{minutes} min" if minutes < 90 else f"{hours} h"


if __name__ == "__main__":
    sys.exit(main())
