"""Folder -> Photos: the folder layouts people have, every kind of mask, and one clear error for each thing amiss.

Layouts, `N` being the name of a view and `OBJECT` the name of a mask folder:
    images/N.jpg, OBJECT/N.png                 images/N.jpg, masks/OBJECT/N.png
    N.jpg, masks/OBJECT/N.png                  N.jpg, N_mask.png (no object name)
    cut-outs: N.png or N.webp whose own alpha is the mask (no object name)
Files are PNG, JPEG or WebP, whatever the case of the extension. Names that are numbers come first and in their order.
"""

import logging
import re
import struct
import warnings
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
from jaxtyping import Bool, UInt8
from PIL import Image, ImageOps

from mvsam3d.errors import BadPhoto, BadScene
from mvsam3d.types import Photo

MAX_PIXELS = 80_000_000  # of one image; a 50-megapixel phone photo passes, a decompression bomb does not
LEAST_SIZE = 3  # pixels, longer side of the object
EXTENSIONS = (".png", ".jpg", ".jpeg", ".webp")  # in the order in which masks are looked for
OTHER_IMAGES = (".heic", ".heif", ".avif", ".bmp", ".tif", ".tiff", ".gif", ".dng", ".jxl")
MASK_SUFFIX = "_mask"
# What Pillow raises on broken files, by format and kind of damage.
BROKEN = (OSError, SyntaxError, ValueError, EOFError, OverflowError, struct.error, zlib.error, IndexError, KeyError)

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class SkippedView:
    """A view that was left out, and why."""

    name: str
    reason: str


@dataclass(frozen=True)
class _Layout:
    photos: Path
    masks: Path | None  # None: beside the photos with a suffix, or in their alpha


def load_photos(
    scene: Path,
    *,
    object_name: str | None = None,
    views: Sequence[str | int] | None = None,
    skip_bad_views: bool = False,
) -> tuple[tuple[Photo, ...], tuple[SkippedView, ...]]:
    """The photos of one object, upright, with its masks.

    Args:
        object_name: the mask folder; may be left out if there is only one.
        views: names (stems) of the views to take, in this order; all in natural order if left out.
        skip_bad_views: leave out views that cannot be used instead of failing at the first.
    Returns: the photos, and the views left out (empty unless `skip_bad_views`).
    Raises: BadScene: the folder holds no such object or view, or no usable view. BadPhoto: a photo or mask is no good.
    """
    layout = _find_layout(scene, object_name)
    there = _by_stem(layout.photos)
    masks = _by_stem(layout.masks or layout.photos)
    photos, skipped = [], []
    for name in _select(there, views, layout.photos):
        try:
            photos.append(_load_view(name, there[name], masks, layout))
        except BadPhoto as error:
            if not skip_bad_views:
                raise
            logger.warning("view %s left out: %s", name, error)
            skipped.append(SkippedView(name, str(error)))
    if not photos:
        reasons = "; ".join(f"{view.name}: {view.reason}" for view in skipped)
        raise BadScene(f"{scene}: not one usable view. {reasons}")
    return tuple(photos), tuple(skipped)


def without_copies(photos: Sequence[Photo]) -> tuple[tuple[Photo, ...], tuple[SkippedView, ...]]:
    """The photos that differ, in pixels or mask, from all before them, and the others: a photo given twice would count twice."""
    kept, skipped = list[Photo](), list[SkippedView]()
    for photo in photos:
        same = [
            other.name
            for other in kept
            if np.array_equal(other.rgb, photo.rgb) and np.array_equal(other.mask, photo.mask)
        ]
        if same:
            reason = f"it is the same picture as view {same[0]}, with the same mask"
            logger.warning("view %s left out: %s", photo.name, reason)
            skipped.append(SkippedView(photo.name, reason))
        else:
            kept.append(photo)
    return tuple(kept), tuple(skipped)


def natural_key(name: str) -> tuple[bool, int, list[tuple[bool, int, str]]]:
    """Sorts 2 before 10, numbers before words, and img2 before img10."""
    whole = bool(re.fullmatch(r"[0-9]+", name))
    pieces = [piece for piece in re.split(r"([0-9]+)", name) if piece]
    parts = [(False, int(piece), "") if piece[0] in "0123456789" else (True, 0, piece) for piece in pieces]
    return not whole, int(name) if whole else 0, parts


