"""Photos with known cameras: where the object is in their world, and what its outlines and colours there do to the model's structure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from mvsam3d.errors import InvalidOption
from mvsam3d.generation.pose import camera_from_object, placed_camera, pose_from_similarity
from mvsam3d.geometry.cameras import resized
from mvsam3d.models.lifting import LiftingNetwork
from mvsam3d.posing.alignment import Alignment, aligned, in_object_frame
from mvsam3d.posing.camera_check import fitting_views
from mvsam3d.posing.known_shape import KnownShape, known_shape
from mvsam3d.types import Camera, InWorld, Photo, Pose, View

OTHER_SHAPE = 0.02  # of the logarithm of width / height: more than rounding of sizes makes
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


def fitting_cameras(photos: Sequence[Photo], cameras: Sequence[Camera]) -> tuple[int, ...]:
    """The views whose masks fit the cameras, whose images may have other sizes than the photos; none: they tell nothing.

    Raises: InvalidOption: the cameras are in another convention.
    """
    return fitting_views(photos, [of_photo(camera, photo) for camera, photo in zip(cameras, photos, strict=True)])


def placed_by_cameras(
    photos: Sequence[Photo],
    cameras: Sequence[Camera],
    lifting: LiftingNetwork | None,
    structure: Float[Tensor, "x y z"],
    poses: Sequence[Pose],
    *,
    views: tuple[int, ...],
    resolution: int,
) -> Placement:
    """Find the object among its cameras.

    Args:
        photos: with masks.
        cameras: one for each; of images of the photos' shape, in a world of their own.
        lifting: network that says more than the outlines.
        structure: logits of occupancy in the object frame, by the model.
        poses: of the object in each view, by the model: rotations to begin with.
        views: those that tell the shape, see `fitting_cameras`.
        resolution: of the known shape, cells along an edge.
    Raises: InvalidOption: the cameras are all on one line.
    """
    sized = [of_photo(camera, photo) for camera, photo in zip(cameras, photos, strict=True)]
    shape = known_shape([photos[i] for i in views], [sized[i] for i in views], lifting, resolution)
    rotations = [_world_rotation(sized[i], poses[i]) for i in views]
    said = structure.sigmoid().double().cpu().numpy()
    alignment = aligned(said, shape.probability, shape.cube, [sized[i] for i in views], rotations)
    around = tuple(replace(c, camera_from_world=c.camera_from_world @ alignment.world_from_object) for c in sized)
    return Placement(shape, alignment, around)


def of_photo(camera: Camera, photo: Photo) -> Camera:
    """The camera for the photo's own pixels; its image may have another size.

    Raises: InvalidOption: it is of another shape.
    """
    height, width = photo.mask.shape
    shape = camera.width / camera.height * height / width
    if abs(np.log(shape)) > OTHER_SHAPE + 1 / min(camera.width, camera.height, width, height):
        turned = abs(np.log(camera.height / camera.width * height / width)) <= OTHER_SHAPE
        raise InvalidOption(
            f"view {photo.name}: its camera is for {camera.width} x {camera.height} pixels, the photo has {width} x {height}"
            + (
                ": the photo lies on its side in the camera's file. Photos are turned upright by their EXIF tag before use; give the "
                "camera of the upright photo, or remove the tag"
                if turned
                else ": give the camera of the whole photo, or the photo that the camera is of"
            )
        )
    return resized(camera, width, height)


def pose_of(camera_object: Camera) -> Pose:
    """The object's pose in a camera whose world is the object frame."""
    return pose_from_similarity(torch.from_numpy(camera_object.camera_from_world).float())


def photo_cameras(
    photos: Sequence[Photo],
    poses: Sequence[Pose],
    views: Sequence[View],
    given: Sequence[Camera] | None,
    *,
    among: bool,
) -> list[Camera]:
    """Each photo's camera with the object frame as its world.

    Cameras that the object was placed `among` are just those. Else the pose says where the object is; the lens is the given camera's where
    the pose was found in a point map, which shows things where they are, and is assumed where it was not.
    """
    if among:
        assert given is not None, "the object lies among cameras"
        return list(given)
    cameras = [placed_camera(photo, pose) for photo, pose in zip(photos, poses, strict=True)]
    if given is None or any(view.pointmap is None for view in views):
        return cameras
    return [
        replace(camera, intrinsics=of_photo(own, photo).intrinsics)
        for camera, own, photo in zip(cameras, given, photos, strict=True)
    ]


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
