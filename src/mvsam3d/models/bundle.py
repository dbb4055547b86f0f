"""Models: the networks of one size that a reconstruction needs."""

from __future__ import annotations

from torch import nn

from mvsam3d.models.config import ModelConfig
from mvsam3d.models.gaussian_decoder import GaussianDecoder
from mvsam3d.models.lifting import LiftingNetwork
from mvsam3d.models.mesh_decoder import MeshDecoder
from mvsam3d.models.slat_flow import SlatFlow
from mvsam3d.models.structure_flow import StructureFlow
from mvsam3d.models.structure_vae import StructureDecoder
from mvsam3d.models.view_tokens import ViewTokens


class Models(nn.Module):
    """All networks of a model; its state dict is a checkpoint."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.structure_condition = ViewTokens(config.structure.condition, joint=config.joint_views)
        self.structure_flow = StructureFlow(config.structure.flow)
        self.structure_decoder = StructureDecoder(config.structure.vae)
        self.slat_condition = ViewTokens(config.slat.condition, joint=config.joint_views)
        self.slat_flow = SlatFlow(config.slat.flow)
        self.gaussian_decoder = GaussianDecoder(config.slat.gaussian_decoder)
        self.mesh_decoder = MeshDecoder(config.slat.mesh_decoder)
        self.lifting = None if config.lifting is None else LiftingNetwork(config.lifting)
