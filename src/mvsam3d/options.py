"""The choices of a reconstruction, the model's own where there are none, and what is wrong with them before a model is loaded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from mvsam3d.errors import InvalidOption
from mvsam3d.generation.budget import MemoryBudget
from mvsam3d.generation.evidence import Sight
from mvsam3d.generation.guidance import Guidance
from mvsam3d.generation.reuse import asked
from mvsam3d.generation.running_weights import Recording, check_recording
from mvsam3d.generation.slat_stage import SlatSampling
from mvsam3d.generation.structure_stage import StructureSampling
from mvsam3d.generation.weighting import PlainMean, Weighting, check_floor, needs_entropy, needs_visibility
from mvsam3d.meshing.cleanup import CleanupConfig
from mvsam3d.meshing.texture import TextureConfig
from mvsam3d.models.config import ModelConfig
from mvsam3d.models.embeddings import EmbeddingCache
from mvsam3d.posing.by_photos import ByPhotos
from mvsam3d.posing.joint_search import JointSearch
from mvsam3d.posing.search import PoseSearch
from mvsam3d.types import Camera

Stage = Literal["structure", "slat"]
Reference = Literal["first", "largest-mask", "most-visible"] | int
STRUCTURE_BLOCK, SLAT_BLOCK = 9, 6  # where the public system measures attention


@dataclass(frozen=True)
class ReconstructionConfig:
    """How to reconstruct. None takes the model's own default, found by measurement."""

    fusion: Literal["joint", "velocity"] | None = None
    """joint: every view's tokens are shown together, which a model must have been trained for; velocity: views are predicted one by
    one and their velocities fused, the public way."""
    structure_steps: int | None = None
    structure_guidance: float | None = None
    shortcut: bool = False
    """Stage 1 in few long steps, by a model that was distilled for them: it is told their length, and guidance is off."""
    structure_every: int = 1
    """The stage-1 network is asked in every so many steps; between, its velocity is carried on (`generation.reuse`)."""
    structure_weighting: Weighting = field(default_factory=PlainMean)
    structure_block: int | None = None
    """Transformer block of stage 1 whose attention is measured, from 0; 9, or the last if there are fewer."""
    structure_record_step: int = 0
    """Step of stage 1 in which it is measured."""
    slat_steps: int | None = None
    slat_guidance: float | None = None
    slat_weighting: Weighting = field(default_factory=PlainMean)
    slat_block: int | None = None
    """Transformer block of stage 2 whose attention is measured, from 0; 6, or the last if there are fewer."""
    slat_record_step: int = 0
    """Step of stage 2 in which it is measured."""
    object_entropy: bool = False
    """Leave patches without object out of the entropy of attention; the public system counts the background too."""
    noise_compat: bool = False
    """Draw noise as the public system does (`generation.slat_stage`)."""
    reference: Reference = "first"
    """The view whose pose is the object's: in `params.npz`, and for cameras that are given."""
    memory: MemoryBudget = field(default_factory=MemoryBudget)
    """For evaluating several views at once."""
    embeddings: EmbeddingCache | None = None
    """Where what large image encoders make of a photo is kept; None: nowhere."""
    drop_outliers: bool | None = None
    """Go on without a view that shows something else than the others (`generation.agreement`)."""
    search_poses: bool | None = None
    """Look for the pose in which the finished mesh fits each photo best, beginning with the predicted one (`posing.search`)."""
    pose_search: PoseSearch = field(default_factory=PoseSearch)
    joint_search: JointSearch | None = field(default_factory=JointSearch)
    """Choose the poses of four photos and more together, and let them tell the shape; None: each photo's by itself."""
    sight: Sight = field(default_factory=Sight)
    """What keeps a given camera from seeing a voxel."""
    visibility_compat: bool = False
    """Weigh by what the public system takes for visibility (`generation.visibility_compat`): for comparison with it only."""
    guidance: bool | None = None
    """Let cameras tell the shape (`posing.known_shape`) and the poses; None: given ones if they did not come with depth, and without any
    those of poses found together."""
    symmetry: bool = True
    """Where cameras tell the shape of an object that is its own mirror image, let each photo tell of its other side too, see
    `posing.symmetry`."""
    model_share: float = 3.0
    """Most of the model's log odds in what becomes of a cell that cameras tell of (`posing.placement.with_model`)."""
    by_photos: ByPhotos = field(default_factory=ByPhotos)
    """What outlines and colours of the photos do to the finished mesh and cloud."""
    cleanup: CleanupConfig = field(default_factory=CleanupConfig)
    texture: TextureConfig = field(default_factory=TextureConfig)


