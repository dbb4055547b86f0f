"""Photos with known cameras: where the object is in their world, and what its outlines and colours there do to the model's structure."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from mvsam3d.errors import InvalidOption
from mvsam3d.generation.pose import camera_from_object, placed_camera, pose_from_similarity
from mvsam3d.geometry.cameras import resized
from mvsam3d.geometry.hull import Cube, covering, uncovered
from mvsam3d.geometry.mirror import MirrorPlane
from mvsam3d.models.lifting import LiftingNetwork
from mvsam3d.posing.alignment import (
    Alignment,
    SolidBox,
    aligned,
    in_object_frame,
    raised,
    rotation_of,
    upward,
)
from mvsam3d.posing.camera_check import fitting_views
from mvsam3d.posing.floor import standing
from mvsam3d.posing.known_shape import KnownShape, known_shape, log_odds
from mvsam3d.types import Camera, InWorld, Photo, Pose, View

log = logging.getLogger(__name__)

SHARES = (0.0, 0.25, 0.35, 0.5, 0.7, 1.0, 1.4, 2.0, 3.0)  # of the model's log odds that are tried
BESIDE = 1.5  # cells from the shape's outline beyond which a pixel of the mask is left out by it
HOLLOWED = 0.15  # of the volume that the model takes away at the least, where it is believed
COST = 0.01  # of the masks that it may leave out, for a model that takes away everything; less in proportion
ENOUGH = 0.6  # of what the largest share that may be taken takes away: the least one that does so is, for floors and walls wear thin
LIMIT = 4.0  # of the model's log odds
PLACED = 0.85  # agreement of model and shape from which nothing is thought to lie outside the model's frame
GAP = 0.2  # cells of the structure's grid: what masks show is closed there where it is open more widely
RIM = 1.5  # of those cells: but not so near to a mask's outline
OTHER_SHAPE = 0.02  # of the logarithm of width / height: more than rounding of sizes makes
LEAST_CHANCE = 1e-3  # of a cell; the model's word is never taken away wholly


@dataclass(frozen=True)
class Placement:
    """The shape that cameras and model say together, and how the object frame lies in the cameras' world."""

    shape: KnownShape  # with the model's word in its probability; its cube is along the axes of the level world
    alignment: Alignment  # likewise
    share: float  # of the model's log odds in it
    cube_from_object: Float[np.ndarray, "4 4"]  # to the frame in which the shape's cube is [-0.5, 0.5]^3
    world_from_object: Float[np.ndarray, "4 4"]  # a similarity; the object fills its frame
    cameras: tuple[Camera, ...]  # of the photos' pixels; their world is the object frame, `camera_from_world` scales
    mirror: MirrorPlane | None = None  # in the cameras' world; see `KnownShape`

    def in_world(self) -> InWorld:
        """What is kept of it."""
        mirror = None if self.mirror is None else np.append(self.mirror.normal, self.mirror.offset)
        return InWorld(self.world_from_object, self.alignment.agreement, self.shape.source, self.share, mirror)

    def logits(self, resolution: int) -> Float[Tensor, "r r r"]:
        """Log odds of the shape on the cells of the object frame.

        A cell larger than the shape's own is as solid as the most solid of its parts of about that size: walls and wings thinner than it
        often lie between the middles of such cells, and would have holes.
        """
        parts = math.ceil(len(self.shape.probability) / resolution)  # of a cell, along an edge
        chance = in_object_frame(self.shape.probability, self.cube_from_object, parts * resolution)
        chance = F.max_pool3d(chance[None, None], parts)[0, 0]
        return torch.logit(chance.clamp(LEAST_CHANCE, 1 - LEAST_CHANCE))

    def covering_logits(
        self, resolution: int, views: Sequence[int], masks: Sequence[Bool[np.ndarray, "_ _"]]
    ) -> Float[Tensor, "r r r"]:
        """The same, closed where masks show it: a wall thinner than a cell has holes on a coarse grid.

        Args:
            resolution: cells along an edge.
            views: whose cameras tell.
            masks: of all photos.
        """
        told, cameras = self.logits(resolution), [self.cameras[i] for i in views]
        cube, shown = Cube(np.zeros(3), 1.0), [masks[i] for i in views]
        return torch.from_numpy(covering(told.double().numpy(), cube, cameras, shown, GAP, RIM)).float()


def fitting_cameras(photos: Sequence[Photo], cameras: Sequence[Camera | None]) -> tuple[int, ...]:
    """The views whose masks fit the cameras, whose images may have other sizes than the photos; none: they tell nothing.

    Raises: InvalidOption: the cameras are in another convention.
    """
    having = _of_photos(cameras, photos)
    places = tuple(having)
    return tuple(places[i] for i in fitting_views([photos[i] for i in places], list(having.values())))


