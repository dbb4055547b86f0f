"""A folder of photos -> a folder of results: what the command line, and later a service, runs."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, assert_never

import torch

from mvsam3d import inspection
from mvsam3d.errors import InvalidOption, MvSam3dError, NoCameras, ObjectsFailed
from mvsam3d.exports.scenes import write_merged_objects
from mvsam3d.generation.budget import MemoryBudget, budget_of, usable_memory
from mvsam3d.generation.evidence import Sight
from mvsam3d.generation.weighting import ByEntropy, ByVisibility, Mixed, PlainMean, Weighting
from mvsam3d.inspection import Extras
from mvsam3d.io.cameras import load_cameras
from mvsam3d.io.depth import load_depth
from mvsam3d.io.photos import SkippedView, load_photos, without_copies
from mvsam3d.io.runs import RunFolder, run_folder
from mvsam3d.models.bundle import Models
from mvsam3d.models.checkpoints import DTYPES, Checkpoint, checkpoint_folder, open_checkpoint, resident_bytes
from mvsam3d.models.config import ModelConfig
from mvsam3d.models.embeddings import EmbeddingCache, default_folder
from mvsam3d.nn.precision import bf16_gain, use_fast_exact_matmul
from mvsam3d.options import (
    ReconstructionConfig,
    Reference,
    check_config,
    needs_all_cameras,
    slat_sampling,
    structure_sampling,
)
from mvsam3d.perception.camera_gate import CameraGate
from mvsam3d.pipeline import reconstruct
from mvsam3d.posing.by_photos import ByPhotos
from mvsam3d.results import FORMATS, Format, RunFacts, write_results
from mvsam3d.types import Camera, Photo
from mvsam3d.views.depth_maps import photo_cameras

log = logging.getLogger(__name__)

Precision = Literal["auto", "fp32", "bf16", "fp16"]
CLEARLY_FASTER = 1.5  # of bfloat16 products on a CPU: much of a network is no product, and stays as slow

# Share of the whole time up to the end of each stage, of the small model on two cores.
SHARES = {
    "loading": 0.1,
    "views": 0.12,
    "structure": 0.2,
    "appearance": 0.4,
    "mesh": 0.45,
    "poses": 0.6,
    "outlines": 0.75,
    "texture": 0.9,
    "writing": 1.0,
}


@dataclass(frozen=True)
class ViewWeights:
    """How much the views count. Layers and steps count from 0; None is the model's own choice."""

    stage1: Literal["mean", "entropy"] | None = None
    stage1_alpha: float = 30.0
    stage1_floor: float = 1e-3
    stage1_layer: int | None = None
    stage1_step: int = 0
    stage2: Literal["mean", "entropy", "visibility", "mixed"] | None = None
    stage2_entropy_alpha: float = 30.0
    stage2_visibility_alpha: float = 30.0
    stage2_floor: float = 1e-3
    stage2_layer: int | None = None
    stage2_step: int = 0
    combine: Literal["average", "multiply"] = "average"
    visibility_share: float = 0.5
    object_entropy: bool = False

    def of_stage1(self, own: Literal["mean", "entropy"]) -> Weighting:
        """The weighting; `own`: the model's."""
        return PlainMean() if (self.stage1 or own) == "mean" else ByEntropy(self.stage1_alpha, self.stage1_floor)

    def of_stage2(self, own: Literal["mean", "entropy"]) -> Weighting:
        """The weighting; `own`: the model's."""
        source = self.stage2 or own
        match source:
            case "mean":
                return PlainMean()
            case "entropy":
                return ByEntropy(self.stage2_entropy_alpha, self.stage2_floor)
            case "visibility":
                return ByVisibility(self.stage2_visibility_alpha, self.stage2_floor)
            case "mixed":
                return Mixed(
                    self.stage2_entropy_alpha,
                    self.stage2_visibility_alpha,
                    self.stage2_floor,
                    self.combine,
                    self.visibility_share,
                )
            case _:
                assert_never(source)