def check_config(
    config: ReconstructionConfig,
    size: ModelConfig,
    views: int,
    cameras: Sequence[Camera | None] | None,
    *,
    depth: bool = False,
) -> None:
    """Everything that can be wrong with the choices for a model of this size, before it is loaded. `depth`: point maps are given.

    Raises: InvalidOption: steps, blocks or weights out of range, or a weighting without the cameras that it needs.
    """
    structure, slat = structure_sampling(config, size), slat_sampling(config, size)
    for stage, sampling, blocks in (
        (1, structure, size.structure.flow.blocks),
        (2, slat, size.slat.flow.blocks),
    ):
        if sampling.steps < 1:
            raise InvalidOption(f"{sampling.steps} steps in stage {stage}: at least 1 is needed")
        check_recording(sampling.recording, blocks=blocks, steps=sampling.steps, stage=stage)
    if config.shortcut and not size.structure.flow.step_embedding:
        raise InvalidOption(
            "shortcut sampling needs a model that was distilled for it, and this one cannot be told a step's length: leave --shortcut out"
        )
    if config.shortcut and config.structure_guidance:
        raise InvalidOption(f"shortcut sampling has no guidance, but {config.structure_guidance:g} is asked for")
    if config.structure_every < 1:
        raise InvalidOption(f"stage 1 cannot be asked in every {config.structure_every}-th step: give 1 or more")
    if needs_entropy(config.structure_weighting) and not asked(
        config.structure_record_step, structure.steps, config.structure_every
    ):
        raise InvalidOption(
            f"attention of stage 1 shall be recorded in step {config.structure_record_step}, in which the network is not asked: record it "
            "in step 0, or ask in every step"
        )
    if isinstance(config.reference, int) and not 0 <= config.reference < views:
        raise InvalidOption(f"view {config.reference} shall give the pose, but there are the views 0 to {views - 1}")
    needing = [e.inputs for c in (size.structure.condition, size.slat.condition) for e in c.embedders if not e.optional]
    if not depth and any(name == "pointmap" for inputs in needing for name, _ in inputs):
        raise InvalidOption(
            "this model needs a point map of every photo: give --da3-output da3_output.npz (made by `mvsam3d depth PHOTOS`)"
        )
    if cameras is not None and len(cameras) != views:
        raise InvalidOption(f"{len(cameras)} cameras for {views} photos: give one for each")
    if cameras is not None and None in cameras:
        if all(camera is None for camera in cameras):
            raise InvalidOption("no photo has a camera: give cameras, or leave them out altogether")
        if needs_all_cameras(config, depth=depth):
            raise InvalidOption(
                "some photos have no camera: visibility, depth and a shape that cameras do not tell need one for each"
            )
    if needs_visibility(config.structure_weighting):
        raise InvalidOption(
            "stage 1 cannot be weighted by visibility, there are no voxels yet: use entropy or the plain mean"
        )
    if config.sight.depth and cameras is not None and not depth:
        raise InvalidOption("visibility by depth needs depth maps: give --da3-output, or leave --visibility-depth out")
    if needs_visibility(config.slat_weighting) and cameras is None:
        raise InvalidOption("weighting by visibility needs to know the cameras: give --cameras, or weigh by entropy")
    for how in (config.structure_weighting, config.slat_weighting):
        check_floor(how, views)


def needs_all_cameras(config: ReconstructionConfig, *, depth: bool) -> bool:
    """Whether a photo without a camera cannot take part among others that have one."""
    return config.guidance is False or needs_visibility(config.slat_weighting) or config.visibility_compat or depth


def structure_sampling(config: ReconstructionConfig, size: ModelConfig) -> StructureSampling:
    """How stage 1 is sampled: the call's choices, and the model's own where there are none."""
    defaults = size.sampling
    strength = defaults.structure_guidance if config.structure_guidance is None else config.structure_guidance
    block = min(STRUCTURE_BLOCK, size.structure.flow.blocks - 1)
    return StructureSampling(
        steps=defaults.structure_steps if config.structure_steps is None else config.structure_steps,
        rescale_t=defaults.structure_rescale_t,
        guidance=Guidance(0.0 if config.shortcut else strength),
        every=config.structure_every,
        noise_scale=_noise_scale(size, config.structure_steps),
        weighting=config.structure_weighting,
        recording=Recording(
            block if config.structure_block is None else config.structure_block, config.structure_record_step
        ),
    )


def slat_sampling(config: ReconstructionConfig, size: ModelConfig) -> SlatSampling:
    """How stage 2 is sampled, likewise."""
    defaults = size.sampling
    block = min(SLAT_BLOCK, size.slat.flow.blocks - 1)
    return SlatSampling(
        steps=defaults.slat_steps if config.slat_steps is None else config.slat_steps,
        rescale_t=defaults.slat_rescale_t,
        guidance=Guidance(defaults.slat_guidance if config.slat_guidance is None else config.slat_guidance),
        noise_scale=_noise_scale(size, config.slat_steps),
        weighting=config.slat_weighting,
        recording=Recording(block if config.slat_block is None else config.slat_block, config.slat_record_step),
        noise_compat=config.noise_compat,
    )


def _noise_scale(size: ModelConfig, steps: int | None) -> float:
    """The model's own start for its own number of steps; a number asked for is a wish to sample."""
    return size.sampling.noise_scale if steps is None or steps == 1 else 1.0
