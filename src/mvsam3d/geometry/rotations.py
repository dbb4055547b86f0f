"""Rotations as quaternions (w, x, y, z), 6D vectors and matrices.

A matrix here acts on column vectors. The public model uses the same matrix with row vectors: see `generation.pose`.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor


def matrix_from_quaternion(quaternion: Float[Tensor, "*rows 4"]) -> Float[Tensor, "*rows 3 3"]:
    """The rotation matrix of a quaternion of any length but zero."""
    w, x, y, z = F.normalize(quaternion, dim=-1).unbind(-1)
    rows = [
        torch.stack([1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)], -1),
        torch.stack([2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)], -1),
        torch.stack([2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)], -1),
    ]
    return torch.stack(rows, -2)


def quaternion_from_matrix(matrix: Float[Tensor, "*rows 3 3"]) -> Float[Tensor, "*rows 4"]:
    """The unit quaternion with w >= 0 of a rotation matrix.

    Each row of the matrix of products 4 q qᵀ is the quaternion times one of its own components; the row of the largest
    component is taken, so that nothing is divided by a small number.
    """
    (xx, xy, xz), (yx, yy, yz), (zx, zy, zz) = (row.unbind(-1) for row in matrix.unbind(-2))
    products = torch.stack(
        [
            torch.stack([1 + xx + yy + zz, zy - yz, xz - zx, yx - xy], -1),
            torch.stack([zy - yz, 1 + xx - yy - zz, xy + yx, xz + zx], -1),
            torch.stack([xz - zx, xy + yx, 1 - xx + yy - zz, yz + zy], -1),
            torch.stack([yx - xy, xz + zx, yz + zy, 1 - xx - yy + zz], -1),
        ],
        -2,
    )
    largest = products.diagonal(dim1=-2, dim2=-1).argmax(-1)
    row = products.gather(-2, largest[..., None, None].expand(*largest.shape, 1, 4)).squeeze(-2)
    return F.normalize(torch.where(row[..., :1] < 0, -row, row), dim=-1)


def matrix_from_6d(vector: Float[Tensor, "*rows 6"]) -> Float[Tensor, "*rows 3 3"]:
    """Gram-Schmidt of two 3-vectors into the columns of a rotation matrix.

    Source: Zhou et al., On the Continuity of Rotation Representations in Neural Networks, 2019.
    """
    first, second = vector[..., :3], vector[..., 3:]
    x = F.normalize(first, dim=-1)
    y = F.normalize(second - (x * second).sum(-1, keepdim=True) * x, dim=-1)
    return torch.stack([x, y, torch.linalg.cross(x, y)], -1)


def vector_6d_from_matrix(matrix: Float[Tensor, "*rows 3 3"]) -> Float[Tensor, "*rows 6"]:
    """The first two columns, one after the other."""
    return matrix[..., :2].transpose(-1, -2).flatten(-2)
