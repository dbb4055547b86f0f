"""Camera files <-> cameras by photo: Depth Anything 3, our own JSON, COLMAP, and the transforms of NeRF.

    *.npz                                 Depth Anything 3: extrinsics, intrinsics, depth, image_files
    a JSON with "views"                   ours: image, K, w2c, width, height of each view
    a JSON with "frames"                  nerfstudio and NeRF transforms: camera to world, OpenGL axes
    a folder with images.txt or .bin      a COLMAP model, cameras.txt or .bin beside it
Cameras are found by the stem of their photo's file, and leave here as `types.Camera`: world to camera, OpenCV axes.
"""

from __future__ import annotations

import json
import logging
import math
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

import numpy as np
import torch
from jaxtyping import Float

from mvsam3d.errors import BadFile
from mvsam3d.geometry.frames import OPENGL_FROM_CAMERA
from mvsam3d.geometry.rotations import matrix_from_quaternion
from mvsam3d.io.npz import check_keys, npz_arrays, npz_headers
from mvsam3d.io.runs import write_whole
from mvsam3d.types import Camera

log = logging.getLogger(__name__)

LARGEST_TEXT = 256 << 20  # bytes of a JSON or text file
MOST_CAMERAS = 100_000
LONGEST_NAME = 4096
NOT_A_ROTATION = 1e-2  # largest deviation of R Rᵀ from the identity
DEPTH_KEYS = ("extrinsics", "intrinsics", "depth", "image_files")  # of an npz that tells its cameras
CONVENTION = (
    "OpenCV: camera +X right, +Y down, +Z forward; x_cam = R x_world + t with w2c = [R|t; 0 0 0 1]; pixel centres at half-integers "
    "(u = fx*X/Z + cx, the top-left pixel covers [0,1))"
)
HALF_PIXEL = np.array([[0, 0, 0.5], [0, 0, 0.5], [0, 0, 0]])

# COLMAP's camera models: number, name, parameters; the first are focal lengths (one or two) and the principal point.
COLMAP_MODELS = (
    ("SIMPLE_PINHOLE", 3),
    ("PINHOLE", 4),
    ("SIMPLE_RADIAL", 4),
    ("RADIAL", 5),
    ("OPENCV", 8),
    ("OPENCV_FISHEYE", 8),
    ("FULL_OPENCV", 12),
)
ONE_FOCAL = ("SIMPLE_PINHOLE", "SIMPLE_RADIAL", "RADIAL")


def load_cameras(path: Path, names: Sequence[str]) -> tuple[Camera, ...]:
    """The cameras of the photos `names` (stems), in that order.

    Args:
        path: a file or folder of one of the kinds above; a folder may also hold one cameras.json or transforms.json.
        names: photos.
    Raises: BadFile: of another kind, broken, or without a camera for one of the photos.
    """
    there = read_cameras(path)
    missing = [name for name in names if name not in there]
    if missing:
        raise BadFile(
            f"{path} has no camera for the photo{'s' * (len(missing) > 1)} {', '.join(missing)}; it has cameras for "
            f"{', '.join(list(there)[:8])}{', ...' if len(there) > 8 else ''}. Names must match but for the extension; "
            "choose photos with --views"
        )
    return tuple(there[name] for name in names)


def read_cameras(path: Path) -> dict[str, Camera]:
    """All cameras of a file or folder, by the stem of their photo. Raises: BadFile."""
    if path.is_dir():
        readers: dict[str, Callable[[Path], dict[str, Camera]]] = {
            "images.bin": lambda file: _colmap(file.parent, binary=True),
            "images.txt": lambda file: _colmap(file.parent, binary=False),
            "cameras.json": _json,
            "transforms.json": _json,
        }
        for name, reader in readers.items():
            if (path / name).is_file():
                return reader(path / name)
        raise BadFile(f"{path} holds none of {', '.join(readers)}: give the file with the cameras")
    if not path.is_file():
        raise BadFile(f"{path} is not there: give an npz, a JSON, or the folder of a COLMAP model")
    if path.suffix.lower() == ".npz":
        return depth_anything_cameras(path)
    if path.suffix.lower() == ".json":
        return _json(path)
    raise BadFile(
        f"{path}: cameras are read from .npz, .json or the folder of a COLMAP model, not from {path.suffix!r}"
    )


def check_new(path: Path) -> None:
    """Raises: BadFile: there is a file of that name, or no folder for it."""
    if path.exists():
        raise BadFile(f"{path} is there already and is not overwritten: give another name, or remove it")
    if not path.parent.is_dir():
        raise BadFile(f"{path} cannot be written: there is no folder {path.parent}")


