"""What a job writes beside its results when it is asked to: pictures of the weights, attention, scenes, a refined pose."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float, Int32
from PIL import Image
from torch import Tensor

from mvsam3d.errors import InvalidOption, NothingFound
from mvsam3d.exports.attention import AttentionWriter, attention_bytes, parse_layers
from mvsam3d.exports.debug_images import write_debug_images
from mvsam3d.exports.scenes import write_merged_scene, write_overlay, write_posed
from mvsam3d.exports.slat_start import write_slat_start
from mvsam3d.exports.visibility import looks_in_object, write_latent_visibility
from mvsam3d.exports.weights import write_weights
from mvsam3d.generation.evidence import tokens_of
from mvsam3d.generation.pose import camera_from_object
from mvsam3d.generation.weighting import ByEntropy, Mixed
from mvsam3d.geometry.cameras import centre
from mvsam3d.geometry.frames import P3D_FROM_CAMERA
from mvsam3d.io.depth import DepthViews, read_depth
from mvsam3d.io.refined_pose import write_refined_pose
from mvsam3d.io.runs import RunFolder
from mvsam3d.io.scenes import Scene, alignment, read_scene
from mvsam3d.models.config import ModelConfig
from mvsam3d.nn.probe import AttentionProbe, MapProbe
from mvsam3d.options import ReconstructionConfig, Stage, slat_sampling, structure_sampling
from mvsam3d.pipeline import Observers
from mvsam3d.posing.object_points import DepthView, PointChoice, depth_points, in_camera, seen_from
from mvsam3d.posing.refinement import LEAST_POINTS, MaskView, PoseRefinement, refine_pose
from mvsam3d.results import cameras_of
from mvsam3d.types import Camera, Conditions, FusionRecord, Photo, Pose, Reconstruction, Voxels
from mvsam3d.views.depth_maps import photo_cameras, photo_pointmaps, placement

log = logging.getLogger(__name__)

SCENE = "scene.glb"  # beside da3_output.npz
PUBLIC_BLOCKS = 24  # of both public networks, whose numbers people give
MUCH = 1 << 30  # bytes of attention to warn of


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
    """Depth of the photos, and the scene made of it."""

    path: Path
    views: DepthViews
    pointmaps_p3d: tuple[Float[Tensor, "3 _ _"], ...]  # at the photos' pixels
    cameras: tuple[Camera, ...]  # of the photos
    scene: Scene | None  # if it is asked for
    scene_from_world: Float[np.ndarray, "4 4"] | None

    def of(self, kept: Sequence[int]) -> Depth:
        """Of these photos only."""
        return replace(
            self,
            views=self.views.select([self.views.names[i] for i in kept]),
            pointmaps_p3d=tuple(self.pointmaps_p3d[i] for i in kept),
            cameras=tuple(self.cameras[i] for i in kept),
        )


def depth_of(path: Path, photos: Sequence[Photo], *, scene: bool) -> Depth:
    """Depth of the photos from da3_output.npz. `scene`: read scene.glb beside it too. Raises: BadFile."""
    whole = read_depth(path)
    views = whole.select([photo.name for photo in photos])
    around = read_scene(path.parent / SCENE) if scene else None
    first = whole.cameras[0].camera_from_world  # where a scene that does not tell has its axes
    return Depth(
        path,
        views,
        photo_pointmaps(views, photos),
        photo_cameras(views, photos),
        around,
        None if around is None else alignment(around, first),
    )


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
    if extras.merge_scene and depth is not None and depth.is_file() and not (depth.parent / SCENE).is_file():
        raise InvalidOption(
            f"--merge-da3-glb needs {depth.parent / SCENE}, and it is not there: run `mvsam3d depth` without --no-vis"
        )
    for flag, given in (("--attention-layers", extras.attention_layers), ("--attention-dense", extras.attention_dense)):
        if given and not extras.attention:
            raise InvalidOption(f"{flag} says which attention to save: give --save-attention too")


def check_measured(how: PoseOptimisation, photos: Sequence[Photo], depth: Depth) -> None:
    """That there are points to refine the pose against, before the long part of a run. Raises: InvalidOption."""
    try:
        found = len(_measured(how, photos, depth, torch.Generator()))
    except NothingFound:
        found = 0
    if found < LEAST_POINTS:
        raise InvalidOption(
            f"--run-pose-optimization needs at least {LEAST_POINTS} points of the object, and {depth.path} has {found} inside the masks "
            f"shrunk by --pose-opt-mask-erosion {how.mask_erosion}: shrink them less, use more views, or check that the depth is of "
            "these photos"
        )


def block_number(flag: str, number: int, blocks: int) -> int:
    """The transformer block that a flag means, as a number of a model of so many blocks.

    Documented commands number the blocks of the public networks: in a smaller model its last stands for those that it lacks, and the
    log says so.

    Raises: InvalidOption: no model has it.
    """
    if blocks <= number < PUBLIC_BLOCKS:
        log.warning("%s %d: this model has the blocks 0 to %d, the last is taken", flag, number, blocks - 1)
        return blocks - 1
    if not 0 <= number < blocks:
        raise InvalidOption(f"{flag} {number}: this model has the blocks 0 to {blocks - 1}")
    return number


def attention_blocks(text: str | None, blocks: int, measured: int, stage: Stage) -> tuple[int, ...]:
    """Blocks of --attention-layers and the measured one; see `block_number`. Raises: InvalidOption."""

    def ours(part: str) -> str:
        number = part.strip()
        known = block_number(f"--attention-layers ({stage})", int(number), blocks) if number.isdecimal() else part
        return str(known)

    return parse_layers(None if text is None else ",".join(ours(part) for part in text.split(",")), blocks, measured)


def observers(
    extras: Extras, folder: RunFolder, size: ModelConfig, config: ReconstructionConfig, views: int
) -> Observers:
    """Those who write during the run. Raises: InvalidOption: no such attention layer."""
    structure, slat = structure_sampling(config, size), slat_sampling(config, size)
    attention = None
    if extras.attention:
        wanted = extras.attention_layers
        layers: dict[Stage, tuple[int, ...]] = {
            "structure": attention_blocks(wanted, size.structure.flow.blocks, structure.recording.block, "structure"),
            "slat": attention_blocks(wanted, size.slat.flow.blocks, slat.recording.block, "slat"),
        }
        steps: dict[Stage, int] = {"structure": structure.steps, "slat": slat.steps}
        writer = AttentionWriter(folder, views, region="all" if extras.attention_dense else "photo")
        announced: set[Stage] = set()

        def attention(stage: Stage, step: int, patches: slice, coords: Int32[Tensor, "latent 3"]) -> AttentionProbe:
            def keep(block: int, view: int, looks: Float[Tensor, "latent patch"]) -> None:
                if stage not in announced:
                    announced.add(stage)
                    _announce(folder, stage, looks, layers[stage], steps[stage], views)
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


def _announce(
    folder: RunFolder, stage: Stage, looks: Float[Tensor, "latent key"], layers: Sequence[int], steps: int, views: int
) -> None:
    """Say how much a stage's attention takes, before the first file. Raises: InvalidOption: more than the disk has."""
    latents, keys = looks.shape
    size = attention_bytes(stage, latents=latents, keys=keys, layers=len(layers), steps=steps, views=views)
    what = f"attention of {stage}: up to {len(layers)} layers x {steps} steps x {views} views"
    log.log(
        logging.WARNING if size > MUCH else logging.INFO,
        "%s = %d files of %d x %d numbers, %.1f MB",
        what,
        len(layers) * steps * views,
        latents,
        keys,
        size / 1e6,
    )
    free = shutil.disk_usage(folder.folder).free
    if size > free:
        raise InvalidOption(
            f"--save-attention: {what} take {size / 1e9:.1f} GB and the disk of {folder.folder.parent} has {free / 1e9:.1f} GB: "
            "choose fewer --attention-layers, steps or views, or leave out --attention-dense"
        )


