"""What the views say about each latent, gathered from probes; stage 2 gathers on its tokens and fuses on its voxels."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from mvsam3d.nn.probe import EntropyProbe
from mvsam3d.nn.sparse import SparseGrid


def entropies(probes: Sequence[EntropyProbe]) -> Float[Tensor, "view latent"]:
    """Entropy of each view's attention at each latent: one probe per view, mean over its batch."""
    return torch.stack([probe.entropy.mean(0) for probe in probes])


def on_voxels(per_token: Float[Tensor, "view token"], grid: SparseGrid) -> Float[Tensor, "view voxel"]:
    """Numbers of the half-resolution tokens at the voxels of `grid`."""
    return per_token[:, grid.coarse.index]
