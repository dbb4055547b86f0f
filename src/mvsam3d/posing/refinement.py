"""A pose brought nearer to measured points: robust least squares from the nearest points, with masks if there are any.

Each round pairs measured points with the nearest of the mesh, points of the mesh that the cameras see with the nearest measured
ones, and pixels that the mesh covers or leaves bare against the masks, and takes one Gauss-Newton step. Pairs that are far apart
count less and less as the rounds go on. The result is taken only if it is better on points that had no part in it.
Sources: iterated closest points (Besl and McKay 1992), across the surface (Chen and Medioni 1991), with Geman and McClure's weights,
wide first (graduated non-convexity, Blake and Zisserman 1987).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float
from scipy.spatial import cKDTree
from scipy.spatial.transform import Rotation

from mvsam3d.errors import InvalidOption
from mvsam3d.generation.pose import camera_from_object, pose_from_similarity
from mvsam3d.posing.fit_terms import (
    Drawn,
    Pulls,
    Window,
    normal_equations,
    outline_pulls,
    robust_weights,
    surface_pulls,
)
from mvsam3d.rendering.meshes import face_normals
from mvsam3d.types import Camera, Mesh, Pose

LEAST_POINTS = 50
DAMPING = 1e-4  # keeps ways in which nothing pulls, as turns of a round object, where they are
WINDOW_MARGIN = 1.4  # side of the square around a mask, in sides of the mask's box


@dataclass(frozen=True)
class PoseRefinement:
    """How a pose is refined. Lengths are shares of the object's longest side."""

    iterations: int = 300
    """Most rounds; it settles after 40 to 50."""
    lr: float = 0.01
    """Longest step of a round: 2 lr radians of turn, 5 lr of shift, 10 lr of log scale: about the steps of the public optimiser,
    whose rates are lr for the quaternion, 5 lr and 10 lr."""
    optimise_scale: bool = False
    """Move the size too."""
    points: int = 3000
    """Measured points that are paired in each round, and as many of the mesh where no camera says what is seen."""
    samples: int = 20_000
    """Points on the mesh among which the nearest is looked for."""
    held_out: float = 0.2
    """Share of the measured points that only judge the result."""
    first_sigma: float = 0.2
    """Distance at which a pair's weight falls to a quarter, in the first round ..."""
    last_sigma: float = 0.02
    """... and in the last ones, and by which the fit is scored."""
    rounds_to_last: int = 40
    """Rounds over which it shrinks; half of all, if that is less."""
    settled: float = 2e-4
    """A round that moves less (shares of the size, radians) ends the search."""
    silhouette: float = 1.0
    """Weight of the masks beside the points; 0 leaves them to the judgement."""
    side: int = 128
    """Pixels of the squares in which the mesh is drawn over each mask."""
    least_gain: float = 0.01
    """The distance must fall by more than this share to be taken."""
    least_agreement: float = -0.01
    """Change of the silhouettes' mean overlap below which the result is not taken."""
    truncation: float = 0.1
    """Longer distances are judged as this one."""


@dataclass(frozen=True)
class MaskView:
    """A camera, its world the reference camera's frame (`object_points.seen_from`), and the object's mask in its pixels."""

    camera: Camera
    mask: Bool[np.ndarray, "h w"]


@dataclass(frozen=True)
class RefinedPose:
    """The pose to use, and how it came about. Distances are in the unit of the pose."""

    pose: Pose  # the refined one if accepted, else the one given
    initial: Pose
    accepted: bool
    reason: str  # one sentence, for people
    distance_before: float  # mean of both directions, judged on held-out points
    distance_after: float  # of the refined pose, accepted or not
    agreement_before: float | None  # mean overlap of the silhouettes; None without masks
    agreement_after: float | None
    loss_history: Float[np.ndarray, " round"]  # what is minimised, no unit
    distance_history: Float[np.ndarray, " round"]  # mean distance of the measured points to the mesh
    scale_history: Float[np.ndarray, " round"]
    best_round: int  # the one whose pose was kept


