"""Photos and cameras -> what each photo sees of points on a surface, how well, and in which light.

A point is seen where nothing of the mesh hides it, the mask holds it and the surface faces the camera. Masks and meshes
are wrong by a pixel or two, so points near an outline or near a jump in depth do not count: there a photo may show what
lies behind or before them.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Float32
from PIL import Image

from mvsam3d.errors import InvalidOption
from mvsam3d.geometry.compiled import compiled
from mvsam3d.io.glb import linear_from_srgb
from mvsam3d.rendering.meshes import face_normals, rasterise
from mvsam3d.types import Camera, Mesh, Photo

Array = np.ndarray

STEEPEST = 8.0  # tangent of the angle to the surface up to which its own slope explains a difference in depth
PAD = 3  # pixels kept around the mask
MOST_DISTANCE = 1e6  # pixels; to the outline in a photo without one


@dataclass(frozen=True)
class SightConfig:
    """When a photo sees a point, and how much that sight counts."""

    outline_margin: float = 1.5
    """Pixels of the photo: nearer to the outline or to a jump in depth, a photo says nothing."""
    outline_ramp: float = 3.0
    """Pixels of the photo over which it comes to count in full."""
    least_cosine: float = 0.1
    """Cosine between the surface normal and the way to the camera at which a photo begins to count."""
    sure_cosine: float = 0.3
    """Cosine from which a photo counts in full; between the two it fades."""
    angle_power: float = 1.0
    """Power of the cosine in the weight, beside the pixels per area, which hold one cosine already."""
    depth_tolerance: float = 0.006
    """Of the object's longest side: what is this much deeper than the first surface is still that surface."""


@dataclass(frozen=True)
class Sight:
    """One photo made ready to be looked up: its object cut out, at most as fine as the texels need."""

    light: Float32[np.ndarray, "h w 3"]  # linear
    depth: Float32[np.ndarray, "h w"]  # camera z of the first surface, inf where none is
    clear: Float32[np.ndarray, "h w"]  # pixels (of the cut-out) to the nearest outline or jump in depth
    intrinsics: Float[np.ndarray, "3 3"]  # of the cut-out
    camera_from_object: Float[np.ndarray, "4 4"]
    tolerance: float  # of depth, camera units
    margin: float  # pixels of the cut-out
    ramp: float  # likewise


def sight(
    mesh: Mesh, photo: Photo, camera: Camera, config: SightConfig, *, texel: float = 0.0, gain: Array | None = None
) -> Sight:
    """Cut out the object, render its depth, and measure how far each pixel is from what could spoil it.

    Args:
        mesh: in the world frame of the camera.
        camera: rigid or similarity.
        texel: side of a texel, object units: photos finer than that are averaged down to it first. 0: never.
        gain: factors of the three channels, linear light.
    Raises: InvalidOption: photo and camera differ in size.
    """
    check_sizes([photo], [camera])
    matrix = camera.camera_from_world.astype(np.float64)
    vertices = mesh.vertices @ matrix[:3, :3].T + matrix[:3, 3]
    scale = float(np.cbrt(abs(np.linalg.det(matrix[:3, :3]))))
    left, top, right, bottom = _box(photo.mask)
    focal = float(np.sqrt(abs(np.linalg.det(camera.intrinsics[:2, :2]))))
    away = max(float(np.median(vertices[:, 2])), 1e-6)
    shrink = max(1.0, texel * scale * focal / away)  # pixels per texel
    width, height = max(1, round((right - left) / shrink)), max(1, round((bottom - top) / shrink))
    table = linear_from_srgb(np.arange(256, dtype=np.float32) / 255)
    light = table[photo.rgb[top:bottom, left:right]].astype(np.float32)
    mask = photo.mask[top:bottom, left:right]
    if (width, height) != (right - left, bottom - top):
        light = np.stack([averaged(light[..., channel], width, height) for channel in range(3)], axis=-1)
        mask = averaged(mask.astype(np.float32), width, height) > 1 - 1e-3
    resize = np.diag([width / (right - left), height / (bottom - top), 1.0])
    shift = np.array([[1, 0, -left], [0, 1, -top], [0, 0, 1.0]])
    intrinsics = resize @ shift @ camera.intrinsics
    faces, _, depth = rasterise(vertices, mesh.faces, intrinsics, width, height)
    size = float(np.ptp(mesh.vertices, axis=0).max()) * scale
    normals = face_normals(vertices, mesh.faces)
    normals = normals / np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-300)
    usable = mask & np.isfinite(depth)
    clear = _clearances(faces, depth, normals.astype(np.float64), usable, intrinsics, config.depth_tolerance * size)
    return Sight(
        light=light if gain is None else light * gain.astype(np.float32),
        depth=depth,
        clear=clear,
        intrinsics=intrinsics,
        camera_from_object=matrix,
        tolerance=config.depth_tolerance * size,
        margin=max(config.outline_margin / shrink, 1.0),  # a sample mixes pixels up to one pixel away
        ramp=max(config.outline_ramp / shrink, 1.0),
    )