@dataclass(frozen=True)
class Job:
    """One reconstruction to run."""

    scene: Path
    out: Path
    object_name: str | None = None
    """Name of the mask folder; several with commas are reconstructed one after the other."""
    views: tuple[str, ...] | None = None
    model: str = "small"
    """small, the folder of a checkpoint, or the name of one in checkpoints/."""
    seed: int = 42
    skip_bad_views: bool = False
    overwrite: bool = False
    device: str = "cpu"
    fusion: Literal["joint", "velocity"] | None = None
    weights: ViewWeights = field(default_factory=ViewWeights)
    cameras: Path | Literal["auto", "if_possible"] | None = None
    """File or folder of cameras, see `io.cameras`; auto: found in the photos, see `perception.structure_from_motion`; if_possible: so,
    unless `_worth_looking` says no."""
    depth: Path | None = None
    """da3_output.npz: point maps, and cameras if none are given."""
    sight: Sight = field(default_factory=Sight)
    visibility_compat: bool = False
    noise_compat: bool = False
    reference: Reference = "first"
    drop_outliers: bool | None = None
    search_poses: bool | None = None
    symmetry: bool = True
    guidance: bool | None = None
    """Let the cameras tell shape and poses; None: where they are given by themselves, not with depth."""
    by_photos: ByPhotos = field(default_factory=ByPhotos)
    structure_steps: int | None = None
    shortcut: bool = False
    structure_every: int = 1
    slat_steps: int | None = None
    dtype: Precision = "auto"
    """Of weights and matrix products; auto: see `chosen_dtype`."""
    memory: int | None = None
    """Bytes of the device that a stage may take, weights among them; None: what is free, less a margin."""
    cache: bool = True
    """Keep the embeddings of photos that large encoders make (`models.embeddings`)."""
    scale_length: float | None = None
    """Longest side of the object, metres."""
    metric_cameras: bool = False
    """The lengths of the given cameras are metres."""
    formats: tuple[Format, ...] = FORMATS
    extras: Extras = field(default_factory=Extras)

    @property
    def objects(self) -> tuple[str | None, ...]:
        """Names of the objects; None stands for the scene's only one."""
        return (None,) if self.object_name is None else tuple(name.strip() for name in self.object_name.split(","))

    @property
    def asks_for_cameras(self) -> bool:
        """Cameras other than those of the depth were asked for, not only wished for."""
        return self.cameras not in (None, "if_possible")


Progress = Callable[[str, int, int], None]


def share_done(stage: str, done: int, of: int) -> float:
    """How much of a job is done at a step of a stage, in [0, 1]."""
    names = list(SHARES)
    start = SHARES[names[names.index(stage) - 1]] if names.index(stage) else 0.0
    return start + (SHARES[stage] - start) * done / max(of, 1)


@dataclass(frozen=True)
class Inputs:
    """What a job reads before any network is loaded."""

    photos: tuple[Photo, ...]
    skipped: tuple[SkippedView, ...]
    cameras: tuple[Camera | None, ...] | None
    depth: inspection.Depth | None
    config: ReconstructionConfig


class Loaded:
    """A checkpoint whose sizes are known at once and whose networks are loaded once, when they are needed."""

    def __init__(self, model: str, device: str, dtype: Precision = "auto") -> None:
        """Raises: CheckpointMismatch, InvalidOption."""
        self.checkpoint = open_checkpoint(checkpoint_folder(model))
        self.size = self.checkpoint.config
        self.device = chosen_device(device)
        self.dtype = chosen_dtype(dtype, self.checkpoint, self.device)

    @cached_property
    def models(self) -> tuple[Models, dict[str, Any]]:
        """Networks and card."""
        use_fast_exact_matmul()
        return self.checkpoint.models(self.device, self.dtype), self.checkpoint.card


def run_job(job: Job, *, progress: Progress | None = None) -> dict[str, Any]:
    """Reconstruct and write the result folder, whole or not at all; returns the report, of several objects by their names.

    Photos, options and the checkpoint's config are checked before any network is built.

    Raises: MvSam3dError: whatever is wrong with the input. ObjectsFailed: some of several objects; the others are written.
    """
    tell = progress or (lambda stage, done, of: None)
    tell("loading", 0, 1)
    check_job(job)
    loaded = Loaded(job.model, job.device, job.dtype)
    with run_folder(job.out, overwrite=job.overwrite) as folder, folder.log():
        if len(job.objects) == 1:
            return _run(replace(job, object_name=job.objects[0]), folder, loaded, tell)
        reports, failed = _run_objects(job, folder, loaded, tell)
    if failed:
        raise ObjectsFailed(
            f"{len(failed)} of {len(job.objects)} objects failed, the others are in {job.out}: {_listed(failed)}"
        )
    return reports


