"""Constructor arguments in the vocabulary of the public yaml files -> our config dataclasses."""

from collections.abc import Mapping
from typing import Any

from mvsam3d.models.condition import ConditionConfig, EmbedderConfig
from mvsam3d.models.image_encoder import VitConfig
from mvsam3d.models.pointmap_encoder import PointmapConfig
from mvsam3d.models.structure_flow import StructureFlowConfig
from mvsam3d.models.structure_vae import StructureVaeConfig

Yaml = Mapping[str, Any]


def target(config: Yaml) -> str:
    """The class name at the end of `_target_`."""
    return str(config["_target_"]).rsplit(".", 1)[-1]


def structure_vae(config: Yaml) -> StructureVaeConfig:
    """Arguments of the encoder or of the decoder (which lists its channels from coarse to fine)."""
    encoder = "Encoder" in target(config)
    channels = tuple(config["channels"])
    return StructureVaeConfig(
        channels=channels if encoder else channels[::-1],
        latent_channels=config["latent_channels"],
        occupancy_channels=config["in_channels" if encoder else "out_channels"],
        num_res_blocks=config["num_res_blocks"],
        num_res_blocks_middle=config["num_res_blocks_middle"],
    )


def vit(config: Yaml, arch: Yaml | None = None) -> VitConfig:
    """Arguments of Dino; `arch` gives the transformer's where `dino_model` names a stand-in."""
    options = VitConfig(
        input_size=config.get("input_size", 224),
        normalize_images=config["normalize_images"],
        prenorm_features=config.get("prenorm_features", False),
        frozen=config.get("freeze_backbone", True),
    )
    if arch is None:
        assert config["dino_model"] == "dinov2_vitl14_reg"
        return options
    return VitConfig(
        **{
            **vars(options),
            "position_size": arch["img_size"],
            "patch_size": arch["patch_size"],
            "width": arch["embed_dim"],
            "depth": arch["depth"],
            "heads": arch["num_heads"],
            "mlp_ratio": float(arch["mlp_ratio"]),
            "registers": arch["num_register_tokens"],
        }
    )


def pointmap(config: Yaml) -> PointmapConfig:
    """Arguments of PointPatchEmbed."""
    return PointmapConfig(
        input_size=config["input_size"],
        patch_size=config["patch_size"],
        width=config["embed_dim"],
        remap=config.get("remap_output", "exp"),
        dropout_prob=float(config.get("dropout_prob", 0)),
    )


def condition(config: Yaml, arch: Yaml | None = None) -> ConditionConfig:
    """Arguments of EmbedderFuser."""
    assert config["use_pos_embedding"] == "learned"

    def embedder(network: Yaml, inputs: list[list[str]]) -> EmbedderConfig:
        built = pointmap(network) if target(network) == "PointPatchEmbed" else vit(network, arch)
        return EmbedderConfig(built, tuple((name, group) for name, group in inputs))

    return ConditionConfig(
        embedders=tuple(embedder(network, inputs) for network, inputs in config["embedder_list"]),
        projection_multiplier=float(config["projection_net_hidden_dim_multiplier"]),
        drop_sets=tuple((tuple(names), float(weight)) for names, weight in config.get("drop_modalities_weight") or ()),
        dropout_prob=float(config.get("dropout_prob", 0)),
    )


def structure_flow(config: Yaml) -> StructureFlowConfig:
    """Arguments of SparseStructureFlowTdfyWrapper."""
    shape = config["latent_mapping"]["shape"]
    positions = shape["pos_embedder"]
    assert config["qk_rms_norm"]
    assert config["force_zeros_cond"]
    return StructureFlowConfig(
        width=config["model_channels"],
        blocks=config["num_blocks"],
        heads=config.get("num_heads") or config["model_channels"] // 64,
        mlp_ratio=float(config["mlp_ratio"]),
        cond_channels=config["cond_channels"],
        grid=positions["resolution"] // positions["patch_size"],
        latent_channels=shape["in_channels"],
        step_embedding=config["is_shortcut_model"],
        freeze_shared_parameters=config["freeze_shared_parameters"],
    )