def check_sizes(photos: Sequence[Photo], cameras: Sequence[Camera]) -> None:
    """Raises: InvalidOption: no photo, not a camera for each, or another size than the camera's."""
    if not photos or len(photos) != len(cameras):
        raise InvalidOption(
            f"{len(photos)} photos and {len(cameras)} cameras: every photo needs the camera it was taken with"
        )
    for photo, camera in zip(photos, cameras, strict=True):
        if (camera.height, camera.width) != photo.mask.shape:
            raise InvalidOption(
                f"view {photo.name}: the camera is for {camera.width} x {camera.height} pixels, the photo has "
                f"{photo.mask.shape[1]} x {photo.mask.shape[0]}: scale one of them"
            )


def _box(mask: Bool[np.ndarray, "h w"]) -> tuple[int, int, int, int]:
    """Left, top, right, bottom (past the last) of the mask and PAD pixels around it; the first pixel without a mask."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if len(rows) == 0:
        return 0, 0, 1, 1
    height, width = mask.shape
    left, top = max(int(columns[0]) - PAD, 0), max(int(rows[0]) - PAD, 0)
    return left, top, min(int(columns[-1]) + 1 + PAD, width), min(int(rows[-1]) + 1 + PAD, height)


def averaged(values: Float32[np.ndarray, "_ _"], width: int, height: int) -> Float32[np.ndarray, "h w"]:
    """Means over boxes, for sizes that are smaller."""
    return np.array(Image.fromarray(values).resize((width, height), Image.Resampling.BOX), np.float32)


def _clearances(
    faces: Array, depth: Array, normals: Array, usable: Array, intrinsics: Array, tolerance: float
) -> Float32[np.ndarray, "h w"]:
    clear = np.full(depth.shape, MOST_DISTANCE, np.float32)
    _mark(faces, depth, normals, usable, np.linalg.inv(intrinsics), tolerance, clear)
    _spread(clear)
    return clear


@compiled
def _mark(
    faces: Array, depth: Array, normals: Array, usable: Array, k_inverse: Array, tolerance: float, clear: Array
) -> None:
    """-0.5 at pixels that cannot be used, 0.5 on both sides of a jump in depth: distances to the line between pixels.

    Neighbours jump if they differ by more than the tolerance and the slope of the flatter of the two explain: past an
    edge one sees a surface at an angle of its own, while across one steep surface both are steep.
    """
    height, width = depth.shape
    for row in range(height):
        for column in range(width):
            if not usable[row, column]:
                clear[row, column] = -0.5
                continue
            for step in range(2):
                y, x = row + step, column + 1 - step
                if y >= height or x >= width or not usable[y, x]:
                    continue
                least = STEEPEST
                for place in range(2):
                    v, u = (row, column) if place == 0 else (y, x)
                    a = k_inverse[0, 0] * (u + 0.5) + k_inverse[0, 1] * (v + 0.5) + k_inverse[0, 2]
                    b = k_inverse[1, 1] * (v + 0.5) + k_inverse[1, 2]
                    n = normals[faces[v, u]]
                    cosine = abs(a * n[0] + b * n[1] + n[2]) / np.sqrt(a * a + b * b + 1.0)
                    least = min(least, np.sqrt(max(1.0 - cosine * cosine, 0.0)) / max(cosine, 1e-6))
                pixel = min(depth[row, column], depth[y, x]) * max(k_inverse[0, 0], k_inverse[1, 1])
                if abs(depth[row, column] - depth[y, x]) > tolerance + 2.0 * pixel * least:
                    clear[row, column] = min(clear[row, column], np.float32(0.5))
                    clear[y, x] = min(clear[y, x], np.float32(0.5))


@compiled
def _spread(clear: Array) -> None:
    """Distances to the marked pixels, over steps to the eight neighbours (at most 8 % too long)."""
    height, width = clear.shape
    diagonal = np.float32(np.sqrt(2.0))
    for turn in range(2):
        for i in range(height):
            row = i if turn == 0 else height - 1 - i
            back = row - 1 if turn == 0 else row + 1
            for j in range(width):
                column = j if turn == 0 else width - 1 - j
                before = column - 1 if turn == 0 else column + 1
                after = column + 1 if turn == 0 else column - 1
                best = clear[row, column]
                if 0 <= before < width:
                    best = min(best, clear[row, before] + np.float32(1))
                if 0 <= back < height:
                    best = min(best, clear[back, column] + np.float32(1))
                    if 0 <= before < width:
                        best = min(best, clear[back, before] + diagonal)
                    if 0 <= after < width:
                        best = min(best, clear[back, after] + diagonal)
                clear[row, column] = best


def looked(
    seen: Sight, points: Float32[np.ndarray, "point 3"], normals: Float32[np.ndarray, "point 3"], config: SightConfig
) -> tuple[Float32[np.ndarray, " point"], Float32[np.ndarray, " point"]]:
    """How much a photo's sight of each point counts against other photos, and how sure it is of it.

    Args:
        points: object frame.
        normals: unit length.
    Returns: weights, pixels per squared object unit times cosine^angle_power times sureness; sureness in [0, 1].
    """
    weights, sure = np.zeros(len(points), np.float32), np.zeros(len(points), np.float32)
    _look(
        points,
        normals,
        seen.camera_from_object,
        seen.intrinsics,
        seen.depth,
        seen.clear,
        seen.tolerance,
        seen.margin,
        seen.ramp,
        config.least_cosine,
        config.sure_cosine,
        config.angle_power,
        weights,
        sure,
    )
    return weights, sure


@compiled
def _smooth_step(value: float) -> float:
    t = min(max(value, 0.0), 1.0)
    return t * t * (3.0 - 2.0 * t)


@compiled
def _look(
    points: Array,
    normals: Array,
    m: Array,
    k: Array,
    depth: Array,
    clear: Array,
    tolerance: float,
    margin: float,
    ramp: float,
    least_cosine: float,
    sure_cosine: float,
    power: float,
    weights: Array,
    sure: Array,
) -> None:
    height, width = depth.shape
    squared = (m[0, 0] ** 2 + m[0, 1] ** 2 + m[0, 2] ** 2) * abs(k[0, 0] * k[1, 1])
    scale = np.sqrt(m[0, 0] ** 2 + m[0, 1] ** 2 + m[0, 2] ** 2)
    for i in range(len(points)):
        x = m[0, 0] * points[i, 0] + m[0, 1] * points[i, 1] + m[0, 2] * points[i, 2] + m[0, 3]
        y = m[1, 0] * points[i, 0] + m[1, 1] * points[i, 1] + m[1, 2] * points[i, 2] + m[1, 3]
        z = m[2, 0] * points[i, 0] + m[2, 1] * points[i, 1] + m[2, 2] * points[i, 2] + m[2, 3]
        distance = np.sqrt(x * x + y * y + z * z)
        if z <= 1e-6 * distance:
            continue
        cosine = 0.0
        for axis in range(3):
            along = m[0, axis] * x + m[1, axis] * y + m[2, axis] * z
            cosine -= normals[i, axis] * along / (scale * distance)
        if cosine <= least_cosine:
            continue
        u, v = (k[0, 0] * x + k[0, 1] * y) / z + k[0, 2] - 0.5, k[1, 1] * y / z + k[1, 2] - 0.5
        if not (0.0 <= u <= width - 1.0 and 0.0 <= v <= height - 1.0):
            continue
        x0, y0 = int(u), int(v)
        x1, y1 = min(x0 + 1, width - 1), min(y0 + 1, height - 1)
        fx, fy = u - x0, v - y0
        upper = (1 - fx) * clear[y0, x0] + fx * clear[y0, x1]
        lower = (1 - fx) * clear[y1, x0] + fx * clear[y1, x1]
        outline = ((1 - fy) * upper + fy * lower - margin) / ramp
        if outline <= 0.0:
            continue
        cosine = min(cosine, 1.0)
        slope = min(np.sqrt(1.0 - cosine * cosine) / cosine, STEEPEST) * z / min(k[0, 0], k[1, 1])
        nearest = max(max(depth[y0, x0], depth[y0, x1]), max(depth[y1, x0], depth[y1, x1]))
        if z > nearest + tolerance + slope:
            continue
        sureness = _smooth_step(outline) * _smooth_step((cosine - least_cosine) / (sure_cosine - least_cosine))
        sure[i] = sureness
        weights[i] = sureness * cosine ** (power + 1.0) * squared / (z * z)


def light_at(seen: Sight, points: Float32[np.ndarray, "point 3"]) -> Float32[np.ndarray, "point 3"]:
    """Linear light of the photo at points it sees, bilinear; of others, that of some pixel."""
    out = np.empty((len(points), 3), np.float32)
    _pick(points, seen.camera_from_object, seen.intrinsics, seen.light, out)
    return out


@compiled
def _pick(points: Array, m: Array, k: Array, light: Array, out: Array) -> None:
    height, width, _ = light.shape
    for i in range(len(points)):
        x = m[0, 0] * points[i, 0] + m[0, 1] * points[i, 1] + m[0, 2] * points[i, 2] + m[0, 3]
        y = m[1, 0] * points[i, 0] + m[1, 1] * points[i, 1] + m[1, 2] * points[i, 2] + m[1, 3]
        z = m[2, 0] * points[i, 0] + m[2, 1] * points[i, 1] + m[2, 2] * points[i, 2] + m[2, 3]
        z = max(z, 1e-9)
        u = min(max((k[0, 0] * x + k[0, 1] * y) / z + k[0, 2] - 0.5, 0.0), width - 1.0)
        v = min(max(k[1, 1] * y / z + k[1, 2] - 0.5, 0.0), height - 1.0)
        x0, y0 = int(u), int(v)
        x1, y1 = min(x0 + 1, width - 1), min(y0 + 1, height - 1)
        fx, fy = u - x0, v - y0
        for channel in range(3):
            upper = (1 - fx) * light[y0, x0, channel] + fx * light[y0, x1, channel]
            lower = (1 - fx) * light[y1, x0, channel] + fx * light[y1, x1, channel]
            out[i, channel] = (1 - fy) * upper + fy * lower
