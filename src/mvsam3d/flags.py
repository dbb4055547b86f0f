"""The flags of a reconstruction and the job they mean. The public system's names are read too, with _ or -.

Nothing heavy is imported before a job is made: help and wrong flags answer at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from mvsam3d.errors import InvalidOption

if TYPE_CHECKING:
    from mvsam3d.inspection import Extras
    from mvsam3d.jobs import Job, ViewWeights
    from mvsam3d.options import Reference
    from mvsam3d.results import Format

PHOTOS = ("--input-path", "--image-dir")  # public flags for the photos, which we take as the argument
NAMED_VIEWS = ("first", "largest-mask", "most-visible")
RANGES: dict[str, tuple[float, float]] = {  # of numbers, both ends included
    "seed": (0, 2**63 - 1),
    "memory_budget": (0.01, 1e6),
    "stage1_steps": (1, 10_000),
    "stage1_every": (1, 100),
    "stage2_steps": (1, 10_000),
    "stage1_entropy_alpha": (0, 1e6),
    "stage1_attention_step": (0, 9_999),
    "stage1_min_weight": (0, 1),
    "stage2_entropy_alpha": (0, 1e6),
    "stage2_visibility_alpha": (0, 1e6),
    "stage2_attention_step": (0, 9_999),
    "stage2_min_weight": (0, 1),
    "stage2_visibility_weight_ratio": (0, 1),
    "self_occlusion_tolerance": (0, 1000),
    "pose_opt_iterations": (1, 100_000),
    "pose_opt_lr": (1e-6, 1),
    "pose_opt_mask_erosion": (0, 50),
}


@dataclass(frozen=True)
class Reconstruct:
    """Photos of one object -> result.glb, result.ply, params.npz, preview.png, report.json, inference.log."""

    photos: Annotated[Path, tyro.conf.Positional]
    """Folder of photos and masks: images/ + OBJECT/, photos + masks/OBJECT/, N.png + N_mask.png, or cut-outs with alpha."""
    object: Annotated[str | None, tyro.conf.arg(aliases=("--mask-prompt",))] = None
    """Name of the mask folder, if there are several. Several with commas: each object in a folder of its own, merged in one scene."""
    views: Annotated[str | None, tyro.conf.arg(aliases=("--image-names",))] = None
    """Views to use, by name: 0,2,5. All if left out."""
    model: Annotated[str, tyro.conf.arg(aliases=("--model-tag",))] = "small"
    """small (shipped), the folder of a checkpoint, or NAME for checkpoints/NAME."""
    out: Path | None = None
    """Folder to make; results/<name of the photos' folder> if left out."""
    seed: int = 42
    skip_bad_views: bool = False
    """Go on without views that cannot be used; the log and the report name them."""
    overwrite: bool = False
    """Replace the output folder whatever is in it (an earlier result is replaced in any case)."""
    quiet: bool = False
    """Print nothing but errors."""
    device: str = "cpu"
    """cpu, cuda, cuda:1, mps."""
    dtype: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """Precision of weights and matrix products: auto is what the checkpoint is meant for (the small one: fp32); on a CPU fp32, or bf16
    where that is measured to be clearly faster."""
    memory_budget: float | None = None
    """GiB of the device that a stage may take, weights among them: how many views are evaluated at once, whether keys and values are kept,
    whether the mesh is decoded in chunks. Left out: what is free, less a tenth."""
    no_cache: bool = False
    """Keep no embeddings of photos in ~/.cache/mvsam3d (the public model's; 2 GiB at most)."""

    stage1_steps: int | None = None
    """Sampling steps of stage 1; the model's own number if left out (small 1, public 50)."""
    shortcut: bool = False
    """Stage 1 in few long steps without guidance (--stage1-steps 4, say), by a checkpoint distilled for it, as the public one is."""
    stage1_every: int = 1
    """Ask the network of stage 1 in every so many steps only, and carry its velocity on between: faster, a little worse."""
    stage2_steps: int | None = None
    """Sampling steps of stage 2; the model's own number if left out (small 1, public 25)."""
    decode_formats: str = "gaussian,mesh"
    """What to write: gaussian (result.ply), mesh (result.glb), or both."""
    fusion: Literal["joint", "velocity"] | None = None
    """How views are brought together; the model's own way if left out."""
    drop_outliers: bool | None = None
    """Go on without a view that shows something else than the others; log and report name it. The model's own choice if left out."""
    noise_compat: bool = False
    """Draw noise in the public system's order: a second draw for stage 2."""

    weighting: Literal["mean", "entropy", "visibility", "mixed"] | None = None
    """Weights of the views in both stages: all alike, by how sharply each latent looks at them, by which cameras see it (stage 2), or
    by both. The model's own if left out (small mean, public entropy)."""
    no_stage1_weighting: bool = False
    """Count all views alike in stage 1."""
    stage1_entropy_alpha: float = 30.0
    """Contrast between views in stage 1."""
    stage1_entropy_layer: int | None = None
    """Transformer block of stage 1 whose attention is measured, from 0; 9, or the last if there are fewer."""
    stage1_attention_step: int = 0
    """Step of stage 1 in which it is measured; views count alike before."""
    stage1_min_weight: float = 0.001
    """Least weight of a view in stage 1."""
    no_stage2_weighting: bool = False
    """Count all views alike in stage 2."""
    stage2_weight_source: Literal["entropy", "visibility", "mixed"] | None = None
    """Weights of stage 2; visibility and mixed need cameras (--da3-output or --cameras)."""
    stage2_entropy_alpha: float = 30.0
    stage2_visibility_alpha: float = 30.0
    stage2_attention_layer: int | None = None
    """Transformer block of stage 2 whose attention is measured, from 0; 6, or the last if there are fewer."""
    stage2_attention_step: int = 0
    """Step of stage 2 in which it is measured; views count alike before."""
    stage2_min_weight: float = 0.001
    """Least weight of a view in stage 2."""
    stage2_weight_combine_mode: Literal["average", "multiply"] = "average"
    """How mixed brings both weights together."""
    stage2_visibility_weight_ratio: float = 0.5
    """Share of visibility in mixed average, 0 to 1."""
    object_entropy: bool = False
    """Leave patches without object out of the entropy; the public system counts the background."""

    cameras: str | None = None
    """Cameras of the photos: an npz of Depth Anything 3, cameras.json, transforms.json, the folder of a COLMAP model; auto looks for them
    in the photos (extra "pose"; see `mvsam3d cameras`); none. They tell shape and poses, and where photos see the surface. Left out: auto
    with three photos or more, if the extra is installed, unless --da3-output is given."""
    metric_cameras: bool = False
    """The cameras' lengths are metres: result.glb is then in metres too."""
    scale_length: float | None = None
    """The object's longest side, metres, if you measured it: result.glb is then in metres."""
    da3_output: Path | None = None
    """da3_output.npz of `mvsam3d depth`: point maps, and cameras if --cameras is left out."""
    pose_view: str = "first"
    """The view whose pose is the object's: first, largest-mask, most-visible, or its number, from 0."""
    guidance: bool | None = None
    """Let the cameras tell shape and poses: by default where --cameras is given. False: nor those of poses that were found together."""
    symmetry: bool = True
    """Where cameras tell the shape: if the object is its own mirror image as far as its outlines tell, each photo is seen mirrored as well,
    for the side that no photo shows. False: for things that are not quite alike on both sides."""
    surface: Literal["model", "auto"] = "auto"
    """The mesh: of the shape that cameras tell with a lifting network, where there is one (auto), or what the model makes of its cells."""
    fit_outlines: bool = True
    """Bend the mesh a little so that its outlines meet the masks of the photos that it explains."""
    texture: Literal["photos", "model", "auto"] = "auto"
    """Colours: of the photos where they see the surface, of the model alone, or of those photos whose outline is met well."""
    search_poses: bool | None = None
    """Look for the pose in which the finished mesh fits each photo best, and in which four photos and more agree in what they show; such
    poses then tell the shape, too (see --guidance). The model's own choice if left out."""
    self_occlusion_tolerance: float = 4.0
    """Parts of the object no farther than this from a voxel do not hide it, in 64ths of the cube."""
    visibility_frustum: bool = False
    """What lies outside a photo is not seen by it."""
    visibility_mask: bool = False
    """What lies outside a photo's mask is not seen by it."""
    visibility_depth: bool = False
    """What lies behind the measured depth is not seen; needs --da3-output."""
    visibility_compat: bool = False
    """Visibility as the public system computes it, faults included: for comparison only."""

    visualize_weights: bool = False
    """weights/: how much each view counted where, in pictures and numbers."""
    compute_latent_visibility: bool = False
    """latent_visibility.glb and one file per view: green is seen, red is hidden; needs cameras."""
    save_attention: bool = False
    """attention/: what each latent looks at, half precision, the patches of the view's own photo."""
    attention_layers: str | None = None
    """Blocks for --save-attention, with commas, negative ones from the end; those that are measured are always among them."""
    attention_dense: bool = False
    """Save the attention to all condition tokens (the size is announced first)."""
    save_stage2_init: bool = False
    """stage2_init.pt: what stage 2 starts from."""
    merge_da3_glb: bool = False
    """result_merged_scene.glb: the object in the scene.glb beside --da3-output."""
    overlay_pointmap: bool = False
    """result_overlay.glb: the object over the point map of the pose's view; needs --da3-output."""
    debug_images: bool = False
    """debug_masked_images/: each photo, and with its mask in red."""

    run_pose_optimization: bool = False
    """Refine the pose against depth (--da3-output): pose_optimization/, result_pose_optimized.glb."""
    pose_opt_iterations: int = 300
    pose_opt_lr: float = 0.01
    """Longest step: 2 lr radians, 5 lr of the object's size."""
    pose_opt_mask_erosion: int = 3
    """Masks are shrunk by a box of so many pixels of the depth map; 0 leaves them."""
    pose_opt_device: str = "cpu"
    """Taken for the public flag's sake; the refinement runs on the CPU, in seconds."""
    pose_opt_optimize_scale: bool = False
    """Refine the size too."""


