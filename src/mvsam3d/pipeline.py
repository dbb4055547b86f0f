"""Photos of one object -> mesh, Gaussians, poses: the whole way in one place, in order."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int32
from torch import Tensor

from mvsam3d.errors import InvalidOption, NothingFound
from mvsam3d.generation import slat_stage, structure_stage
from mvsam3d.generation.agreement import LEAST_VIEWS, agreeing
from mvsam3d.generation.budget import MemoryBudget, mesh_bytes
from mvsam3d.generation.evidence import cameras_in_object, tokens_of, tokens_seen, visibility
from mvsam3d.generation.guidance import without_condition
from mvsam3d.generation.latents import structure_noise
from mvsam3d.generation.pose import camera_from_object, decode_poses, placed_camera, pose_from_similarity
from mvsam3d.generation.running_weights import Recording, Watch, patches
from mvsam3d.generation.schedule import step_size
from mvsam3d.generation.slat_stage import SlatStatistics, sample_slat
from mvsam3d.generation.steering import Steering
from mvsam3d.generation.structure_stage import sample_structure
from mvsam3d.generation.visibility_compat import public_visibility
from mvsam3d.generation.voxels import VoxelsConfig, occupied_voxels
from mvsam3d.generation.weighting import Evidence
from mvsam3d.geometry.cameras import unscaled, widest_angle
from mvsam3d.geometry.hull import Cube, silhouette_ious
from mvsam3d.geometry.transforms import inverse
from mvsam3d.geometry.voxels import all_cells
from mvsam3d.meshing.cleanup import cleaned, coloured_as, simplified
from mvsam3d.meshing.isosurface import CollectedField, collected, enclosed_by, extract_surface
from mvsam3d.meshing.level_surface import level_surface
from mvsam3d.meshing.splat_places import under_surface
from mvsam3d.meshing.texture import textured
from mvsam3d.models.bundle import Models
from mvsam3d.models.config import ModelConfig, SamplingDefaults
from mvsam3d.models.embeddings import image_features
from mvsam3d.models.structure_vae import grid_from_tokens
from mvsam3d.models.view_tokens import ViewTokens
from mvsam3d.nn.probe import AttentionProbe
from mvsam3d.nn.sparse import SparseGrid, SparseTensor
from mvsam3d.options import ReconstructionConfig, Reference, Stage, check_config, slat_sampling, structure_sampling
from mvsam3d.posing.by_photos import fitted, painted
from mvsam3d.posing.joint_search import FoundPoses, JointSearch, searched_together
from mvsam3d.posing.placement import Placement, fitting_cameras, photo_cameras, placed_by_cameras, pose_of
from mvsam3d.posing.search import FoundPose, PoseSearch
from mvsam3d.rendering.silhouettes import silhouette_iou
from mvsam3d.types import (
    Camera,
    Conditions,
    CubeField,
    FusionRecord,
    GaussianCloud,
    Mesh,
    Photo,
    Pose,
    Reconstruction,
    Slat,
    StructureLatents,
    View,
    Voxels,
)
from mvsam3d.views.pointmap import ObjectCentric
from mvsam3d.views.prepare import ViewConfig, prepare_views

log = logging.getLogger(__name__)

Progress = Callable[[str, int, int], None]  # (stage, steps done, steps in all)
STAGES = ("views", "structure", "appearance", "mesh", "poses", "outlines", "texture")
SEARCHED_FACES = 3000  # of the mesh that is laid over the photos, 48 pixels wide
KNOWN_CELLS = 64  # along an edge of what known cameras show of the shape
ALL_ROUND = 45.0  # degrees between the farthest two of the poses found together, from which they tell a shape
LEAST_MET = 0.82  # by that shape, of the masks: right poses had .85 and more on real photos, wrong ones .69 and .79
DECODE_ROWS = 1 << 18  # fine rows of the mesh decoder at a time: about 0.4 GB at the public size


@dataclass(frozen=True)
class Observers:
    """Who wants to see what while a reconstruction is made."""

    attention: Callable[[Stage, int, slice, Int32[Tensor, "latent 3"]], AttentionProbe] | None = None
    """Probe for the attention of a stage in a step, given the patches of a view's own photo and the cells of the latents."""
    slat_start: Callable[[Conditions, Float[Tensor, "1 voxel channel"], Voxels], None] | None = None
    """Told what stage 2 starts from: condition tokens, noise, voxels."""