def open_image(source: Path | bytes, name: str) -> Image.Image:
    """A decoded PNG, JPEG or WebP, turned upright by its EXIF orientation.

    Args:
        name: what to call it in an error.
    Raises: BadPhoto: unreadable, truncated, animated, or over MAX_PIXELS.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        try:
            file = BytesIO(source) if isinstance(source, bytes) else source
            with Image.open(file, formats=("PNG", "JPEG", "WEBP")) as opened:
                _check_kind(opened, name)
                return ImageOps.exif_transpose(opened)
        except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
            raise BadPhoto(f"{name}: {error}. At most {MAX_PIXELS:,} pixels are read: scale it down") from error
        except BROKEN as error:
            raise BadPhoto(
                f"{name} cannot be read as PNG, JPEG or WebP ({error}): it is damaged or of another kind; "
                "open it in an image editor and save it again, or leave this view out"
            ) from error


def _check_kind(image: Image.Image, name: str) -> None:
    if image.width * image.height > MAX_PIXELS:
        raise BadPhoto(
            f"{name} has {image.width} x {image.height} pixels, at most {MAX_PIXELS:,} are read: scale it down"
        )
    # Phones store a depth map or a second size behind the photo (MPO): no animation, the first image is the photo.
    if image.format != "MPO" and getattr(image, "is_animated", False):
        raise BadPhoto(f"{name} is animated: save the frame you want as a still image")


def rgb_pixels(image: Image.Image) -> UInt8[np.ndarray, "h w 3"]:
    """sRGB pixels of an image of any mode; 16-bit grey keeps its upper byte, CMYK is converted, alpha is dropped."""
    if image.mode.startswith("I"):
        return np.repeat(_grey16(image)[..., None], 3, axis=2)
    if image.mode in ("P", "PA", "La", "RGBa"):  # straight to RGB, a transparent palette would be blended
        image = image.convert("RGBA")
    return np.array(image.convert("RGB"))


def _grey16(image: Image.Image) -> UInt8[np.ndarray, "h w"]:
    return (np.asarray(image).astype(np.int64) >> 8).clip(0, 255).astype(np.uint8)


def _alpha(image: Image.Image) -> UInt8[np.ndarray, "h w"] | None:
    """The alpha channel, if there is one that hides anything."""
    if image.mode.startswith("I") or not (
        image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info
    ):
        return None
    alpha = np.array(image.convert("RGBA").getchannel("A"))
    return alpha if alpha.min() < 255 else None


def read_mask(path: Path) -> Bool[np.ndarray, "h w"]:
    """Foreground of a mask file.

    With an alpha channel that is not opaque everywhere: alpha > 127. Otherwise: value > 127, the value of a coloured
    pixel being its largest channel. 1-bit, grey, 16-bit grey, RGB, palette and RGBA files are all read.

    Raises: BadPhoto: unreadable, or no foreground, or nothing but foreground.
    """
    image = open_image(path, str(path))
    alpha = _alpha(image)
    level = rgb_pixels(image).max(axis=2) if alpha is None else alpha
    mask: Bool[np.ndarray, "h w"] = level > 127
    what = "value" if alpha is None else "alpha"
    if not mask.any():
        raise BadPhoto(
            f"{path} is an empty mask: its largest {what} is {level.max()}, the object must be over 127. "
            "Paint the object white, or leave this view out"
        )
    _check_not_full(mask, f"{path} marks every pixel as the object (the smallest {what} is {level.min()})")
    return mask


def _check_not_full(mask: Bool[np.ndarray, "h w"], found: str) -> None:
    if mask.all():
        raise BadPhoto(f"{found}: paint the background black, or leave this view out")


def _load_view(name: str, files: Sequence[Path], masks: Mapping[str, Sequence[Path]], layout: _Layout) -> Photo:
    if len(files) > 1:
        raise BadPhoto(f"view {name} has {len(files)} photos, {_listed(files)}: rename or remove all but one")
    path = files[0]
    if path.suffix.lower() not in EXTENSIONS:
        raise BadPhoto(f"{path}: {path.suffix} photos are not read, convert it to JPEG or PNG")
    image = open_image(path, str(path))
    rgb = rgb_pixels(image)
    mask = _mask_of(name, path, image, masks, layout)
    if mask.shape != rgb.shape[:2]:
        raise BadPhoto(_size_mismatch(path, rgb.shape, mask.shape))
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    size = max(int(np.ptp(rows)), int(np.ptp(columns))) + 1
    if size < LEAST_SIZE:
        raise BadPhoto(f"view {name}: the object in the mask of {path} is only {size} pixels long: use a closer photo")
    return Photo(name, rgb, mask, path)


def _mask_of(
    name: str, path: Path, image: Image.Image, masks: Mapping[str, Sequence[Path]], layout: _Layout
) -> Bool[np.ndarray, "h w"]:
    """The mask file of a view; without a mask folder, also the photo's own alpha."""
    own_name = [name] if layout.masks else []
    candidates = [
        p for stem in [*own_name, name + MASK_SUFFIX] for p in masks.get(stem, ()) if p.suffix.lower() in EXTENSIONS
    ]
    if candidates:  # the kinds in the order of EXTENSIONS, N before N_mask
        return read_mask(min(candidates, key=lambda p: EXTENSIONS.index(p.suffix.lower())))
    if layout.masks:
        raise BadPhoto(f"view {name}: no mask, {layout.masks / name}.png is missing: add it, or leave this view out")
    alpha = _alpha(image)
    if alpha is None:
        raise BadPhoto(
            f"view {name}: no mask. Add {path.with_name(name + MASK_SUFFIX)}.png, or a folder masks/OBJECT with "
            f"{name}.png, or save {path} as a cut-out with a transparent background"
        )
    mask: Bool[np.ndarray, "h w"] = alpha > 127
    if not mask.any():
        raise BadPhoto(f"{path} is transparent everywhere (largest alpha {alpha.max()}): nothing is left of the object")
    _check_not_full(mask, f"{path} is opaque everywhere (smallest alpha {alpha.min()})")
    return mask