def write_extras(
    extras: Extras,
    folder: RunFolder,
    name: str,
    photos: Sequence[Photo],
    result: Reconstruction,
    config: ReconstructionConfig,
    size: ModelConfig,
    depth: Depth | None,
    *,
    seed: int,
) -> None:
    """All that was asked for, once the results are there.

    Args:
        name: of the object, in scenes.
        photos: those that were kept.
        depth: of these photos; the object is placed in its scene, if that was read.
        seed: of the points that the pose is refined against.
    Raises: MvSam3dError.
    """
    reference, pose = result.reference, result.poses[result.reference]
    if extras.debug_images:
        write_debug_images(folder, photos)
    if extras.weights:
        _weights(folder, photos, result, config, size)
    if extras.visibility:
        _visibility(folder, [photo.name for photo in photos], result)
    if depth is None:
        return
    if extras.overlay:
        placed = camera_from_object(pose).double().numpy()
        points, photo = depth.pointmaps_p3d[reference], photos[reference]
        write_overlay(folder.path("result_overlay.glb"), result.mesh, placed, points, photo)
    _merged(folder, "result_merged_scene.glb", name, result, pose, depth)
    if extras.pose_optimisation is not None:
        refined = _optimised(extras.pose_optimisation, folder, photos, result, depth, seed)
        _merged(folder, "result_merged_scene_optimized.glb", name, result, refined, depth)


