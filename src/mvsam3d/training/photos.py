"""From a clean render to something like a photo and a segmenter's mask: backgrounds, optics, sensor, mistakes."""

from collections.abc import Callable

import numpy as np
from jaxtyping import Bool, Float, Float32, UInt8

Image = Float32[np.ndarray, "s s 3"]
Mask = Bool[np.ndarray, "s s"]
Rng = np.random.Generator

CLEAN_BACKGROUND = 0.25  # share of the photos on plain white or black
BAD_MASK = 0.45  # share of the masks with some mistake, at strength 1
TRUNCATED = 0.06  # share of the photos that cut the object off, at strength 1

_K = np.arange(8)
_DCT = (np.cos((2 * _K[None] + 1) * _K[:, None] * np.pi / 16) * np.where(_K[:, None] == 0, np.sqrt(1 / 8), 0.5)).astype(
    np.float32
)
_JPEG_STEPS = (8.0 + 6.0 * (_K[:, None] + _K[None])).astype(np.float32)  # coarser for higher frequencies


def photograph(
    rgb: UInt8[np.ndarray, "s s 3"],
    alpha: Bool[np.ndarray, "s s"],
    depth: Float32[np.ndarray, "s s"],
    rng: np.random.Generator,
    *,
    strength: float | int = 1.0,
) -> tuple[UInt8[np.ndarray, "s s 3"], Bool[np.ndarray, "s s"]]:
    """A photo with a background and flaws, and the mask a segmenter might give for it.

    Args:
        rgb: sRGB render; what lies outside `alpha` is ignored.
        alpha: where the object is.
        depth: along the optical axis, inf outside; a background further off is blurred more.
        rng: source of chance.
        strength: 0 only puts it on a background, 1 is the ordinary amount of flaws.
    Returns: photo and mask; outside the photo's border (where the object is cut off) both are zero.
    """
    size = rgb.shape[0]
    image = _compose(rgb, alpha, depth, rng)
    if strength > 0:
        image = _flaws(image, rng, strength)
    mask = _mistaken(alpha, rng, strength) if rng.uniform() < BAD_MASK * strength else alpha
    inside = _visible(alpha, rng) if rng.uniform() < TRUNCATED * strength else np.ones((size, size), dtype=bool)
    image = np.where(inside[..., None], image, 0.0)
    cut = mask & inside
    if not cut.any():
        cut, image = alpha.copy(), np.where(inside[..., None], image, 0.0)
    return np.clip(255 * image + 0.5, 0, 255).astype(np.uint8), cut


def _compose(rgb: UInt8[np.ndarray, "s s 3"], alpha: Mask, depth: Float32[np.ndarray, "s s"], rng: Rng) -> Image:
    size = rgb.shape[0]
    cover = alpha.astype(np.float32)
    if rng.uniform() < 0.6:  # soften the stair steps of the outline
        cover = np.minimum(cover, blur(cover[..., None], 0.6)[..., 0] * 2.0 * cover)
    if rng.uniform() < CLEAN_BACKGROUND:
        back = np.full((size, size, 3), float(rng.integers(2)), dtype=np.float32)
    else:
        kinds = (_plain, _gradient, _clouds, _blobs, _stripes, _room)
        back = kinds[rng.integers(len(kinds))](size, rng)
        if rng.uniform() < 0.35 and alpha.any():
            back = _contact_shadow(back, alpha, rng)
        if rng.uniform() < 0.5 and alpha.any():
            near = float(depth[alpha].min())
            back = blur(back, rng.uniform(0.3, 2.5) * min(1.0, 2.0 / max(near, 0.5)))
    return (cover[..., None] * (rgb.astype(np.float32) / 255) + (1 - cover[..., None]) * back).astype(np.float32)


def _colour(rng: Rng) -> Float32[np.ndarray, " 3"]:
    value, chroma = rng.uniform(0.05, 1.0), rng.uniform(0, 0.5) ** 1.5
    rgb: Float32[np.ndarray, " 3"] = np.clip(value * (1 + chroma * rng.uniform(-1, 1, 3)), 0, 1).astype(np.float32)
    return rgb


def _plain(size: int, rng: Rng) -> Image:
    return np.tile(_colour(rng), (size, size, 1))


def _ramp(size: int, rng: Rng) -> Float32[np.ndarray, "s s"]:
    """From 0 to 1 in a random direction."""
    angle = rng.uniform(0, 2 * np.pi)
    line = np.linspace(-1, 1, size, dtype=np.float32)
    t = np.cos(angle) * line[None] + np.sin(angle) * line[:, None]
    scaled: Float32[np.ndarray, "s s"] = ((t - t.min()) / (t.max() - t.min() + 1e-6)).astype(np.float32)
    return scaled


