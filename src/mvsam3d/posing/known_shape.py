"""What known cameras tell of a shape before any prior: the soft hull of the outlines, or better, what the lifting network makes of it."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import cv2
import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

from mvsam3d.geometry.depth_odds import depth_odds
from mvsam3d.geometry.hull import (
    Cube,
    cube_around,
    cube_of,
    in_cube_frame,
    quarter_turn,
    silhouette_ious,
    soft_hull,
    uncovered,
)
from mvsam3d.geometry.mirror import MirrorPlane, mirrored_photo
from mvsam3d.geometry.voxels import resampled
from mvsam3d.models.lifted_views import LiftedViews
from mvsam3d.models.lifting import LiftingNetwork
from mvsam3d.posing.symmetry import mirror_plane
from mvsam3d.types import Camera, Photo
from mvsam3d.views.lifted import lifted, lifted_views

log = logging.getLogger(__name__)

PIXELS_PER_CELL = 3.5  # of the object's cube in the photos shown to the lifting network, as it was trained
TIGHT = 1.06  # side of the cube that the network is shown at last, in the object's longest sides as it found them first
ROUNDS = 2
AT_ONCE = 32  # views of all headings that the network looks at together: 15 MB for each
QUARTERS = 4  # headings from which the network is asked
# What the network says of cells that are rather inside than not: of 60 training objects no worse than the best, .4, and thin floors stay
BELIEVED = 0.35
# The same of the detail network's cells: .5 is better by .007 of training objects' cells, but real photos leave it unsure of a pot's floor
BELIEVED_FINE = 0.25
# Of the hull's log odds beside the network's, where it says that nothing is there (inside it may be hollow): the network sees the outlines
HULL_SHARE = 0.1
LEAST_CHANCE = 1e-3  # of a cell; neither network nor hull rules one out alone
LEAST_CELLS = 8  # of an object that deserves a tighter cube
MOST_MIRRORED = 12  # photos that are shown mirrored as well: with many, all sides are seen anyway
COARSE = 32  # cells along the cube's edge, in
BESIDE = 1.0  # of which it is told from where on a pixel of a mask is left out by an outline
LEFT_OUT = 0.002  # of the masks, and
WORSE = 0.015  # of the outlines' IoU that the shape by mirrored photos may be worse than the one without


@dataclass(frozen=True)
class KnownShape:
    """Probability that each cell of a cube is inside the object."""

    cube: Cube  # in the world of the cameras
    probability: Float[np.ndarray, "x y z"]
    hull: Float[np.ndarray, "x y z"]  # that it is inside every outline
    source: Literal["hull", "lifting"]
    # In that world: the object is its own mirror image, so photos were seen mirrored as well
    mirror: MirrorPlane | None = None


def known_shape(
    photos: Sequence[Photo],
    cameras: Sequence[Camera],
    lifting: LiftingNetwork | None,
    resolution: int,
    *,
    depths: Sequence[Float[np.ndarray, "_ _"]] | None = None,
    symmetry: bool = True,
) -> KnownShape:
    """The shape as photos from known cameras show it.

    Args:
        photos: with masks.
        cameras: of the photos' pixels, in a world of their own.
        lifting: the network; the soft hull alone serves without it.
        resolution: cells along an edge of the result. Finer than the network's grid, the hull adds the detail of the outlines.
        depths: of the photos, in the cameras' units, see `depth_odds`; their log odds are added.
        symmetry: where the object is its own mirror image, each photo tells of its other side too, see `told_in`.
    Raises: InvalidOption: no point lies inside all outlines, or the rays do not meet.
    """
    masks = [photo.mask for photo in photos]
    cube = cube_around(cameras, masks)
    if lifting is not None:
        for _ in range(ROUNDS - 1):
            cube = tight_cube(cube, lifted_probability(photos, cameras, cube, lifting))
    fine = lifting is not None and lifting.detail is not None
    told = told_in(cube, photos, cameras, lifting, resolution, fine=fine, symmetry=symmetry)
    chance = _with_depth(told.probability, cameras, masks, cube, depths)
    return replace(told, probability=chance)


def told_in(
    cube: Cube,
    photos: Sequence[Photo],
    cameras: Sequence[Camera],
    lifting: LiftingNetwork | None,
    resolution: int,
    *,
    fine: bool,
    symmetry: bool = True,
) -> KnownShape:
    """What lifting network and hull say together of the cells of a cube, or the hull alone without a network.

    Where the object is its own mirror image (`posing.symmetry`), the mirrored photos are shown as well, from where they would have been
    taken: half of what no photo sees is seen then. Kept if the shape by all of them explains the photos that there are as well. Not for the
    hull alone: a product of chances shrinks with every photo.

    Args:
        fine: on the grid of the network's detail network.
        symmetry: look for that.
    """

    def told_by(photos: Sequence[Photo], cameras: Sequence[Camera]) -> KnownShape:
        hull = soft_hull(cameras, [photo.mask for photo in photos], cube, resolution)
        if lifting is None:
            return KnownShape(cube, hull, hull, "hull")
        said = lifted_probability(photos, cameras, cube, lifting, fine=fine)
        if resolution != len(said):
            said = resampled(said, resolution)
        return KnownShape(cube, agreed_chance(said, hull), hull, "lifting")

    alone = told_by(photos, cameras)
    if not symmetry or lifting is None or not 2 <= len(photos) <= MOST_MIRRORED:
        return alone
    masks = [photo.mask for photo in photos]
    plane = mirror_plane(alone.probability, cube, cameras, masks)
    if plane is None:
        log.info("no mirror plane: the outlines tell of none, or the shape is its own mirror image already")
        return alone
    plane = plane.out_of(cube)
    other = [mirrored_photo(photo, camera, plane) for photo, camera in zip(photos, cameras, strict=True)]
    mirrored, seen = zip(*other, strict=True)
    both = told_by([*photos, *mirrored], [*cameras, *seen])
    left_out, met = [], []
    for told in (alone, both):
        solid = told.probability > 0.5
        left_out.append(float(uncovered(solid, cube, cameras, masks, BESIDE * resolution / COARSE).mean()))
        met.append(float(silhouette_ious(solid, cube, cameras, masks).mean()))
    kept = left_out[1] - left_out[0] <= LEFT_OUT and met[0] - met[1] <= WORSE
    log.info(
        "mirror plane with normal %s: mirrored photos change what the shape leaves out of the masks from %.4f to %.4f "
        "and how it meets them from %.3f to %.3f: they are %s",
        np.round(plane.normal, 3).tolist(),
        *left_out,
        *met,
        "kept" if kept else "left out",
    )
    return replace(both, mirror=plane) if kept else alone


def _with_depth(
    chance: Float[np.ndarray, "x y z"],
    cameras: Sequence[Camera],
    masks: Sequence[Bool[np.ndarray, "_ _"]],
    cube: Cube,
    depths: Sequence[Float[np.ndarray, "_ _"]] | None,
) -> Float[np.ndarray, "x y z"]:
    """The chance with what depth maps see of free space and surface; as it is where there are none."""
    if depths is None:
        return chance
    odds = log_odds(chance) + depth_odds(cameras, depths, masks, cube, len(chance))
    together: Float[np.ndarray, "x y z"] = 1 / (1 + np.exp(-odds))
    return together


def agreed_chance(said: Float[np.ndarray, "x y z"], hull: Float[np.ndarray, "x y z"]) -> Float[np.ndarray, "x y z"]:
    """Network and hull together: log odds add up, the hull's where they are negative."""
    a, b = log_odds(said), log_odds(hull)
    together: Float[np.ndarray, "x y z"] = 1 / (1 + np.exp(-(a + HULL_SHARE * np.minimum(b, 0))))
    return together


