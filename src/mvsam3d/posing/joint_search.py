"""Poses of all photos together: what one photo shows at a place of the surface, the others must show there too.

Laid over each photo alone, a mesh that looks alike from several sides leaves the heading open. Of the poses that fit each photo well, those
are taken under which the photos' colours agree where they see the same places; the mesh need only be about right for that.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import cv2
import numpy as np
from jaxtyping import Float, Int
from scipy.cluster.vq import kmeans2

from mvsam3d.posing.alignment import rotation_of
from mvsam3d.posing.search import FoundPose, Looker, PoseSearch, Tried
from mvsam3d.types import Camera, Mesh, Photo

Box = tuple[int, int, int, int]
Rotations = Float[np.ndarray, "pose 3 3"]
# (i, j), i < j -> what poses a of view i and b of view j say together
Pairs = Mapping[tuple[int, int], Float[np.ndarray, "a b"]]
FEWEST = 4  # photos: fewer can agree by chance
MOST_SWEEPS = 20


@dataclass(frozen=True)
class JointSearch:
    """How photos are compared on the surface."""

    candidates: int = 32
    """Poses of each photo, the best fits that are not alike."""
    apart: float = 10.0
    """Degrees between them."""
    patches: int = 150
    """Parts of the surface. What one of them shows counts once, however many pixels it has: neighbours are not independent."""
    colours: int = 14
    """Kinds of colours, by their means in CIELAB."""
    alike: float = 10.0
    """Standard deviation of the colour of one place between photos, in CIELAB."""
    wrong: float = 0.1
    """Chance that two photos of one place show something unrelated, as light, dirt or an error of the shape makes them."""
    seen: float = 4.0
    """Pixels of a patch from which on it counts fully."""
    worth: float = 0.01
    """What a unit of log likelihood is worth beside a pose's own fit, see `PoseSearch`."""
    starts: int = 6
    """Poses of each photo from which the others are chosen; of all outcomes the best is taken."""


@dataclass(frozen=True)
class FoundPoses:
    """A pose for each photo."""

    alone: tuple[FoundPose, ...]
    """The best of each photo by itself, as of `searched_pose`."""
    together: tuple[FoundPose, ...] | None
    """Chosen together; None of fewer photos than FEWEST."""


def searched_together(
    mesh: Mesh,
    photos: Sequence[Photo],
    predicted: Sequence[Camera],
    boxes: Sequence[Box],
    config: PoseSearch,
    joint: JointSearch | None,
    progress: Callable[[int, int], None] | None = None,
) -> FoundPoses:
    """The pose of the mesh in each photo; arguments as of `searched_pose`, one of each per photo. `joint` None: each alone."""
    lookers = [Looker(mesh, *one, config) for one in zip(photos, predicted, boxes, strict=True)]
    tried, alone = [], []
    for i, looker in enumerate(lookers):
        tried.append(looker.all_tried())
        alone.append(looker.best_of(tried[-1]))
        if progress is not None:
            progress(i + 1, len(lookers))
    if joint is None or len(photos) < FEWEST:
        return FoundPoses(tuple(alone), None)
    poses, fits = zip(*(_candidates(some, joint) for some in tried), strict=True)
    chosen = best_choice(fits, agreements(colours_shown(lookers, poses, joint), joint), joint)
    together = [
        looker.best_of([(float(fit[best]), posed[best])], predicted_fit=one.predicted_fit)
        for looker, posed, fit, best, one in zip(lookers, poses, fits, chosen, alone, strict=True)
    ]
    return FoundPoses(tuple(alone), tuple(together))


def _candidates(
    tried: Sequence[Tried], joint: JointSearch
) -> tuple[Float[np.ndarray, "pose 4 4"], Float[np.ndarray, " pose"]]:
    """Of the poses that were tried those that fit best and are not alike, the best first, and their fits."""
    fits = np.array([fit for fit, _ in tried])
    turns = [rotation_of(pose) for _, pose in tried]
    alike = 1 + 2 * math.cos(math.radians(joint.apart))  # the trace of a turn by that angle
    kept: list[int] = []
    for i in np.argsort(-fits, kind="stable"):
        if all(np.sum(turns[i] * turns[j]) < alike for j in kept):
            kept.append(int(i))
        if len(kept) == joint.candidates:
            break
    return np.stack([tried[i][1] for i in kept]), fits[kept]


@dataclass(frozen=True)
class Shown:
    """What a photo shows of each patch in each pose, by kind of colour."""

    shares: Float[np.ndarray, "pose patch colour"]  # of the patch's pixels, they add up to 1
    weight: Float[np.ndarray, "pose patch"]  # of what was seen of it, at most 1
    means: Float[np.ndarray, "colour 3"]  # CIELAB, the same for all photos
    often: Float[np.ndarray, " colour"]  # the kind's share of all photos together