def job_from_flags(flags: Reconstruct, out: Path | None = None) -> Job:
    """The job. `out`: where to, if the flags do not say. Raises: InvalidOption: a number out of range, or flags that clash."""
    from mvsam3d.generation.evidence import Sight
    from mvsam3d.jobs import Job
    from mvsam3d.posing.by_photos import ByPhotos

    _check_ranges(flags)
    if flags.no_stage2_weighting and flags.stage2_weight_source is not None:
        raise InvalidOption("--no-stage2-weighting and --stage2-weight-source: choose one of them")
    if flags.stage2_weight_source is not None and flags.weighting not in (None, "entropy", flags.stage2_weight_source):
        raise InvalidOption(
            f"--weighting {flags.weighting} and --stage2-weight-source {flags.stage2_weight_source}: choose one of them"
        )
    return Job(
        scene=flags.photos,
        out=flags.out or out or Path("results") / flags.photos.resolve().name,
        object_name=flags.object,
        views=None if flags.views is None else tuple(name.strip() for name in flags.views.split(",")),
        model=flags.model,
        seed=flags.seed,
        skip_bad_views=flags.skip_bad_views,
        overwrite=flags.overwrite,
        device=flags.device,
        fusion=flags.fusion,
        weights=_weights(flags),
        cameras=_cameras(flags.cameras),
        metric_cameras=flags.metric_cameras,
        scale_length=flags.scale_length,
        depth=flags.da3_output,
        sight=Sight(
            flags.self_occlusion_tolerance,
            frustum=flags.visibility_frustum,
            mask=flags.visibility_mask,
            depth=flags.visibility_depth,
        ),
        visibility_compat=flags.visibility_compat,
        noise_compat=flags.noise_compat,
        reference=_reference(flags.pose_view),
        drop_outliers=flags.drop_outliers,
        search_poses=flags.search_poses,
        guidance=flags.guidance,
        symmetry=flags.symmetry,
        by_photos=ByPhotos(surface=flags.surface, fit_outlines=flags.fit_outlines, texture=flags.texture),
        structure_steps=flags.stage1_steps,
        shortcut=flags.shortcut,
        structure_every=flags.stage1_every,
        slat_steps=flags.stage2_steps,
        dtype=flags.dtype,
        memory=None if flags.memory_budget is None else int(flags.memory_budget * 2**30),
        cache=not flags.no_cache,
        formats=_formats(flags.decode_formats),
        extras=_extras(flags),
    )


