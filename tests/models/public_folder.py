"""A folder as the public checkpoint is published, tiny or of its own size, with random weights; names, prefixes, precisions, vocabulary are
the real ones."""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor, nn

from mvsam3d.models import public_config
from mvsam3d.models.bundle import Models
from mvsam3d.models.config import ModelConfig
from mvsam3d.models.gaussian_decoder import GaussianDecoder
from mvsam3d.models.image_encoder import VitConfig
from mvsam3d.models.mesh_decoder import MeshDecoder
from mvsam3d.models.slat_flow import SlatFlow
from mvsam3d.models.structure_flow import StructureFlow
from mvsam3d.models.structure_vae import StructureDecoder
from mvsam3d.models.view_tokens import ViewTokens

M, T = "sam3d_objects.model.backbone", "sam3d_objects.model.backbone.tdfy_dit.models"
D = "sam3d_objects.data.dataset.tdfy"
SIDE = 28  # pixels of a tiny crop: 2 x 2 patches
TINY_VIT = "dinov2_tiny14_reg"
VIT = VitConfig(width=32, depth=1, heads=2, position_size=SIDE)
SAMPLER = {
    "_partial_": True,
    "_target_": f"{M}.generator.flow_matching.model.lognorm_sampler",
    "mean": -1.0,
    "std": 1.0,
}

Files = dict[str, Any]


@dataclass(frozen=True)
class Size:
    """What differs between the published folder and a tiny one."""

    vit: str
    side: int
    """Pixels of a crop."""
    points: tuple[int, int]
    """Side and width of the point maps' encoder."""
    width: int
    blocks: int
    heads: int
    grids: tuple[int, int]
    """Of the latents of stage 1, and of the voxels."""
    io_channels: int
    trunk: tuple[int, int, int]
    """Width, blocks and heads of the decoders."""
    gaussians: int
    structure_channels: tuple[int, ...]
    res_blocks: int
    steps: int | None
    """Of both stages; None: the file does not say."""


TINY = Size(TINY_VIT, SIDE, (16, 16), 32, 2, 2, (4, 16), 16, (256, 1, 4), 4, (32, 16, 8), 1, 2)
PUBLISHED = Size(
    "dinov2_vitl14_reg", 518, (256, 512), 1024, 24, 16, (16, 64), 128, (768, 12, 12), 32, (512, 128, 32), 2, None
)


def learnt(channels: int, width: int) -> dict[str, Any]:
    positions = {"_target_": f"{T}.mm_latent.LearntPositionEmbedder", "model_channels": width, "token_len": 1}
    return {
        "_target_": f"{T}.mm_latent.Latent",
        "in_channels": channels,
        "model_channels": width,
        "pos_embedder": positions,
    }


def dino(size: Size, prenorm: bool) -> dict[str, Any]:
    return {
        "_target_": f"{M}.dit.embedder.dino.Dino",
        "dino_model": size.vit,
        "input_size": size.side,
        "normalize_images": True,
        "prenorm_features": prenorm,
        "repo_or_dir": "facebookresearch/dinov2",
        "source": "github",
        "backbone_kwargs": {"pretrained": False},
    }


def fuser(size: Size, *, prenorm: bool, points: bool) -> dict[str, Any]:
    embedders: list[Any] = [
        [dino(size, prenorm), [["image", "cropped"], ["rgb_image", "full"]]],
        [dino(size, prenorm), [["mask", "cropped"], ["rgb_image_mask", "full"]]],
    ]
    if points:
        network = {
            "_target_": f"{M}.dit.embedder.pointmap.PointPatchEmbed",
            "embed_dim": size.points[1],
            "input_size": size.points[0],
            "patch_size": 8,
            "remap_output": "linear",
        }
        embedders.append([network, [["pointmap", "cropped"], ["rgb_pointmap", "full"]]])
    how: Files = {"_target_": f"{M}.dit.embedder.embedder_fuser.EmbedderFuser", "embedder_list": embedders}
    how |= {"projection_net_hidden_dim_multiplier": 4.0, "use_pos_embedding": "learned", "freeze": True}
    if points:
        how |= {"drop_modalities_weight": [[["pointmap", "rgb_pointmap"], 1.0]], "dropout_prob": 0.1}
    return how


