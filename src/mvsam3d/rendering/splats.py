"""Gaussians -> pixels on the CPU: a tile rasteriser, and a plain differentiable twin of it to read and to compare with.

Each Gaussian is projected to a 2D one by the camera's derivative at its centre (EWA splatting, Zwicker et al. 2001) and
composited front to back, as the public 3D Gaussian splatting renderers do, with their constants.
"""

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32
from scipy.sparse import csr_array
from torch import Tensor

from mvsam3d.geometry.compiled import compiled
from mvsam3d.geometry.rotations import matrix_from_quaternion
from mvsam3d.types import GaussianCloud

Array = np.ndarray

NEAR = 0.01  # camera units; Gaussians whose centre is nearer are left out
BLUR = 0.3  # variance in square pixels, added to each 2D Gaussian so that none falls between pixels
LEAST_ALPHA = 1 / 255  # fainter contributions are left out
MOST_ALPHA = 0.99
OPAQUE = 1e-4  # a pixel is done when less light than this comes through
TILE = 16  # pixels a side
SH_DC = 0.28209479177387814
MARGIN = 1.3  # the derivative is taken no further out than this many half pictures from the axis


@compiled
def _project(
    means: Array,
    scales: Array,
    rotations: Array,
    opacities: Array,
    k: Array,
    m: Array,
    width: int,
    height: int,
    blur: float,
) -> tuple[Array, Array]:
    """For each Gaussian: centre in pixels, inverse 2D covariance (xx, xy, yy), reach of its box in x and y (0: unseen);
    and its depth.
    """
    flat, depth = np.zeros((len(means), 7)), np.full(len(means), np.inf)
    lower_x, upper_x = (-MARGIN * 0.5 * width) / k[0, 0], (MARGIN * 0.5 * width) / k[0, 0]
    lower_y, upper_y = (-MARGIN * 0.5 * height) / k[1, 1], (MARGIN * 0.5 * height) / k[1, 1]
    middle_x, middle_y = (0.5 * width - k[0, 2]) / k[0, 0], (0.5 * height - k[1, 2]) / k[1, 1]
    axes, shape = np.empty((3, 3)), np.empty((2, 3))
    for i in range(len(means)):
        x = m[0, 0] * means[i, 0] + m[0, 1] * means[i, 1] + m[0, 2] * means[i, 2] + m[0, 3]
        y = m[1, 0] * means[i, 0] + m[1, 1] * means[i, 1] + m[1, 2] * means[i, 2] + m[1, 3]
        z = m[2, 0] * means[i, 0] + m[2, 1] * means[i, 1] + m[2, 2] * means[i, 2] + m[2, 3]
        if z < NEAR or opacities[i] < LEAST_ALPHA:
            continue
        turn = rotations[i]
        for row in range(3):  # columns: the Gaussian's axes in the camera, one standard deviation long
            for axis in range(3):
                total = m[row, 0] * turn[0, axis] + m[row, 1] * turn[1, axis] + m[row, 2] * turn[2, axis]
                axes[row, axis] = total * scales[i, axis]
        across = min(max(x / z, middle_x + lower_x), middle_x + upper_x)
        down = min(max(y / z, middle_y + lower_y), middle_y + upper_y)
        for axis in range(3):  # derivative of the projection times the axes
            dx, dy = (axes[0, axis] - across * axes[2, axis]) / z, (axes[1, axis] - down * axes[2, axis]) / z
            shape[0, axis], shape[1, axis] = k[0, 0] * dx + k[0, 1] * dy, k[1, 1] * dy
        xx = shape[0, 0] ** 2 + shape[0, 1] ** 2 + shape[0, 2] ** 2 + blur
        yy = shape[1, 0] ** 2 + shape[1, 1] ** 2 + shape[1, 2] ** 2 + blur
        xy = shape[0, 0] * shape[1, 0] + shape[0, 1] * shape[1, 1] + shape[0, 2] * shape[1, 2]
        det = xx * yy - xy * xy
        if det <= 0.0:
            continue
        spread = np.sqrt(2.0 * np.log(opacities[i] / LEAST_ALPHA))  # standard deviations until it is too faint
        flat[i, 0], flat[i, 1] = (k[0, 0] * x + k[0, 1] * y) / z + k[0, 2], k[1, 1] * y / z + k[1, 2]
        flat[i, 2], flat[i, 3], flat[i, 4] = yy / det, -xy / det, xx / det
        flat[i, 5], flat[i, 6] = spread * np.sqrt(xx), spread * np.sqrt(yy)
        depth[i] = z
    return flat, depth