def _mixed(t: Float32[np.ndarray, "s s"], rng: Rng) -> Image:
    image: Image = (_colour(rng) * (1 - t[..., None]) + _colour(rng) * t[..., None]).astype(np.float32)
    return image


def _gradient(size: int, rng: Rng) -> Image:
    return _mixed(_ramp(size, rng), rng)


def _enlarged(grid: Float32[np.ndarray, "n n channel"], size: int) -> Float32[np.ndarray, "s s channel"]:
    """Bilinear."""
    at = np.linspace(0, len(grid) - 1, size, dtype=np.float32)
    low = np.minimum(at.astype(int), len(grid) - 2)
    share = (at - low).astype(np.float32)[:, None, None]
    rows = grid[low] * (1 - share) + grid[low + 1] * share
    share = share.transpose(1, 0, 2)
    image: Float32[np.ndarray, "s s channel"] = rows[:, low] * (1 - share) + rows[:, low + 1] * share
    return image


def _field(size: int, rng: Rng, cells: int) -> Float32[np.ndarray, "s s 1"]:
    """Smooth noise in [0, 1] of three octaves."""
    total = np.zeros((size, size, 1), dtype=np.float32)
    for octave in range(3):
        n = min(cells * 2**octave + 2, size)
        total += _enlarged(rng.random((n, n, 1), dtype=np.float32), size) * 0.5**octave
    return total / 1.75


def _clouds(size: int, rng: Rng) -> Image:
    t = _field(size, rng, int(rng.integers(2, 16)))[..., 0]
    return _mixed(np.clip((t - 0.5) * rng.uniform(1, 5) + 0.5, 0, 1), rng)


def _blobs(size: int, rng: Rng) -> Image:
    """Things out of focus: boxes and disks, blurred."""
    image = _gradient(size, rng)
    rows, columns = np.mgrid[:size, :size] / size
    for _ in range(rng.integers(3, 12)):
        (y, x), (h, w) = rng.uniform(0, 1, 2), rng.uniform(0.03, 0.35, 2)
        inside = (abs(rows - y) < h) & (abs(columns - x) < w)
        if rng.uniform() < 0.5:
            inside = ((rows - y) / h) ** 2 + ((columns - x) / w) ** 2 < 1
        image[inside] = _colour(rng)
    return blur(image, rng.uniform(0.0, 6.0) * size / 112)


def _stripes(size: int, rng: Rng) -> Image:
    wave = _ramp(size, rng) * rng.uniform(3, 20)
    t = (wave % 1.0 < rng.uniform(0.2, 0.8)).astype(np.float32)
    if rng.uniform() < 0.4:
        t = np.abs(t - (_ramp(size, rng) * rng.uniform(3, 20) % 1.0 < 0.5))
    return _mixed(t.astype(np.float32), rng)


def _room(size: int, rng: Rng) -> Image:
    """Floor and wall, each with its own grain."""
    kinds: tuple[Callable[[int, Rng], Image], ...] = (_plain, _gradient, _clouds, _stripes)
    wall, floor = kinds[rng.integers(3)](size, rng), kinds[rng.integers(4)](size, rng)
    edge = rng.uniform(0.35, 0.85) + rng.uniform(-0.1, 0.1) * np.linspace(-1, 1, size)
    below = (np.arange(size)[:, None] / size > edge[None])[..., None]
    return np.where(below, floor, wall).astype(np.float32)


def _contact_shadow(back: Image, alpha: Mask, rng: Rng) -> Image:
    size = len(alpha)
    rows, columns = np.nonzero(alpha)
    bottom, middle = rows.max(), columns.mean()
    width = 0.5 * (columns.max() - columns.min()) * rng.uniform(0.8, 1.3) + 1
    height = width * rng.uniform(0.12, 0.4)
    y, x = np.mgrid[:size, :size]
    r = ((y - bottom + 0.4 * height) / height) ** 2 + ((x - middle - rng.normal(0, 0.15) * width) / width) ** 2
    dark = rng.uniform(0.3, 0.8) * np.exp(-1.2 * r)[..., None]
    darkened: Image = (back * (1 - dark)).astype(np.float32)
    return darkened


def blur(image: Float[np.ndarray, "s s channel"], sigma: float) -> Float32[np.ndarray, "s s channel"]:
    """Gaussian of `sigma` pixels, borders repeated."""
    reach = max(int(2.5 * sigma + 0.5), 1)
    if sigma < 0.2:
        return image.astype(np.float32)
    kernel = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma) ** 2)
    kernel = (kernel / kernel.sum()).astype(np.float32)
    n = len(image)
    wide = np.pad(image.astype(np.float32), ((reach, reach), (0, 0), (0, 0)), mode="edge")
    rows = sum((k * wide[i : i + n] for i, k in enumerate(kernel)), np.zeros(image.shape, dtype=np.float32))
    wide = np.pad(rows, ((0, 0), (reach, reach), (0, 0)), mode="edge")
    return sum((k * wide[:, i : i + n] for i, k in enumerate(kernel)), np.zeros(image.shape, dtype=np.float32))


