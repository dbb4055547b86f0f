"""Models: the networks of one size that a reconstruction needs, all in memory or each only while it is at work."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import torch
from torch import nn

from mvsam3d.models.config import ModelConfig
from mvsam3d.models.gaussian_decoder import GaussianDecoder
from mvsam3d.models.host_memory import trim
from mvsam3d.models.lifting import LiftingNetwork
from mvsam3d.models.mesh_decoder import MeshDecoder
from mvsam3d.models.slat_flow import SlatFlow
from mvsam3d.models.structure_flow import StructureFlow
from mvsam3d.models.structure_vae import StructureDecoder
from mvsam3d.models.view_tokens import ViewTokens

log = logging.getLogger(__name__)

COMES, GOES = "%s comes", "%s goes"  # told at level debug of a network, before it is loaded and after its work
UNMIXED = ("gaussian_decoder", "mesh_decoder", "lifting")  # networks that the public system runs without autocast


@dataclass(frozen=True)
class Residence:
    """Where and in which precision the networks work."""

    device: torch.device
    dtype: torch.dtype = torch.float32
    """Of matrix products; norms, sums over steps and positions stay float32."""
    load: Callable[[Models, str], None] | None = None
    """Brings a network in; it leaves when its work is done. None: all are there and stay."""
    identity: str | None = None
    """Names the content of the weights; None: nothing that depends on them may be kept on disk."""


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
        self.residence: Residence | None = None

    @property
    def device(self) -> torch.device:
        """Where the networks work."""
        return next(self.parameters()).device if self.residence is None else self.residence.device

    @property
    def dtype(self) -> torch.dtype:
        """Precision of matrix products."""
        return torch.float32 if self.residence is None else self.residence.dtype

    @contextmanager
    def at_work(self, *names: str) -> Iterator[None]:
        """The networks of these names are in memory, and calls compute in the chosen precision."""
        home = self.residence
        if home is None:
            yield
            return
        with ExitStack() as stack:
            for name in names:
                log.debug(COMES, name)
                if home.load is not None:
                    stack.callback(trim)
                    stack.callback(getattr(self, name).to, "meta")
                    home.load(self, name)
                stack.callback(log.debug, GOES, name)
            mixed = home.dtype != torch.float32 and not set(names) & set(UNMIXED)
            stack.enter_context(torch.autocast(home.device.type, home.dtype, enabled=mixed))
            yield