def check_job(job: Job) -> None:
    """Choices that clash or lack something, before anything is read. Raises: InvalidOption."""
    names = job.objects
    for name in (*names, *(job.views or ())):
        if name is not None and (name in ("", "..") or Path(name).name != name):
            raise InvalidOption(f"{name!r} is no name of an object or view: give names, no paths, with commas between")
    if len(set(names)) < len(names):
        raise InvalidOption(f"objects {job.object_name}: name each only once")
    placed = job.asks_for_cameras or job.depth is not None
    if job.weights.stage2 in ("visibility", "mixed") and not placed:
        raise InvalidOption(
            f"--stage2-weight-source (or --weighting) {job.weights.stage2} needs cameras: give --da3-output da3_output.npz (made by "
            "`mvsam3d depth PHOTOS`), or --cameras, or weigh by entropy"
        )
    sight = {
        "--visibility-frustum": job.sight.frustum,
        "--visibility-mask": job.sight.mask,
        "--visibility-depth": job.sight.depth,
        "--visibility-compat": job.visibility_compat,
    }
    asked = [flag for flag, wanted in sight.items() if wanted]
    if asked and not placed:
        raise InvalidOption(f"{', '.join(asked)} says what cameras see: give --da3-output or --cameras")
    if job.guidance and not placed:
        raise InvalidOption("--guidance True lets cameras tell the shape: give --cameras or --da3-output")
    if job.scale_length is not None and not 1e-4 <= job.scale_length <= 1e4:
        raise InvalidOption(
            f"--scale-length {job.scale_length:g}: give the object's longest side in metres, 0.0001 to 10000"
        )
    if job.metric_cameras and job.scale_length is not None:
        raise InvalidOption("--metric-cameras and --scale-length both tell the object's size: choose one of them")
    if job.metric_cameras and not isinstance(job.cameras, Path):
        raise InvalidOption("--metric-cameras says that given cameras are in metres: give their file with --cameras")
    if job.sight.depth and (job.depth is None or job.asks_for_cameras):
        raise InvalidOption(
            "--visibility-depth needs depth and cameras of one source: give --da3-output, and no --cameras"
        )
    inspection.check_extras(job.extras, depth=job.depth)


def _listed(failed: Mapping[str, MvSam3dError]) -> str:
    return "; ".join(f"{name}: {problem}" for name, problem in failed.items())


def _run_objects(
    job: Job, folder: RunFolder, loaded: Loaded, tell: Progress
) -> tuple[dict[str, Any], dict[str, MvSam3dError]]:
    """Each object in its own folder; the reports of those that succeed and the errors of the others. Raises if all fail."""
    reports: dict[str, Any] = {}
    failed: dict[str, MvSam3dError] = {}
    for name in job.objects:
        assert name is not None, "several objects have names"
        part = RunFolder(folder.folder / name)
        try:
            with part.log():
                reports[name] = _run(replace(job, object_name=name), part, loaded, tell, several=True)
        except MvSam3dError as error:
            log.error("object %s: %s", name, error)
            failed[name] = error
            shutil.rmtree(part.folder)
    if not reports:
        raise ObjectsFailed(f"every object failed: {_listed(failed)}")
    _merge_objects(job, folder, list(reports))
    return reports, failed


def _merge_objects(job: Job, folder: RunFolder, names: Sequence[str]) -> None:
    """All objects in one scene, where depth says how they stand to each other."""
    if not _has_scene(job):
        log.warning(
            "the objects are not merged: that needs --da3-output with %s beside it, to know how they stand to each other",
            inspection.SCENE,
        )
        return
    for suffix in ("", "_optimized"):
        files = {name: folder.folder / name / f"result_merged_scene{suffix}.glb" for name in names}
        there = {name: file for name, file in files.items() if file.is_file()}
        if there:
            write_merged_objects(folder, there, with_scene=job.extras.merge_scene, suffix=suffix)


def _has_scene(job: Job) -> bool:
    return job.depth is not None and (job.depth.parent / inspection.SCENE).is_file()