def _check_ranges(flags: Reconstruct) -> None:
    for name, (least, most) in RANGES.items():
        value = getattr(flags, name)
        if value is not None and not least <= value <= most:  # NaN is nowhere
            flag = "--" + name.replace("_", "-")
            raise InvalidOption(f"{flag} {value}: give {least:,} to {most:,}")


def _weights(flags: Reconstruct) -> ViewWeights:
    from mvsam3d.jobs import ViewWeights

    stage1: Literal["mean", "entropy"] | None = None
    if flags.no_stage1_weighting or flags.weighting in ("mean", "visibility"):
        stage1 = "mean"
    elif flags.weighting is not None:
        stage1 = "entropy"
    return ViewWeights(
        stage1=stage1,
        stage1_alpha=flags.stage1_entropy_alpha,
        stage1_floor=flags.stage1_min_weight,
        stage1_layer=flags.stage1_entropy_layer,
        stage1_step=flags.stage1_attention_step,
        stage2="mean" if flags.no_stage2_weighting else flags.stage2_weight_source or flags.weighting,
        stage2_entropy_alpha=flags.stage2_entropy_alpha,
        stage2_visibility_alpha=flags.stage2_visibility_alpha,
        stage2_floor=flags.stage2_min_weight,
        stage2_layer=flags.stage2_attention_layer,
        stage2_step=flags.stage2_attention_step,
        combine=flags.stage2_weight_combine_mode,
        visibility_share=flags.stage2_visibility_weight_ratio,
        object_entropy=flags.object_entropy,
    )