def colours_shown(
    lookers: Sequence[Looker], poses: Sequence[Float[np.ndarray, "_ 4 4"]], joint: JointSearch
) -> tuple[Shown, ...]:
    """For each photo."""
    patch = _patches(lookers[0].mesh, joint.patches)
    colours = [cv2.cvtColor(looker.rgb, cv2.COLOR_RGB2LAB) for looker in lookers]
    every = np.concatenate([lab[looker.mask] for lab, looker in zip(colours, lookers, strict=True)])
    means, _ = kmeans2(every, min(joint.colours, len(every)), minit="++", seed=np.random.default_rng(0))
    kinds = [np.square(lab[..., None, :] - means).sum(-1).argmin(-1) for lab in colours]
    counts = np.bincount(
        np.concatenate([kind[looker.mask] for kind, looker in zip(kinds, lookers, strict=True)]), minlength=len(means)
    )
    often = (counts + 1) / (counts + 1).sum()
    found = []
    for looker, posed, kind in zip(lookers, poses, kinds, strict=True):
        seen = np.zeros((len(posed), patch.max() + 1, len(means)))
        for i, pose in enumerate(posed):
            faces = looker.faces(pose)
            both = (faces >= 0) & looker.mask
            np.add.at(seen[i], (patch[faces[both]], kind[both]), 1.0)
        pixels = seen.sum(-1)
        shares = seen / np.maximum(pixels, 1.0)[..., None]
        found.append(Shown(shares, np.minimum(pixels / joint.seen, 1.0), means, often))
    return tuple(found)


def _patches(mesh: Mesh, count: int) -> Int[np.ndarray, " face"]:
    """Faces of one patch lie together and look the same way."""
    corners = mesh.vertices[mesh.faces].astype(np.float64)
    across = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    normal = across / np.maximum(np.linalg.norm(across, axis=1, keepdims=True), 1e-12)
    rows = np.concatenate([corners.mean(1), 0.15 * normal], 1)
    _, patch = kmeans2(rows, min(count, len(rows)), iter=8, minit="++", seed=np.random.default_rng(0))
    return np.asarray(patch)


def agreements(shown: Sequence[Shown], joint: JointSearch) -> Pairs:
    """For each two photos and each two of their poses: log likelihood of what they show of the same patches, against unrelated photos.

    Rare colours that meet say much, common ones little; colours that do not go together speak against the poses.
    """
    says = _log_ratio(shown[0].means, shown[0].often, joint)
    spread = [(one.shares * one.weight[..., None]).reshape(len(one.shares), -1) for one in shown]
    met = [(one.shares * one.weight[..., None] @ says).reshape(len(one.shares), -1) for one in shown]
    return {(i, j): met[i] @ spread[j].T for i, j in combinations(range(len(shown)), 2)}


def _log_ratio(
    means: Float[np.ndarray, "colour 3"], often: Float[np.ndarray, " colour"], joint: JointSearch
) -> Float[np.ndarray, "colour colour"]:
    """log P(a and b at one place) / P(a) P(b): colours of one place differ by a normal error, or are unrelated."""
    apart = np.square(means[:, None] - means[None]).sum(-1)
    near = np.exp(-apart / (2 * joint.alike**2))
    usual = near @ often
    ratio: Float[np.ndarray, "colour colour"] = np.log(
        (1 - joint.wrong) * near / np.sqrt(usual[:, None] * usual[None]) + joint.wrong
    )
    return ratio


def best_choice(fits: Sequence[Float[np.ndarray, " _"]], pairs: Pairs, joint: JointSearch) -> tuple[int, ...]:
    """One pose for each photo: own fits and agreements add up to the most that is found.

    From several poses of each photo the others are chosen one by one, the clearest first, then each anew until none changes.

    Args:
        fits: of each photo's poses.
        pairs: of `agreements`; each photo's with all others have together the weight `joint.worth`.
    """
    count = len(fits)
    weight = joint.worth / max(count - 1, 1)
    tables = {(i, j): weight * pair for (i, j), pair in pairs.items()}
    tables |= {(j, i): table.T for (i, j), table in tables.items()}

    def with_others(i: int, chosen: Mapping[int, int]) -> Float[np.ndarray, " _"]:
        said = [tables[i, j][:, a] for j, a in chosen.items() if j != i]
        total: Float[np.ndarray, " _"] = fits[i] + sum(said, np.zeros(len(fits[i])))
        return total

    def worth_of(chosen: Mapping[int, int]) -> float:
        own = sum(float(fits[i][a]) for i, a in chosen.items())
        return own + sum(float(tables[i, j][chosen[i], chosen[j]]) for i, j in combinations(range(count), 2))

    outcomes = []
    for first in range(count):
        for start in range(min(joint.starts, len(fits[first]))):
            chosen = {first: start}
            while len(chosen) < count:
                open_ones = {i: with_others(i, chosen) for i in range(count) if i not in chosen}
                clearest = max(open_ones, key=lambda i: _lead(open_ones[i]))
                chosen[clearest] = int(open_ones[clearest].argmax())
            for _ in range(MOST_SWEEPS):
                before = dict(chosen)
                for i in range(count):
                    chosen[i] = int(with_others(i, chosen).argmax())
                if chosen == before:
                    break
            outcomes.append((worth_of(chosen), tuple(chosen[i] for i in range(count))))
    return max(outcomes)[1]


def _lead(values: Float[np.ndarray, " _"]) -> float:
    """Of the best over the next."""
    if len(values) < 2:
        return math.inf
    next_best, best = np.partition(values, -2)[-2:]
    return float(best - next_best)