def _size_mismatch(path: Path, photo: Sequence[int], mask: Sequence[int]) -> str:
    turned = photo[0] == mask[1] and photo[1] == mask[0]
    hint = "the mask lies on its side, turn it as the photo is shown" if turned else "save the mask at the photo's size"
    return f"{path} is {photo[1]} x {photo[0]} pixels upright, its mask {mask[1]} x {mask[0]}: {hint}"


def _select(there: Mapping[str, Sequence[Path]], views: Sequence[str | int] | None, folder: Path) -> list[str]:
    names = sorted((name for name in there if not name.endswith(MASK_SUFFIX)), key=natural_key)
    if not names:
        raise BadScene(f"{folder} holds no photos: put PNG, JPEG or WebP files there")
    if views is None:
        return names
    wanted = [str(view).strip() for view in views]
    unknown = [view for view in wanted if view not in names]
    if unknown:
        raise BadScene(f"no view {', '.join(unknown)} in {folder}: there are {', '.join(names)}")
    if len(set(wanted)) < len(wanted) or not wanted:
        raise BadScene(f"views {', '.join(wanted) or '(none)'}: name at least one view, and each only once")
    return wanted


def _find_layout(scene: Path, object_name: str | None) -> _Layout:
    """Where photos and masks are. Raises: BadScene: not a scene, or the object cannot be told."""
    if not scene.is_dir():
        found = "is a file" if scene.exists() else "does not exist"
        raise BadScene(f"{scene} {found}: give the folder that holds the photos of one object")
    photos = scene / "images" if (scene / "images").is_dir() else scene
    folders = _mask_folders(scene, photos)
    if object_name is None:
        if len(folders) > 1:
            raise BadScene(
                f"{scene} holds masks of several objects, {', '.join(sorted(folders))}: choose one by --object"
            )
        return _Layout(photos, _only(next(iter(folders.values()))) if folders else None)
    if object_name not in folders:
        there = f"there are {', '.join(sorted(folders))}" if folders else "there is no mask folder at all"
        raise BadScene(f"{scene}: no masks of an object {object_name!r}: {there}")
    return _Layout(photos, _only(folders[object_name]))


def _mask_folders(scene: Path, photos: Path) -> dict[str, list[Path]]:
    """Object name -> its mask folder (more than one is the user's to mend): folders with a mask for some photo."""
    stems = {stem + suffix for stem in _by_stem(photos) for suffix in ("", MASK_SUFFIX)}
    inside = _subfolders(scene / "masks")
    beside = [folder for folder in _subfolders(scene) if folder.name not in ("images", "masks")]
    loose = [scene / "masks"] if not inside and (scene / "masks").is_dir() else []  # masks/N.png without an object
    found: dict[str, list[Path]] = {}
    for folder in [*inside, *beside, *loose]:
        if folder in inside or stems & _by_stem(folder).keys():
            found.setdefault(folder.name, []).append(folder)
    return found


def _only(folders: Sequence[Path]) -> Path:
    if len(folders) > 1:
        raise BadScene(f"two mask folders for one object, {_listed(folders)}: remove or rename one")
    return folders[0]


def _subfolders(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return sorted(path for path in _entries(folder) if path.is_dir())


def _by_stem(folder: Path) -> dict[str, list[Path]]:
    """The images in a folder by stem; known kinds that cannot be read are in, to be reported and not overlooked."""
    found: dict[str, list[Path]] = {}
    for path in sorted(_entries(folder)):
        if path.suffix.lower() in EXTENSIONS + OTHER_IMAGES and not path.is_dir():
            found.setdefault(path.stem, []).append(path)
    return found


def _entries(folder: Path) -> list[Path]:
    try:
        return [path for path in folder.iterdir() if not path.name.startswith(".")]
    except OSError as error:
        raise BadScene(f"{folder} cannot be read ({error.strerror}): check its permissions") from error


def _listed(paths: Sequence[Path]) -> str:
    return " and ".join(str(path) for path in paths)
