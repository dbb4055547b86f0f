"""Constructor arguments in the vocabulary of the public yaml files -> our config dataclasses."""

from collections.abc import Mapping
from typing import Any

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