def ss_generator(size: Size) -> Files:
    latents: dict[str, Any] = {
        "6drotation_normalized": learnt(6, size.width),
        "scale": learnt(3, size.width),
        "translation": learnt(3, size.width),
        "translation_scale": learnt(1, size.width),
    }
    positions = {
        "_target_": f"{T}.mm_latent.ShapePositionEmbedder",
        "model_channels": size.width,
        "patch_size": 1,
        "resolution": size.grids[0],
    }
    latents["shape"] = {**learnt(8, size.width), "pos_embedder": positions}
    backbone = {
        "_target_": f"{T}.mot_sparse_structure_flow.SparseStructureFlowTdfyWrapper",
        "cond_channels": size.width,
        "condition_embedder": None,
        "force_zeros_cond": True,
        "freeze_d_time_embedder": True,
        "freeze_shared_parameters": True,
        "in_channels": 8,
        "is_shortcut_model": True,
        "latent_mapping": latents,
        "latent_share_transformer": {
            "6drotation_normalized": ["6drotation_normalized", "translation", "scale", "translation_scale"]
        },
        "mlp_ratio": 4,
        "model_channels": size.width,
        "num_blocks": size.blocks,
        "num_heads": size.heads,
        "out_channels": 8,
        "patch_size": 1,
        "pe_mode": "ape",
        "qk_rms_norm": True,
        "resolution": 16,
        "use_checkpoint": False,
        "use_fp16": False,
    }
    guidance = {
        "_target_": f"{M}.generator.classifier_free_guidance.ClassifierFreeGuidanceWithExternalUnconditionalProbability",
        "backbone": backbone,
        "interval": [0, 500],
        "p_unconditional": 0.1,
        "strength": 2.0,
        "unconditional_handling": "add_flag",
    }
    losses = {"_target_": "sam3d_objects.config.utils.make_dict", "shape": 0, "scale": 0.1, "translation": 1.0}
    model = {
        "_target_": f"{M}.generator.shortcut.model.ShortCut",
        "batch_mode": True,
        "cfg_modalities": ["shape"],
        "inference_steps": 2,
        "loss_weights": losses,
        "ratio_cfg_samples_in_self_consistency_target": 0.25,
        "rescale_t": 1,
        "reverse_fn": guidance,
        "self_consistency_cfg_strength": 2.0,
        "self_consistency_prob": 0.25,
        "shortcut_loss_weight": 1.0,
        "sigma_min": 0.0,
        "time_scale": 1000.0,
        "training_time_sampler_fn": dict(SAMPLER),
    }
    condition = {"backbone": fuser(size, prenorm=False, points=True)}
    return {"module": {"generator": {"backbone": model}, "condition_embedder": condition}}


def slat_generator(size: Size) -> Files:
    backbone = {
        "_target_": f"{T}.structured_latent_flow.SLatFlowModelTdfyWrapper",
        "cond_channels": size.width,
        "condition_embedder": None,
        "force_zeros_cond": True,
        "in_channels": 8,
        "io_block_channels": [size.io_channels],
        "mlp_ratio": 4,
        "model_channels": size.width,
        "num_blocks": size.blocks,
        "num_heads": size.heads,
        "num_io_res_blocks": 2,
        "out_channels": 8,
        "patch_size": 2,
        "pe_mode": "ape",
        "qk_rms_norm": True,
        "resolution": size.grids[1],
        "use_fp16": True,
    }
    guidance = {
        "_target_": f"{M}.generator.classifier_free_guidance.ClassifierFreeGuidance",
        "backbone": backbone,
        "p_unconditional": 0.0,
        "strength": 0.0,
        "unconditional_handling": "add_flag",
    }
    model = {
        "_target_": f"{M}.generator.flow_matching.model.FlowMatching",
        "inference_steps": 12,
        "reverse_fn": guidance,
        "sigma_min": 0.0,
        "time_scale": 1000.0,
        "training_time_sampler_fn": dict(SAMPLER),
    }
    condition = {"backbone": fuser(size, prenorm=True, points=False)}
    return {"module": {"generator": {"backbone": model}, "condition_embedder": condition}}


def slat_decoder(size: Size, kind: str, representation: dict[str, Any]) -> Files:
    width, blocks, heads = size.trunk
    return {
        "_target_": f"{T}.structured_latent_vae.{kind}",
        "resolution": size.grids[1],
        "model_channels": width,
        "latent_channels": 8,
        "num_blocks": blocks,
        "num_heads": heads,
        "mlp_ratio": 4,
        "attn_mode": "swin",
        "window_size": 8,
        "representation_config": representation,
        "use_fp16": True,
    }


