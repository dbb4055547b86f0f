"""Where the photos of a rendered object are taken from, and the photos."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import assert_never

import numpy as np
from jaxtyping import Bool, Float, UInt8

from mvsam3d.errors import BadFile, InvalidOption
from mvsam3d.evaluation.pictures import pictured, to_bytes
from mvsam3d.evaluation.solids import longest_side, middle
from mvsam3d.evaluation.subjects import Capture, Subject
from mvsam3d.geometry.cameras import centred_intrinsics
from mvsam3d.io.npz import npz_arrays, npz_headers
from mvsam3d.io.runs import write_whole
from mvsam3d.rendering.framing import turn_camera
from mvsam3d.types import Camera, Mesh, Photo


@dataclass(frozen=True)
class Ring:
    """Cameras around the object at one height, evenly spread; the first of 4 is the first of 1."""

    views: int = 4
    elevation: float = 20.0  # degrees
    azimuth: float = 30.0  # degrees, of the first: 0 looks at the front from -Y, 90 at the +X side
    distance: float = (
        2.6  # from the middle of the box, in its longest sides: a cube is just in the picture from everywhere
    )
    field_of_view: float = 40.0  # degrees


@dataclass(frozen=True)
class RandomSphere:
    """Cameras at random directions, uniform over a belt of the sphere."""

    views: int = 8
    seed: int = 0
    lowest: float = -20.0  # degrees of elevation
    highest: float = 70.0
    distance: float = 2.6  # longest sides
    field_of_view: float = 40.0


@dataclass(frozen=True)
class EscherNetGso:
    """Views `first` to `first + views` of 25 at random directions and distances, in the style of EscherNet's renders of GSO."""

    views: int = 5
    first: int = 0
    seed: int = 0


@dataclass(frozen=True)
class Trajectory:
    """A hand that walks around the object: a spiral from `lowest` to `highest`."""

    views: int = 8
    turns: float = 1.0
    lowest: float = 5.0
    highest: float = 45.0
    azimuth: float = 30.0
    distance: float = 2.6
    field_of_view: float = 40.0


Rig = Ring | RandomSphere | EscherNetGso | Trajectory

ESCHERNET_VIEWS = 25
ESCHERNET_FIELD = 49.13  # degrees: a lens of 35 mm before a sensor of 32 mm
ESCHERNET_DISTANCE = (1.5, 2.2)  # from the middle of the box, in its longest sides
VERSION = 1  # of the pictures: a new one when the same object, rig and size give other ones


def rig_cameras(rig: Rig, mesh: Mesh, size: int) -> tuple[Camera, ...]:
    """The cameras around a mesh (+Z up), for square pictures; its frame is their world.

    Raises: InvalidOption: more views than the rig has.
    """
    match rig:
        case Ring(views, elevation, azimuth, distance, field):
            azimuths = azimuth + 360 * np.arange(views) / max(views, 1)
            return _around(mesh, azimuths, np.full(views, elevation), np.full(views, distance), field, size)
        case RandomSphere(views, seed, lowest, highest, distance, field):
            azimuths, elevations, _ = _directions(np.random.default_rng(seed), views, lowest, highest)
            return _around(mesh, azimuths, elevations, np.full(views, distance), field, size)
        case EscherNetGso(views, first, seed):
            if first < 0 or views < 0 or first + views > ESCHERNET_VIEWS:
                raise InvalidOption(f"views {first} to {first + views} of EscherNet's {ESCHERNET_VIEWS}: choose fewer")
            drawn = _directions(np.random.default_rng(seed), ESCHERNET_VIEWS, -90.0, 90.0)
            azimuths, elevations, shares = (values[first : first + views] for values in drawn)
            near, far = ESCHERNET_DISTANCE
            return _around(mesh, azimuths, elevations, near + (far - near) * shares, ESCHERNET_FIELD, size)
        case Trajectory(views, turns, lowest, highest, azimuth, distance, field):
            way = np.arange(views) / max(views, 1)
            elevations = lowest + (highest - lowest) * np.arange(views) / max(views - 1, 1)
            return _around(mesh, azimuth + 360 * turns * way, elevations, np.full(views, distance), field, size)
        case _:
            assert_never(rig)


Degrees = Float[np.ndarray, " view"]