def placed_by_cameras(
    photos: Sequence[Photo],
    cameras: Sequence[Camera | None],
    lifting: LiftingNetwork | None,
    structure: Float[Tensor, "x y z"],
    poses: Sequence[Pose],
    *,
    views: tuple[int, ...],
    resolution: int,
    largest_share: float,
    depths: Sequence[Float[np.ndarray, "_ _"]] | None = None,
    fill: bool = True,
    symmetry: bool = True,
) -> Placement:
    """Find the object among its cameras.

    Args:
        photos: with masks.
        cameras: one for each; of images of the photos' shape, in a world of their own. A photo without one is placed by the model's pose.
        lifting: network that says more than the outlines.
        structure: logits of occupancy in the object frame, by the model.
        poses: of the object in each view, by the model: rotations to begin with.
        views: those that tell the shape, see `fitting_cameras`.
        resolution: of the known shape, cells along an edge.
        largest_share: of the model's log odds, see `with_model`.
        depths: one for each photo, in the cameras' units, see `depth_odds`; None: there are none.
        fill: see `with_model`.
        symmetry: see `known_shape`.
    Raises: InvalidOption: the cameras are all on one line.
    """
    having = _of_photos(cameras, photos)
    world_from_level = level_world([having[i] for i in views])
    sized = {i: _moved(camera, world_from_level) for i, camera in having.items()}
    telling, masks = [sized[i] for i in views], [photos[i].mask for i in views]
    near = None if depths is None else [depths[i] for i in views]
    shape = known_shape([photos[i] for i in views], telling, lifting, resolution, depths=near, symmetry=symmetry)
    if upward(telling) is not None:
        shape = standing(shape, telling, masks)
    rotations = [_world_rotation(sized[i], poses[i]) for i in views]
    said = structure.double().cpu()
    alignment = aligned(said.sigmoid().numpy(), shape.probability, shape.cube, telling, masks, rotations)
    shape, share = with_model(shape, said, alignment, telling, masks, largest_share, fill=fill)
    frame = SolidBox(shape.probability).frame(rotation_of(alignment.world_from_model))
    level_from_object = shape.cube.world_from_cube() @ frame
    model_from_object = np.linalg.inv(alignment.world_from_model) @ level_from_object
    around = tuple(
        _moved(sized[i], level_from_object) if i in sized else _moved(placed_camera(photo, pose), model_from_object)
        for i, (photo, pose) in enumerate(zip(photos, poses, strict=True))
    )
    mirror = None if shape.mirror is None else shape.mirror.moved(world_from_level)
    return Placement(shape, alignment, share, frame, world_from_level @ level_from_object, around, mirror)


def level_world(cameras: Sequence[Camera]) -> Float[np.ndarray, "4 4"]:
    """world_from_level: a turn of the world after which +Z is up, as the lifting network knows objects; none if the cameras tell no up."""
    up, matrix = upward(cameras), np.eye(4)
    if up is not None:
        matrix[:3, :3] = raised(up)
    return matrix


def with_model(
    shape: KnownShape,
    said: Float[Tensor, "x y z"],
    alignment: Alignment,
    cameras: Sequence[Camera],
    masks: Sequence[Bool[np.ndarray, "_ _"]],
    largest_share: float,
    *,
    fill: bool = True,
) -> tuple[KnownShape, float]:
    """The known shape with the model's word: log odds add up, the model's by a share that the outlines allow.

    What no photo shows, a hollow say, the model alone knows: it takes away much, and the whole still covers the masks but for their rims. A
    model that is wrong about the object takes away what photos show, and one that takes away little knows nothing that they do not show:
    neither is believed at all. Outside its frame the model says that nothing is there, and is believed in that alone wherever its shape
    agrees well with the known one: outlines leave a cone on the side where no camera stands. What masks show and nothing explains in the
    end is filled where it is likeliest.

    Args:
        shape: by the cameras.
        said: log odds of occupancy in the model's frame.
        alignment: where that frame lies.
        cameras: that tell.
        masks: theirs.
        largest_share: most that is tried.
        fill: what masks show; without it, they are left uncovered there.
    Returns: the shape, and the share.
    """
    model_from_cube = np.linalg.inv(alignment.world_from_model) @ shape.cube.world_from_cube()
    lifted = (said.clamp(-LIMIT, LIMIT) + LIMIT).numpy()
    model = in_object_frame(lifted, model_from_cube, len(shape.probability)).double().numpy() - LIMIT
    odds = log_odds(shape.probability)
    if alignment.agreement >= PLACED:
        inside = in_object_frame(np.ones_like(lifted), model_from_cube, len(odds)).numpy() > 0
        odds = np.where(inside, odds, odds - LIMIT)
    shares = [share for share in SHARES if share <= largest_share]
    solids = [odds + share * model > 0 for share in shares]
    left_out = [float(uncovered(solid, shape.cube, cameras, masks, BESIDE).mean()) for solid in solids]
    removed = [1 - int(solid.sum()) / max(int(solids[0].sum()), 1) for solid in solids]
    cost = [lost - min(left_out) for lost in left_out]
    told = zip(shares, removed, cost, strict=True)
    allowed = [(share, away) for share, away, lost in told if away >= HOLLOWED and lost <= COST * away]
    most = max((away for _, away in allowed), default=0.0)
    share = min((share for share, away in allowed if away >= ENOUGH * most), default=0.0)
    log.info(
        "shares of the model %s: take away %s of the volume and leave out %s of the masks; %g is taken",
        shares,
        np.round(removed, 3).tolist(),
        np.round(left_out, 4).tolist(),
        share,
    )
    odds = odds + share * model
    together = 1 / (1 + np.exp(-(covering(odds, shape.cube, cameras, masks, BESIDE) if fill else odds)))
    return replace(shape, probability=together), share


def _of_photos(cameras: Sequence[Camera | None], photos: Sequence[Photo]) -> dict[int, Camera]:
    """Those that there are, each for its photo's own pixels, by their places."""
    return {i: of_photo(camera, photos[i]) for i, camera in enumerate(cameras) if camera is not None}


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


def _moved(camera: Camera, world_from_new: Float[np.ndarray, "4 4"]) -> Camera:
    return replace(camera, camera_from_world=camera.camera_from_world @ world_from_new)


def _world_rotation(camera: Camera, pose: Pose) -> Float[np.ndarray, "3 3"]:
    """world_from_object rotation that a pose in one camera implies."""
    found: Float[np.ndarray, "3 3"] = rotation_of(camera.camera_from_world).T @ rotation_of(
        camera_from_object(pose).double().numpy()
    )
    return found