def preprocessor(size: Size, stage: str) -> dict[str, Any]:
    pad = {"_partial_": True, "_target_": f"{D}.img_processing.pad_to_square_centered"}
    resize = {"_target_": "torchvision.transforms.Resize", "size": size.side}
    compose = "torchvision.transforms.Compose"
    image = {"_target_": compose, "transforms": [pad, resize]}
    nearest = {"_target_": compose, "transforms": [pad, {**resize, "interpolation": 0}]}
    crop = {
        "_partial_": True,
        "_target_": f"{D}.img_and_mask_transforms.crop_around_mask_with_padding",
        "box_size_factor": 1.2,
        "padding_factor": 0.0,
    }
    steps = {"_target_": f"{D}.preprocessor.PreProcessor", "img_transform": image, "mask_transform": nearest}
    if stage == "slat":
        return {**steps, "img_mask_joint_transform": [crop]}
    same_size = {"_partial_": True, "_target_": f"{D}.img_and_mask_transforms.resize_all_to_same_size"}
    normaliser = {
        "_target_": f"{D}.img_and_mask_transforms.ObjectCentricSSI",
        "allow_scale_and_shift_override": True,
        "use_scene_scale": True,
    }
    return {
        **steps,
        "img_mask_joint_transform": [],
        "img_mask_pointmap_joint_transform": [same_size, crop],
        "pointmap_transform": nearest,
        "normalize_pointmap": True,
        "pointmap_normalizer": normaliser,
    }


def pipeline(size: Size) -> Files:
    parts = (
        "ss_generator",
        "slat_generator",
        "ss_decoder",
        "slat_decoder_gs",
        "slat_decoder_gs_4",
        "slat_decoder_mesh",
    )
    names = {
        f"{part}_{kind}_path": f"{part}.{end}" for part in parts for kind, end in (("config", "yaml"), ("ckpt", "ckpt"))
    }
    moge = {
        "_target_": "moge.model.v1.MoGeModel.from_pretrained",
        "pretrained_model_name_or_path": "Ruicheng/moge-vitl",
    }
    return {
        "_target_": "sam3d_objects.pipeline.inference_pipeline_pointmap.InferencePipelinePointMap",
        **names,
        "depth_model": {"_target_": "sam3d_objects.pipeline.depth_models.moge.MoGe", "device": "cuda", "model": moge},
        "decode_formats": ["gaussian", "mesh"],
        "downsample_ss_dist": 1,
        "dtype": "float16",
        "pad_size": 1.0,
        "pose_decoder_name": "ScaleShiftInvariant",
        "rendering_engine": "pytorch3d",
        "slat_cfg_strength": 1,
        "slat_condition_input_mapping": [],
        "slat_mean": [0.1 * i for i in range(8)],
        "slat_preprocessor": preprocessor(size, "slat"),
        "slat_rescale_t": 1,
        "slat_std": [2.0 + 0.1 * i for i in range(8)],
        "ss_condition_input_mapping": [],
        "ss_preprocessor": preprocessor(size, "ss"),
        **({} if size.steps is None else {"ss_inference_steps": size.steps, "slat_inference_steps": size.steps}),
        "version": "v0",
    }


def yaml_files(size: Size = TINY) -> dict[str, Files]:
    """All config files, by name."""
    gaussians = {
        "lr": {"_xyz": 1.0, "_features_dc": 1.0, "_opacity": 1.0, "_scaling": 1.0, "_rotation": 0.1},
        "perturb_offset": True,
        "voxel_size": 1.5,
        "num_gaussians": size.gaussians,
        "2d_filter_kernel_size": 0.1,
        "3d_filter_kernel_size": 0.0009,
        "scaling_bias": 0.004,
        "opacity_bias": 0.1,
        "scaling_activation": "softplus",
    }
    structure = {
        "_target_": f"{T}.sparse_structure_vae.SparseStructureDecoderTdfyWrapper",
        "out_channels": 1,
        "latent_channels": 8,
        "num_res_blocks": size.res_blocks,
        "num_res_blocks_middle": size.res_blocks,
        "channels": list(size.structure_channels),
        "reshape_input_to_cube": False,
    }
    return {
        "pipeline.yaml": pipeline(size),
        "ss_generator.yaml": ss_generator(size),
        "slat_generator.yaml": slat_generator(size),
        "ss_decoder.yaml": structure,
        "slat_decoder_gs.yaml": slat_decoder(size, "decoder_gs.SLatGaussianDecoderTdfyWrapper", gaussians),
        "slat_decoder_mesh.yaml": slat_decoder(size, "decoder_mesh.SLatMeshDecoderTdfyWrapper", {"use_color": True}),
    }


