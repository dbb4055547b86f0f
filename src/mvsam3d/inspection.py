"""What a job writes beside its results when it is asked to: pictures of the weights, attention, scenes, a refined pose."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int32
from torch import Tensor

from mvsam3d.errors import InvalidOption
from mvsam3d.exports.attention import AttentionWriter, parse_layers
from mvsam3d.exports.debug_images import write_debug_images
from mvsam3d.exports.scenes import write_merged_scene, write_overlay, write_posed
from mvsam3d.exports.slat_start import write_slat_start
from mvsam3d.exports.visibility import write_latent_visibility
from mvsam3d.exports.weights import write_weights
from mvsam3d.generation.evidence import tokens_of
from mvsam3d.generation.object_points import DepthView, PointChoice, depth_points, in_camera, seen_from
from mvsam3d.generation.pose import camera_from_object
from mvsam3d.generation.pose_refinement import MaskView, PoseRefinement, refine_pose
from mvsam3d.geometry.cameras import centre
from mvsam3d.io.depth import DepthViews
from mvsam3d.io.refined_pose import write_refined_pose
from mvsam3d.io.runs import RunFolder
from mvsam3d.io.scenes import alignment, read_scene
from mvsam3d.models.config import ModelConfig
from mvsam3d.nn.probe import AttentionProbe, MapProbe
from mvsam3d.pipeline import Observers, ReconstructionConfig, Stage, slat_sampling, structure_sampling
from mvsam3d.results import cameras_of
from mvsam3d.types import Camera, Conditions, FusionRecord, Photo, Pose, Reconstruction, Voxels
from mvsam3d.views.depth_maps import photo_cameras

log = logging.getLogger(__name__)

SCENE = "scene.glb"  # beside da3_output.npz
P3D_FROM_CAMERA = np.diag([-1.0, -1.0, 1.0, 1.0])


@dataclass(frozen=True)
class PoseOptimisation:
    """How the pose is refined against depth."""

    iterations: int = PoseRefinement.iterations
    lr: float = PoseRefinement.lr
    mask_erosion: int = PointChoice.mask_erosion
    """Side, in pixels of the depth map, of the box that masks are shrunk by."""
    optimise_scale: bool = False


@dataclass(frozen=True)
class Extras:
    """What to write."""

    weights: bool = False
    """weights/: how much each view counted where, in pictures and numbers."""
    visibility: bool = False
    """latent_visibility.glb and a file for each view: what each given camera sees."""
    attention: bool = False
    """attention/: what each latent looks at."""
    attention_layers: str | None = None
    """Transformer blocks of `attention`, with commas; those whose attention weighs the views are always among them."""
    attention_dense: bool = False
    """Keep the attention to all condition tokens, not only to the patches of the view's own photo."""
    slat_start: bool = False
    """stage2_init.pt: what stage 2 starts from."""
    merge_scene: bool = False
    """result_merged_scene.glb: the object in the scene of its depth maps."""
    overlay: bool = False
    """result_overlay.glb: the object over the point map of the reference view."""
    debug_images: bool = False
    """debug_masked_images/: each photo, and with its mask in red."""
    pose_optimisation: PoseOptimisation | None = None
    """Refine the reference view's pose against depth."""


@dataclass(frozen=True)
class Depth:
    """Depth of the views that were kept."""

    views: DepthViews
    pointmaps_p3d: tuple[Float[Tensor, "3 _ _"], ...]
    first_camera: Camera
    """Of the file's first view: where an unaligned scene has its axes."""


