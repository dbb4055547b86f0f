"""Detail network: the lifting network's answer on a grid twice as fine, by the outlines and colours that its cells see."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from mvsam3d.models.lifted_views import EDGE_FEATURES, STATISTICS, edges, statistics
from mvsam3d.models.structure_vae import ResBlock, output_layer

REACH = 2  # cells that a residual block sees beyond its own


class DetailNetwork(nn.Module):
    """What to add to the lifting network's logits between its cells; zero at first. Sees `reach` cells around each."""

    def __init__(self, fine_channels: int, channels: int, blocks: int) -> None:
        super().__init__()
        self.reach = REACH * blocks + 1
        self.input_layer = nn.Linear(1 + fine_channels + EDGE_FEATURES + STATISTICS, channels)
        self.fine_levels = nn.ModuleList(ResBlock(channels) for _ in range(blocks))
        self.out_layer = output_layer(channels, 1)
        for parameter in self.out_layer[-1].parameters():
            nn.init.zeros_(parameter)

    def forward(
        self,
        logits: Float[Tensor, "batch x y z"],
        fine: Float[Tensor, "batch channel x y z"],
        features: Float[Tensor, "batch view x y z feature"],
    ) -> Float[Tensor, "batch x y z"]:
        """Logits.

        Args:
            logits: of the lifting network, brought to this grid, see `refined`.
            fine: the features that they were read from, likewise.
            features: of each view at the cells of this grid.
        """
        known = [torch.tanh(logits / 4)[..., None], fine.permute(0, 2, 3, 4, 1), edges(features), statistics(features)]
        x = self.input_layer(torch.cat(known, -1)).permute(0, 4, 1, 2, 3)  # channels last in memory already
        for level in self.fine_levels:
            x = level(x)
        out: Tensor = logits + self.out_layer(x)[:, 0]
        return out


def refined(values: Float[Tensor, "batch channel x y z"]) -> Float[Tensor, "batch channel x2 y2 z2"]:
    """Values at the middles of cells -> at those of a grid twice as fine, trilinear."""
    return F.interpolate(values, scale_factor=2, mode="trilinear", align_corners=False)
