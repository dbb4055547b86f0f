"""Sizes of the model: one value of `ModelConfig` each. No other code asks which size is loaded."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from mvsam3d.models.condition import SLAT_CONDITION, ConditionConfig, EmbedderConfig
from mvsam3d.models.conv_encoder import ConvConfig
from mvsam3d.models.gaussian_decoder import GaussianDecoderConfig
from mvsam3d.models.lifting import LiftingConfig
from mvsam3d.models.mesh_decoder import MeshDecoderConfig
from mvsam3d.models.pointmap_encoder import PointmapConfig
from mvsam3d.models.slat_flow import SlatFlowConfig
from mvsam3d.models.slat_trunk import TrunkConfig
from mvsam3d.models.structure_flow import StructureFlowConfig
from mvsam3d.models.structure_vae import StructureVaeConfig

Prediction = Literal["velocity", "data"]

# Of the public model's structured latents, in its pipeline.yaml.
SAM3D_SLAT_MEAN = (0.12211431, 0.37204156, -1.26521907, -2.05276058, -3.10432536, -0.11294304, -0.85146744, 0.45506954)
SAM3D_SLAT_STD = (2.37326008, 2.13174402, 2.2413953, 2.30589401, 2.1191894, 1.8969511, 2.41684989, 2.08374642)


@dataclass(frozen=True)
class StructureConfig:
    """Stage 1."""

    vae: StructureVaeConfig = field(default_factory=StructureVaeConfig)
    condition: ConditionConfig = field(default_factory=ConditionConfig)
    flow: StructureFlowConfig = field(default_factory=StructureFlowConfig)


@dataclass(frozen=True)
class SlatConfig:
    """Stage 2."""

    condition: ConditionConfig = SLAT_CONDITION
    flow: SlatFlowConfig = field(default_factory=SlatFlowConfig)
    gaussian_decoder: GaussianDecoderConfig = field(default_factory=GaussianDecoderConfig)
    mesh_decoder: MeshDecoderConfig = field(default_factory=MeshDecoderConfig)
    mean: tuple[float, ...] = SAM3D_SLAT_MEAN
    """Of each channel of the latents; the flow works on (latent - mean) / std."""
    std: tuple[float, ...] = SAM3D_SLAT_STD


@dataclass(frozen=True)
class SamplingDefaults:
    """How this model samples best, measured; every value can be overridden in a call."""

    structure_steps: int = 50
    structure_rescale_t: float = 3.0
    structure_guidance: float = 7.0
    slat_steps: int = 25
    slat_rescale_t: float = 1.0
    slat_guidance: float = 1.0
    noise_scale: float = 1.0
    """Of the start of both stages; 0 with one step gives the mean of all that fits the photos."""
    occupancy_threshold: float = 0.0
    """Logit above which a cell is occupied."""
    prune_distance: int = 1
    weighting: Literal["mean", "entropy"] = "entropy"
    """Weights of the views, where a call does not choose."""
    drop_outliers: bool = False
    """Go on without a view that shows something else than the others."""
    search_poses: bool = False
    """Look for the pose in which the finished mesh fits each photo best, instead of the predicted one."""


@dataclass(frozen=True)
class ModelConfig:
    """A whole model. The defaults are the public SAM 3D Objects."""

    image_size: int = 518
    """Side of the crops."""
    box_factor: float = 1.2
    pointmap_scale: Literal["scene", "object-median"] = "scene"
    """Unit of the point maps."""
    joint_views: bool = False
    """Trained with the tokens of all views in one sequence; False: with one view at a time."""
    prediction: Prediction = "velocity"
    """What both flows put out: dx/dt, or the data at the end of the path."""
    structure: StructureConfig = field(default_factory=StructureConfig)
    slat: SlatConfig = field(default_factory=SlatConfig)
    lifting: LiftingConfig | None = None
    """The network that reads shape off photos with known cameras; None: there is none."""
    sampling: SamplingDefaults = field(default_factory=SamplingDefaults)


SAM3D = ModelConfig()


def _small_condition(*, pointmap: bool, colour_cells: int = 0) -> ConditionConfig:
    points = PointmapConfig(input_size=56, patch_size=8, width=96, heads=3)
    return ConditionConfig(
        embedders=(
            EmbedderConfig(ConvConfig(colour_cells=colour_cells), (("rgba", "cropped"),)),
            *([EmbedderConfig(points, (("pointmap", "cropped"),), optional=True)] if pointmap else []),
        ),
        projection_multiplier=1.0,
        width=192,
        drop_sets=(),
        dropout_prob=0.0,
        frozen=False,
    )


_TRUNK = TrunkConfig(resolution=32, width=128, blocks=3, heads=4, mlp_ratio=3.0)

SMALL = ModelConfig(
    image_size=112,
    pointmap_scale="object-median",
    joint_views=True,
    prediction="data",
    structure=StructureConfig(
        vae=StructureVaeConfig(
            channels=(64,), latent_channels=8, num_res_blocks=1, num_res_blocks_middle=1, patch=4, token_patch=2
        ),
        condition=_small_condition(pointmap=True),
        flow=StructureFlowConfig(
            width=192,
            blocks=4,
            heads=4,
            mlp_ratio=2.0,
            cond_channels=192,
            grid=4,
            latent_channels=64,
            learned_positions=True,
            step_embedding=False,
            freeze_shared_parameters=False,
        ),
    ),
    slat=SlatConfig(
        condition=_small_condition(pointmap=False, colour_cells=2),
        flow=SlatFlowConfig(
            resolution=32,
            width=192,
            cond_channels=192,
            blocks=4,
            heads=4,
            mlp_ratio=2.0,
            io_res_blocks=1,
            io_channels=(32,),
        ),
        gaussian_decoder=GaussianDecoderConfig(_TRUNK, gaussians=8, scaling_bias=0.008, least_scale=0.001),
        mesh_decoder=MeshDecoderConfig(_TRUNK, groups=8),
    ),
    lifting=LiftingConfig(fine_blocks=3, blocks=4, photo_channels=24, edge_channels=48, detail_channels=16),
    sampling=SamplingDefaults(
        structure_steps=1,
        structure_rescale_t=1.0,
        structure_guidance=0.0,
        slat_steps=1,
        slat_guidance=0.0,
        noise_scale=0.0,
        weighting="mean",
        search_poses=True,
        drop_outliers=True,
    ),
)