def refine_pose(
    pose: Pose,
    mesh: Mesh,
    points_camera: Float[np.ndarray, "point 3"],
    generator: torch.Generator,
    config: PoseRefinement | None = None,
    *,
    views: Sequence[MaskView] = (),
) -> RefinedPose:
    """The pose of a mesh that fits measured points of its surface.

    Args:
        pose: where to begin: the object in the reference camera (its three scales alike).
        mesh: in the object frame.
        points_camera: on the object, in the reference camera's frame (OpenCV), in the unit of the pose; they may miss sides.
        generator: draws which points are used.
        config: how.
        views: what says which side of the mesh can have been measured, and its outline; without them every side counts, robustly.
    Raises: InvalidOption: a setting out of range, too few points, or a mesh without triangles.
    """
    config = config or PoseRefinement()
    _check(config, mesh, points_camera)
    start = camera_from_object(pose).double().numpy()
    size = float(np.ptp(mesh.vertices, axis=0).max() * np.cbrt(np.linalg.det(start[:3, :3])))
    fit = _Fit(mesh, points_camera / size, _windows(views, size, config), generator, config)
    begin = _scaled(start, 1 / size)
    found = _searched(fit, begin, config)
    judged = [fit.judged(placed) for placed in (begin, found.placed)]
    accepted, reason = _verdict(judged[0], judged[1], config)
    refined = pose_from_similarity(torch.from_numpy(_scaled(found.placed, size)))
    refined = Pose(*(value.to(pose.rotation.dtype) for value in (refined.rotation, refined.translation, refined.scale)))
    loss, distance, scale = found.history.T
    return RefinedPose(
        pose=refined if accepted else pose,
        initial=pose,
        accepted=accepted,
        reason=reason,
        distance_before=judged[0][0] * size,
        distance_after=judged[1][0] * size,
        agreement_before=judged[0][1],
        agreement_after=judged[1][1],
        loss_history=loss,
        distance_history=distance * size,
        scale_history=scale * size,
        best_round=found.round,
    )


def _check(config: PoseRefinement, mesh: Mesh, points: Float[np.ndarray, "point 3"]) -> None:
    if config.iterations < 1 or config.lr <= 0:
        raise InvalidOption(
            f"{config.iterations} iterations at a rate of {config.lr} move nothing: give more than 0 of both"
        )
    if not 0 < config.held_out < 1 or not 0 < config.last_sigma <= config.first_sigma:
        raise InvalidOption("held_out must lie between 0 and 1, last_sigma between 0 and first_sigma")
    if len(points) < LEAST_POINTS or not np.isfinite(points).all():
        raise InvalidOption(
            f"a pose is refined against at least {LEAST_POINTS} finite points of the object, and there are {len(points)}, "
            f"{int((~np.isfinite(points).all(axis=1)).sum())} of them not finite: use more views, or shrink the masks less"
        )
    if len(mesh.faces) == 0:
        raise InvalidOption("the mesh has no triangles: there is nothing to lay onto the points")


def _scaled(target_from_source: Float[np.ndarray, "4 4"], factor: float) -> Float[np.ndarray, "4 4"]:
    """The transform to a target frame in another unit."""
    out = target_from_source.copy()
    out[:3] *= factor
    return out


def _windows(views: Sequence[MaskView], size: float, config: PoseRefinement) -> list[Window]:
    def unit(camera: Camera) -> Float[np.ndarray, "4 4"]:
        rigid = camera.camera_from_world.astype(np.float64).copy()
        rigid[:3, 3] /= size
        return rigid

    seen = [view for view in views if view.mask.any()]
    return [Window(view.camera.intrinsics, unit(view.camera), view.mask, config.side, WINDOW_MARGIN) for view in seen]


def _moved(
    placed: Float[np.ndarray, "4 4"], middle_object: Float[np.ndarray, " 3"], step: Float[np.ndarray, " 7"]
) -> Float[np.ndarray, "4 4"]:
    """The pose after a motion about the object's middle: turn 3, shift 3, log scale."""
    middle = placed[:3, :3] @ middle_object + placed[:3, 3]
    out = placed.copy()
    out[:3, :3] = np.exp(step[6]) * Rotation.from_rotvec(step[:3]).as_matrix() @ placed[:3, :3]
    out[:3, 3] = middle + step[3:6] - out[:3, :3] @ middle_object
    return out


@dataclass(frozen=True)
class _Round:
    """What one look at a pose gives."""

    step: Float[np.ndarray, " 7"]
    loss: float
    distance: float