def reconstruct(
    photos: Sequence[Photo],
    models: Models,
    config: ReconstructionConfig,
    noise: torch.Generator,
    *,
    pointmaps_p3d: Sequence[Float[Tensor, "3 _ _"]] | None = None,
    cameras: Sequence[Camera | None] | None = None,
    same_units: bool = False,
    observers: Observers | None = None,
    progress: Progress | None = None,
) -> Reconstruction:
    """Turn photos of one object into a textured mesh and a Gaussian cloud in one object frame.

    Args:
        photos: with masks; pose and silhouettes are given for each.
        models: networks of one size.
        config: choices.
        noise: CPU generator: equal seeds give equal results.
        pointmaps_p3d: one for each photo, or none (the public model needs them).
        cameras: one for each photo, or none; weighting by visibility needs them. Where they tell the shape, some photos may have none: the
            networks see them, but they tell nothing of outlines and give no colours, and the finished mesh is laid over them.
        same_units: their lengths are those of the point maps, which then tell of free space too where cameras tell the shape; if not, the
            world is scaled so that the object is as far as its pose says.
        observers: shown attention, weights and noise.
        progress: told of every stage and step.
    Raises: BadPhoto, InvalidOption, NothingFound: the model sees no object in the photos.
    """
    size, clock, observers = models.config, _Clock(progress), observers or Observers()
    records: list[FusionRecord] = []
    with torch.no_grad():
        first = _sparse_structure(
            photos, models, config, noise, pointmaps_p3d, cameras, observers, records, clock, same_units=same_units
        )
        photos, cameras, kept, views, maps = first.photos, first.cameras, first.kept, first.views, first.maps
        poses, voxels, telling, placement = first.poses, first.voxels, first.telling, first.placement
        with clock.stage("appearance"):
            reference = reference_view(config.reference, photos, poses, voxels, kept, config.sight.tolerance)
            seen = None
            if cameras is not None:
                near = None if pointmaps_p3d is None else [pointmaps_p3d[i] for i in kept]
                seen, cameras = seen_by_cameras(
                    voxels, cameras, photos, poses[reference], reference, config, near, same_units=same_units
                )
                cameras = cameras if placement is None else placement.cameras
            gaussians, surface = _surface(models, maps, voxels, config, noise, observers, records, clock, seen)
        with clock.stage("mesh"):
            mesh, gaussians = _shaped(surface, gaussians, placement, telling, photos, config)
        found = None
        with clock.stage("poses"):
            # depth tells more of place and size than outlines do
            own = size.sampling.search_poses and pointmaps_p3d is None
            wanted = own if config.search_poses is None else config.search_poses
            if wanted and placement is None:
                search = searched_poses(mesh, photos, views, poses, config.pose_search, config.joint_search, clock.step)
                poses = _poses_of(search.alone)
                if search.together is not None and cameras is None and pointmaps_p3d is None:
                    together = _poses_of(search.together)
                    found = _placed_by_poses(photos, views, poses, together, mesh, models, first.logits, config)
            if wanted and cameras is not None and first.without_camera:
                poses, cameras = _laid_over(mesh, photos, views, poses, cameras, first.without_camera, config, clock)
        if found is not None:
            # the poses found tell the shape as given cameras do, and what follows is made anew for it
            with clock.stage("structure"):
                voxels = active(found.logits(len(first.logits)), size.sampling)
                poses = tuple(pose_of(camera) for camera in found.cameras)
            with clock.stage("appearance"):
                records = [record for record in records if record.stage != "slat"]
                gaussians, surface = _surface(models, maps, voxels, config, noise, observers, records, clock, None)
            with clock.stage("mesh"):
                mesh, gaussians = _shaped(surface, gaussians, found, (), photos, config)
        around = photo_cameras(photos, poses, views, cameras, among=placement is not None)
        with clock.stage("outlines"):
            used = telling or tuple(range(len(photos)))
            mesh, gaussians = fitted(mesh, gaussians, photos, around, config.by_photos, views=used)
        with clock.stage("texture"):
            flat = textured(mesh, None, config.texture)
            result = painted(flat, gaussians, photos, around, config.by_photos, views=used)
    return Reconstruction(
        result.mesh,
        result.gaussians,
        voxels,
        poses,
        views,
        kept,
        reference,
        tuple(records),
        seen,
        None if cameras is None else tuple(cameras),
        None if placement is None else placement.in_world(),
        tuple(photos[i].name for i in first.without_camera),
        found is not None,
        result.views,
        result.seen_fraction,
        result.coverage,
        result.seen_by,
        seconds=clock.seconds,
    )


