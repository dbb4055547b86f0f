"""A folder of photos -> a folder of results: what the command line, and later a service, runs."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, assert_never

import torch

from mvsam3d.generation.weighting import ByEntropy, ByVisibility, Mixed, PlainMean, Weighting
from mvsam3d.io.cameras import load_cameras
from mvsam3d.io.photos import SkippedView, load_photos
from mvsam3d.io.runs import run_folder
from mvsam3d.models.bundle import Models
from mvsam3d.models.checkpoints import checkpoint_folder, load_checkpoint, read_config
from mvsam3d.nn.precision import use_fast_exact_matmul
from mvsam3d.pipeline import ReconstructionConfig, check_config, reconstruct
from mvsam3d.results import RunFacts, write_results

log = logging.getLogger(__name__)

# Share of the whole time up to the end of each stage, of the small model on two cores.
SHARES = {
    "loading": 0.1,
    "views": 0.12,
    "structure": 0.2,
    "appearance": 0.4,
    "mesh": 0.55,
    "texture": 0.6,
    "poses": 0.75,
    "writing": 1.0,
}


@dataclass(frozen=True)
class Job:
    """One reconstruction to run."""

    scene: Path
    out: Path
    object_name: str | None = None
    views: tuple[str, ...] | None = None
    model: str = "small"
    """small, or the folder of a checkpoint."""
    seed: int = 42
    skip_bad_views: bool = False
    overwrite: bool = False
    fusion: Literal["joint", "velocity"] | None = None
    weighting: Literal["mean", "entropy", "visibility", "mixed"] = "mean"
    cameras: Path | None = None
    """File or folder of cameras, see `io.cameras`."""
    drop_outliers: bool | None = None
    search_poses: bool | None = None
    structure_steps: int | None = None
    slat_steps: int | None = None


Progress = Callable[[str, int, int], None]


def share_done(stage: str, done: int, of: int) -> float:
    """How much of a job is done at a step of a stage, in [0, 1]."""
    names = list(SHARES)
    start = SHARES[names[names.index(stage) - 1]] if names.index(stage) else 0.0
    return start + (SHARES[stage] - start) * done / max(of, 1)


def run_job(job: Job, *, progress: Progress | None = None) -> dict[str, Any]:
    """Reconstruct and write the result folder, whole or not at all; returns the report.

    Photos, options and the checkpoint's config are checked before any network is built.

    Raises: MvSam3dError: whatever is wrong with the input.
    """
    tell = progress or (lambda stage, done, of: None)
    tell("loading", 0, 1)
    model_folder = checkpoint_folder(job.model)
    size, _ = read_config(model_folder)
    with run_folder(job.out, overwrite=job.overwrite) as folder, folder.log():
        photos, skipped = load_photos(
            job.scene, object_name=job.object_name, views=job.views, skip_bad_views=job.skip_bad_views
        )
        log.info(
            "%s: %d views (%s), seed %d, model %s",
            job.scene,
            len(photos),
            ", ".join(p.name for p in photos),
            job.seed,
            job.model,
        )
        for view in skipped:
            log.warning("view %s left out: %s", view.name, view.reason)
        cameras = None if job.cameras is None else load_cameras(job.cameras, [photo.name for photo in photos])
        structure_weighting, slat_weighting = _weightings(job)
        config = ReconstructionConfig(
            fusion=job.fusion,
            structure_steps=job.structure_steps,
            structure_weighting=structure_weighting,
            slat_steps=job.slat_steps,
            slat_weighting=slat_weighting,
            drop_outliers=job.drop_outliers,
            search_poses=job.search_poses,
        )
        check_config(config, size, len(photos), cameras)
        use_fast_exact_matmul()
        models, _, card = load_checkpoint(model_folder)
        noise = torch.Generator().manual_seed(job.seed)
        result = reconstruct(photos, models, config, noise, cameras=cameras, progress=progress)
        for i in sorted(set(range(len(photos))) - set(result.kept)):
            reason = "it shows something else than the others: another object, or a wrong mask (--drop-outliers False keeps it)"
            log.warning("view %s left out: %s", photos[i].name, reason)
            skipped = (*skipped, SkippedView(photos[i].name, reason))
        photos = tuple(photos[i] for i in result.kept)
        tell("writing", 0, 1)
        facts = RunFacts(job.seed, {"name": job.model, "card": card}, _options(job, models), skipped)
        report = write_results(folder, photos, result, facts)
        for stage, seconds in result.seconds.items():
            log.info("%s: %.2f s", stage, seconds)
        tell("writing", 1, 1)
    return report


def _weightings(job: Job) -> tuple[Weighting, Weighting]:
    """Of stage 1, which knows no voxels that cameras could see, and of stage 2."""
    match job.weighting:
        case "mean":
            return PlainMean(), PlainMean()
        case "entropy":
            return ByEntropy(), ByEntropy()
        case "visibility":
            return PlainMean(), ByVisibility()
        case "mixed":
            return ByEntropy(), Mixed()
        case _:
            assert_never(job.weighting)


def _options(job: Job, models: Models) -> dict[str, Any]:
    sampling = models.config.sampling
    return {
        "fusion": job.fusion or ("joint" if models.config.joint_views else "velocity"),
        "weighting": job.weighting,
        "cameras": None if job.cameras is None else str(job.cameras),
        "structure_steps": job.structure_steps or sampling.structure_steps,
        "slat_steps": job.slat_steps or sampling.slat_steps,
    }