def _flaws(image: Image, rng: Rng, strength: float | int) -> Image:
    """Exposure, white balance, contrast, saturation, gamma; then blur, noise and blocks."""
    image = image ** np.exp(strength * rng.normal(0, 0.12))
    gains = np.exp(strength * rng.normal(0, 0.1) + strength * rng.normal(0, 0.05, 3))
    image = (image * gains - 0.5) * np.exp(strength * rng.normal(0, 0.1)) + 0.5
    grey = image.mean(-1, keepdims=True)
    image = np.clip(grey + (image - grey) * np.exp(strength * rng.normal(0, 0.15)), 0, 1)
    scale = len(image) / 112
    if rng.uniform() < 0.5:
        image = blur(image, strength * rng.uniform(0.2, 1.1) * scale)
    if rng.uniform() < 0.6:
        level = strength * rng.uniform(0.0, 0.04)
        image = image + level * rng.standard_normal(image.shape, dtype=np.float32)
    if rng.uniform() < 0.4:
        image = blocky(image.astype(np.float32), strength * rng.uniform(0.2, 1.5))
    flawed: Image = np.clip(image, 0, 1).astype(np.float32)
    return flawed


def blocky(image: Image, coarseness: float) -> Image:
    """What JPEG does: cosine transform of blocks of 8 x 8, rounded; coarseness 1 is a poor quality of about 50."""
    size = len(image)
    pad = -size % 8
    wide = np.pad(255 * image, ((0, pad), (0, pad), (0, 0)), mode="edge")
    n = len(wide) // 8
    blocks = wide.reshape(n, 8, n, 8, 3).transpose(0, 2, 4, 1, 3)
    step = _JPEG_STEPS * coarseness
    back = _DCT.T @ (np.round(_DCT @ blocks @ _DCT.T / step) * step) @ _DCT
    joined: Image = (back.transpose(0, 3, 1, 4, 2).reshape(8 * n, 8 * n, 3)[:size, :size] / 255).astype(np.float32)
    return joined


def _grown(mask: Mask, pixels: int) -> Mask:
    """Dilated by a diamond; eroded if negative."""
    if pixels < 0:
        return ~_grown(~mask, -pixels)
    for _ in range(pixels):
        wide = np.pad(mask, 1)
        mask = mask | wide[2:, 1:-1] | wide[:-2, 1:-1] | wide[1:-1, 2:] | wide[1:-1, :-2]
    return mask


def _mistaken(alpha: Mask, rng: Rng, strength: float | int) -> Mask:
    """Too wide or too narrow, a wobbly outline, a bite or hole, a speck; never empty."""
    size = len(alpha)
    reach = max(1, round(2 * strength * size / 112))
    mask = _grown(alpha, int(rng.integers(-reach, reach + 1)))
    if rng.uniform() < 0.4:
        wobble = _field(size, rng, 10)[..., 0] - 0.5
        soft = blur(mask[..., None].astype(np.float32), 1.5 * strength * size / 112)[..., 0]
        mask = soft + 0.8 * wobble > 0.5
        mask &= _grown(alpha, 2 * reach)
    rows, columns = np.nonzero(alpha)
    if rng.uniform() < 0.3 and len(rows):
        at = rng.integers(len(rows))
        radius = rng.uniform(0.02, 0.08) * strength * size
        y, x = np.mgrid[:size, :size]
        spot = (y - rows[at]) ** 2 + (x - columns[at]) ** 2 < radius**2
        mask = mask | spot if rng.uniform() < 0.3 else mask & ~spot
    return mask if mask.sum() > 0.3 * alpha.sum() else alpha


def _visible(alpha: Mask, rng: Rng) -> Mask:
    """A photo border that cuts off up to 30 % of the object's extent on one side."""
    size = len(alpha)
    axis, high = int(rng.integers(2)), bool(rng.integers(2))
    places = np.nonzero(alpha.any(1 - axis))[0]
    low_end, high_end = (int(places[0]), int(places[-1])) if len(places) else (0, size - 1)
    depth = rng.uniform(0.03, 0.3) * (high_end - low_end + 1)
    line = np.arange(size)
    keep = line <= high_end - depth if high else line >= low_end + depth
    return np.broadcast_to(keep[:, None] if axis == 0 else keep[None], (size, size)).copy()
