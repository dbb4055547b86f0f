"""Command line: parse, call, print; no logic."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from mvsam3d.errors import MvSam3dError

if TYPE_CHECKING:
    from mvsam3d.pipeline import Progress

INTERRUPTED = 130  # exit status of a command ended by Ctrl-C


@dataclass(frozen=True)
class Reconstruct:
    """Photos of one object -> result.glb, result.ply, params.npz, preview.png, report.json, inference.log."""

    photos: Annotated[Path, tyro.conf.Positional]
    """Folder of photos and masks: images/ + OBJECT/, photos + masks/OBJECT/, N.png + N_mask.png, or cut-outs with alpha."""
    object: str | None = None
    """Name of the mask folder, if there are several."""
    views: str | None = None
    """Views to use, by name: 0,2,5. All if left out."""
    model: str = "small"
    """small (shipped), or the folder of a checkpoint."""
    out: Path | None = None
    """Folder to make; results/<name of the photos' folder> if left out."""
    seed: int = 42
    skip_bad_views: bool = False
    """Go on without views that cannot be used; the log and the report name them."""
    overwrite: bool = False
    """Replace the output folder whatever is in it (an earlier result is replaced in any case)."""
    fusion: Literal["joint", "velocity"] | None = None
    """How views are brought together; the model's own way if left out."""
    weighting: Literal["mean", "entropy", "visibility", "mixed"] = "mean"
    """Weights of the views: all alike, by how sharply each latent looks at them, by which cameras see it, or by both."""
    cameras: Path | None = None
    """Cameras of the photos: an npz of Depth Anything 3, cameras.json, transforms.json, or the folder of a COLMAP model."""
    drop_outliers: bool | None = None
    """Go on without a view that shows something else than the others; log and report name it. The model's own choice if left out."""
    search_poses: bool | None = None
    """Look for the pose in which the finished mesh fits each photo best. The model's own choice if left out."""
    structure_steps: int | None = None
    """Sampling steps of stage 1; the model's own number if left out."""
    slat_steps: int | None = None
    """Sampling steps of stage 2; the model's own number if left out."""
    quiet: bool = False
    """Print nothing but errors."""


@dataclass(frozen=True)
class View:
    """Show a result's mesh and splat side by side in the browser."""

    folder: Annotated[Path, tyro.conf.Positional]
    """A result folder."""
    port: int = 8080
    no_browser: bool = False
    """Only serve the page."""


@dataclass(frozen=True)
class Train:
    """Train the networks of a recipe, one part after the other; goes on from where an earlier call stopped."""

    recipe: Annotated[str, tyro.conf.Positional]
    """Name of the recipe: small, or tiny (to try the trainer)."""
    run: Path = Path("runs/small")
    """Folder of the run: checkpoints, metrics, plots."""
    data: Path = Path("cache")
    """Folder of the training shards."""
    part: Literal["structure_vae", "structure_flow", "slat_vae", "slat_flow"] | None = None
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
    export: Path | None = None
    """Write a checkpoint folder of the run's averaged weights, and train nothing."""


@dataclass(frozen=True)
class Evaluate:
    """Measure a model on held-out objects, beside two yardsticks."""

    data: Path = Path("cache")
    """Folder of the shards; held-out ones are made if they are missing."""
    model: str = "small"
    meshes: Path | None = None
    """Folder of meshes, to measure on its val split too."""
    out: Path | None = None
    """JSON file for the table."""


Command = (
    Annotated[Reconstruct, tyro.conf.subcommand("reconstruct")]
    | Annotated[View, tyro.conf.subcommand("view")]
    | Annotated[Train, tyro.conf.subcommand("train")]
    | Annotated[Evaluate, tyro.conf.subcommand("evaluate")]
)


def main(arguments: list[str] | None = None) -> int:
    """Entry point of `mvsam3d`. Returns the exit status."""
    command: Command = tyro.cli(Command, prog="mvsam3d", args=arguments)
    try:
        match command:
            case Reconstruct():
                _reconstruct(command)
            case View():
                _view(command)
            case Train():
                _train(command)
            case Evaluate():
                _evaluate(command)
    except MvSam3dError as error:
        print(f"mvsam3d: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("mvsam3d: interrupted, nothing was written", file=sys.stderr)
        return INTERRUPTED
    return 0


def _reconstruct(command: Reconstruct) -> None:
    from mvsam3d.jobs import Job, run_job

    job = Job(
        scene=command.photos,
        out=command.out or Path("results") / command.photos.resolve().name,
        object_name=command.object,
        views=tuple(command.views.split(",")) if command.views else None,
        model=command.model,
        seed=command.seed,
        skip_bad_views=command.skip_bad_views,
        overwrite=command.overwrite,
        fusion=command.fusion,
        weighting=command.weighting,
        cameras=command.cameras,
        drop_outliers=command.drop_outliers,
        search_poses=command.search_poses,
        structure_steps=command.structure_steps,
        slat_steps=command.slat_steps,
    )
    with _progress(quiet=command.quiet) as progress:
        report = run_job(job, progress=progress)
    if not command.quiet:
        print(f"{job.out}/result.glb  {report['mesh']['faces']} faces")
        print(f"{job.out}/result.ply  {report['gaussians']} Gaussians")
        print(f"{job.out}/preview.png  mvsam3d view {job.out}")


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
    from mvsam3d.evaluation.benchmark import evaluate_model
    from mvsam3d.evaluation.report import as_table, write_table

    table = evaluate_model(command.model, command.data, command.meshes)
    print(as_table(table))
    if command.out is not None:
        write_table(table, command.out)


if __name__ == "__main__":
    sys.exit(main())