def check_extras(extras: Extras, *, depth: Path | None) -> None:
    """What is asked for needs what is given, before anything is read. Raises: InvalidOption."""
    needing = {
        "--merge-da3-glb": extras.merge_scene,
        "--overlay-pointmap": extras.overlay,
        "--run-pose-optimization": extras.pose_optimisation is not None,
    }
    missing = [flag for flag, wanted in needing.items() if wanted and depth is None]
    if missing:
        raise InvalidOption(
            f"{', '.join(missing)} needs depth: give --da3-output da3_output.npz (made by `mvsam3d depth PHOTOS`)"
        )
    if extras.merge_scene and depth is not None and not (depth.parent / SCENE).is_file():
        raise InvalidOption(
            f"--merge-da3-glb needs {depth.parent / SCENE}, and it is not there: run `mvsam3d depth` without --no-vis"
        )
    if extras.attention_layers is not None and not extras.attention:
        raise InvalidOption("--attention-layers says which attention to save: give --save-attention too")
    if extras.pose_optimisation is not None:
        PoseRefinement(extras.pose_optimisation.iterations, extras.pose_optimisation.lr)


def observers(
    extras: Extras, folder: RunFolder, size: ModelConfig, config: ReconstructionConfig, views: int
) -> Observers:
    """Those who write during the run. Raises: InvalidOption: no such attention layer."""
    structure, slat = structure_sampling(config, size), slat_sampling(config, size)
    attention = None
    if extras.attention:
        wanted = extras.attention_layers
        layers: dict[Stage, tuple[int, ...]] = {
            "structure": parse_layers(wanted, size.structure.flow.blocks, structure.recording.block),
            "slat": parse_layers(wanted, size.slat.flow.blocks, slat.recording.block),
        }
        writer = AttentionWriter(folder, views, region="all" if extras.attention_dense else "photo")

        def attention(stage: Stage, step: int, patches: slice, coords: Int32[Tensor, "latent 3"]) -> AttentionProbe:
            def keep(block: int, view: int, looks: Float[Tensor, "latent patch"]) -> None:
                writer.write(stage, block, step, view, looks, coords if stage == "slat" else None)

            return MapProbe(layers[stage], slice(None) if extras.attention_dense else patches, keep)

    def start(conditions: Conditions, noise: Float[Tensor, "1 voxel channel"], voxels: Voxels) -> None:
        coords = torch.nn.functional.pad(voxels.coords.cpu(), (1, 0)).to(torch.int32)
        guidance = slat.guidance.strength
        write_slat_start(
            folder.path("stage2_init.pt"),
            coords,
            noise,
            conditions.tokens[:, None],
            steps=slat.steps,
            guidance=guidance if isinstance(guidance, float) else guidance.shape,
        )

    return Observers(attention, start if extras.slat_start else None)


def write_extras(
    extras: Extras,
    folder: RunFolder,
    name: str,
    photos: Sequence[Photo],
    result: Reconstruction,
    config: ReconstructionConfig,
    depth: Depth | None,
    *,
    seed: int,
    several: bool = False,
) -> None:
    """All that was asked for, once the results are there. `several`: objects that will be merged in the scene. Raises: MvSam3dError."""
    names = [photo.name for photo in photos]
    reference, pose = result.reference, result.poses[result.reference]
    if extras.debug_images:
        write_debug_images(folder, photos)
    if extras.weights:
        _weights(folder, photos, result, config)
    if extras.visibility:
        _visibility(folder, names, result)
    if depth is None:
        return
    if extras.overlay:
        placed = camera_from_object(pose).double().numpy()
        points, photo = depth.pointmaps_p3d[reference], photos[reference]
        write_overlay(folder.path("result_overlay.glb"), result.mesh, placed, points, photo)
    assert depth.views.path is not None, "depth that was read from a file"
    merge = extras.merge_scene or (several and (depth.views.path.parent / SCENE).is_file())
    if merge:
        _merged(folder, "result_merged_scene.glb", name, result, pose, depth)
    if extras.pose_optimisation is not None:
        refined = _optimised(extras.pose_optimisation, folder, photos, result, depth, seed)
        if merge:
            _merged(folder, "result_merged_scene_optimized.glb", name, result, refined, depth)


