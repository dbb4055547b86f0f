"""Cameras that were found -> whether to believe them.

Structure from motion can be wrong without a sign of it: texture that repeats on opposite sides folds the ring of cameras onto itself, with
errors below a pixel. The masks took no part in it, so they can tell: a hull carved with wrong cameras does not fill them. That test
is blind where a wrong camera sees the same outline, as around a pot; for that there is the share of matches that the cameras explain:
of a folded ring, those of the pairs that were matched rightly are left over.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from jaxtyping import Float

from mvsam3d.errors import InvalidOption
from mvsam3d.geometry.hull import hull_agreement
from mvsam3d.types import Camera, Photo

Way = Literal["photo", "object"]  # whether the whole photo is looked at, or the object alone

HULL_CELLS = 96  # along an edge: cells then cost true cameras less than 0.05 of IoU


@dataclass(frozen=True)
class CameraGate:
    """What cameras must satisfy to be believed."""

    registered: float = 0.75
    """Least share of the photos that got a camera. A bad photo among eight may take one more with it that hung by it alone."""
    views: int = 3
    """Least number of photos that got one: outlines of two never disagree."""
    points: int = 20
    """Matched points by which a photo must hang together with the others to count as registered."""
    least_focal: float = 0.5
    """Focal length in longer sides of the photo: 0.5 sees 90 degrees."""
    most_focal: float = 3.0
    silhouette: float = 0.9
    """Least IoU of the hull's outline and the mask, in every view."""
    explained: float = 0.5
    """Least share of the matches, of all pairs that have some, that fit the cameras."""


@dataclass(frozen=True)
class Solution:
    """What structure from motion found, its views in no particular world."""

    way: Way
    cameras: Mapping[str, Camera]  # by the photo's name
    points: Mapping[str, int]  # in space, that each of these photos shows
    error: float  # median over the points of their mean distance from their matches, pixels
    distortion: float  # largest shift of a pixel at a mask's outline by the lens, pixels
    explained: float  # share of the verified matches between these photos that lie on each other's epipolar lines

    def without(self, name: str) -> Solution:
        """All but one view."""
        cameras = {view: camera for view, camera in self.cameras.items() if view != name}
        return replace(self, cameras=cameras, points={view: self.points[view] for view in cameras})

    def focal(self) -> float:
        """The largest focal length, in longer sides of its photo."""
        return max(float(c.intrinsics[0, 0]) / max(c.width, c.height) for c in self.cameras.values())


@dataclass(frozen=True)
class Verdict:
    """Whether cameras are believed; `reasons` says why not, and is empty if they are."""

    reasons: tuple[str, ...]
    silhouettes: Mapping[str, float]  # IoU of each view's mask and the hull's outline; empty without a hull

    def worst(self) -> tuple[str, float]:
        """The view with the least IoU."""
        return min(self.silhouettes.items(), key=lambda view: view[1])


def judged(solution: Solution, photos: Sequence[Photo], gate: CameraGate) -> Verdict:
    """All that speaks against a solution."""
    reasons = []
    found = [photo for photo in photos if photo.name in solution.cameras]
    if len(found) < gate.views or len(found) < gate.registered * len(photos):
        missing = ", ".join(photo.name for photo in photos if photo.name not in solution.cameras)
        reasons.append(
            f"{len(found)} of {len(photos)} photos hang together by {gate.points} points or more (not {missing})"
        )
    focal = solution.focal()
    if not gate.least_focal <= focal <= gate.most_focal:
        reasons.append(
            f"a focal length of {focal:.2f} times the longer side is none of a usual lens ({gate.least_focal:g} to {gate.most_focal:g})"
        )
    if solution.explained < gate.explained:
        reasons.append(
            f"the cameras explain {solution.explained:.0%} of the matches only: texture that repeats, perhaps"
        )
    silhouettes: dict[str, float] = {}
    if len(found) >= gate.views:
        try:
            silhouettes = agreement_by_name(solution.cameras, found)
        except InvalidOption as problem:
            reasons.append(f"the masks contradict the cameras: {problem}")
    poor = {name: iou for name, iou in silhouettes.items() if iou < gate.silhouette}
    if poor:
        name, iou = min(poor.items(), key=lambda view: view[1])
        reasons.append(
            f"the masks contradict the cameras in {len(poor)} of {len(found)} views, worst in {name}: "
            f"the outlines of all others leave {iou:.2f} of its mask (IoU, {gate.silhouette:g} is asked for)"
        )
    return Verdict(tuple(reasons), silhouettes)


def agreement_by_name(cameras: Mapping[str, Camera], photos: Sequence[Photo]) -> dict[str, float]:
    """IoU of each photo's mask and the outline of the hull of all. Raises: InvalidOption: there is no hull."""
    placed, masks = [cameras[photo.name] for photo in photos], [photo.mask for photo in photos]
    ious = hull_agreement(placed, masks, HULL_CELLS, margin=0.0)
    return {photo.name: float(iou) for photo, iou in zip(photos, ious, strict=True)}


def epipolar_distances(
    one: Camera, other: Camera, pixels: Float[np.ndarray, "match 2"], other_pixels: Float[np.ndarray, "match 2"]
) -> Float[np.ndarray, " match"]:
    """Pixels of each match from the line on which the other camera's pixel puts it, the mean of both photos."""
    relative = other.camera_from_world @ np.linalg.inv(one.camera_from_world)
    x, y, z = relative[:3, 3]
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    fundamental = np.linalg.inv(other.intrinsics).T @ cross @ relative[:3, :3] @ np.linalg.inv(one.intrinsics)
    a = np.concatenate([pixels, np.ones((len(pixels), 1))], axis=1)
    b = np.concatenate([other_pixels, np.ones((len(pixels), 1))], axis=1)
    lines, lines_back = a @ fundamental.T, b @ fundamental
    off = np.abs((b * lines).sum(axis=1))
    steep, steep_back = np.hypot(lines[:, 0], lines[:, 1]), np.hypot(lines_back[:, 0], lines_back[:, 1])
    return np.asarray((off / steep + off / steep_back) / 2)