def write_cameras(path: Path, cameras: Mapping[str, Camera]) -> None:
    """Cameras by the stem of their photo, as our own JSON: a new file, whole or not at all.

    Raises: BadFile: see `check_new`; or the place cannot be written.
    """
    check_new(path)
    views = [
        {
            "image": name,
            "width": camera.width,
            "height": camera.height,
            "K": camera.intrinsics.tolist(),
            "w2c": camera.camera_from_world.tolist(),
        }
        for name, camera in cameras.items()
    ]
    write_whole(path, json.dumps({"convention": CONVENTION, "views": views}, indent=1).encode())


def _collected(path: Path, cameras: Iterator[tuple[str, Camera]]) -> dict[str, Camera]:
    found: dict[str, Camera] = {}
    for file, camera in cameras:
        if len(found) == MOST_CAMERAS:
            raise BadFile(f"{path} holds more than {MOST_CAMERAS} cameras, more than any set of photos has")
        stem = PurePosixPath(file.replace("\\", "/")).stem
        if stem in found:
            raise BadFile(f"{path} names two photos {stem}: their stems must differ")
        found[stem] = camera
    if not found:
        raise BadFile(f"{path} holds no camera")
    return found


def _camera(where: str, intrinsics: np.ndarray, camera_from_world: np.ndarray, width: int, height: int) -> Camera:
    """A camera, once its numbers have been found to be those of one."""
    if intrinsics.shape != (3, 3) or camera_from_world.shape not in ((3, 4), (4, 4)):
        raise BadFile(
            f"{where}: intrinsics of shape {intrinsics.shape} and extrinsics of shape {camera_from_world.shape} instead of (3, 3) and "
            "(3, 4) or (4, 4)"
        )
    full = np.eye(4)
    full[:3] = camera_from_world[:3]
    if not (np.isfinite(intrinsics).all() and np.isfinite(full).all()):
        raise BadFile(f"{where}: a number of the camera is not finite")
    rotation = full[:3, :3]
    off = float(np.abs(rotation @ rotation.T - np.eye(3)).max())
    if off > NOT_A_ROTATION or np.linalg.det(rotation) < 0:
        raise BadFile(
            f"{where}: the camera's rotation is none (R Rᵀ is off the identity by {off:.2g}, det {np.linalg.det(rotation):.2f})"
        )
    if min(intrinsics[0, 0], intrinsics[1, 1]) <= 0 or width < 1 or height < 1:
        raise BadFile(
            f"{where}: focal lengths and sizes must be positive, got {intrinsics[0, 0]:g}, {intrinsics[1, 1]:g}, {width} x {height}"
        )
    return Camera(np.asarray(intrinsics, np.float64), full, width, height)


def _matrix(where: str, values: object) -> Float[np.ndarray, "rows columns"]:
    try:
        matrix = np.array(values, np.float64)
    except (TypeError, ValueError) as problem:
        raise BadFile(f"{where}: not a matrix of numbers") from problem
    if matrix.ndim != 2:
        raise BadFile(f"{where}: not a matrix of numbers")
    return matrix


# Depth Anything 3


def depth_anything_cameras(path: Path) -> dict[str, Camera]:
    """The cameras of `da3_output.npz`, in the order of its maps, by the stem of their photo.

    Width and height are those of the depth maps. The file counts pixels from the centre of the first one, so half a pixel is added to
    its principal points: a map's point then projects to the centre of its pixel.

    Raises: BadFile.
    """
    headers = npz_headers(path)
    check_keys(path, headers, DEPTH_KEYS)
    shape, files = headers["depth"].shape, headers["image_files"]
    if len(shape) != 3 or len(files.shape) != 1 or files.dtype.kind != "U" or files.shape[0] != shape[0]:
        raise BadFile(f"{path}: depth {shape} and image_files {files.shape} are not N maps and N names")
    if shape[0] > MOST_CAMERAS:
        raise BadFile(f"{path} holds more than {MOST_CAMERAS} cameras, more than any set of photos has")
    for key, allowed in (("extrinsics", ((3, 4), (4, 4))), ("intrinsics", ((3, 3),))):
        found = headers[key]
        if found.shape[:1] != shape[:1] or found.shape[1:] not in allowed or found.dtype.kind != "f":
            raise BadFile(
                f"{path}: {key} of shape {found.shape} and type {found.dtype} instead of a {' or '.join(map(str, allowed))} "
                f"matrix of floats for each of {shape[0]} photos"
            )
    arrays = npz_arrays(path, ("extrinsics", "intrinsics", "image_files"))
    _, height, width = shape
    rows = zip(arrays["image_files"], arrays["intrinsics"] + HALF_PIXEL, arrays["extrinsics"], strict=True)
    return _collected(path, ((str(f), _camera(f"{path}, {f}", k, w2c, width, height)) for f, k, w2c in rows))


