"""Photos along their cameras into a grid: what each cell of a cube knows of each view (`models.lifting` names the features)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Float32, UInt8

from mvsam3d.geometry.cameras import centre
from mvsam3d.geometry.compiled import compiled
from mvsam3d.geometry.hull import outline_distance
from mvsam3d.geometry.voxels import all_cells, centres
from mvsam3d.models.lifted_views import FARTHEST, SPOT, VIEW_FEATURES, WINDOW, WINDOW_CHANNELS, LiftedViews
from mvsam3d.rendering.framing import Box, square_around, square_intrinsics
from mvsam3d.types import Camera

WINDOW_MARGIN = 1.1  # side of the window in sides of the mask's box


def lifted_views(
    photos: Sequence[UInt8[np.ndarray, "_ _ 3"]],
    masks: Sequence[Bool[np.ndarray, "_ _"]],
    cameras_cube: Sequence[Camera],
    resolution: int,
) -> LiftedViews:
    """All that the lifting network is given of an object, a batch of one; see `lifted`."""
    windows = np.zeros((len(photos), WINDOW_CHANNELS, WINDOW, WINDOW), np.float32)
    spots = np.zeros((len(photos), *(resolution // 2,) * 3, SPOT), np.float32)
    for i, (photo, mask, camera) in enumerate(zip(photos, masks, cameras_cube, strict=True)):
        box = window_of(mask)
        windows[i], spots[i] = _window(photo, mask, box), _spots(camera, box, resolution // 2)
    features = lifted(photos, masks, cameras_cube, resolution)
    return LiftedViews(*(torch.from_numpy(values)[None] for values in (features, windows, spots)))


def window_of(mask: Bool[np.ndarray, "h w"]) -> Box:
    """The square of a photo that the photo network sees."""
    return square_around(mask, WINDOW_MARGIN)


def window_grid(box: Box, cells: int) -> Float[np.ndarray, "cells cells 2"]:
    """Where in the photo the middles of a window's cells are: column and row."""
    left, top, side = box
    steps = (np.arange(cells) + 0.5) * side / cells
    return np.stack(np.meshgrid(left + steps, top + steps), -1)


def _window(
    photo: UInt8[np.ndarray, "h w 3"], mask: Bool[np.ndarray, "h w"], box: Box
) -> Float32[np.ndarray, "channel y x"]:
    """The square of a photo, its object alone."""
    shown = np.concatenate([(photo / np.float32(255) - np.float32(0.5)) * mask[..., None], mask[..., None]], -1)
    h, w = mask.shape
    at = torch.from_numpy(window_grid(box, WINDOW) / (w, h) * 2 - 1).float()
    values = torch.from_numpy(shown.astype(np.float32)).permute(2, 0, 1)[None]
    window: Float32[np.ndarray, "channel y x"] = F.grid_sample(values, at[None], align_corners=False)[0].numpy()
    return window


def _spots(camera: Camera, box: Box, cells: int) -> Float32[np.ndarray, "x y z spot"]:
    """Of the cells of a grid; those behind the camera lie outside the window."""
    matrix = camera.camera_from_world
    points = centres(all_cells(cells), cells).reshape(cells, cells, cells, 3).numpy()
    placed = points @ matrix[:3, :3].T + matrix[:3, 3]
    k = square_intrinsics(camera.intrinsics, box, 2) - np.array([[0, 0, 1], [0, 0, 1], [0, 0, 0]])
    depth = np.maximum(placed[..., 2:], 1e-9)
    at = np.where(placed[..., 2:] > 1e-9, np.clip((placed @ k.T)[..., :2] / depth, -3, 3), -3.0)
    length = np.cbrt(abs(np.linalg.det(matrix[:3, :3])))
    beyond = (placed[..., 2:] - matrix[2, 3]) / length
    size = np.full_like(beyond, window_size(camera, box))
    return np.concatenate([at, beyond, size], -1).astype(np.float32)


def window_size(camera: Camera, box: Box) -> float:
    """Side of a square of the photo at the depth of the world's origin, in units of that world."""
    matrix = camera.camera_from_world
    focal = np.sqrt(abs(camera.intrinsics[0, 0] * camera.intrinsics[1, 1]))
    return float(box[2] * max(matrix[2, 3], 1e-9) / focal / np.cbrt(abs(np.linalg.det(matrix[:3, :3]))))