def _surface(
    models: Models,
    maps: dict[str, Float[Tensor, "view _ _ _"]],
    voxels: Voxels,
    config: ReconstructionConfig,
    noise: torch.Generator,
    observers: Observers,
    records: list[FusionRecord],
    clock: _Clock,
    seen: Float[Tensor, "view token"] | None,
) -> tuple[GaussianCloud, Mesh]:
    """Stage 2 and both decoders: the cloud, and the surface as it comes. Raises: NothingFound."""
    watch = watching(observers, "slat", tokens_of(voxels)[0], voxels.resolution // 2, records)
    slat = structured_latents(
        models,
        maps,
        voxels,
        config,
        noise,
        clock.step,
        visibility=seen,
        watch=watch,
        started=observers.slat_start,
    )
    gaussians, cubes = decoded(models, slat, config.memory)
    surface = extract_surface(cubes, enclosed=enclosed_by(voxels)).to_mesh()
    if len(surface.faces) == 0:
        raise NothingFound("the model's mesh is empty: no surface in any voxel. Check the masks, or add views")
    return _cloud_on_cpu(gaussians), surface


def _laid_over(
    mesh: Mesh,
    photos: Sequence[Photo],
    views: Sequence[View],
    poses: Sequence[Pose],
    cameras: Sequence[Camera],
    which: tuple[int, ...],
    config: ReconstructionConfig,
    clock: _Clock,
) -> tuple[tuple[Pose, ...], tuple[Camera, ...]]:
    """Poses and cameras, those of some views as the finished mesh fits their photos best."""
    chosen = [photos[i] for i in which], [views[i] for i in which], [poses[i] for i in which]
    search = searched_poses(mesh, *chosen, config.pose_search, None, clock.step)
    better = dict(zip(which, _poses_of(search.alone), strict=True))
    around = [placed_camera(photos[i], better[i]) if i in better else camera for i, camera in enumerate(cameras)]
    return tuple(better.get(i, pose) for i, pose in enumerate(poses)), tuple(around)


def _placed_by_poses(
    photos: Sequence[Photo],
    views: Sequence[View],
    alone: Sequence[Pose],
    together: Sequence[Pose],
    mesh: Mesh,
    models: Models,
    logits: Float[Tensor, "x y z"],
    config: ReconstructionConfig,
) -> Placement | None:
    """The shape by the poses that were found together, as by given cameras, if it meets the masks well, and as well as the mesh does.

    The mesh has it easier: it is laid over each photo as if there were no others. Where it is better for that, the poses may be wrong.

    Such poses are off by some degrees, so that what they leave uncovered of the masks is not filled. An object that looks the same from all
    round (a pot) is found at nearly one pose in every photo: its outlines then leave anything behind it, so that shape is not used.

    Args:
        alone: poses of the mesh found for each photo by itself, in which it meets the masks best.
    """
    if config.guidance is False:
        return None
    cameras = [unscaled(camera) for camera in photo_cameras(photos, together, views, None, among=False)]
    spread = widest_angle(cameras)
    if spread < ALL_ROUND:
        log.info(
            "poses found together see the object from within %.0f degrees, and do not tell what is behind it", spread
        )
        return None
    try:
        placement = _placed(models, photos, cameras, logits, together, config, tuple(range(len(photos))), fill=False)
    except InvalidOption as problem:  # cameras that are given would be wrong; found ones tell nothing
        log.info("poses found together are not used for the shape: %s", problem)
        return None
    solid = placement.logits(KNOWN_CELLS).numpy() > 0
    masks = [photo.mask for photo in photos]
    met = float(silhouette_ious(solid, Cube(np.zeros(3), 1.0), placement.cameras, masks).mean())
    before = photo_cameras(photos, alone, views, None, among=False)
    first = float(np.mean([silhouette_iou(photo, mesh, camera) for photo, camera in zip(photos, before, strict=True)]))
    kept = met >= max(first, LEAST_MET)
    log.info(
        "poses found together: the shape by them meets the masks by %.3f (%.2f is asked for), "
        "the model's, laid over each photo alone, by %.3f: the %s is kept",
        met,
        LEAST_MET,
        first,
        "former" if kept else "latter",
    )
    return placement if kept else None


def _placed(
    models: Models,
    photos: Sequence[Photo],
    cameras: Sequence[Camera | None],
    logits: Float[Tensor, "x y z"],
    poses: Sequence[Pose],
    config: ReconstructionConfig,
    views: tuple[int, ...],
    *,
    depths: Sequence[Float[np.ndarray, "_ _"]] | None = None,
    fill: bool = True,
) -> Placement:
    """`placed_by_cameras`, with the lifting network at work if there is one."""
    with models.at_work(*(["lifting"] if models.lifting is not None else [])):
        return placed_by_cameras(
            photos,
            cameras,
            models.lifting,
            logits,
            poses,
            views=views,
            resolution=KNOWN_CELLS,
            largest_share=config.model_share,
            depths=depths,
            fill=fill,
            symmetry=config.symmetry,
        )


@dataclass(frozen=True)
class SparseStructure:
    """What stage 1 leaves, of the views that were kept."""

    photos: tuple[Photo, ...]
    cameras: tuple[Camera, ...] | None
    """Those of views `without_camera` are guesses by the model's poses."""
    kept: tuple[int, ...]
    """Their places among the photos that were given."""
    views: tuple[View, ...]
    maps: dict[str, Float[Tensor, "view _ _ _"]]
    poses: tuple[Pose, ...]
    logits: Float[Tensor, "x y z"]
    """Of occupancy."""
    voxels: Voxels
    telling: tuple[int, ...]
    """Views whose cameras tell the shape; none: it is the network's alone."""
    placement: Placement | None
    """Where the object lies among those cameras."""
    without_camera: tuple[int, ...]
    """Views that have none, where those of the others tell the shape."""


def _shaped(
    surface: Mesh,
    gaussians: GaussianCloud,
    placement: Placement | None,
    views: Sequence[int],
    photos: Sequence[Photo],
    config: ReconstructionConfig,
) -> tuple[Mesh, GaussianCloud]:
    """The mesh to go on with, cleaned, and its cloud: the decoders', or the surface of the shape by cameras and lifting network, in the
    decoder's colours, and the cloud on it.

    That surface keeps what is thinner than a cell of stage 2. A shape by outlines alone has no hollows: there the decoder knows better.

    Args:
        views: whose masks it is to cover, see `Placement.covering_logits`.
    """
    if placement is None or placement.shape.source != "lifting" or config.by_photos.surface == "model":
        return cleaned(surface, config.cleanup), gaussians
    odds = placement.covering_logits(KNOWN_CELLS, views, [photo.mask for photo in photos])
    mesh = coloured_as(cleaned(level_surface(odds.numpy()), config.cleanup), surface)
    return mesh, under_surface(gaussians, mesh)


@torch.no_grad()
def sparse_structure(
    photos: Sequence[Photo],
    models: Models,
    config: ReconstructionConfig,
    noise: torch.Generator,
    *,
    cameras: Sequence[Camera | None] | None = None,
) -> SparseStructure:
    """The first stages of `reconstruct` alone, for those who want the shape in cells and nothing else. Raises: see there."""
    return _sparse_structure(
        photos, models, config, noise, None, cameras, Observers(), [], _Clock(None), same_units=False
    )


def _sparse_structure(
    photos: Sequence[Photo],
    models: Models,
    config: ReconstructionConfig,
    noise: torch.Generator,
    pointmaps_p3d: Sequence[Float[Tensor, "3 _ _"]] | None,
    cameras: Sequence[Camera | None] | None,
    observers: Observers,
    records: list[FusionRecord],
    clock: _Clock,
    *,
    same_units: bool,
) -> SparseStructure:
    check_config(config, models.config, len(photos), cameras, depth=pointmaps_p3d is not None)
    size = models.config
    with clock.stage("views"):
        views = prepare_views(photos, view_config(size), pointmaps_p3d)
        maps = stacked(views, models.device)
        guidance = cameras is not None and (pointmaps_p3d is None if config.guidance is None else config.guidance)
        # where cameras tell the shape, outlines that contradict it tell which view is wrong
        telling = fitting_cameras(photos, cameras) if guidance and cameras is not None else ()
        without_camera = () if cameras is None else tuple(i for i, camera in enumerate(cameras) if camera is None)
        if without_camera and not telling:
            names = ", ".join(photos[i].name for i in without_camera)
            log.warning(
                "the views %s have no camera, and those of the others tell no shape: going on without cameras", names
            )
            cameras, without_camera = None, ()
        kept = tuple(range(len(photos))) if telling else agreeing_views(models, maps, config)
        photos, views = [photos[i] for i in kept], tuple(views[i] for i in kept)
        maps = {name: value[list(kept)] for name, value in maps.items()}
        cameras = None if cameras is None else [cameras[i] for i in kept]
    with clock.stage("structure"):
        grid = size.structure.flow.grid
        watch = watching(observers, "structure", all_cells(grid), grid, records)
        latents = structure_latents(models, maps, config, noise, clock.step, watch=watch)
        poses, logits = _poses(latents, views), occupancy_logits(models, latents)
        placement, depths = None, None
        if same_units and pointmaps_p3d is not None:
            depths = [pointmaps_p3d[i][2].double().numpy() for i in kept]
        if cameras is not None and telling:
            placement = _placed(models, photos, cameras, logits, poses, config, telling, depths=depths)
            agrees, share = placement.alignment.agreement, placement.share
            log.info("shape by %s, model agrees by %.2f, its share %g", placement.shape.source, agrees, share)
            logits = placement.covering_logits(len(logits), telling, [photo.mask for photo in photos])
            poses = tuple(pose_of(camera) for camera in placement.cameras)
        voxels = active(logits, size.sampling)
    given = None if cameras is None else _completed(cameras, placement)
    return SparseStructure(
        tuple(photos), given, kept, views, maps, poses, logits, voxels, telling, placement, without_camera
    )


def _completed(cameras: Sequence[Camera | None], placement: Placement | None) -> tuple[Camera, ...]:
    """All cameras in their own world; the placement has those of views that came without one."""
    if placement is None:
        return tuple(camera for camera in cameras if camera is not None)
    object_from_world = np.linalg.inv(placement.world_from_object)
    return tuple(
        unscaled(replace(guess, camera_from_world=guess.camera_from_world @ object_from_world)) if own is None else own
        for own, guess in zip(cameras, placement.cameras, strict=True)
    )


def watching(
    observers: Observers,
    stage: Stage,
    coords: Int32[Tensor, "latent 3"],
    resolution: int,
    records: list[FusionRecord],
) -> Watch:
    """What the observers want of a stage, and `records`, to which its weights are added."""

    def weights(evidence: Evidence, per_latent: Float[Tensor, "view latent"]) -> None:
        known = [None if value is None else value.float().cpu() for value in (evidence.entropy, evidence.visibility)]
        records.append(FusionRecord(stage, coords.cpu(), resolution, per_latent.float().cpu(), *known))

    probe = observers.attention
    return Watch(
        attention=None if probe is None else lambda step, patches: probe(stage, step, patches, coords),
        weights=weights,
    )


def reference_view(
    which: Reference,
    photos: Sequence[Photo],
    poses: Sequence[Pose],
    voxels: Voxels,
    kept: Sequence[int],
    tolerance: float,
) -> int:
    """The view whose pose is the object's, as an index among those that were kept. Raises: InvalidOption: it was left out."""
    if which == "first":
        return 0
    if which == "largest-mask":
        return int(np.argmax([photo.mask.mean() for photo in photos]))
    if which == "most-visible":
        centres = [inverse(camera_from_object(pose).double())[:3, 3].numpy() for pose in poses]
        return int(visibility(voxels, np.stack(centres), tolerance).sum(1).argmax())
    if which not in kept:
        raise InvalidOption(
            f"view {which} shall give the pose, but it was left out, as it shows something else than the others: "
            "choose another, or keep it with --drop-outliers False"
        )
    return list(kept).index(which)


def seen_by_cameras(
    voxels: Voxels,
    cameras: Sequence[Camera],
    photos: Sequence[Photo],
    pose: Pose,
    reference: int,
    config: ReconstructionConfig,
    pointmaps_p3d: Sequence[Float[Tensor, "3 _ _"]] | None,
    *,
    same_units: bool,
) -> tuple[Float[Tensor, "view token"], tuple[Camera, ...]]:
    """Which tokens of the voxels each given camera sees, and the cameras with the object frame as their world."""
    placed = cameras_in_object(cameras, photos, camera_from_object(pose), reference=reference, same_units=same_units)
    if config.visibility_compat:
        return public_visibility(voxels, cameras, pose, config.sight.tolerance), placed
    depths = None if pointmaps_p3d is None else [points[2].double().numpy() for points in pointmaps_p3d]
    return tokens_seen(voxels, placed, config.sight, masks=[photo.mask for photo in photos], depths=depths), placed


def searched_poses(
    mesh: Mesh,
    photos: Sequence[Photo],
    views: Sequence[View],
    poses: Sequence[Pose],
    config: PoseSearch,
    joint: JointSearch | None,
    progress: structure_stage.Progress | None = None,
) -> FoundPoses:
    """For each photo the pose in which the mesh, with colours at its vertices, fits best."""
    cameras = [placed_camera(photo, pose) for photo, pose in zip(photos, poses, strict=True)]
    boxes = [view.crop_box for view in views]
    found = searched_together(simplified(mesh, SEARCHED_FACES), photos, cameras, boxes, config, joint, progress)
    for i, (photo, best) in enumerate(zip(photos, found.alone, strict=True)):
        joined = "" if found.together is None else f", of the one chosen with the others {found.together[i].fit:.3f}"
        log.info("view %s: fit %.3f, as predicted %.3f%s", photo.name, best.fit, best.predicted_fit, joined)
    return found


def _poses_of(found: Sequence[FoundPose]) -> tuple[Pose, ...]:
    return tuple(pose_from_similarity(torch.from_numpy(one.camera_from_object).float()) for one in found)


def _poses(latents: StructureLatents, views: Sequence[View]) -> tuple[Pose, ...]:
    scale, shift = (
        torch.stack([getattr(view, name) for view in views]) for name in ("pointmap_scale", "pointmap_shift")
    )
    return decode_poses(_on_cpu(latents), scale, shift)


def view_config(size: ModelConfig) -> ViewConfig:
    """How this model wants photos cut."""
    return ViewConfig(
        size.image_size,
        size.box_factor,
        normaliser=ObjectCentric(size.pointmap_scale),
        object_points=size.pointmap_scale != "scene",  # whose units know nothing of the scene, nor does the model
    )


def stacked(views: Sequence[View], device: torch.device) -> dict[str, Float[Tensor, "view _ _ _"]]:
    """The views' maps by name, a row per view; point maps if all views have them."""
    names = ["image", "mask", "rgb_image", "rgb_image_mask"]
    given = [view.pointmap is not None for view in views]
    if any(given) and not all(given):
        raise InvalidOption(f"{sum(given)} of {len(given)} views have a point map: give one for every view, or none")
    if all(given):
        names += ["pointmap", "rgb_pointmap"]
    return {name: torch.stack([getattr(view, name) for view in views]).to(device) for name in names}


def structure_latents(
    models: Models,
    maps: dict[str, Float[Tensor, "view _ _ _"]],
    config: ReconstructionConfig,
    noise: torch.Generator,
    progress: structure_stage.Progress | None = None,
    *,
    steering: Steering | None = None,
    watch: Watch | None = None,
) -> StructureLatents:
    """Stage 1: one row of structure, and the pose latents of each view; `steering` by a shape that is known beforehand."""
    size, flow = models.config, models.config.structure.flow
    sampling = structure_sampling(config, size)
    conditions = condition_tokens(models, "structure_condition", maps, config)
    if config.object_entropy:
        sampling = replace(sampling, recording=_of_object(sampling.recording, conditions, maps))
    velocity = structure_stage.network_velocity(
        models.structure_flow,
        predicts_data=size.prediction == "data",
        step_size=step_size(sampling.steps, distilled=config.shortcut) if flow.step_embedding else None,
    )
    shape = (flow.grid**3, flow.latent_channels)
    with models.at_work("structure_flow"):
        chunks = structure_stage.view_chunks(models.structure_flow, conditions, sampling, config.memory)
        return sample_structure(
            velocity, chunks, shape, sampling, noise, steering=steering, watch=watch, progress=progress
        )


def condition_tokens(
    models: Models,
    network: Literal["structure_condition", "slat_condition"],
    maps: dict[str, Float[Tensor, "view _ _ _"]],
    config: ReconstructionConfig,
) -> Conditions:
    """Condition tokens of a stage, a row per view, in the precision of its matrix products."""
    together = _together(models, config)
    with models.at_work(network):
        tokens: ViewTokens = getattr(models, network)
        features = image_features(models, network, maps, config.embeddings)
        conditions = tokens.of_object(maps, together=together, features=features)
    return replace(conditions, tokens=conditions.tokens.to(models.dtype))


def _of_object(recording: Recording, conditions: Conditions, maps: dict[str, Float[Tensor, "view _ _ _"]]) -> Recording:
    """The same attention, without the patches of each view's own photo in which there is nothing of the object."""
    span = patches(conditions)
    side = math.isqrt(span.stop - span.start)
    assert side**2 == span.stop - span.start, "a square photo has a square of patches"
    return replace(recording, hidden=F.adaptive_max_pool2d(maps["mask"], side).flatten(1) <= 0.5)


def agreeing_views(
    models: Models, maps: dict[str, Float[Tensor, "view _ _ _"]], config: ReconstructionConfig
) -> tuple[int, ...]:
    """The views to go on with: all, or all but one that shows something else than the others."""
    views = len(maps["image"])
    wanted = models.config.sampling.drop_outliers if config.drop_outliers is None else config.drop_outliers
    if not wanted or views < LEAST_VIEWS:
        return tuple(range(views))
    return tuple(torch.where(agreeing(*shapes_alone(models, maps)))[0].tolist())


@torch.no_grad()
def shapes_alone(
    models: Models, maps: dict[str, Float[Tensor, "view _ _ _"]]
) -> tuple[Float[Tensor, "view latent channel"], Float[Tensor, "1 latent channel"]]:
    """What each view says of the shape without the others, and what is said without any view, in one step."""
    size = models.config
    flow = size.structure.flow
    with models.at_work("structure_condition"):
        seen = models.structure_condition.of_object(maps, together=False)
    noise = structure_noise(flow.grid**3, flow.latent_channels, torch.Generator().manual_seed(0))
    start = noise.shape.to(seen.tokens) * size.sampling.noise_scale
    now = start.new_zeros(1)
    d = now if flow.step_embedding else None
    with models.at_work("structure_flow"):
        said = [models.structure_flow.shape_velocity(start, now, c.tokens, d) for c in (seen, without_condition(seen))]
    shapes, unseen = said if size.prediction == "data" else [start + velocity for velocity in said]
    return shapes, unseen[:1]


def occupancy_logits(models: Models, latents: StructureLatents) -> Float[Tensor, "x y z"]:
    """What the decoder makes of the structure that all views share, inside included."""
    with models.at_work("structure_decoder"):
        logits: Tensor = models.structure_decoder(
            grid_from_tokens(latents.shape[:1], models.config.structure.vae.token_patch)
        )
    return logits[0, 0].float()


def occupied(models: Models, latents: StructureLatents) -> Voxels:
    """The active voxels of structure latents. Raises: NothingFound."""
    return active(occupancy_logits(models, latents), models.config.sampling)


def active(logits: Float[Tensor, "x y z"], sampling: SamplingDefaults) -> Voxels:
    """The voxels that stage 2 works on. Raises: NothingFound."""
    voxels = occupied_voxels(logits, VoxelsConfig(sampling.occupancy_threshold, sampling.prune_distance))
    if len(voxels.coords) == 0:
        raise NothingFound(
            f"the model finds no occupied cell (highest logit {float(logits.max()):.2f}): check that the masks cover one "
            "whole object, or add views"
        )
    return voxels


def structured_latents(
    models: Models,
    maps: dict[str, Float[Tensor, "view _ _ _"]],
    voxels: Voxels,
    config: ReconstructionConfig,
    noise: torch.Generator,
    progress: structure_stage.Progress | None = None,
    *,
    visibility: Float[Tensor, "view token"] | None = None,
    watch: Watch | None = None,
    started: Callable[[Conditions, Float[Tensor, "1 voxel channel"], Voxels], None] | None = None,
) -> Slat:
    """Stage 2; `started` is told what it starts from."""
    size = models.config
    sampling = slat_sampling(config, size)
    conditions = condition_tokens(models, "slat_condition", maps, config)
    if started is not None:
        watch = replace(watch or Watch(), start=lambda noise: started(conditions, noise, voxels))
    if config.object_entropy:
        sampling = replace(sampling, recording=_of_object(sampling.recording, conditions, maps))
    with models.at_work("slat_flow"):
        return sample_slat(
            slat_stage.network_velocity(models.slat_flow, predicts_data=size.prediction == "data"),
            slat_stage.view_chunks(models.slat_flow, conditions, voxels, sampling, config.memory),
            voxels,
            SlatStatistics(size.slat.mean, size.slat.std),
            sampling,
            noise,
            visibility=visibility,
            show_attention=slat_stage.network_attention(models.slat_flow),
            watch=watch,
            progress=progress,
        )


def decoded(models: Models, slat: Slat, budget: MemoryBudget) -> tuple[GaussianCloud, CubeField | CollectedField]:
    """Both decoders; that of the mesh as a whole, or in parts where the whole is more than the budget allows."""
    x = SparseTensor(slat.features, SparseGrid.batched([slat.voxels.coords.to(slat.features.device)]))
    with models.at_work("gaussian_decoder"):
        (gaussians,) = models.gaussian_decoder(x)
    with models.at_work("mesh_decoder"):
        if mesh_bytes(models.config.slat.mesh_decoder, len(slat.features), models.dtype) > budget.decoding:
            made = models.mesh_decoder.in_parts(x)
            parts = ((rows.cpu(), features.cpu()) for rows, features in made.parts)
            return gaussians, collected(made.coords.cpu(), parts, made.resolution)
        (cubes,) = models.mesh_decoder(x, DECODE_ROWS)
    return gaussians, CubeField(cubes.coords.cpu(), cubes.features.cpu(), cubes.resolution)


def _together(models: Models, config: ReconstructionConfig) -> bool:
    joint = models.config.joint_views
    if config.fusion == "joint" and not joint:
        raise InvalidOption(
            "joint fusion needs a model trained on several views at once, and this one was not: use velocity fusion"
        )
    return joint if config.fusion is None else config.fusion == "joint"


def _on_cpu(latents: StructureLatents) -> StructureLatents:
    return StructureLatents(**{name: value.float().cpu() for name, value in vars(latents).items()})


def _cloud_on_cpu(cloud: GaussianCloud) -> GaussianCloud:
    return GaussianCloud(**{name: value.float().cpu() for name, value in vars(cloud).items()})


class _Clock:
    """Seconds of each stage, all its turns together, and progress."""

    def __init__(self, progress: Progress | None) -> None:
        self.seconds: dict[str, float] = {}
        self._progress, self._stage = progress, ""

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        self._stage, start = name, time.perf_counter()
        self.step(0, 1)
        yield
        self.step(1, 1)
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start

    def step(self, done: int, of: int) -> None:
        if self._progress is not None:
            self._progress(self._stage, done, of)