def log_odds(chance: Float[np.ndarray, "x y z"]) -> Float[np.ndarray, "x y z"]:
    """Of chances of which none is sure."""
    kept = np.clip(chance, LEAST_CHANCE, 1 - LEAST_CHANCE)
    odds: Float[np.ndarray, "x y z"] = np.log(kept / (1 - kept))
    return odds


def tight_cube(cube: Cube, probability: Float[np.ndarray, "x y z"]) -> Cube:
    """The cube around the cells that are rather inside than not; the same cube if they are hardly any."""
    inside = probability > 0.5
    return cube if inside.sum() < LEAST_CELLS else cube_of(inside, cube, TIGHT)


@torch.no_grad()
def lifted_probability(
    photos: Sequence[Photo], cameras: Sequence[Camera], cube: Cube, lifting: LiftingNetwork, *, fine: bool = False
) -> Float[np.ndarray, "x y z"]:
    """What the lifting network says of each cell of a cube; above 1/2 is rather inside than not.

    The mean of its answers from four headings: it does not answer quite alike, and errs less on average. `fine`: on the grid twice as fine
    of its detail network, which looks at that mean.
    """
    grid = lifting.config.resolution
    shrunk = [_shrunk(p, in_cube_frame(c, cube), grid) for p, c in zip(photos, cameras, strict=True)]
    rgb, masks, placed = zip(*shrunk, strict=True)
    device = next(lifting.parameters()).device
    headings: list[LiftedViews] = []
    for quarter in range(QUARTERS):
        turned = [replace(c, camera_from_world=c.camera_from_world @ quarter_turn(quarter)) for c in placed]
        headings.append(lifted_views(rgb, masks, turned, grid))
    at_once = max(1, AT_ONCE // len(photos))
    batches = [_together(headings[i : i + at_once]).to(device) for i in range(0, QUARTERS, at_once)]
    said = [lifting.with_fine(batch)[:2] for batch in batches]
    logits, features = (_in_one_frame(torch.cat(values)).mean(0, keepdim=True) for values in zip(*said, strict=True))
    if fine:
        finer = torch.from_numpy(lifted(rgb, masks, placed, 2 * grid))[None].to(device)
        logits = lifting.detailed(logits, features, finer)
    believed = BELIEVED_FINE if fine else BELIEVED
    odds = logits[0].double().cpu().numpy() - math.log(believed / (1 - believed))
    probability: Float[np.ndarray, "x y z"] = 1 / (1 + np.exp(-odds))
    return probability


def _in_one_frame(values: Float[Tensor, "quarter *channel x y z"]) -> Float[Tensor, "quarter *channel x y z"]:
    """What was said from each heading, turned back to the first."""
    return torch.stack([torch.rot90(said, quarter, (-3, -2)) for quarter, said in enumerate(values.float())])


def _together(headings: Sequence[LiftedViews]) -> LiftedViews:
    """One batch of the same photos in several cubes."""
    features, spots = (torch.cat([getattr(views, name) for views in headings]) for name in ("features", "spots"))
    return LiftedViews(features, headings[0].windows, spots)


def _shrunk(
    photo: Photo, camera_cube: Camera, resolution: int
) -> tuple[UInt8[np.ndarray, "h w 3"], Bool[np.ndarray, "h w"], Camera]:
    """The photo at about as many pixels to a cell as in training, and its camera."""
    matrix = camera_cube.camera_from_world
    length = np.cbrt(abs(np.linalg.det(matrix[:3, :3])))
    focal = np.sqrt(abs(camera_cube.intrinsics[0, 0] * camera_cube.intrinsics[1, 1]))
    per_cell = focal * length / max(matrix[2, 3], 1e-9) / resolution
    zoom = min(1.0, PIXELS_PER_CELL / per_cell)
    h, w = photo.mask.shape
    width, height = max(round(w * zoom), 1), max(round(h * zoom), 1)
    size = (width, height)
    rgb = cv2.resize(photo.rgb, size, interpolation=cv2.INTER_AREA)
    mask = cv2.resize(photo.mask.astype(np.float32), size, interpolation=cv2.INTER_AREA) > 0.5
    shrink = np.diag([width / w, height / h, 1.0])
    return rgb, mask, Camera(shrink @ camera_cube.intrinsics, matrix, width, height)
