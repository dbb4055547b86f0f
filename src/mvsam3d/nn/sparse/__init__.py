"""Networks on active voxels only: the grid with its caches, convolution, resampling, norm and attention."""

from mvsam3d.nn.attention import KeyValues
from mvsam3d.nn.sparse.attention import SparseCrossAttention, SparseSelfAttention
from mvsam3d.nn.sparse.convolution import SparseConv3d
from mvsam3d.nn.sparse.grid import SparseGrid
from mvsam3d.nn.sparse.norm import SparseGroupNorm32
from mvsam3d.nn.sparse.tensor import SparseTensor, downsample, subdivide, upsample

__all__ = [
    "KeyValues",
    "SparseConv3d",
    "SparseCrossAttention",
    "SparseGrid",
    "SparseGroupNorm32",
    "SparseSelfAttention",
    "SparseTensor",
    "downsample",
    "subdivide",
    "upsample",
]
