"""Photos with known cameras: where the object is in their world, and what its outlines and colours there do to the model's structure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from mvsam3d.generation.pose import camera_from_object, pose_from_similarity
from mvsam3d.models.lifting import LiftingNetwork
from mvsam3d.posing.alignment import Alignment, aligned, in_object_frame
from mvsam3d.posing.known_shape import KnownShape, known_shape
from mvsam3d.types import Camera, InWorld, Photo, Pose

LEAST_CHANCE = 1e-3  # of a cell; the model's word is never taken away wholly


@dataclass(frozen=True)
class Placement:
    """The shape that the cameras show, and how the object frame lies in their world."""

    shape: KnownShape
    alignment: Alignment
    cameras: tuple[Camera, ...]  # of the photos' pixels; their world is the object frame, `camera_from_world` scales

    def in_world(self) -> InWorld:
        """What is kept of it."""
        return InWorld(self.alignment.world_from_object, self.alignment.agreement, self.shape.source)

    def logits(self, resolution: int) -> Float[Tensor, "r r r"]:
        """Log odds of the known shape on the cells of the object frame."""
        cube_from_object = np.linalg.inv(self.shape.cube.world_from_cube()) @ self.alignment.world_from_object
        chance = in_object_frame(self.shape.probability, cube_from_object, resolution)
        return torch.logit(chance.clamp(LEAST_CHANCE, 1 - LEAST_CHANCE))


def placed_by_cameras(
    photos: Sequence[Photo],
    cameras: Sequence[Camera],
    lifting: LiftingNetwork | None,
    structure: Float[Tensor, "x y z"],
    poses: Sequence[Pose],
    *,
    resolution: int,
) -> Placement:
    """Find the object among its cameras.

    Args:
        photos: with masks.
        cameras: one for each; of images of the photos' shape, in a world of their own.
        lifting: network that says more than the outlines.
        structure: logits of occupancy in the object frame, by the model.
        poses: of the object in each view, by the model: rotations to begin with.
        resolution: of the known shape, cells along an edge.
    Raises: InvalidOption: no point lies inside all outlines, or the rays do not meet.
    """
    fitting = [of_photo(camera, photo) for camera, photo in zip(cameras, photos, strict=True)]
    shape = known_shape(photos, fitting, lifting, resolution)
    rotations = [_world_rotation(camera, pose) for camera, pose in zip(fitting, poses, strict=True)]
    said = structure.sigmoid().double().cpu().numpy()
    alignment = aligned(said, shape.probability, shape.cube, fitting, rotations)
    around = tuple(replace(c, camera_from_world=c.camera_from_world @ alignment.world_from_object) for c in fitting)
    return Placement(shape, alignment, around)


def of_photo(camera: Camera, photo: Photo) -> Camera:
    """The camera for the photo's own pixels; its image may have another size."""
    height, width = photo.mask.shape
    zoom = np.diag([width / camera.width, height / camera.height, 1.0])
    return Camera(zoom @ camera.intrinsics, camera.camera_from_world, width, height)


def pose_of(camera_object: Camera) -> Pose:
    """The object's pose in a camera whose world is the object frame."""
    return pose_from_similarity(torch.from_numpy(camera_object.camera_from_world).float())


def _world_rotation(camera: Camera, pose: Pose) -> Float[np.ndarray, "3 3"]:
    """world_from_object rotation that a pose in one camera implies."""
    matrix = camera_from_object(pose).double().numpy()[:3, :3]
    rotation = matrix / np.cbrt(np.linalg.det(matrix))
    scaled = camera.camera_from_world[:3, :3]
    found: Float[np.ndarray, "3 3"] = (scaled / np.cbrt(np.linalg.det(scaled))).T @ rotation
    return found


def combined(
    known: Float[Tensor, "x y z"], said: Float[Tensor, "x y z"], share: float, limit: float = 4.0
) -> Float[Tensor, "x y z"]:
    """Log odds of the known shape, and `share` of what the model says, which is held to `limit`: where cameras tell nothing, it decides."""
    return known + share * said.to(known).clamp(-limit, limit)