def _extras(flags: Reconstruct) -> Extras:
    from mvsam3d.inspection import Extras, PoseOptimisation

    optimisation = PoseOptimisation(
        flags.pose_opt_iterations,
        flags.pose_opt_lr,
        flags.pose_opt_mask_erosion,
        flags.pose_opt_optimize_scale,
    )
    return Extras(
        weights=flags.visualize_weights,
        visibility=flags.compute_latent_visibility,
        attention=flags.save_attention,
        attention_layers=flags.attention_layers,
        attention_dense=flags.attention_dense,
        slat_start=flags.save_stage2_init,
        merge_scene=flags.merge_da3_glb,
        overlay=flags.overlay_pointmap,
        debug_images=flags.debug_images,
        pose_optimisation=optimisation if flags.run_pose_optimization else None,
    )


def _cameras(text: str | None) -> Path | Literal["auto", "if_possible"] | None:
    match text:
        case None:
            return "if_possible"
        case "none":
            return None
        case "auto":
            return "auto"
        case _:
            return Path(text)


def _reference(text: str) -> Reference:
    if text in NAMED_VIEWS:
        return text  # type: ignore[return-value]
    if text.isdecimal():
        return int(text)
    raise InvalidOption(f"--pose-view {text}: give {', '.join(NAMED_VIEWS)}, or the number of a view, from 0")


def _formats(text: str) -> tuple[Format, ...]:
    from mvsam3d.results import FORMATS

    wanted = [part.strip() for part in text.split(",")]
    unknown = [part for part in wanted if part not in FORMATS]
    if unknown:
        raise InvalidOption(f"--decode-formats {text}: {unknown[0]!r} is none of {', '.join(FORMATS)}")
    return tuple(known for known in FORMATS if known in wanted)


def without_photos_flag(arguments: Sequence[str]) -> list[str]:
    """A command line of the public scripts in which the flag for the photos is left out, and its value is the argument."""
    ours: list[str] = []
    for argument in arguments:
        flag, equals, value = argument.partition("=")
        if flag.replace("_", "-") not in PHOTOS:
            ours.append(argument)
        elif equals:
            ours.append(value)
    return ours


def public_folder(flags: Reconstruct, now: datetime) -> Path:
    """Where the public script puts its results: visualization/SCENE/OBJECT/NAME, the name telling views and weights."""
    weights = _weights(flags)
    scene, objects = flags.photos.resolve().name, (flags.object or "default").split(",")
    names = [] if flags.views is None else flags.views.split(",")
    views = "mv" if not names else names[0].strip() if len(names) == 1 else f"{len(names)}v"
    one = "s1off" if weights.stage1 == "mean" else f"s1a{weights.stage1_alpha:g}"
    sharp, seen = f"{weights.stage2_entropy_alpha:g}", f"{weights.stage2_visibility_alpha:g}"
    tolerance = f"t{flags.self_occlusion_tolerance:g}" if len(objects) == 1 else ""
    two = {"mean": "off", "visibility": f"v{seen}{tolerance}", "mixed": f"m_e{sharp}v{seen}"}
    weighted = f"{one}_s2{two.get(weights.stage2 or '', f'e{sharp}')}_{now:%Y%m%d_%H%M%S}"
    if len(objects) > 1:
        joined = "_".join(name.strip() for name in objects)
        return Path("visualization") / scene / "multiobject" / f"{scene}_{joined}_multiobj_{weighted}"
    return Path("visualization") / scene / objects[0] / f"{scene}_{objects[0]}_{views}_{weighted}"