# JSON


def _json(path: Path) -> dict[str, Camera]:
    try:
        content = json.loads(_text(path))
    except (ValueError, RecursionError) as problem:
        raise BadFile(f"{path} is not JSON ({problem})") from problem
    if isinstance(content, Mapping) and isinstance(content.get("views"), list):
        return _collected(path, _our_views(path, content["views"]))
    if isinstance(content, Mapping) and isinstance(content.get("frames"), list):
        return _collected(path, _nerf_frames(path, content))
    raise BadFile(f'{path} has neither "views" (ours) nor "frames" (nerfstudio, NeRF)')


def _our_views(path: Path, views: list[Any]) -> Iterator[tuple[str, Camera]]:
    for i, view in enumerate(views):
        where = f"{path}, view {i}"
        name, k, w2c, width, height = (_entry(where, view, key) for key in ("image", "K", "w2c", "width", "height"))
        sizes = (_number(where, width), _number(where, height))
        yield str(name), _camera(where, _matrix(where, k), _matrix(where, w2c), *map(round, sizes))


def _nerf_frames(path: Path, content: Mapping[str, Any]) -> Iterator[tuple[str, Camera]]:
    """Values of a frame come before those of the file. Without a size the principal point is the centre."""
    for i, frame in enumerate(content["frames"]):
        where = f"{path}, frame {i}"
        world_from_camera = _matrix(where, _entry(where, frame, "transform_matrix"))
        if world_from_camera.shape != (4, 4):
            raise BadFile(f"{where}: transform_matrix of shape {world_from_camera.shape} instead of (4, 4)")
        given = {**content, **frame}
        lens = {
            key: _number(where, given[key])
            for key in ("fl_x", "fl_y", "cx", "cy", "w", "h", "camera_angle_x")
            if key in given
        }
        if given.get("camera_model") not in (None, "OPENCV", "PINHOLE", "SIMPLE_PINHOLE"):
            raise BadFile(
                f"{where}: camera model {given['camera_model']!r} is not a pinhole: undistort the photos first"
            )
        width, height = lens.get("w", 2 * lens.get("cx", 0.5)), lens.get("h", 2 * lens.get("cy", 0.5))
        if "fl_x" in lens:
            fx = lens["fl_x"]
        elif "camera_angle_x" in lens:
            fx = width / 2 / math.tan(lens["camera_angle_x"] / 2)
        else:
            raise BadFile(f"{where}: neither fl_x nor camera_angle_x tells the focal length")
        k = np.array(
            [[fx, 0, lens.get("cx", width / 2)], [0, lens.get("fl_y", fx), lens.get("cy", height / 2)], [0, 0, 1]]
        )
        if not np.isfinite(world_from_camera).all():
            raise BadFile(f"{where}: a number of the camera is not finite")
        rigid = world_from_camera[:3, :3]
        camera_from_world = np.eye(4)
        camera_from_world[:3, :3], camera_from_world[:3, 3] = rigid.T, -rigid.T @ world_from_camera[:3, 3]
        size = (max(round(width), 1), max(round(height), 1))
        yield str(_entry(where, frame, "file_path")), _camera(where, k, OPENGL_FROM_CAMERA @ camera_from_world, *size)


def _entry(where: str, values: object, key: str) -> Any:
    if not isinstance(values, Mapping) or key not in values:
        raise BadFile(f"{where} has no {key!r}")
    return values[key]


