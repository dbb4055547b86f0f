"""Cameras and lights by chance, and the sphere tracer that photographs generated objects."""

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float32, Float64, UInt8

from mvsam3d.training.objects import kernels
from mvsam3d.training.objects.program import GeneratedObject
from mvsam3d.training.objects.textures import hsv

BOX_FACTOR = 1.2  # crop side / larger side of the object's 2D box, as photos are cut for the networks


@dataclass(frozen=True)
class Light:
    """Lights in the object frame; colours are linear."""

    lights: Float64[np.ndarray, "light 7"]  # unit direction to the light, colour, strength of its shadow in [0, 1]
    sky: Float64[np.ndarray, " 6"]  # colour of light from above (+z) and from below


@dataclass(frozen=True)
class CameraRange:
    """What cameras are drawn from; angles in degrees."""

    field_of_view: tuple[float, float] = (15.0, 60.0)
    """Angle that the object's bounding ball takes up."""
    elevation: tuple[float, float] = (-10.0, 60.0)
    odd_elevations: float = 0.1
    """Share of the views from anywhere between -45 and 88."""
    roll: float = 4.0
    """Standard deviation."""
    jitter: float = 0.04
    """Of place and size of the crop, as a share of its side."""


def look_at(
    azimuth: float | int,
    elevation: float | int,
    distance: float | int,
    *,
    roll: float | int = 0.0,
    target: tuple[float, float, float] = (0.0, 0.0, 0.0),
) -> Float64[np.ndarray, "4 4"]:
    """camera_from_object (OpenCV) of a camera looking at a point of the object frame.

    Args:
        azimuth: degrees; 0 sees the front from -Y, 90 the object's +X side.
        elevation: degrees above the horizon, short of +-90.
        distance: to the target.
        roll: degrees about the optical axis.
        target: what it looks at.
    """
    a, e = math.radians(azimuth), math.radians(elevation)
    away = np.array([math.sin(a) * math.cos(e), -math.cos(a) * math.cos(e), math.sin(e)])
    right = np.array([math.cos(a), math.sin(a), 0.0])
    down = np.cross(-away, right)
    c, s = math.cos(math.radians(roll)), math.sin(math.radians(roll))
    turn = np.stack([c * right + s * down, c * down - s * right, -away])
    pose = np.eye(4)
    pose[:3, :3] = turn
    pose[:3, 3] = -turn @ (np.asarray(target) + distance * away)
    return pose


def crop_intrinsics(
    points: Float32[np.ndarray, "point 3"],
    camera_from_object: Float64[np.ndarray, "4 4"],
    size: int,
    *,
    factor: float = BOX_FACTOR,
    shift: tuple[float, float] = (0.0, 0.0),
) -> Float64[np.ndarray, "3 3"]:
    """Intrinsics (pixels) of the square crop around the projected points.

    The crop's side is `factor` times the larger side of the points' 2D box; its centre is the box's centre moved by
    `shift` (shares of the crop's side).
    """
    p = points @ camera_from_object[:3, :3].T + camera_from_object[:3, 3]
    uv = p[:, :2] / p[:, 2:]
    low, high = uv.min(0), uv.max(0)
    side = factor * float((high - low).max())
    corner = 0.5 * (low + high) + side * np.asarray(shift) - 0.5 * side
    focal = size / side
    return np.array([[focal, 0, -corner[0] * focal], [0, focal, -corner[1] * focal], [0, 0, 1]], dtype=np.float64)


def sample_camera(
    obj_points: Float32[np.ndarray, "point 3"],
    size: int,
    rng: np.random.Generator,
    *,
    ranges: CameraRange | None = None,
) -> tuple[Float64[np.ndarray, "3 3"], Float64[np.ndarray, "4 4"]]:
    """A camera whose square crop frames the object: intrinsics of the crop (pixels), camera_from_object.

    Args:
        obj_points: points that the object's outline goes through, such as `GeneratedObject.hull` or a mesh's vertices.
        size: width and height of the crop.
        rng: source of chance.
        ranges: what to draw from.
    """
    ranges = ranges or CameraRange()
    radius = float(np.linalg.norm(obj_points, axis=1).max())
    angle = math.radians(rng.uniform(*ranges.field_of_view))
    low, high = (-45.0, 88.0) if rng.uniform() < ranges.odd_elevations else ranges.elevation
    target = rng.normal(0, 0.05 * radius, 3)
    distance = max(radius / math.sin(0.5 * angle), 1.25 * radius + float(np.linalg.norm(target)))
    pose = look_at(
        rng.uniform(0, 360),
        rng.uniform(low, high),
        distance,
        roll=rng.normal(0, ranges.roll),
        target=(float(target[0]), float(target[1]), float(target[2])),
    )
    shift = rng.uniform(-0.5, 0.5, 2) * ranges.jitter
    factor = BOX_FACTOR * (1.0 + rng.uniform(-1, 1) * ranges.jitter)
    return crop_intrinsics(obj_points, pose, size, factor=factor, shift=(float(shift[0]), float(shift[1]))), pose


def sample_light(rng: np.random.Generator) -> Light:
    """One to three lights of slightly different tint, the first often with a shadow, and a sky."""
    tint = np.array(
        hsv(rng.uniform(0.02, 0.16) if rng.uniform() < 0.5 else rng.uniform(0.5, 0.65), rng.uniform(0, 0.25), 1.0)
    )
    ambient = rng.uniform(0.25, 0.8)
    ground = ambient * rng.uniform(0.3, 0.9) * np.array(hsv(rng.uniform(), rng.uniform(0, 0.25), 1.0))
    rows = []
    count = int(rng.integers(1, 4))
    for i in range(count):
        direction = rng.normal(size=3)
        direction[2] = abs(direction[2]) + 0.2 if rng.uniform() < 0.9 else direction[2]
        direction /= np.linalg.norm(direction)
        strength = rng.uniform(0.3, 0.9) / (1 + 0.8 * i)
        shadow = rng.uniform(0.4, 1.0) if i == 0 and rng.uniform() < 0.6 else 0.0
        rows.append([*direction, *(strength * (tint if i == 0 else 1.0) * np.ones(3)), shadow])
    return Light(np.array(rows), np.concatenate([ambient * np.ones(3), ground]))


def render(
    obj: GeneratedObject,
    intrinsics: Float64[np.ndarray, "3 3"],
    camera_from_object: Float64[np.ndarray, "4 4"],
    size: int,
    light: Light,
) -> tuple[UInt8[np.ndarray, "s s 3"], Bool[np.ndarray, "s s"], Float32[np.ndarray, "s s"]]:
    """Photograph an object on black.

    Args:
        obj: what to photograph.
        intrinsics: of the square image, pixels, pixel centres at half-integers.
        camera_from_object: rigid, OpenCV.
        size: width and height.
        light: in the object frame.
    Returns: sRGB, mask, and depth along the optical axis in object units (inf outside the mask).
    """
    tape = obj.tape
    turn = camera_from_object[:3, :3].T
    origin = -turn @ camera_from_object[:3, 3] * tape.frame[3] + tape.frame[:3]
    box = (obj.box + np.array([[-0.004], [0.004]])) * tape.frame[3] + tape.frame[:3]
    inverse = np.linalg.inv(intrinsics)
    rgb, mask, depth = kernels.trace(
        tape, box, inverse, origin, np.ascontiguousarray(turn), size, light.lights, light.sky
    )
    return rgb, mask, depth
