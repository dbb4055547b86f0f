"""Cubes around an object whose own cube is not known, and what keeps up: quarter turns and the mirror."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float
from scipy.spatial.transform import Rotation

from mvsam3d.geometry.hull import quarter_turn


@dataclass(frozen=True)
class LooseCubes:
    """Cubes as they are found around an object in photos: headed anywhere, a little too large, off the centre, leaning."""

    count: int = 4
    """For each object."""
    sides: tuple[float, float] = (1.0, 1.3)
    """Smallest and largest side, in longest sides of the object, the small ones more often: the hull of few views is larger than it."""
    off_centre: float = 0.06
    """Standard deviation of the centre, in the same unit."""
    any_up: float = 0.15
    """Share that is turned about any axis, as where up is not known; the others lean by some degrees."""
    lean: float = 4.0
    """Standard deviation of that, degrees."""

    def draw(self, rng: np.random.Generator) -> Float[np.ndarray, "cube 4 4"]:
        """object_from_cube, similarities from the frame in which the cube is [-0.5, 0.5]^3."""
        matrices = np.tile(np.eye(4), (self.count, 1, 1))
        for matrix in matrices:
            turn = Rotation.from_rotvec([0, 0, rng.uniform(0, 2 * np.pi)])
            if rng.random() < self.any_up:
                turn = Rotation.random(random_state=rng)
            small, large = self.sides
            lean = Rotation.from_rotvec(np.radians(self.lean) * rng.normal(size=3))
            matrix[:3, :3] = (turn * lean).as_matrix() * (small + (large - small) * rng.random() ** 2)
            matrix[:3, 3] = self.off_centre * rng.normal(size=3)
        return matrices


def turned(
    object_from_cube: Float[np.ndarray, "4 4"], solid: Bool[np.ndarray, "x y z"], quarters: int, *, mirrored: bool
) -> tuple[Float[np.ndarray, "4 4"], Bool[np.ndarray, "x y z"]]:
    """The same cube with its frame mirrored in x, if so, and turned by quarters about z; the cells lie as before."""
    turn = quarter_turn(quarters)
    cells = np.rot90(solid, -quarters, (0, 1))
    if mirrored:
        turn[:, 0] *= -1
        cells = cells[::-1]
    return object_from_cube @ turn, np.ascontiguousarray(cells)
