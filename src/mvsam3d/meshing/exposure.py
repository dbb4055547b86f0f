"""Light of one surface in several photos -> what makes them alike: a gain for each photo, a gain and offset for the model.

All in linear light, where exposure and white balance are factors of the channels.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from scipy.sparse.csgraph import connected_components

ROUNDS = 12  # of weighing down what does not agree, then solving again
LEAST_SPREAD = 0.02  # log light; disagreement under it counts in full
DARKEST, BRIGHTEST = 0.002, 0.97  # linear light between which photos are to be believed: sRGB 7 and 251 of 255
PATCHES = 20  # independent pieces in what a photo shows: lighting moves over whole pieces, not texel by texel
LIKELY = 0.2  # log gain; what exposures differ by before one has looked
MOST_GAIN = 3.0  # of a photo
MODEL_GAIN = 8.0  # of the model's colours, either way
FLAT = 0.01  # linear light; a model that varies less than this says nothing of contrast


def evening_gains(
    light: Float[np.ndarray, "view point 3"], weights: Float[np.ndarray, "view point"]
) -> Float[np.ndarray, "view 3"]:
    """Factors of the photos that bring their light at shared points together, by robust least squares of logarithms.

    Lighting that moves over the object looks like exposure in part, so gains are believed as far as they explain what
    parts the photos: in the share by which they lower the squared disagreement. Their geometric mean, weighted by what
    each photo shares, is 1, so the overall colour stays; photos that share no point with another keep theirs.

    Args:
        light: linear, of each photo at each point.
        weights: how much the sight counts, 0 where a photo does not see the point.
    Returns: factors within [1 / MOST_GAIN, MOST_GAIN].
    """
    views = len(light)
    fine = (weights > 0) & (light.min(axis=2) > DARKEST) & (light.max(axis=2) < BRIGHTEST)
    shared = fine.sum(axis=0) >= 2
    if not shared.any():
        return np.ones((views, 3))
    base = np.where(fine, weights, 0)[:, shared].astype(np.float64)
    base /= base.max(axis=0, keepdims=True)
    logs = np.log(np.maximum(light[:, shared].astype(np.float64), DARKEST))
    gains, trust, noise = np.zeros((views, 3)), base, 1.0
    seen = float(fine.sum(axis=1).mean())
    for _ in range(ROUNDS):
        total = np.maximum(trust.sum(axis=0), 1e-12)
        middle = (trust[..., None] * logs).sum(axis=0) / total[:, None]
        right = -(trust[..., None] * (logs - middle)).sum(axis=1)
        left = np.diag(trust.sum(axis=1)) - (trust / total) @ trust.T
        pull = seen / PATCHES * (noise / LIKELY) ** 2
        gains = np.linalg.solve(left + pull * np.eye(views), right)
        off = _apart(logs + gains[:, None], trust)
        noise = max(_weighted_median(off[base > 0], base[base > 0]), LEAST_SPREAD / 2)
        trust = base / (1 + np.square(off / (2 * noise)))
    before, after = (
        _weighted_median(_apart(moved, base)[base > 0], base[base > 0]) for moved in (logs, logs + gains[:, None])
    )
    gains *= 1 - min(after / max(before, 1e-12), 1) ** 2
    share = base.sum(axis=1)
    groups = connected_components(base @ base.T > 0, directed=False)[1]
    for group in range(int(groups.max()) + 1):
        some = groups == group
        gains[some] -= np.average(gains[some], axis=0, weights=np.maximum(share[some], 1e-12))
    factors: Float[np.ndarray, "view 3"] = np.clip(np.exp(gains), 1 / MOST_GAIN, MOST_GAIN)
    return factors


def _apart(
    logs: Float[np.ndarray, "view point 3"], weights: Float[np.ndarray, "view point"]
) -> Float[np.ndarray, "view point"]:
    """How far each photo is from the weighted mean of them, root mean square over the channels."""
    total = np.maximum(weights.sum(axis=0), 1e-12)
    middle = (weights[..., None] * logs).sum(axis=0) / total[:, None]
    apart: Float[np.ndarray, "view point"] = np.sqrt(np.square(logs - middle).mean(axis=2))
    return apart


def _weighted_median(values: Float[np.ndarray, " value"], weights: Float[np.ndarray, " value"]) -> float:
    order = np.argsort(values)
    running = np.cumsum(weights[order])
    return float(values[order][np.searchsorted(running, running[-1] / 2)])


@dataclass(frozen=True)
class Shift:
    """What turns the model's light into that of the photos: light * gain + offset, linear."""

    gain: Float[np.ndarray, " 3"]
    offset: Float[np.ndarray, " 3"]

    def __call__(self, light: Float[np.ndarray, "point 3"]) -> Float[np.ndarray, "point 3"]:
        """Shifted light, not below 0."""
        moved: Float[np.ndarray, "point 3"] = np.maximum(light * self.gain + self.offset, 0).astype(light.dtype)
        return moved


NO_SHIFT = Shift(np.ones(3), np.zeros(3))


def model_shift(
    model: Float[np.ndarray, "point 3"], photos: Float[np.ndarray, "point 3"], weights: Float[np.ndarray, " point"]
) -> Shift:
    """Gain and offset of each channel that take the model's light to the photos', by robust least squares.

    The weighted means meet (but for points that do not agree, which count less). Where the model is plain the gain is
    the ratio of the means, and it stays within [1 / MODEL_GAIN, MODEL_GAIN].
    """
    if not (weights > 0).any():
        return NO_SHIFT
    seen = weights > 0
    x, y = model[seen].astype(np.float64), photos[seen].astype(np.float64)
    base = weights[seen].astype(np.float64)
    trust, gain, offset = base, np.ones(3), np.zeros(3)
    for _ in range(ROUNDS):
        share = trust[:, None] / trust.sum()
        x_mean, y_mean = (share * x).sum(axis=0), (share * y).sum(axis=0)
        ratio = np.clip(y_mean / np.maximum(x_mean, 1e-6), 1 / MODEL_GAIN, MODEL_GAIN)
        varied, together = (share * (x - x_mean) ** 2).sum(axis=0), (share * (x - x_mean) * (y - y_mean)).sum(axis=0)
        gain = np.clip((together + FLAT**2 * ratio) / (varied + FLAT**2), 1 / MODEL_GAIN, MODEL_GAIN)
        offset = y_mean - gain * x_mean
        off = np.sqrt(np.square(x * gain + offset - y).mean(axis=1))
        spread = max(2 * _weighted_median(off, base), 1e-4)
        trust = base / (1 + np.square(off / spread))
    return Shift(gain, offset)
