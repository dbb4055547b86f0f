"""Log odds of a solid on a grid -> its surface: where they are zero.

For shapes that cameras tell: photos show them finer than the cells that stage 2 works on, which lose parts thinner than themselves.
"""

import numpy as np
import torch
from jaxtyping import Float

from mvsam3d.meshing.isosurface import dense_cells, dual_contour
from mvsam3d.types import Mesh

OUTSIDE = -7.0  # log odds beyond the grid


def level_surface(odds: Float[np.ndarray, "r r r"]) -> Mesh:
    """Triangles in the object frame, outward winding; closed, as beyond the grid nothing is solid.

    FlexiCubes (Shen et al. 2023) without learned weights, between the middles of the cells.

    Args:
        odds: of the cells of the object frame, [-0.5, 0.5]^3.
    """
    resolution = len(odds)
    padded = torch.from_numpy(np.pad(odds, 1, constant_values=OUTSIDE)).float().flatten()
    middles = (torch.arange(-1, resolution + 1) + 0.5) / resolution - 0.5
    return dual_contour(dense_cells(-padded, torch.cartesian_prod(middles, middles, middles), resolution + 1)).to_mesh()
