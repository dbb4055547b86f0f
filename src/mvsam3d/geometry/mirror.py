"""A plane in which an object is its own mirror image, and photos seen in that mirror."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float

from mvsam3d.geometry.hull import Cube
from mvsam3d.types import Camera, Photo


@dataclass(frozen=True)
class MirrorPlane:
    """The points x with normal · x = offset, in a frame that goes without saying where it is used."""

    normal: Float[np.ndarray, " 3"]  # unit
    offset: float

    def reflection(self) -> Float[np.ndarray, "4 4"]:
        """Brings points to their mirror images; its own inverse."""
        matrix = np.eye(4)
        matrix[:3, :3] -= 2 * np.outer(self.normal, self.normal)
        matrix[:3, 3] = 2 * self.offset * self.normal
        return matrix

    def out_of(self, cube: Cube) -> MirrorPlane:
        """The plane in the cube's world, where this one is in the frame in which the cube is [-0.5, 0.5]^3."""
        return self.moved(cube.world_from_cube())

    def moved(self, target_from_source: Float[np.ndarray, "4 4"]) -> MirrorPlane:
        """The plane in another frame, by a similarity."""
        scaled = target_from_source[:3, :3] @ self.normal
        length = float(np.linalg.norm(scaled))
        normal = scaled / length
        return MirrorPlane(normal, length * self.offset + float(normal @ target_from_source[:3, 3]))


def mirrored_photo(photo: Photo, camera: Camera, plane: MirrorPlane) -> tuple[Photo, Camera]:
    """The photo, left and right exchanged, and the camera that takes it of the mirrored world: if the object is its own mirror image, a
    second photo of it.

    Args:
        photo: with mask.
        camera: of its pixels.
        plane: in the camera's world.
    """
    flip = np.diag([-1.0, 1.0, 1.0, 1.0])
    exchanged = np.array([[-1.0, 0.0, camera.width], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
    seen = replace(
        camera,
        intrinsics=exchanged @ camera.intrinsics @ flip[:3, :3],
        camera_from_world=flip @ camera.camera_from_world @ plane.reflection(),
    )
    rgb, mask = (np.ascontiguousarray(values[:, ::-1]) for values in (photo.rgb, photo.mask))
    return Photo(f"{photo.name}, mirrored", rgb, mask), seen
