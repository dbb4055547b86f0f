"""How an answer is laid over the truth before it is judged: similarities by iterated closest points, from several rotations.

Nearest points are paired both ways: paired one way only, the better fit would be the smaller one. Each start begins with the middles
and sizes (root mean square distance from the middle) of both surfaces laid over each other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, assert_never

import numpy as np
from jaxtyping import Float
from scipy.spatial import cKDTree
from scipy.spatial.transform import Rotation

from mvsam3d.errors import InvalidOption
from mvsam3d.evaluation.solids import longest_side

Rule = Literal["none", "icp-4", "icp-24", "true pose"]
Points = Float[np.ndarray, "point 3"]
Matrix = Float[np.ndarray, "4 4"]

DENSE = 10_000  # points of each surface among which the nearest are looked for
TRIED, TRIED_STEPS = 400, 10  # points and steps with which every start is tried
KEPT = 3  # starts that are followed further, beside the first
FOLLOWED, FOLLOWED_STEPS = 1200, 40
FITTED, FITTED_STEPS = 4000, 30  # of the best
STILL = 1e-5  # of the truth's size: a step that moves the points less is the last
ALIKE = 1.05  # of several fits within 5 % of the best residual (as far as FOLLOWED points tell) the one that turns least is taken


@dataclass(frozen=True)
class Alignment:
    """A similarity, how well it fits, and how it was found."""

    truth_from_answer: Matrix
    residual: float  # mean distance between nearest points of both surfaces, both ways, in the truth's longest sides
    rule: Rule


def aligned(truth: Points, answer: Points, rule: Rule, known: Matrix | None = None) -> Alignment:
    """Lay an answer over the truth.

    Args:
        truth: points evenly spread over the true surface, in random order, +Z up.
        answer: likewise, in the answer's frame.
        rule: none: both frames are the same, or `known` tells the way between them. icp-4: from turns by 0, 90, 180, 270 degrees
            about +Z. icp-24: from all rotations of a cube. true pose: as `known` says.
        known: truth_from_answer by the true cameras.
    Raises: InvalidOption: the true pose is asked for and not known.
    """
    match rule:
        case "none":
            found = np.eye(4) if known is None else known
        case "true pose":
            if known is None:
                raise InvalidOption(
                    "the rule asks for the true pose, and the answer does not tell where it lies among the true cameras: give the "
                    "system the cameras, or align by icp-24"
                )
            found = known
        case "icp-4":
            found = similarity_icp(truth, answer, starts(4))
        case "icp-24":
            found = similarity_icp(truth, answer, starts(24))
        case _:
            assert_never(rule)
    return Alignment(found, residual(truth, answer, found) / longest_side(truth), rule)


def starts(count: Literal[1, 4, 24]) -> tuple[Float[np.ndarray, "3 3"], ...]:
    """Rotations to begin with, the identity first: turns about +Z, or all of a cube onto itself."""
    if count == 24:
        group = Rotation.create_group("O").as_matrix().round()
        return tuple(sorted(group, key=lambda r: -float(np.trace(r))))
    return tuple(Rotation.from_euler("z", 360 * i / count, degrees=True).as_matrix().round() for i in range(count))


def residual(truth: Points, answer: Points, truth_from_answer: Matrix) -> float:
    """Mean distance between nearest points, mean of both ways."""
    moved = _moved(truth_from_answer, answer)
    forth, _ = cKDTree(truth).query(moved[:FITTED])
    back, _ = cKDTree(moved).query(truth[:FITTED])
    return float(forth.mean() + back.mean()) / 2


def similarity_icp(truth: Points, answer: Points, rotations: Sequence[Float[np.ndarray, "3 3"]]) -> Matrix:
    """truth_from_answer that brings nearest points closest in squares, from the best of several rotations."""
    centre, size = _spread(truth)
    answer_centre, answer_size = _spread(answer)
    fit = _Fit((truth[:DENSE] - centre) / size, (answer[:DENSE] - answer_centre) / answer_size)
    tried = [fit.followed(rotation_matrix(rotation), TRIED, TRIED_STEPS) for rotation in rotations]
    order = sorted(range(len(tried)), key=lambda i: tried[i][0])[:KEPT]
    ends = [fit.followed(tried[i][1], FOLLOWED, FOLLOWED_STEPS) for i in sorted({0, *order})]
    best = min(error for error, _ in ends)
    alike = [matrix for error, matrix in ends if error <= ALIKE * best]
    least = max(alike, key=lambda matrix: float(np.trace(matrix[:3, :3]) / np.cbrt(np.linalg.det(matrix[:3, :3]))))
    _, found = fit.followed(least, FITTED, FITTED_STEPS)
    back: Matrix = _placed(centre, size) @ found @ np.linalg.inv(_placed(answer_centre, answer_size))
    return back


def rotation_matrix(rotation: Float[np.ndarray, "3 3"]) -> Matrix:
    """4 x 4."""
    matrix = np.eye(4)
    matrix[:3, :3] = rotation
    return matrix


def _spread(points: Points) -> tuple[Float[np.ndarray, " 3"], float]:
    """Middle, and root mean square distance from it."""
    centre = points.mean(axis=0)
    return centre, max(float(np.sqrt(np.square(points - centre).sum(axis=1).mean())), 1e-12)


def _placed(centre: Float[np.ndarray, " 3"], size: float) -> Matrix:
    matrix = np.diag([size, size, size, 1.0])
    matrix[:3, 3] = centre
    return matrix


def _moved(target_from_source: Matrix, points: Points) -> Points:
    moved: Points = points @ target_from_source[:3, :3].T + target_from_source[:3, 3]
    return moved


class _Fit:
    """Two surfaces, each of size 1 around its middle. A similarity keeps what is nearest, so each tree is built once."""

    def __init__(self, truth: Points, answer: Points) -> None:
        self._truth, self._answer = truth, answer
        self._trees = cKDTree(truth), cKDTree(answer)

    def followed(self, matrix: Matrix, count: int, steps: int) -> tuple[float, Matrix]:
        """Iterate closest points from a similarity; the mean distance before the last step, and the similarity."""
        truth, answer = self._truth[:count], self._answer[:count]
        error = np.inf
        for _ in range(steps):
            moved = _moved(matrix, answer)
            forth, there = self._trees[0].query(moved)
            back, here = self._trees[1].query(_moved(np.linalg.inv(matrix), truth))
            error = float(forth.mean() + back.mean() * np.cbrt(np.linalg.det(matrix[:3, :3]))) / 2
            sources = np.concatenate([answer, self._answer[here]])
            targets = np.concatenate([self._truth[there], truth])
            before, matrix = moved, best_similarity(targets, sources)
            if float(np.abs(_moved(matrix, answer) - before).max()) < STILL:
                break
        return error, matrix


def best_similarity(target: Points, source: Points) -> Matrix:
    """target_from_source with the least sum of squares between points in pairs (Umeyama 1991)."""
    a, b = target.mean(axis=0), source.mean(axis=0)
    u, d, vt = np.linalg.svd((target - a).T @ (source - b))
    sign = np.array([1.0, 1.0, np.sign(np.linalg.det(u @ vt))])
    rotation = u @ np.diag(sign) @ vt
    spread = float(np.square(source - b).sum())
    scale = float((d * sign).sum()) / spread if spread > 0 else 1.0
    matrix = rotation_matrix(scale * rotation)
    matrix[:3, 3] = a - scale * rotation @ b
    return matrix