def _run(job: Job, folder: RunFolder, loaded: Loaded, tell: Progress, *, several: bool = False) -> dict[str, Any]:
    """One object into a folder; `several`: one of those that are merged."""
    inputs = read_inputs(job, loaded.size, scene=job.extras.merge_scene or (several and _has_scene(job)))
    photos, depth, config = inputs.photos, inputs.depth, inputs.config
    options = _options(job, loaded, config)
    names = ", ".join(photo.name for photo in photos)
    log.info("%s: %d views (%s), seed %d, model %s", job.scene, len(photos), names, job.seed, job.model)
    log.info("options: %s", json.dumps(options))
    for view in inputs.skipped:
        log.warning("view %s left out: %s", view.name, view.reason)
    watching = inspection.observers(job.extras, folder, loaded.size, config, len(photos))
    models, card = loaded.models
    budget = planned(loaded, job.memory)
    log.info("%s, %s, %s", loaded.device, str(loaded.dtype).removeprefix("torch."), budget)
    config = replace(config, memory=budget, embeddings=EmbeddingCache(default_folder()) if job.cache else None)
    result = reconstruct(
        photos,
        models,
        config,
        torch.Generator().manual_seed(job.seed),
        pointmaps_p3d=None if depth is None else depth.pointmaps_p3d,
        cameras=inputs.cameras,
        same_units=depth is not None and not job.asks_for_cameras,
        observers=watching,
        progress=tell,
    )
    skipped = inputs.skipped
    for i in sorted(set(range(len(photos))) - set(result.kept)):
        reason = (
            "it shows something else than the others: another object, or a wrong mask (--drop-outliers False keeps it)"
        )
        log.warning("view %s left out: %s", photos[i].name, reason)
        skipped = (*skipped, SkippedView(photos[i].name, reason))
    photos = tuple(photos[i] for i in result.kept)
    tell("writing", 0, 1)
    facts = RunFacts(
        job.seed, {"name": job.model, "card": card}, options, skipped, job.scale_length, job.metric_cameras
    )
    report = write_results(folder, photos, result, facts, job.formats)
    inspection.write_extras(
        job.extras,
        folder,
        job.object_name or "object",
        photos,
        result,
        config,
        loaded.size,
        None if depth is None else depth.of(result.kept),
        seed=job.seed,
    )
    for stage, seconds in result.seconds.items():
        log.info("%s: %.2f s", stage, seconds)
    tell("writing", 1, 1)
    return report


def read_inputs(job: Job, size: ModelConfig, *, scene: bool = False) -> Inputs:
    """Photos, cameras and depth of a job, all checked, for a model of this size. `scene`: of the depth, too. Raises: MvSam3dError."""
    photos, skipped = load_photos(
        job.scene, object_name=job.object_name, views=job.views, skip_bad_views=job.skip_bad_views
    )
    photos, copies = without_copies(photos)
    skipped = (*skipped, *copies)
    names = [photo.name for photo in photos]
    depth = None if job.depth is None else inspection.depth_of(job.depth, photos, scene=scene)
    config = _config(job, size)
    cameras: tuple[Camera | None, ...] | None = None if depth is None else depth.cameras
    if job.cameras == "if_possible":  # what is wrong without cameras is told before time is spent on them
        check_config(config, size, len(photos), cameras, depth=depth is not None)
    if job.cameras == "auto" or (job.cameras == "if_possible" and _worth_looking(job, size, len(photos))):
        cameras = _found_cameras(photos)
        if cameras is not None and None in cameras and needs_all_cameras(config, depth=depth is not None):
            reason = "its camera was not found, and visibility, depth and --guidance False need one for each photo"
            lost = [photo for photo, camera in zip(photos, cameras, strict=True) if camera is None]
            skipped = (*skipped, *(SkippedView(photo.name, reason) for photo in lost))
            having = [i for i, camera in enumerate(cameras) if camera is not None]
            photos, cameras = tuple(photos[i] for i in having), tuple(cameras[i] for i in having)
            depth = None if depth is None else depth.of(having)
    elif isinstance(job.cameras, Path):
        if job.cameras.suffix.lower() == ".npz":
            cameras = photo_cameras(load_depth(job.cameras, names), photos)
        else:
            cameras = load_cameras(job.cameras, names)
    check_config(config, size, len(photos), cameras, depth=depth is not None)
    if job.extras.pose_optimisation is not None and depth is not None:
        inspection.check_measured(job.extras.pose_optimisation, photos, depth)
    return Inputs(tuple(photos), tuple(skipped), cameras, depth, config)


def _worth_looking(job: Job, size: ModelConfig, photos: int) -> bool:
    """Whether to look for cameras that nobody asked for: where they would tell the shape of a model that was trained for that, three
    photos or more may have some, and pycolmap is there to find them."""
    if job.depth is not None or job.guidance is False or size.lifting is None or photos < CameraGate.views:
        return False
    if find_spec("pycolmap") is None:
        log.warning(
            'cameras are not looked for in the photos, and the shape may be worse for it: pip install "mvsam3d[pose]" brings what '
            "that takes (--cameras none: this is meant so)"
        )
        return False
    return True


def _found_cameras(photos: Sequence[Photo]) -> tuple[Camera | None, ...] | None:
    """The cameras that structure from motion finds, photo by photo. None at all that can be believed: a warning.

    Raises: MissingExtra: pycolmap is not installed.
    """
    from mvsam3d.perception.structure_from_motion import find_cameras

    try:
        found = find_cameras(photos)
    except NoCameras as problem:
        log.warning("%s Going on without cameras: the model guesses shape and poses", problem)
        return None
    for line in found.lines():
        log.info("%s", line)
    for photo in photos:
        if photo.name not in found.cameras:
            log.warning(
                "view %s: its camera was not found. The model looks at it, but it tells nothing of outlines and gives no colours "
                "(--cameras none goes on without cameras)",
                photo.name,
            )
    return tuple(found.cameras.get(photo.name) for photo in photos)


