"""Maps between the named axis conventions of `types`, for arrays and tensors alike.

object      +Z up, canonical                  glb     +Y up
camera      OpenCV: +X right, +Y down         p3d     PyTorch3D camera: +X left, +Y up; both +Z forward
"""

from typing import TypeVar

import numpy as np
from jaxtyping import Float
from torch import Tensor

Points = TypeVar("Points", Float[np.ndarray, "*rows 3"], Float[Tensor, "*rows 3"])

Axes = tuple[tuple[int, int, int], tuple[int, int, int]]  # target axis i = sign i * source axis order i
_GLB_FROM_OBJECT: Axes = ((0, 2, 1), (1, 1, -1))
_OBJECT_FROM_GLB: Axes = ((0, 2, 1), (1, -1, 1))
_P3D_FROM_CAMERA: Axes = ((0, 1, 2), (-1, -1, 1))
_OPENGL_FROM_CAMERA: Axes = ((0, 1, 2), (1, -1, -1))


def _matrix(axes: Axes) -> Float[np.ndarray, "4 4"]:
    matrix = np.eye(4)
    matrix[:3, :3] = np.eye(3)[list(axes[0])]
    for row, sign in enumerate(axes[1]):
        matrix[row, axes[0][row]] = sign
    return matrix


GLB_FROM_OBJECT, OBJECT_FROM_GLB = _matrix(_GLB_FROM_OBJECT), _matrix(_OBJECT_FROM_GLB)  # 4 x 4, on column vectors
P3D_FROM_CAMERA = _matrix(_P3D_FROM_CAMERA)  # its own inverse
OPENGL_FROM_CAMERA = _matrix(_OPENGL_FROM_CAMERA)  # +Y up, -Z forward, as glTF and NeRF; its own inverse


def _mapped(axes: Axes, points: Points) -> Points:
    order, signs = axes
    taken = points[..., list(order)]
    if isinstance(taken, Tensor):
        return taken * taken.new_tensor(signs)
    signed: Points = taken * np.asarray(signs, taken.dtype)
    return signed


def glb_from_object(points_object: Points) -> Points:
    """(x, y, z) -> (x, z, -y)."""
    return _mapped(_GLB_FROM_OBJECT, points_object)


def object_from_glb(points_glb: Points) -> Points:
    """(x, y, z) -> (x, -z, y)."""
    return _mapped(_OBJECT_FROM_GLB, points_glb)


def p3d_from_camera(points_camera: Points) -> Points:
    """(x, y, z) -> (-x, -y, z)."""
    return _mapped(_P3D_FROM_CAMERA, points_camera)


def camera_from_p3d(points_p3d: Points) -> Points:
    """(x, y, z) -> (-x, -y, z): the map is its own inverse."""
    return _mapped(_P3D_FROM_CAMERA, points_p3d)