def in_halves(weights: dict[str, Tensor], half: Callable[[str], bool]) -> dict[str, Tensor]:
    return {key: value.half() if half(key) else value for key, value in weights.items()}


def awake(network: nn.Module, noise: torch.Generator) -> None:
    """Layers that begin as zeros get small values, so that all of them count."""
    for value in network.state_dict().values():
        if value.is_floating_point() and not value.any():
            value.normal_(0, 0.05, generator=noise)


Change = Callable[[str, nn.Module], None]


def write_public_folder(folder: Path, size: Size = TINY, change: Change | None = None) -> Models:
    """The folder, a file at a time, and the networks that it holds. `TINY` needs `TINY_VIT` among `public_config.VITS`.

    Args:
        size: of the published size, the networks that come back are empty, and no more is in memory than the largest file (6.7 GB).
        change: what to do to the weights of each network, by its name in `Models`, before they are written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in yaml_files(size).items():
        (folder / name).write_text(yaml.safe_dump(copy.deepcopy(content)))
    config = public_config.read_public_config(folder).config
    torch.manual_seed(0)
    noise = torch.Generator().manual_seed(1)
    with torch.device("meta"):
        models = Models(config)
    for part, names in PARTS.items():
        for name in names:
            network = built(name, config)
            awake(network, noise)
            if name == "structure_condition":
                # its two image encoders are copies of one, as in the release those of both stages once were
                encoders: Any = network.embedder
                first, second = encoders.module_list[:2]
                second.load_state_dict(first.state_dict())
            if change is not None:
                change(name, network)
            setattr(models, name, network)
        _write_part(folder, part, models)
        if size != TINY:
            for name in names:
                getattr(models, name).to("meta")
    return models


PARTS = {  # files, in the order in which `Models` makes their networks
    "ss_generator": ("structure_condition", "structure_flow", "structure_decoder"),
    "slat_generator": ("slat_condition", "slat_flow"),
    "slat_decoder_gs": ("gaussian_decoder",),
    "slat_decoder_mesh": ("mesh_decoder",),
}


def built(name: str, config: ModelConfig) -> nn.Module:
    """One of the networks of `Models`."""
    make: dict[str, Callable[[], nn.Module]] = {
        "structure_condition": lambda: ViewTokens(config.structure.condition, joint=False),
        "structure_flow": lambda: StructureFlow(config.structure.flow),
        "structure_decoder": lambda: StructureDecoder(config.structure.vae),
        "slat_condition": lambda: ViewTokens(config.slat.condition, joint=False),
        "slat_flow": lambda: SlatFlow(config.slat.flow),
        "gaussian_decoder": lambda: GaussianDecoder(config.slat.gaussian_decoder),
        "mesh_decoder": lambda: MeshDecoder(config.slat.mesh_decoder),
    }
    return make[name]()


def _write_part(folder: Path, part: str, models: Models) -> None:
    match part:
        case "ss_generator":
            decoder = models.structure_decoder.state_dict()
            weights = _generator(models.structure_flow, models.structure_condition)
            weights |= {f"_base_models.decoder.{k}": v for k, v in decoder.items()}
            torch.save({"state_dict": weights, "epoch": 1}, folder / "ss_generator.ckpt")
            halves = in_halves(decoder, lambda key: key.startswith(("blocks.", "middle_block.")) and ".conv" in key)
            torch.save(halves, folder / "ss_decoder.ckpt")
        case "slat_generator":
            weights = _generator(models.slat_flow, models.slat_condition)
            torch.save({"state_dict": weights, "epoch": 1}, folder / "slat_generator.ckpt")
        case "slat_decoder_gs":
            halves = in_halves(models.gaussian_decoder.state_dict(), lambda key: key.startswith("blocks."))
            torch.save(halves, folder / "slat_decoder_gs.ckpt")
        case _:
            torch.save(models.mesh_decoder.state_dict(), folder / "slat_decoder_mesh.ckpt")


def _generator(flow: nn.Module, condition: ViewTokens) -> dict[str, Tensor]:
    weights = {f"_base_models.generator.reverse_fn.backbone.{k}": v for k, v in flow.state_dict().items()}
    return weights | {f"_base_models.condition_embedder.{k}": v for k, v in condition.embedder.state_dict().items()}
