"""Evidence of stage 2 is gathered on the tokens of its transformer, at half resolution; fusion acts on the voxels."""

from jaxtyping import Float, Int, Int32
from torch import Tensor

from mvsam3d.nn.sparse import SparseGrid
from mvsam3d.types import Voxels


def tokens_of(voxels: Voxels) -> tuple[Int32[Tensor, "token 3"], Int[Tensor, " voxel"]]:
    """Tokens of the voxels, cells of twice the side sorted by x, y, z, and the token that holds each voxel."""
    coarse = SparseGrid.batched([voxels.coords]).coarse
    return coarse.grid.coords[:, 1:], coarse.index


def on_voxels(per_token: Float[Tensor, "view token"], token: Int[Tensor, " voxel"]) -> Float[Tensor, "view voxel"]:
    """What is known at tokens, at their voxels."""
    return per_token[:, token]