def lifted(
    photos: Sequence[UInt8[np.ndarray, "_ _ 3"]],
    masks: Sequence[Bool[np.ndarray, "_ _"]],
    cameras_cube: Sequence[Camera],
    resolution: int,
) -> Float32[np.ndarray, "view x y z feature"]:
    """Features of each view at each cell.

    Args:
        photos: sRGB.
        masks: of the photos.
        cameras_cube: of the photos' pixels; their world is the frame in which the cube is [-0.5, 0.5]^3, so `camera_from_world` may scale.
        resolution: cells along an edge.
    """
    out = np.zeros((len(photos), *(resolution,) * 3, VIEW_FEATURES), np.float32)
    for i, (photo, mask, camera) in enumerate(zip(photos, masks, cameras_cube, strict=True)):
        _lift(
            photo,
            mask,
            outline_distance(mask),
            camera.intrinsics.astype(np.float64),
            camera.camera_from_world.astype(np.float64),
            centre(camera).astype(np.float64),
            FARTHEST,
            out[i],
        )
    return out


@compiled
def _lift(
    photo: np.ndarray,
    mask: np.ndarray,
    distance: np.ndarray,
    k: np.ndarray,
    camera_from_cube: np.ndarray,
    stands: np.ndarray,
    farthest: float,
    out: np.ndarray,
) -> None:
    h, w = mask.shape
    n = out.shape[0]
    m = camera_from_cube
    focal = np.sqrt(abs(k[0, 0] * k[1, 1]))
    length = np.sqrt(m[0, 0] ** 2 + m[1, 0] ** 2 + m[2, 0] ** 2)  # of a unit of the cube's frame, in the camera's
    for i in range(n):
        for j in range(n):
            for o in range(n):
                x, y, z = (i + 0.5) / n - 0.5, (j + 0.5) / n - 0.5, (o + 0.5) / n - 0.5
                a = m[0, 0] * x + m[0, 1] * y + m[0, 2] * z + m[0, 3]
                b = m[1, 0] * x + m[1, 1] * y + m[1, 2] * z + m[1, 3]
                c = m[2, 0] * x + m[2, 1] * y + m[2, 2] * z + m[2, 3]
                dx, dy, dz = stands[0] - x, stands[1] - y, stands[2] - z
                away = np.sqrt(dx * dx + dy * dy + dz * dz) + 1e-12
                out[i, j, o, 6], out[i, j, o, 7], out[i, j, o, 8] = dx / away, dy / away, dz / away
                if c <= 1e-9:
                    out[i, j, o, 4] = -1.0
                    continue
                column, row = (k[0, 0] * a + k[0, 1] * b) / c + k[0, 2], k[1, 1] * b / c + k[1, 2]
                if 0.0 <= column < w and 0.0 <= row < h:
                    out[i, j, o, 5] = 1.0
                column, row = min(max(column - 0.5, 0.0), w - 1.0), min(max(row - 0.5, 0.0), h - 1.0)
                x0, y0 = int(column), int(row)
                x1, y1 = min(x0 + 1, w - 1), min(y0 + 1, h - 1)
                fx, fy = column - x0, row - y0
                shares = ((1 - fx) * (1 - fy), fx * (1 - fy), (1 - fx) * fy, fx * fy)
                pixels = ((y0, x0), (y0, x1), (y1, x0), (y1, x1))
                covered, far = 0.0, 0.0
                for corner in range(4):
                    share = shares[corner]
                    v, u = pixels[corner]
                    far += share * distance[v, u]
                    if mask[v, u]:
                        covered += share
                        for channel in range(3):
                            out[i, j, o, channel] += share * (photo[v, u, channel] / 255.0 - 0.5)
                out[i, j, o, 3] = covered
                if covered > 0:
                    for channel in range(3):
                        out[i, j, o, channel] /= covered
                per_cell = focal * length / (c * n)
                out[i, j, o, 4] = min(max(far / (per_cell * farthest), -1.0), 1.0)