def _config(job: Job, size: ModelConfig) -> ReconstructionConfig:
    own, weights = size.sampling.weighting, job.weights
    structure_block, slat_block = (
        None if number is None else inspection.block_number(flag, number, blocks)
        for flag, number, blocks in (
            ("--stage1-entropy-layer", weights.stage1_layer, size.structure.flow.blocks),
            ("--stage2-attention-layer", weights.stage2_layer, size.slat.flow.blocks),
        )
    )
    return ReconstructionConfig(
        fusion=job.fusion,
        structure_steps=job.structure_steps,
        shortcut=job.shortcut,
        structure_every=job.structure_every,
        structure_weighting=weights.of_stage1(own),
        structure_block=structure_block,
        structure_record_step=weights.stage1_step,
        slat_steps=job.slat_steps,
        slat_weighting=weights.of_stage2(own),
        slat_block=slat_block,
        slat_record_step=weights.stage2_step,
        object_entropy=weights.object_entropy,
        noise_compat=job.noise_compat,
        visibility_compat=job.visibility_compat,
        reference=job.reference,
        drop_outliers=job.drop_outliers,
        search_poses=job.search_poses,
        guidance=job.guidance,
        symmetry=job.symmetry,
        by_photos=job.by_photos,
        sight=job.sight,
    )


def chosen_dtype(wanted: Precision, checkpoint: Checkpoint, device: torch.device) -> torch.dtype:
    """The precision that a job runs in.

    What "auto" is: on a GPU the checkpoint's own; on a CPU bfloat16 for a checkpoint that is meant for half precision, where the processor
    multiplies it clearly faster than float32, by measurement; else float32.
    """
    if wanted != "auto":
        return DTYPES[wanted]
    if device.type != "cpu" or checkpoint.half == torch.float32:
        return checkpoint.half
    return torch.bfloat16 if bf16_gain() >= CLEARLY_FASTER else torch.float32


def planned(loaded: Loaded, memory: int | None) -> MemoryBudget:
    """What the views may take, once the weights have their place; a warning where these have none.

    Args:
        loaded: the checkpoint.
        memory: of the device, in bytes; None: what is free, less a margin.
    """
    whole = usable_memory(loaded.device) if memory is None else memory
    weights = resident_bytes(loaded.checkpoint, loaded.dtype)
    if weights > whole:
        log.warning(
            "the weights that are in memory at once take %.2f GiB, and %.2f GiB %s: views go one at a time, nothing is kept, and still it "
            "will take more. Give --dtype bf16%s",
            weights / 2**30,
            whole / 2**30,
            "are free, less a tenth" if memory is None else "may be used",
            ", or another --device" if memory is None else ", or a larger --memory-budget",
        )
    return budget_of(whole, weights)


def chosen_device(name: str) -> torch.device:
    """The device of this name. Raises: InvalidOption: it cannot be used here."""
    try:
        device = torch.device(name)
        torch.empty(0, device=device).tolist()  # "meta" has no values
    except (RuntimeError, AssertionError, NotImplementedError) as problem:
        raise InvalidOption(
            f"the device {name!r} cannot be used here ({str(problem).splitlines()[0]}): give cpu, or install a torch for it"
        ) from problem
    return device


def _options(job: Job, loaded: Loaded, config: ReconstructionConfig) -> dict[str, Any]:
    """All of the job as JSON, with the model's own choices where it leaves them to the model, and the precision that was chosen."""
    size = loaded.size
    own, options = size.sampling, json.loads(json.dumps(asdict(job), default=str))
    structure, slat = structure_sampling(config, size), slat_sampling(config, size)
    options["weights"] |= {
        "stage1": job.weights.stage1 or own.weighting,
        "stage1_layer": structure.recording.block,
        "stage2": job.weights.stage2 or own.weighting,
        "stage2_layer": slat.recording.block,
    }
    return {
        **options,
        "dtype": next(name for name, dtype in DTYPES.items() if dtype == loaded.dtype),
        "fusion": job.fusion or ("joint" if size.joint_views else "velocity"),
        "structure_steps": structure.steps,
        "slat_steps": slat.steps,
        "drop_outliers": own.drop_outliers if job.drop_outliers is None else job.drop_outliers,
        "search_poses": (own.search_poses and job.depth is None) if job.search_poses is None else job.search_poses,
    }