def _weights(
    folder: RunFolder,
    photos: Sequence[Photo],
    result: Reconstruction,
    config: ReconstructionConfig,
    size: ModelConfig,
) -> None:
    if not result.fusion:
        why = "there is one view" if len(photos) == 1 else "all views count alike (--weighting mean)"
        log.warning("no weights are drawn: %s", why)
        return
    how, recording = config.slat_weighting, slat_sampling(config, size).recording
    sharp = how.entropy_alpha if isinstance(how, Mixed) else how.alpha if isinstance(how, ByEntropy) else None
    settings = {
        "stage1": type(config.structure_weighting).__name__,
        "stage2": type(how).__name__,
        "entropy_alpha": sharp,
        "attention_layer": recording.block,
        "attention_step": recording.step,
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
    centres = np.stack([centre(camera) for camera in result.cameras])
    write_latent_visibility(folder, record, centres, looks_in_object(result.cameras), names)


def _merged(folder: RunFolder, file: str, name: str, result: Reconstruction, pose: Pose, depth: Depth) -> None:
    if depth.scene is None or depth.scene_from_world is None:
        return
    write_merged_scene(
        folder.path(file),
        depth.scene,
        result.mesh,
        camera_from_object(pose).double().numpy(),
        depth.views.cameras[result.reference].camera_from_world,
        depth.scene_from_world,
        name=name,
    )


def _measured(
    how: PoseOptimisation, photos: Sequence[Photo], depth: Depth, generator: torch.Generator
) -> Float[np.ndarray, "point 3"]:
    """Points of the object, in the world of the depth. Raises: NothingFound: none."""
    maps = depth.views
    masks = [_in_map(photo.mask, maps) for photo in photos]
    views = [DepthView(camera, z, mask) for camera, z, mask in zip(maps.cameras, maps.depth, masks, strict=True)]
    return depth_points(views, generator, PointChoice(mask_erosion=how.mask_erosion))


def _in_map(mask: Bool[np.ndarray, "h w"], maps: DepthViews) -> Bool[np.ndarray, "h2 w2"]:
    """A photo's mask at the pixels of its depth map, nearest."""
    _, rows, columns = maps.depth.shape
    place = placement((mask.shape[1], mask.shape[0]), (columns, rows), maps.process_res)
    whole = np.asarray(Image.fromarray(mask).resize(place.whole, Image.Resampling.NEAREST))
    return whole[place.top : place.top + rows, place.left : place.left + columns]


def _optimised(
    how: PoseOptimisation,
    folder: RunFolder,
    photos: Sequence[Photo],
    result: Reconstruction,
    depth: Depth,
    seed: int,
) -> Pose:
    """The refined pose, or the predicted one if it fits no worse; all files of it."""
    cameras, generator = depth.cameras, torch.Generator().manual_seed(seed)
    points = _measured(how, photos, depth, generator)
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
    matrices = {"camera_from_p3d_camera": P3D_FROM_CAMERA}
    write_posed(folder.path("result_pose_optimized.glb"), result.mesh, placed, frame="p3d_camera", matrices=matrices)
    return found.pose
