"""A pose found by looking: the finished mesh is drawn from all around, and the pose whose picture fits a photo best is taken.

Pose latents tell a small model's place and size well and its heading badly; a mesh with colours tells more. Source: analysis by
synthesis, as render-and-compare in pose estimation. A predicted pose is kept unless another fits better.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int32
from PIL import Image

from mvsam3d.rendering.meshes import rasterise, surface_colours
from mvsam3d.types import Camera, Mesh, Photo

FITTINGS = 3  # times that size and place are adjusted to the mask's box
LONGEST_WAY = 4  # turns of one size from a pose to a better one


@dataclass(frozen=True)
class PoseSearch:
    """Where to look."""

    side: int = 48
    """Pixels of the square crops that are compared."""
    azimuths: int = 24
    elevations: tuple[float, ...] = (-15.0, 0.0, 15.0, 30.0, 45.0, 60.0, 75.0)
    """Degrees above the horizon, for a camera held upright."""
    colour: float = 0.5
    """Weight of the mean difference of colours, in [0, 1], beside the overlap of the silhouettes."""
    best: int = 4
    """Poses that are looked at more closely."""
    steps: tuple[float, ...] = (7.0, 3.5, 1.75)
    """Degrees of the closer looks."""


@dataclass(frozen=True)
class FoundPose:
    """A pose and how well it fits: overlap of silhouettes minus weighted difference of colours, at most 1."""

    camera_from_object: Float[np.ndarray, "4 4"]
    fit: float
    predicted_fit: float


def searched_pose(
    mesh: Mesh, photo: Photo, predicted: Camera, box: tuple[int, int, int, int], config: PoseSearch
) -> FoundPose:
    """The best pose of the mesh in a photo.

    Args:
        mesh: with colours.
        photo: with its mask.
        predicted: the photo's camera, with the object frame as its world (similarity); its distance and lens are kept.
        box: square around the object in the photo: x1, y1, x2, y2.
        config: where to look.
    """
    looker = Looker(mesh, photo, predicted, box, config)
    return looker.best_of(looker.all_tried())


Tried = tuple[float, Float[np.ndarray, "4 4"]]  # fit, camera_from_object


class Looker:
    """One photo in small, and the mesh to lay over it; arguments as of `searched_pose`."""

    def __init__(
        self, mesh: Mesh, photo: Photo, camera: Camera, box: tuple[int, int, int, int], config: PoseSearch
    ) -> None:
        x1, y1, x2, y2 = box
        size = (config.side, config.side)
        self.config, self.mesh = config, mesh
        self.rgb = np.asarray(Image.fromarray(photo.rgb).crop(box).resize(size, Image.Resampling.BOX), np.float32) / 255
        mask = Image.fromarray(photo.mask.astype(np.uint8) * 255).crop(box).resize(size, Image.Resampling.BOX)
        self.mask: Bool[np.ndarray, "h w"] = np.asarray(mask) > 127
        zoom = np.diag([config.side / (x2 - x1), config.side / (y2 - y1), 1.0])
        self.intrinsics = zoom @ np.array([[1, 0, -x1], [0, 1, -y1], [0, 0, 1]]) @ camera.intrinsics
        rows, columns = np.nonzero(self.mask)
        self.low, self.high = np.array([columns.min(), rows.min()]), np.array([columns.max(), rows.max()]) + 1.0
        self.predicted = camera.camera_from_world
        self.centre = (mesh.vertices.min(0) + mesh.vertices.max(0)) / 2

    def all_tried(self) -> list[Tried]:
        """The predicted pose, and those all around."""
        poses = [self.predicted, *(self.placed(rotation) for rotation in all_around(self.config))]
        return [(self.fit(pose), pose) for pose in poses]

    def best_of(self, tried: Sequence[Tried], predicted_fit: float | None = None) -> FoundPose:
        """The best after a closer look at the best ones; the predicted pose's fit is that of the first one, if it is not given."""
        candidates = sorted(tried, key=lambda c: -c[0])[: self.config.best]
        for step in self.config.steps:
            candidates = [self.closer(fit, posed, math.radians(step)) for fit, posed in candidates]
        fit, posed = max(candidates, key=lambda c: c[0])
        return FoundPose(posed, fit, tried[0][0] if predicted_fit is None else predicted_fit)

    def placed(self, rotation: Float[np.ndarray, "3 3"]) -> Float[np.ndarray, "4 4"]:
        """A turn about the mask's direction, as far away as predicted, as large and where the mask's box says."""
        out = self.predicted.copy()
        size = np.cbrt(np.linalg.det(self.predicted[:3, :3]))
        ray = np.linalg.solve(self.intrinsics, [*((self.low + self.high) / 2), 1.0])
        turned = _turn_to(ray) @ rotation
        distance = np.linalg.norm(self.predicted[:3, :3] @ self.centre + self.predicted[:3, 3])
        out[:3, :3] = size * turned
        out[:3, 3] = distance * ray / np.linalg.norm(ray) - out[:3, :3] @ self.centre
        return self._fitted(out)

    def _fitted(self, posed: Float[np.ndarray, "4 4"]) -> Float[np.ndarray, "4 4"]:
        """Size and place moved until the box of the drawn mesh is the mask's, the distance of its centre kept."""
        out = posed.copy()
        for _ in range(FITTINGS):
            points = self.mesh.vertices @ out[:3, :3].T + out[:3, 3]
            depth = np.maximum(points[:, 2:], 1e-6)
            pixels = (points @ self.intrinsics.T)[:, :2] / depth
            low, high = pixels.min(0), pixels.max(0)
            centre = out[:3, :3] @ self.centre + out[:3, 3]
            grow = float(np.max(self.high - self.low) / max(np.max(high - low), 1e-6))
            shift = (self.low + self.high - low - high) / 2 * centre[2] / np.diag(self.intrinsics)[:2]
            out[:3, :3] *= grow
            out[:3, 3] = centre + np.append(shift, 0.0) - out[:3, :3] @ self.centre
        return out

    def fit(self, posed: Float[np.ndarray, "4 4"]) -> float:
        """Overlap of the silhouettes minus the weighted difference of the colours where both are."""
        camera = self.mesh.vertices @ posed[:3, :3].T + posed[:3, 3]
        if camera[:, 2].min() <= 0:
            return -1.0
        faces, shares, _ = rasterise(camera, self.mesh.faces, self.intrinsics, self.config.side, self.config.side)
        seen = faces >= 0
        both, either = seen & self.mask, seen | self.mask
        if not both.any():
            return -1.0
        difference = float(np.abs(surface_colours(self.mesh, faces[both], shares[both]) - self.rgb[both]).mean())
        return float(both.sum() / either.sum()) - self.config.colour * difference

    def faces(self, posed: Float[np.ndarray, "4 4"]) -> Int32[np.ndarray, "h w"]:
        """Which face of the mesh each pixel shows; -1: none, as everywhere if the mesh reaches behind the camera."""
        side = self.config.side
        camera = self.mesh.vertices @ posed[:3, :3].T + posed[:3, 3]
        if camera[:, 2].min() <= 0:
            return np.full((side, side), -1, np.int32)
        return rasterise(camera, self.mesh.faces, self.intrinsics, side, side)[0]

    def closer(
        self, fit: float, posed: Float[np.ndarray, "4 4"], step: float
    ) -> tuple[float, Float[np.ndarray, "4 4"]]:
        """The best of small turns about the three axes of the camera, again until none is better."""
        for _ in range(LONGEST_WAY):
            turned = [self._turned(posed, axis, sign * step) for axis in range(3) for sign in (-1, 1)]
            fits = [self.fit(other) for other in turned]
            best = int(np.argmax(fits))
            if fits[best] <= fit:
                break
            fit, posed = fits[best], turned[best]
        return fit, posed

    def _turned(self, posed: Float[np.ndarray, "4 4"], axis: int, angle: float) -> Float[np.ndarray, "4 4"]:
        out = posed.copy()
        middle = posed[:3, :3] @ self.centre + posed[:3, 3]
        out[:3, :3] = _about(axis, angle) @ posed[:3, :3]
        out[:3, 3] = middle - out[:3, :3] @ self.centre
        return self._fitted(out)


