"""A folder as the public checkpoint is published, tiny, with random weights; names, prefixes, precisions, vocabulary are the real ones."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor

from mvsam3d.models import public_config
from mvsam3d.models.bundle import Models
from mvsam3d.models.image_encoder import VitConfig

M, T = "sam3d_objects.model.backbone", "sam3d_objects.model.backbone.tdfy_dit.models"
D = "sam3d_objects.data.dataset.tdfy"
SIDE = 28  # pixels of a crop: 2 x 2 patches
TINY_VIT = "dinov2_tiny14_reg"
VIT = VitConfig(width=32, depth=1, heads=2, position_size=SIDE)
SAMPLER = {
    "_partial_": True,
    "_target_": f"{M}.generator.flow_matching.model.lognorm_sampler",
    "mean": -1.0,
    "std": 1.0,
}

Files = dict[str, Any]


def learnt(channels: int) -> dict[str, Any]:
    positions = {"_target_": f"{T}.mm_latent.LearntPositionEmbedder", "model_channels": 32, "token_len": 1}
    return {
        "_target_": f"{T}.mm_latent.Latent",
        "in_channels": channels,
        "model_channels": 32,
        "pos_embedder": positions,
    }


def dino(prenorm: bool) -> dict[str, Any]:
    return {
        "_target_": f"{M}.dit.embedder.dino.Dino",
        "dino_model": TINY_VIT,
        "input_size": SIDE,
        "normalize_images": True,
        "prenorm_features": prenorm,
        "repo_or_dir": "facebookresearch/dinov2",
        "source": "github",
        "backbone_kwargs": {"pretrained": False},
    }


def fuser(*, prenorm: bool, points: bool) -> dict[str, Any]:
    embedders: list[Any] = [
        [dino(prenorm), [["image", "cropped"], ["rgb_image", "full"]]],
        [dino(prenorm), [["mask", "cropped"], ["rgb_image_mask", "full"]]],
    ]
    if points:
        network = {
            "_target_": f"{M}.dit.embedder.pointmap.PointPatchEmbed",
            "embed_dim": 16,
            "input_size": 16,
            "patch_size": 8,
            "remap_output": "linear",
        }
        embedders.append([network, [["pointmap", "cropped"], ["rgb_pointmap", "full"]]])
    how = {"_target_": f"{M}.dit.embedder.embedder_fuser.EmbedderFuser", "embedder_list": embedders}
    how |= {"projection_net_hidden_dim_multiplier": 4.0, "use_pos_embedding": "learned", "freeze": True}
    if points:
        how |= {"drop_modalities_weight": [[["pointmap", "rgb_pointmap"], 1.0]], "dropout_prob": 0.1}
    return how


def ss_generator() -> Files:
    latents: dict[str, Any] = {
        "6drotation_normalized": learnt(6),
        "scale": learnt(3),
        "translation": learnt(3),
        "translation_scale": learnt(1),
    }
    positions = {
        "_target_": f"{T}.mm_latent.ShapePositionEmbedder",
        "model_channels": 32,
        "patch_size": 1,
        "resolution": 4,
    }
    latents["shape"] = {**learnt(8), "pos_embedder": positions}
    backbone = {
        "_target_": f"{T}.mot_sparse_structure_flow.SparseStructureFlowTdfyWrapper",
        "cond_channels": 32,
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
        "model_channels": 32,
        "num_blocks": 2,
        "num_heads": 2,
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
        "training_time_sampler_fn": SAMPLER,
    }
    condition = {"backbone": fuser(prenorm=False, points=True)}
    return {"module": {"generator": {"backbone": model}, "condition_embedder": condition}}


def slat_generator() -> Files:
    backbone = {
        "_target_": f"{T}.structured_latent_flow.SLatFlowModelTdfyWrapper",
        "cond_channels": 32,
        "condition_embedder": None,
        "force_zeros_cond": True,
        "in_channels": 8,
        "io_block_channels": [16],
        "mlp_ratio": 4,
        "model_channels": 32,
        "num_blocks": 2,
        "num_heads": 2,
        "num_io_res_blocks": 2,
        "out_channels": 8,
        "patch_size": 2,
        "pe_mode": "ape",
        "qk_rms_norm": True,
        "resolution": 16,
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
        "training_time_sampler_fn": SAMPLER,
    }
    condition = {"backbone": fuser(prenorm=True, points=False)}
    return {"module": {"generator": {"backbone": model}, "condition_embedder": condition}}


def slat_decoder(kind: str, representation: dict[str, Any]) -> Files:
    return {
        "_target_": f"{T}.structured_latent_vae.{kind}",
        "resolution": 16,
        "model_channels": 256,
        "latent_channels": 8,
        "num_blocks": 1,
        "num_heads": 4,
        "mlp_ratio": 4,
        "attn_mode": "swin",
        "window_size": 8,
        "representation_config": representation,
        "use_fp16": True,
    }


def preprocessor(stage: str) -> dict[str, Any]:
    pad = {"_partial_": True, "_target_": f"{D}.img_processing.pad_to_square_centered"}
    resize = {"_target_": "torchvision.transforms.Resize", "size": SIDE}
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


def pipeline() -> Files:
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
        "slat_preprocessor": preprocessor("slat"),
        "slat_rescale_t": 1,
        "slat_std": [2.0 + 0.1 * i for i in range(8)],
        "ss_condition_input_mapping": [],
        "ss_inference_steps": 2,
        "ss_preprocessor": preprocessor("ss"),
        "slat_inference_steps": 2,
        "version": "v0",
    }


def yaml_files() -> dict[str, Files]:
    """All config files, by name."""
    gaussians = {
        "lr": {"_xyz": 1.0, "_features_dc": 1.0, "_opacity": 1.0, "_scaling": 1.0, "_rotation": 0.1},
        "perturb_offset": True,
        "voxel_size": 1.5,
        "num_gaussians": 4,
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
        "num_res_blocks": 1,
        "num_res_blocks_middle": 1,
        "channels": [32, 16, 8],
        "reshape_input_to_cube": False,
    }
    return {
        "pipeline.yaml": pipeline(),
        "ss_generator.yaml": ss_generator(),
        "slat_generator.yaml": slat_generator(),
        "ss_decoder.yaml": structure,
        "slat_decoder_gs.yaml": slat_decoder("decoder_gs.SLatGaussianDecoderTdfyWrapper", gaussians),
        "slat_decoder_mesh.yaml": slat_decoder("decoder_mesh.SLatMeshDecoderTdfyWrapper", {"use_color": True}),
    }


def in_halves(weights: dict[str, Tensor], half: Callable[[str], bool]) -> dict[str, Tensor]:
    return {key: value.half() if half(key) else value for key, value in weights.items()}


def awake(models: Models) -> Models:
    """Layers that begin as zeros get small values, so that all of them count."""
    noise = torch.Generator().manual_seed(1)
    for value in models.state_dict().values():
        if value.is_floating_point() and not value.any():
            value.normal_(0, 0.05, generator=noise)
    return models


def write_public_folder(folder: Path) -> Models:
    """The folder, and the networks that it holds. Needs `TINY_VIT` among `public_config.VITS`."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in yaml_files().items():
        (folder / name).write_text(yaml.safe_dump(copy.deepcopy(content)))
    torch.manual_seed(0)
    models = awake(Models(public_config.read_public_config(folder).config))
    # the two image encoders of stage 1 are copies of one, as in the release those of both stages once were
    encoders = models.structure_condition.embedder.module_list
    encoders[1].load_state_dict(encoders[0].state_dict())
    for part, condition, flow in (
        ("ss_generator", models.structure_condition, models.structure_flow),
        ("slat_generator", models.slat_condition, models.slat_flow),
    ):
        weights = {f"_base_models.generator.reverse_fn.backbone.{k}": v for k, v in flow.state_dict().items()}
        weights |= {f"_base_models.condition_embedder.{k}": v for k, v in condition.embedder.state_dict().items()}
        if part == "ss_generator":
            decoder = models.structure_decoder.state_dict()
            weights |= {f"_base_models.decoder.{k}": v for k, v in decoder.items()}
        torch.save({"state_dict": weights, "epoch": 1}, folder / f"{part}.ckpt")

    def convolution(key: str) -> bool:
        return key.startswith(("blocks.", "middle_block.")) and ".conv" in key

    torch.save(in_halves(models.structure_decoder.state_dict(), convolution), folder / "ss_decoder.ckpt")
    decoder = in_halves(models.gaussian_decoder.state_dict(), lambda key: key.startswith("blocks."))
    torch.save(decoder, folder / "slat_decoder_gs.ckpt")
    torch.save(models.mesh_decoder.state_dict(), folder / "slat_decoder_mesh.ckpt")
    return models
