"""Group norm of sparse tensors."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from mvsam3d.nn.sparse.tensor import SparseTensor


class SparseGroupNorm32(nn.Module):
    """Group norm in float32; statistics per batch element over all its voxels and the group's channels. eps 1e-5."""

    def __init__(self, groups: int, channels: int) -> None:
        super().__init__()
        self.groups = groups
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: SparseTensor) -> SparseTensor:
        """Normalise."""
        parts = [self._normalised(x.feats[rows]) for rows in x.grid.slices]
        return x.replace(parts[0] if len(parts) == 1 else torch.cat(parts))

    def _normalised(self, rows: Float[Tensor, "voxel channel"]) -> Float[Tensor, "voxel channel"]:
        """One element, as rows * scale + shift: no second full-size copy in float32."""
        if len(rows) == 0:
            return rows
        full = rows.float()
        grouped = full.view(len(rows), self.groups, -1)
        variance, mean = torch.var_mean(grouped, dim=(0, 2), correction=0)
        channels = grouped.shape[2]
        scale = torch.rsqrt(variance + 1e-5).repeat_interleave(channels) * self.weight.float()
        shift = self.bias.float() - mean.repeat_interleave(channels) * scale
        return torch.addcmul(shift, full, scale).to(rows.dtype)
