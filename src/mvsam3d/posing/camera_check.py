"""Whether cameras that are given belong to the photos: outlines from right cameras meet in one solid that covers the masks."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

import cv2
import numpy as np
from jaxtyping import Bool, Float

from mvsam3d.errors import InvalidOption
from mvsam3d.geometry.cameras import resized
from mvsam3d.geometry.frames import OPENGL_FROM_CAMERA
from mvsam3d.geometry.hull import carved, cube_around, uncovered
from mvsam3d.types import Camera, Photo

log = logging.getLogger(__name__)

CELLS = 48
LONG_SIDE = 240  # pixels of a photo that serve for as many cells
MARGIN = 0.25  # of a cell beside an outline that is kept
BESIDE = 1.0  # cells beside the hull's outline within which a mask is met: how thin a thing is must not matter
FITS = 0.8  # least part of a mask that the hull covers; right cameras reach .98, with erring masks .8 in nine of ten sets, wrong ones .6
MIRRORED_FITS = 0.97  # what a right view reaches, so that an object like its mirror image is not suspected
SURE = 0.97  # where all reach this, no view is wrong
GAIN = 0.03  # of the mean part that the other views win without a wrong one: one 40 degrees off costs them that, a right one nothing
# Less is enough among many views if all that was amiss goes with one: so do wrong cameras by which the others lose little
SMALL_GAIN = 0.01
EXPLAINED = 0.8  # of what the others were not covered
MANY_VIEWS = 6
LEAST_VIEWS = 4  # that tell a wrong one among them

Mask = Bool[np.ndarray, "_ _"]


def fitting_views(photos: Sequence[Photo], cameras: Sequence[Camera]) -> tuple[int, ...]:
    """The views whose masks fit the cameras: all, all but one, or none. What does not fit is logged as a warning.

    Args:
        photos: with masks.
        cameras: of the photos' pixels.
    Raises: InvalidOption: they fit when they are read in another convention, which is named.
    """
    masks, cameras = zip(
        *(_shrunk(photo.mask, camera) for photo, camera in zip(photos, cameras, strict=True)), strict=True
    )
    everything = tuple(range(len(photos)))
    if len(photos) == 1:
        return everything  # one outline contradicts nothing
    agreement = coarse_agreement(masks, cameras)
    if agreement.min() >= SURE:
        return everything
    wrong = _wrong_view(masks, cameras, agreement) if len(photos) >= LEAST_VIEWS else None
    if wrong is None and agreement.min() >= FITS:
        return everything
    if wrong is not None:
        log.warning(
            "view %s: its camera or its mask does not fit the others, so it tells nothing of the shape and gives no colours%s",
            photos[wrong].name,
            "; mirrored, the photo would fit: turn it around" if _fits_mirrored(masks, cameras, wrong) else "",
        )
        return tuple(i for i in everything if i != wrong)
    _name_convention(masks, cameras)
    worst = int(agreement.argmin())
    log.warning(
        "the cameras do not fit the masks: what all outlines share covers %.0f %% of the mask of view %s. They tell neither shape nor "
        "poses here; check that cameras, photos and masks belong together",
        100 * agreement[worst],
        photos[worst].name,
    )
    return ()


def _shrunk(mask: Mask, camera: Camera) -> tuple[Mask, Camera]:
    """Small enough for a coarse hull."""
    height, width = mask.shape
    zoom = min(1.0, LONG_SIDE / max(height, width))
    size = (max(round(width * zoom), 1), max(round(height * zoom), 1))
    small = cv2.resize(mask.astype(np.float32), size, interpolation=cv2.INTER_AREA) >= 0.5
    if not small.any():
        return mask, camera
    return small, resized(camera, *size)


def coarse_agreement(masks: Sequence[Mask], cameras: Sequence[Camera]) -> Float[np.ndarray, " view"]:
    """The part of each mask that the visual hull covers in its view; 0 for all if the outlines share nothing."""
    try:
        cube = cube_around(cameras, masks)
        solid = carved(cameras, masks, cube, CELLS, margin=MARGIN)
        return 1 - uncovered(solid, cube, cameras, masks, BESIDE)
    except InvalidOption:
        return np.zeros(len(masks))


def _wrong_view(masks: Sequence[Mask], cameras: Sequence[Camera], agreement: Float[np.ndarray, " view"]) -> int | None:
    """The view without which the others are covered much better, and well; None if there is none."""
    found: list[tuple[float, bool]] = []
    for left_out in range(len(masks)):
        rest = [i for i in range(len(masks)) if i != left_out]
        without = coarse_agreement([masks[i] for i in rest], [cameras[i] for i in rest])
        before = float(agreement[rest].mean())
        gain = float(without.mean()) - before
        enough = max(SMALL_GAIN, EXPLAINED * (1 - before))
        mended = len(masks) >= MANY_VIEWS and without.min() >= SURE and gain >= enough
        found.append((gain if without.min() >= FITS else -1.0, mended))
    wrong = max(range(len(masks)), key=lambda i: found[i][0])
    gain, mended = found[wrong]
    return wrong if gain >= GAIN or mended else None


def _fits_mirrored(masks: Sequence[Mask], cameras: Sequence[Camera], view: int) -> bool:
    """Whether the views agree once the mask of one is turned left to right, as selfie cameras turn photos."""
    turned = [mask[:, ::-1] if i == view else mask for i, mask in enumerate(masks)]
    return bool(coarse_agreement(turned, cameras)[view] >= MIRRORED_FITS)


def _name_convention(masks: Sequence[Mask], cameras: Sequence[Camera]) -> None:
    """Try what people mix up. Raises: InvalidOption: one of them fits."""
    if coarse_agreement([mask[:, ::-1] for mask in masks], cameras).min() >= MIRRORED_FITS:
        raise InvalidOption(
            "the cameras fit the masks if all photos are turned left to right: they are mirrored, turn them around"
        )
    for what, remedy, read in CONVENTIONS:
        if coarse_agreement(masks, [read(camera) for camera in cameras]).min() >= FITS:
            raise InvalidOption(f"the cameras fit the masks if they are read as {what}: {remedy}")


def _read_opengl(camera: Camera) -> Camera:
    return Camera(camera.intrinsics, OPENGL_FROM_CAMERA @ camera.camera_from_world, camera.width, camera.height)


def _read_inverted(camera: Camera) -> Camera:
    return Camera(camera.intrinsics, np.linalg.inv(camera.camera_from_world), camera.width, camera.height)


def _read_both(camera: Camera) -> Camera:
    return _read_opengl(_read_inverted(camera))


CONVENTIONS: tuple[tuple[str, str, Callable[[Camera], Camera]], ...] = (
    (
        "OpenGL's or Blender's (y up, looking along -z)",
        "turn the second and third row of each camera_from_world matrix around, or give them as transforms.json",
        _read_opengl,
    ),
    ("camera to world", "give the inverse matrices: ours are world to camera", _read_inverted),
    (
        "camera to world of OpenGL or Blender (y up, looking along -z)",
        "give them as transforms.json, which has these matrices",
        _read_both,
    ),
)