class _Fit:
    """A mesh, measured points and masks; lengths in shares of the object's size."""

    def __init__(
        self,
        mesh: Mesh,
        points: Float[np.ndarray, "point 3"],
        windows: list[Window],
        generator: torch.Generator,
        config: PoseRefinement,
    ) -> None:
        self.config, self.windows = config, windows
        self.vertices, self.faces = mesh.vertices.astype(np.float64), mesh.faces
        self.middle = (self.vertices.min(axis=0) + self.vertices.max(axis=0)) / 2
        areas = face_normals(self.vertices, self.faces)
        lengths = np.linalg.norm(areas, axis=1)
        self.normals = areas / np.maximum(lengths, 1e-300)[:, None]
        self.on_mesh, self.on_face = _surface_samples(self.vertices, self.faces, lengths, config.samples, generator)
        self.mesh_tree = cKDTree(self.on_mesh)
        order = torch.randperm(len(points), generator=generator).numpy()
        judges = max(1, round(config.held_out * len(points)))
        self.judges, fitted = points[order[:judges]], points[order[judges:]]
        self.paired = fitted[: config.points]
        self.tree, self.judge_tree = cKDTree(fitted), cKDTree(self.judges)

    def to_mesh(
        self, placed: Float[np.ndarray, "4 4"], points: Float[np.ndarray, "point 3"]
    ) -> tuple[Float[np.ndarray, " point"], np.ndarray]:
        """Distance of each point to the mesh's samples, and which of them is nearest."""
        scaled, shift = placed[:3, :3], placed[:3, 3]
        distance, nearest = self.mesh_tree.query((points - shift) @ np.linalg.inv(scaled).T)
        return distance * np.cbrt(np.linalg.det(scaled)), nearest

    def drawn(self, placed: Float[np.ndarray, "4 4"]) -> list[Drawn]:
        """The mesh in all views."""
        vertices = self.vertices @ placed[:3, :3].T + placed[:3, 3]
        return [window.drawn(vertices, self.faces) for window in self.windows]

    def seen(
        self, placed: Float[np.ndarray, "4 4"], pictures: list[Drawn]
    ) -> tuple[Float[np.ndarray, "point 3"], np.ndarray]:
        """Points of the mesh that can have been measured, in the camera's frame, and their faces: about `config.points` of them."""
        if not pictures:
            every = max(1, len(self.on_mesh) // self.config.points)
            return self.on_mesh[::every] @ placed[:3, :3].T + placed[:3, 3], self.on_face[::every]
        points = np.concatenate([picture.points for picture in pictures])
        faces = np.concatenate([picture.faces for picture in pictures])
        every = max(1, len(points) // self.config.points)
        return points[::every], faces[::every]

    def look(self, placed: Float[np.ndarray, "4 4"], sigma: float) -> _Round:
        """The step from a pose, and how good the pose is."""
        config, turn = self.config, placed[:3, :3] / np.cbrt(np.linalg.det(placed[:3, :3]))
        middle = placed[:3, :3] @ self.middle + placed[:3, 3]
        distance, nearest = self.to_mesh(placed, self.paired)
        model = self.on_mesh[nearest] @ placed[:3, :3].T + placed[:3, 3]
        terms = [
            surface_pulls(model - middle, self.normals[self.on_face[nearest]] @ turn.T, model - self.paired, sigma)
        ]
        loss = _loss(model - self.paired, config.last_sigma)
        pictures = self.drawn(placed)
        points, faces = self.seen(placed, pictures)
        if len(points):
            residual = points - self.tree.data[self.tree.query(points)[1]]
            terms.append(surface_pulls(points - middle, self.normals[faces] @ turn.T, residual, sigma))
            loss += _loss(residual, config.last_sigma)
        if config.silhouette > 0:
            for window, picture in zip(self.windows, pictures, strict=True):
                terms.append(self._outline(window, picture, middle, sigma))
            loss += config.silhouette * (1 - self._agreement(pictures))
        return _Round(self._step(terms), loss, float(distance.mean()))

    def _outline(self, window: Window, picture: Drawn, middle: Float[np.ndarray, " 3"], sigma: float) -> Pulls:
        points, wanted, rays = window.misses(picture)
        pixels = max(1, round(window.mask.sum() * len(self.windows) / self.config.silhouette))
        return outline_pulls(points - middle, rays, points - wanted, sigma, pixels)

    def _step(self, terms: list[Pulls]) -> Float[np.ndarray, " 7"]:
        """One Gauss-Newton step, no longer than `config.lr` allows."""
        matrix, right = DAMPING * np.eye(7), np.zeros(7)
        for term in terms:
            own_matrix, own_right = normal_equations(term)
            matrix, right = matrix + own_matrix, right + own_right
        free = 7 if self.config.optimise_scale else 6
        step = np.zeros(7)
        step[:free] = -np.linalg.solve(matrix[:free, :free], right[:free])
        for part, most in ((slice(0, 3), 2), (slice(3, 6), 5), (slice(6, 7), 10)):
            step[part] *= min(1.0, most * self.config.lr / max(float(np.linalg.norm(step[part])), 1e-12))
        return step

    def _agreement(self, pictures: list[Drawn]) -> float:
        pairs = zip(self.windows, pictures, strict=True)
        return float(np.mean([window.agreement(picture) for window, picture in pairs])) if pictures else 1.0

    def judged(self, placed: Float[np.ndarray, "4 4"]) -> tuple[float, float | None]:
        """Mean truncated distance of both directions on held-out points, and the mean overlap of the silhouettes."""
        pictures = self.drawn(placed)
        points, _ = self.seen(placed, pictures)
        there = np.minimum(self.to_mesh(placed, self.judges)[0], self.config.truncation).mean()
        back = np.minimum(self.judge_tree.query(points)[0], self.config.truncation).mean() if len(points) else np.inf
        return float(there + back) / 2, self._agreement(pictures) if pictures else None


@dataclass(frozen=True)
class _Found:
    """The best pose of all rounds, its round, and of each round loss, distance and scale."""

    placed: Float[np.ndarray, "4 4"]
    round: int
    history: Float[np.ndarray, "round 3"]


def _searched(fit: _Fit, placed: Float[np.ndarray, "4 4"], config: PoseRefinement) -> _Found:
    """Rounds until the pose settles or all are spent."""
    shrinking = max(1, min(config.rounds_to_last, config.iterations // 2))
    ratio = (config.last_sigma / config.first_sigma) ** (1 / shrinking)
    poses, history = [], []
    for number in range(config.iterations):
        look = fit.look(placed, max(config.last_sigma, config.first_sigma * ratio**number))
        poses.append(placed)
        history.append((look.loss, look.distance, float(np.cbrt(np.linalg.det(placed[:3, :3])))))
        if number >= shrinking and float(np.abs(look.step).max()) < config.settled:
            break
        placed = _moved(placed, fit.middle, look.step)
    best = int(np.argmin([loss for loss, _, _ in history]))
    return _Found(poses[best], best, np.array(history))


def _loss(residual: Float[np.ndarray, "row 3"], sigma: float) -> float:
    """Mean of Geman and McClure's r² / (r² + sigma²), in [0, 1]."""
    return float(np.mean(1 - np.sqrt(robust_weights(residual, sigma))))


def _verdict(
    before: tuple[float, float | None], after: tuple[float, float | None], config: PoseRefinement
) -> tuple[bool, str]:
    gain = 1 - after[0] / max(before[0], 1e-12)
    if gain <= config.least_gain:
        return False, f"the distance of held-out points fell by {gain:.1%} only: the pose given is kept"
    if before[1] is not None and after[1] is not None and after[1] - before[1] < config.least_agreement:
        return False, f"the silhouettes' overlap fell from {before[1]:.3f} to {after[1]:.3f}: the pose given is kept"
    return True, f"the distance of held-out points fell by {gain:.0%}"


def _surface_samples(
    vertices: Float[np.ndarray, "vertex 3"],
    faces: np.ndarray,
    areas: Float[np.ndarray, " face"],
    count: int,
    generator: torch.Generator,
) -> tuple[Float[np.ndarray, "sample 3"], np.ndarray]:
    """Points spread over the surface evenly by area, and their faces."""
    rng = torch.rand(count, 3, generator=generator, dtype=torch.float64).numpy()
    edges = np.cumsum(areas)
    chosen = np.minimum(np.searchsorted(edges, (np.arange(count) + rng[:, 0]) / count * edges[-1]), len(faces) - 1)
    root, along = np.sqrt(rng[:, 1:2]), rng[:, 2:3]
    a, b, c = (vertices[faces[chosen, i]] for i in range(3))
    return (1 - root) * a + root * (1 - along) * b + root * along * c, chosen