def _number(where: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise BadFile(f"{where}: {value!r} is not a number")
    return float(value)


def _text(path: Path) -> str:
    size = path.stat().st_size
    if size > LARGEST_TEXT:
        raise BadFile(f"{path} has {size} bytes, more than any set of cameras needs")
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as problem:
        raise BadFile(f"{path} cannot be read as text ({problem})") from problem


# COLMAP


def _colmap(folder: Path, *, binary: bool) -> dict[str, Camera]:
    suffix = "bin" if binary else "txt"
    lens_file, image_file = folder / f"cameras.{suffix}", folder / f"images.{suffix}"
    if not lens_file.is_file():
        raise BadFile(f"{folder} has {image_file.name} but no {lens_file.name}: a COLMAP model needs both")
    lenses = dict(_binary_lenses(lens_file) if binary else _text_lenses(lens_file))
    images = _binary_images(image_file) if binary else _text_images(image_file)

    def cameras() -> Iterator[tuple[str, Camera]]:
        for name, lens, quaternion, translation in images:
            where = f"{image_file}, {name}"
            if lens not in lenses:
                raise BadFile(f"{where}: its camera {lens} is not in {lens_file.name}")
            k, width, height = lenses[lens]
            yield name, _camera(where, k, _rigid(where, quaternion, translation), width, height)

    return _collected(image_file, cameras())


Lens = tuple[Float[np.ndarray, "3 3"], int, int]  # intrinsics, width, height
Image = tuple[str, int, tuple[float, ...], tuple[float, ...]]  # name, lens, quaternion w x y z, translation


def _lens(where: str, model: str, width: int, height: int, values: Sequence[float]) -> Lens:
    sizes = dict(COLMAP_MODELS)
    if model not in sizes or model == "OPENCV_FISHEYE":
        raise BadFile(
            f"{where}: the camera model {model} is not a pinhole: undistort the photos first (colmap image_undistorter)"
        )
    if len(values) != sizes[model]:
        raise BadFile(f"{where}: {len(values)} parameters instead of the {sizes[model]} of {model}")
    focal, rest = ((values[0], values[0]), values[1:]) if model in ONE_FOCAL else ((values[0], values[1]), values[2:])
    if any(rest[2:]):
        log.warning("%s: the lens's distortion is not used; undistort the photos for exact results", where)
    return np.array([[focal[0], 0, rest[0]], [0, focal[1], rest[1]], [0, 0, 1]], np.float64), width, height


def _rigid(where: str, quaternion: Sequence[float], translation: Sequence[float]) -> Float[np.ndarray, "4 4"]:
    if not any(quaternion):
        raise BadFile(f"{where}: its quaternion is zero")
    out = np.eye(4)
    out[:3, :3] = matrix_from_quaternion(torch.tensor(quaternion, dtype=torch.float64)).numpy()
    out[:3, 3] = translation
    return out


def _text_lenses(path: Path) -> Iterator[tuple[int, Lens]]:
    for line in _lines(path):
        try:
            number, model, width, height, *values = line.split()
            yield (
                int(number),
                _lens(f"{path}, camera {number}", model, int(width), int(height), [float(v) for v in values]),
            )
        except ValueError as problem:
            raise BadFile(f"{path}: {line[:80]!r} is not a camera") from problem


def _text_images(path: Path) -> Iterator[Image]:
    """Every other line is of points, and may be empty."""
    for line in _lines(path, keep_empty=True)[::2]:
        try:
            _, *numbers, lens, name = line.split(maxsplit=9)
            yield name.strip(), int(lens), tuple(map(float, numbers[:4])), tuple(map(float, numbers[4:7]))
        except ValueError as problem:
            raise BadFile(f"{path}: {line[:80]!r} is not an image") from problem


def _lines(path: Path, *, keep_empty: bool = False) -> list[str]:
    lines = [line for line in _text(path).splitlines() if not line.startswith("#")]
    while lines and not lines[-1].strip():
        lines.pop()
    return lines if keep_empty else [line for line in lines if line.strip()]


def _binary_lenses(path: Path) -> Iterator[tuple[int, Lens]]:
    with path.open("rb") as file:
        for _ in range(_count(path, file)):
            number, model, width, height = _unpack(path, file, "<iiQQ")
            if not 0 <= model < len(COLMAP_MODELS):
                raise BadFile(
                    f"{path}, camera {number}: the camera model number {model} is not a pinhole: undistort the photos first"
                )
            name, parameters = COLMAP_MODELS[model]
            yield number, _lens(f"{path}, camera {number}", name, width, height, _unpack(path, file, f"<{parameters}d"))


def _binary_images(path: Path) -> Iterator[Image]:
    with path.open("rb") as file:
        for _ in range(_count(path, file)):
            _, *numbers = _unpack(path, file, "<i7d")
            (lens,) = _unpack(path, file, "<i")
            name = _name(path, file)
            (points,) = _unpack(path, file, "<Q")
            file.seek(24 * points, 1)
            yield name, lens, tuple(numbers[:4]), tuple(numbers[4:])


def _count(path: Path, file: BinaryIO) -> int:
    (count,) = _unpack(path, file, "<Q")
    if count > MOST_CAMERAS:
        raise BadFile(f"{path} announces {count} entries, more than any set of photos has")
    return int(count)


def _unpack(path: Path, file: BinaryIO, layout: str) -> tuple[Any, ...]:
    content = file.read(struct.calcsize(layout))
    if len(content) < struct.calcsize(layout):
        raise BadFile(f"{path} is cut off")
    return struct.unpack(layout, content)


def _name(path: Path, file: BinaryIO) -> str:
    name = bytearray()
    while (byte := file.read(1)) != b"\0":
        if not byte or len(name) > LONGEST_NAME:
            raise BadFile(f"{path} is cut off or holds a name without end")
        name += byte
    return name.decode("utf-8", "replace")