@compiled
def _pixels(low: float, high: float, end: int) -> tuple[int, int]:
    """First and past-the-last pixel whose centre lies in [low, high], within [0, end)."""
    first, last = np.ceil(max(low, -1.0) - 0.5), np.floor(min(high, end + 1.0) - 0.5)
    return max(0, int(first)), min(end, int(last) + 1)


@compiled
def _by_tile(flat: Array, order: Array, width: int, height: int) -> tuple[Array, Array]:
    """Gaussians of each tile, near ones first: start of each tile in the list, and the list."""
    columns, rows = (width + TILE - 1) // TILE, (height + TILE - 1) // TILE
    starts, entries = np.zeros(columns * rows + 1, np.int64), np.empty(0, np.int32)
    for filling in (False, True):
        cursor = starts.copy()
        for i in order:
            left, right = _pixels(flat[i, 0] - flat[i, 5], flat[i, 0] + flat[i, 5], width)
            top, bottom = _pixels(flat[i, 1] - flat[i, 6], flat[i, 1] + flat[i, 6], height)
            if left >= right or top >= bottom:
                continue
            for row in range(top // TILE, (bottom - 1) // TILE + 1):
                for column in range(left // TILE, (right - 1) // TILE + 1):
                    tile = row * columns + column
                    if filling:
                        entries[cursor[tile]] = i
                        cursor[tile] += 1
                    else:
                        starts[tile + 1] += 1
        if not filling:
            starts = np.cumsum(starts)
            entries = np.empty(starts[-1], np.int32)
    return starts, entries


@compiled
def _composite(
    flat: Array, opacities: Array, colours: Array, starts: Array, entries: Array, rgb: Array, through: Array
) -> None:
    """Add the colours into `rgb` and multiply what comes through them into `through`, tile by tile, front to back."""
    height, width = through.shape
    columns = (width + TILE - 1) // TILE
    for tile in range(len(starts) - 1):
        y0, x0 = tile // columns * TILE, tile % columns * TILE
        y1, x1 = min(y0 + TILE, height), min(x0 + TILE, width)
        open_ = (y1 - y0) * (x1 - x0)
        for i in entries[starts[tile] : starts[tile + 1]]:
            left, right = _pixels(flat[i, 0] - flat[i, 5], flat[i, 0] + flat[i, 5], x1)
            top, bottom = _pixels(flat[i, 1] - flat[i, 6], flat[i, 1] + flat[i, 6], y1)
            a, b, c = flat[i, 2], flat[i, 3], flat[i, 4]
            faintest = np.log(opacities[i] / LEAST_ALPHA)
            for y in range(max(top, y0), bottom):
                dy = y + 0.5 - flat[i, 1]
                for x in range(max(left, x0), right):
                    light = through[y, x]
                    if light < OPAQUE:
                        continue
                    dx = x + 0.5 - flat[i, 0]
                    power = 0.5 * (a * dx * dx + c * dy * dy) + b * dx * dy
                    if power > faintest:
                        continue
                    alpha = min(MOST_ALPHA, opacities[i] * np.exp(-power))
                    for channel in range(3):
                        rgb[y, x, channel] += light * alpha * colours[i, channel]
                    through[y, x] = light * (1.0 - alpha)
                    if through[y, x] < OPAQUE:
                        open_ -= 1
            if open_ == 0:
                break


def render_splats(
    cloud: GaussianCloud,
    intrinsics: Float[np.ndarray, "3 3"],
    camera_from_object: Float[np.ndarray, "4 4"],
    width: int,
    height: int,
    *,
    background: tuple[float, float, float] = (1.0, 1.0, 1.0),
    blur: float = BLUR,
) -> tuple[Float32[np.ndarray, "h w 3"], Float32[np.ndarray, "h w"]]:
    """Picture of a Gaussian cloud.

    Args:
        cloud: in the object frame, on any device.
        intrinsics: pixels, last row 0 0 1.
        camera_from_object: rigid or similarity, OpenCV camera.
        width: pixels.
        height: pixels.
        background: sRGB.
        blur: see BLUR.
    Returns: sRGB (>= 0; above 1 where colours are), share of the background that is hidden.
    """
    opacities = _array(cloud.opacities)
    k, m = np.ascontiguousarray(intrinsics, np.float64), np.ascontiguousarray(camera_from_object, np.float64)
    turns = _array(matrix_from_quaternion(cloud.rotations))
    flat, depth = _project(_array(cloud.means), _array(cloud.scales), turns, opacities, k, m, width, height, blur)
    order = np.argsort(depth, kind="stable")
    starts, entries = _by_tile(flat, order[: int(np.isfinite(depth).sum())], width, height)
    rgb, through = np.zeros((height, width, 3)), np.ones((height, width))
    colours = np.maximum(0.5 + SH_DC * _array(cloud.sh_dc), 0.0)
    _composite(flat, opacities, colours, starts, entries, rgb, through)
    rgb += through[..., None] * np.asarray(background)
    return rgb.astype(np.float32), (1 - through).astype(np.float32)


def splat_weights(
    cloud: GaussianCloud,
    intrinsics: Float[np.ndarray, "3 3"],
    camera_from_object: Float[np.ndarray, "4 4"],
    wanted: Bool[np.ndarray, "h w"],
    *,
    blur: float = BLUR,
) -> csr_array:
    """How much each Gaussian gives to each wanted pixel: the picture there is weights @ colours, plus the background
    times what is left of 1.

    Args:
        wanted: pixels of the picture; its size is the picture's.
    Returns: (wanted pixels in row order, Gaussians), float32.
    """
    height, width = wanted.shape
    opacities = _array(cloud.opacities)
    k, m = np.ascontiguousarray(intrinsics, np.float64), np.ascontiguousarray(camera_from_object, np.float64)
    turns = _array(matrix_from_quaternion(cloud.rotations))
    flat, depth = _project(_array(cloud.means), _array(cloud.scales), turns, opacities, k, m, width, height, blur)
    order = np.argsort(depth, kind="stable")
    starts, entries = _by_tile(flat, order[: int(np.isfinite(depth).sum())], width, height)
    rows = np.where(wanted, np.cumsum(wanted.ravel()).reshape(wanted.shape) - 1, -1).astype(np.int64)
    none = np.empty(0)
    ends = np.zeros(int(wanted.sum()) + 1, np.int64)
    _weigh(flat, opacities, starts, entries, rows, np.ones(wanted.shape), False, ends, none.astype(np.int32), none)
    ends = np.cumsum(ends)
    columns, weights = np.empty(int(ends[-1]), np.int32), np.empty(int(ends[-1]))
    _weigh(flat, opacities, starts, entries, rows, np.ones(wanted.shape), True, ends.copy(), columns, weights)
    return csr_array((weights.astype(np.float32), columns, ends), shape=(len(ends) - 1, len(opacities)))


@compiled
def _weigh(
    flat: Array,
    opacities: Array,
    starts: Array,
    entries: Array,
    rows: Array,
    through: Array,
    filling: bool,
    ends: Array,
    columns: Array,
    weights: Array,
) -> None:
    """As `_composite`, but writes the shares down: first their number, row by row, into `ends[1:]`, then, with the
    summed numbers in `ends`, the shares themselves; each start in `ends` moves to the end of its row."""
    height, width = through.shape
    across = (width + TILE - 1) // TILE
    for tile in range(len(starts) - 1):
        y0, x0 = tile // across * TILE, tile % across * TILE
        y1, x1 = min(y0 + TILE, height), min(x0 + TILE, width)
        open_ = 0
        for y in range(y0, y1):
            for x in range(x0, x1):
                open_ += rows[y, x] >= 0
        if open_ == 0:
            continue
        for i in entries[starts[tile] : starts[tile + 1]]:
            left, right = _pixels(flat[i, 0] - flat[i, 5], flat[i, 0] + flat[i, 5], x1)
            top, bottom = _pixels(flat[i, 1] - flat[i, 6], flat[i, 1] + flat[i, 6], y1)
            a, b, c = flat[i, 2], flat[i, 3], flat[i, 4]
            faintest = np.log(opacities[i] / LEAST_ALPHA)
            for y in range(max(top, y0), bottom):
                dy = y + 0.5 - flat[i, 1]
                for x in range(max(left, x0), right):
                    row, light = rows[y, x], through[y, x]
                    if row < 0 or light < OPAQUE:
                        continue
                    dx = x + 0.5 - flat[i, 0]
                    power = 0.5 * (a * dx * dx + c * dy * dy) + b * dx * dy
                    if power > faintest:
                        continue
                    alpha = min(MOST_ALPHA, opacities[i] * np.exp(-power))
                    if filling:
                        columns[ends[row]], weights[ends[row]] = i, light * alpha
                        ends[row] += 1
                    else:
                        ends[row + 1] += 1
                    through[y, x] = light * (1.0 - alpha)
                    open_ -= through[y, x] < OPAQUE
            if open_ == 0:
                break


def _array(tensor: Tensor) -> Array:
    return np.ascontiguousarray(tensor.detach().cpu().double().numpy())


def render_splats_plain(
    cloud: GaussianCloud,
    intrinsics: Float[Tensor, "3 3"],
    camera_from_object: Float[Tensor, "4 4"],
    width: int,
    height: int,
    *,
    background: tuple[float, float, float] = (1.0, 1.0, 1.0),
    blur: float = BLUR,
) -> tuple[Float[Tensor, "h w 3"], Float[Tensor, "h w"]]:
    """The same picture, every Gaussian at every pixel, with gradients: for small pictures, and to read.

    Pixels are composited to the end (`render_splats` stops at OPAQUE), which changes them by OPAQUE at most.
    """
    k, linear, shift = intrinsics, camera_from_object[:3, :3], camera_from_object[:3, 3]
    centres = cloud.means @ linear.T + shift
    seen = (centres[:, 2] >= NEAR) & (cloud.opacities >= LEAST_ALPHA)
    order = torch.argsort(torch.where(seen, centres[:, 2], torch.inf), stable=True)[: int(seen.sum())]
    x, y, z = centres[order].unbind(-1)

    # Derivative of the projection at the centre, moved inside the picture's surroundings.
    half = torch.tensor([width, height], dtype=k.dtype, device=k.device) / 2
    focal = k.diagonal()[:2]
    middle, reach = (half - k[:2, 2]) / focal, MARGIN * half / focal
    slopes = torch.stack([x / z, y / z], dim=-1)
    slopes = torch.minimum(torch.maximum(slopes, middle - reach), middle + reach)
    derivative = torch.cat(
        [torch.eye(2, dtype=k.dtype, device=k.device).expand(len(z), 2, 2), -slopes[..., None]], dim=-1
    )
    derivative = k[:2, :2] @ (derivative / z[:, None, None])

    axes = derivative @ linear @ matrix_from_quaternion(cloud.rotations[order]) * cloud.scales[order][:, None, :]
    covariance = axes @ axes.mT + blur * torch.eye(2, dtype=k.dtype, device=k.device)
    means = torch.stack([x / z, y / z], dim=-1) @ k[:2, :2].T + k[:2, 2]

    columns = torch.arange(width, dtype=k.dtype, device=k.device) + 0.5
    rows = torch.arange(height, dtype=k.dtype, device=k.device) + 0.5
    pixels = torch.stack(torch.meshgrid(columns, rows, indexing="xy"), dim=-1)
    away = pixels[:, :, None] - means
    power = torch.einsum("hwgi,gij,hwgj->hwg", away, torch.linalg.inv(covariance), away) / 2
    alpha = (cloud.opacities[order] * torch.exp(-power)).clamp(max=MOST_ALPHA)
    alpha = torch.where(alpha >= LEAST_ALPHA, alpha, 0)
    through = torch.cumprod(torch.cat([torch.ones_like(alpha[..., :1]), 1 - alpha], dim=-1), dim=-1)
    colours = (0.5 + SH_DC * cloud.sh_dc[order]).clamp(min=0)
    last = through[..., -1]
    backdrop = torch.tensor(background, dtype=k.dtype, device=k.device)
    return (through[..., :-1] * alpha) @ colours + last[..., None] * backdrop, 1 - last