def all_around(config: PoseSearch) -> Iterator[Float[np.ndarray, "3 3"]]:
    """Rotations object -> OpenCV camera that look at the origin, held upright, +Z up in the object frame."""
    for elevation in np.radians(config.elevations):
        for azimuth in np.arange(config.azimuths) * math.tau / config.azimuths:
            flat = math.cos(elevation)
            forward = -np.array([flat * math.cos(azimuth), flat * math.sin(azimuth), math.sin(elevation)])
            right = np.array([-math.sin(azimuth), math.cos(azimuth), 0.0])
            yield np.stack([right, np.cross(forward, right), forward])


def _turn_to(ray: Float[np.ndarray, " 3"]) -> Float[np.ndarray, "3 3"]:
    """The rotation by the shortest way from +Z to a direction."""
    z = ray / np.linalg.norm(ray)
    v, c = np.cross([0.0, 0.0, 1.0], z), z[2]
    cross = np.array([[0, -v[2], v[1]], [v[2], 0, -v[0]], [-v[1], v[0], 0]])
    out: Float[np.ndarray, "3 3"] = np.eye(3) + cross + cross @ cross / (1 + c)
    return out


def _about(axis: int, angle: float) -> Float[np.ndarray, "3 3"]:
    c, s = math.cos(angle), math.sin(angle)
    i, j = ((1, 2), (2, 0), (0, 1))[axis]
    out = np.eye(3)
    out[i, i], out[i, j], out[j, i], out[j, j] = c, -s, s, c
    return out