def _weights(folder: RunFolder, photos: Sequence[Photo], result: Reconstruction, config: ReconstructionConfig) -> None:
    if not result.fusion:
        why = "there is one view" if len(photos) == 1 else "all views count alike (--weighting mean)"
        log.warning("no weights are drawn: %s", why)
        return
    settings = {
        "stage1": type(config.structure_weighting).__name__,
        "stage2": type(config.slat_weighting).__name__,
        "entropy_alpha": getattr(config.slat_weighting, "alpha", None),
        "attention_layer": config.slat_block,
        "attention_step": config.slat_record_step,
    }
    left_out = write_weights(
        folder, result.fusion, result.voxels, photos, cameras_of(photos, result), settings=settings
    )
    for file, reason in left_out.items():
        log.info("%s is not written: %s", file, reason)


def _visibility(folder: RunFolder, names: Sequence[str], result: Reconstruction) -> None:
    if result.visibility is None or result.cameras is None:
        log.warning("no visibility is drawn: the cameras are not known (--cameras or --da3-output)")
        return
    tokens, _ = tokens_of(result.voxels)
    even = torch.full_like(result.visibility, 1 / len(names))
    record = FusionRecord("slat", tokens, result.voxels.resolution // 2, even, None, result.visibility)
    axes = np.stack([camera.camera_from_world[2, :3] for camera in result.cameras])
    looks = axes / np.linalg.norm(axes, axis=1, keepdims=True)
    write_latent_visibility(folder, record, np.stack([centre(c) for c in result.cameras]), looks, names)


def _merged(folder: RunFolder, file: str, name: str, result: Reconstruction, pose: Pose, depth: Depth) -> None:
    assert depth.views.path is not None, "depth that was read from a file"
    scene = read_scene(depth.views.path.parent / SCENE)
    write_merged_scene(
        folder.path(file),
        scene,
        result.mesh,
        camera_from_object(pose).double().numpy(),
        depth.views.cameras[result.reference].camera_from_world,
        alignment(scene, depth.first_camera.camera_from_world),
        name=name,
    )


def _optimised(
    how: PoseOptimisation,
    folder: RunFolder,
    photos: Sequence[Photo],
    result: Reconstruction,
    depth: Depth,
    seed: int,
) -> Pose:
    """The refined pose, or the predicted one if it fits no worse; all files of it."""
    cameras = photo_cameras(depth.views, photos)
    zoom = cameras[0].intrinsics[0, 0] / depth.views.cameras[0].intrinsics[0, 0]
    generator = torch.Generator().manual_seed(seed)
    views = [
        DepthView(camera, points[2].double().numpy(), photo.mask)
        for camera, points, photo in zip(cameras, depth.pointmaps_p3d, photos, strict=True)
    ]
    points = depth_points(views, generator, PointChoice(mask_erosion=round(how.mask_erosion * zoom)))
    reference = cameras[result.reference]
    around = seen_from(reference, cameras)
    pose = result.poses[result.reference]
    found = refine_pose(
        pose,
        result.mesh,
        in_camera(reference, points),
        generator,
        PoseRefinement(how.iterations, how.lr, optimise_scale=how.optimise_scale),
        views=[MaskView(camera, photo.mask) for camera, photo in zip(around, photos, strict=True)],
    )
    log.info(
        "pose of view %s %s: %s; distance %.4g -> %.4g",
        photos[result.reference].name,
        "refined" if found.accepted else "not refined",
        found.reason,
        found.distance_before,
        found.distance_after,
    )
    write_refined_pose(
        folder.path("pose_optimization/optimized_params.npz"),
        found.pose,
        found.initial,
        loss_history=found.loss_history,
        distance_history=found.distance_history,
        scale_history=found.scale_history,
        accepted=found.accepted,
    )
    placed = P3D_FROM_CAMERA @ camera_from_object(found.pose).double().numpy()
    write_posed(folder.path("result_pose_optimized.glb"), result.mesh, placed, frame="p3d_camera")
    return found.pose