def _directions(
    noise: np.random.Generator, views: int, lowest: float, highest: float
) -> tuple[Degrees, Degrees, Float[np.ndarray, " view"]]:
    """Azimuths, elevations and a further number in [0, 1): the first views are the same however many are drawn."""
    drawn = noise.random((views, 3))
    low, high = np.sin(np.radians([lowest, highest]))
    return 360 * drawn[:, 0], np.degrees(np.arcsin(low + (high - low) * drawn[:, 1])), drawn[:, 2]


def _around(
    mesh: Mesh, azimuths: Degrees, elevations: Degrees, distances: Float[np.ndarray, " view"], field: float, size: int
) -> tuple[Camera, ...]:
    """Cameras that look at the middle of the box, upright; distances in its longest sides."""
    unit, to_middle = longest_side(mesh.vertices), np.eye(4)
    to_middle[:3, 3] = -middle(mesh.vertices)
    intrinsics = centred_intrinsics(size, size, size / 2 / math.tan(math.radians(field) / 2))
    turns = [
        turn_camera(float(a), float(e), float(d) * unit)
        for a, e, d in zip(azimuths, elevations, distances, strict=True)
    ]
    return tuple(Camera(intrinsics, turn @ to_middle, size, size) for turn in turns)


def captured(subject: Subject, rig: Rig, size: int, cache: Path | None = None) -> Capture:
    """Photos of a true object, `size` pixels a side, on white.

    Args:
        cache: folder for the pictures; they are found again by a hash of the object, the rig, the size and VERSION.
    Raises: InvalidOption: see `rig_cameras`. BadFile: a view shows nothing of the object.
    """
    cameras = rig_cameras(rig, subject.mesh, size)
    path = None if cache is None else cache / f"{content_hash(subject.mesh, rig, size)}.npz"
    pictures = None if path is None else _read(path, len(cameras), size)
    if pictures is None:
        pictures = _taken(subject, cameras)
        if path is not None:
            _write(path, pictures)
    rgb, mask = pictures
    return Capture(tuple(Photo(str(i), rgb[i], mask[i]) for i in range(len(cameras))), cameras)


Pictures = tuple[UInt8[np.ndarray, "view h w 3"], Bool[np.ndarray, "view h w"]]


def _taken(subject: Subject, cameras: tuple[Camera, ...]) -> Pictures:
    shown = [(to_bytes(rgb), cover >= 0.5) for rgb, cover in pictured(subject.mesh, cameras, lit=True)]
    for i, (_, mask) in enumerate(shown):
        if not mask.any():
            raise BadFile(
                f"{subject.source}: view {i} shows nothing of it: the object is thinner than a pixel; take a larger size"
            )
    side = cameras[0].width if cameras else 0
    empty = np.zeros((0, side, side, 3), np.uint8), np.zeros((0, side, side), np.bool_)
    return (np.stack([rgb for rgb, _ in shown]), np.stack([mask for _, mask in shown])) if shown else empty


def content_hash(mesh: Mesh, rig: Rig, size: int) -> str:
    """Of all that decides what the photos of an object show."""
    found = hashlib.sha256(f"{VERSION} {rig!r} {size}".encode())
    for array in (mesh.vertices, mesh.faces, mesh.vertex_colours, mesh.uv, mesh.texture):
        if array is not None:
            found.update(f"{array.dtype} {array.shape}".encode())
            found.update(np.ascontiguousarray(array).tobytes())
    return found.hexdigest()[:32]


def _write(path: Path, pictures: Pictures) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    file = BytesIO()
    np.savez_compressed(file, rgb=pictures[0], mask=pictures[1])
    write_whole(path, file.getvalue())


def _read(path: Path, views: int, size: int) -> Pictures | None:
    """Pictures kept before; None if there are none. Raises: BadFile: other than such pictures."""
    if not path.is_file():
        return None
    headers = npz_headers(path)
    expected = {"rgb": ((views, size, size, 3), "uint8"), "mask": ((views, size, size), "bool")}
    if {name: (header.shape, header.dtype.name) for name, header in headers.items()} != expected:
        raise BadFile(f"{path} does not hold the pictures that its name says: remove it")
    arrays = npz_arrays(path, tuple(expected))
    return arrays["rgb"], arrays["mask"]
