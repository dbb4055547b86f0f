"""Task: the lifting network, from photos with known cameras to occupancy in a cube that lies anywhere around the object."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Float32
from scipy.spatial.transform import Rotation
from torch import Tensor, nn

from mvsam3d.geometry.compiled import compiled
from mvsam3d.geometry.hull import Cube, carved
from mvsam3d.geometry.occupancy import occupancy_iou
from mvsam3d.models.lifting import LiftingConfig, LiftingNetwork
from mvsam3d.training.data import Shards
from mvsam3d.training.tasks.structure_vae import dice_loss
from mvsam3d.types import Camera
from mvsam3d.views.lifted import lifted

MEASURED = 48  # held-out objects of each kind
OBJECT = Cube(np.zeros(3), 1.0)


@dataclass(frozen=True)
class LiftingTraining:
    """What the network is shown."""

    own_cube: float = 0.5
    """Share of samples in the object's own cube, turned by quarters about the vertical and mirrored. The others lie loosely around it."""
    sides: tuple[float, float] = (1.0, 1.3)
    """Smallest and largest side of a loose cube, the small ones more often: the hull of few views is larger than the object."""
    off_centre: float = 0.06
    """Standard deviation of a loose cube's centre."""
    any_up: float = 0.15
    """Share of the loose cubes that are turned about any axis, as where up is not known; the others lean by some degrees."""
    lean: float = 4.0
    """Standard deviation of that, degrees."""
    wrong_cameras: float = 0.3
    """Share of samples whose cameras are all a little off."""
    turned: float = 1.0
    """Degrees by which they are (standard deviation, about each axis), around the object."""
    shifted: float = 0.005
    """And by how much, in object sizes."""
    views: tuple[float, ...] = (0.1, 0.16, 0.12, 0.2, 0.08, 0.12, 0.07, 0.15)
    """Chance of 1, 2, ... views."""


@dataclass(frozen=True)
class LiftingBatch:
    """Features of the views, and the share of each cell that is solid."""

    features: Float[Tensor, "batch view x y z feature"]
    solid: Float[Tensor, "batch x y z"]


class LiftingTask:
    """Predict occupancy from lifted views."""

    def __init__(
        self, config: LiftingConfig, train: Shards, held_out: Mapping[str, Shards], training: LiftingTraining
    ) -> None:
        self.networks = nn.ModuleDict({"network": LiftingNetwork(config)})
        self.config, self.train, self.held_out, self.training = config, train, held_out, training

    def draw(self, size: int, rng: np.random.Generator) -> LiftingBatch:
        """Random objects, one number of views for the whole batch."""
        self.train.refresh(most=1)
        rows = rng.integers(len(self.train), size=size)
        chances = np.array(self.training.views)
        total = self.train.tensors[0]["mask"].shape[1]
        chances = chances[:total] / chances[:total].sum()
        count = int(rng.choice(len(chances), p=chances)) + 1
        samples = []
        for row in rows:
            object_from_cube = self._cube(rng)
            wrong = rng.random() < self.training.wrong_cameras
            off = [self._off(rng) if wrong else np.eye(4) for _ in range(count)]
            samples.append(
                sample(
                    self.train, int(row), rng.permutation(total)[:count], object_from_cube, self.config.resolution, off
                )
            )
        return stacked(samples)

    def _cube(self, rng: np.random.Generator) -> Float[np.ndarray, "4 4"]:
        """object_from_cube."""
        matrix = np.eye(4)
        if rng.random() < self.training.own_cube:
            matrix[:3, :3] = Rotation.from_rotvec([0, 0, np.pi / 2 * rng.integers(4)]).as_matrix().round()
            matrix[:3, 0] *= rng.choice([-1, 1])
            return matrix
        turn = Rotation.from_rotvec([0, 0, rng.uniform(0, 2 * np.pi)])
        if rng.random() < self.training.any_up:
            turn = Rotation.random(random_state=rng)
        small, large = self.training.sides
        lean = Rotation.from_rotvec(np.radians(self.training.lean) * rng.normal(size=3))
        matrix[:3, :3] = (turn * lean).as_matrix() * (small + (large - small) * rng.random() ** 2)
        matrix[:3, 3] = self.training.off_centre * rng.normal(size=3)
        return matrix

    def _off(self, rng: np.random.Generator) -> Float[np.ndarray, "4 4"]:
        """A small motion of the object before a camera."""
        matrix = np.eye(4)
        matrix[:3, :3] = Rotation.from_rotvec(np.radians(self.training.turned) * rng.normal(size=3)).as_matrix()
        matrix[:3, 3] = self.training.shifted * rng.normal(size=3)
        return matrix

    def loss(self, batch: LiftingBatch, noise: torch.Generator) -> tuple[Tensor, Mapping[str, Tensor]]:
        """Cross-entropy and Dice against the share of each cell that is solid."""
        device = next(self.networks.parameters()).device
        logits = self.networks["network"](batch.features.to(device)).float()
        solid = batch.solid.to(device)
        entropy = F.binary_cross_entropy_with_logits(logits, solid)
        dice = dice_loss(logits[:, None], solid[:, None])
        return entropy + dice, {"entropy": entropy, "dice": dice}

    @torch.no_grad()
    def evaluate(self, networks: nn.Module) -> Mapping[str, float]:
        """IoU of solid and surface in the object's own cube with true cameras, beside the visual hull's."""
        assert isinstance(networks, nn.ModuleDict)
        scores: dict[str, float] = {}
        device = next(networks.parameters()).device
        for name, shards in self.held_out.items():
            total = shards.tensors[0]["mask"].shape[1]
            for count in sorted({1, min(2, total), min(4, total), total}):
                found = []
                for row in range(min(len(shards), MEASURED)):
                    one = stacked([sample(shards, row, np.arange(count), np.eye(4), self.config.resolution)])
                    truth = one.solid > 0.5
                    solid = networks["network"](one.features.to(device)).cpu() > 0
                    hull = torch.from_numpy(hull_of(shards, row, np.arange(count), self.config.resolution))[None]
                    ours, its = occupancy_iou(solid, truth), occupancy_iou(hull, truth)
                    found.append([float(v) for v in (ours.solid, ours.surface, its.solid, its.surface)])
                for key, value in zip(("iou", "surface", "hull_iou", "hull_surface"), np.mean(found, 0), strict=True):
                    scores[f"{name}_{key}_{count}"] = float(value)
        return scores


def sample(
    shards: Shards,
    row: int,
    views: np.ndarray,
    object_from_cube: Float[np.ndarray, "4 4"],
    resolution: int,
    off: list[Float[np.ndarray, "4 4"]] | None = None,
) -> tuple[Float32[np.ndarray, "view x y z feature"], Float32[np.ndarray, "x y z"]]:
    """Features of an object's views in a cube, and the share of each cell that is solid.

    Args:
        shards: of the object.
        row: its row.
        views: the views to show.
        object_from_cube: a similarity, maybe with a mirror, from the frame in which the cube is [-0.5, 0.5]^3.
        resolution: cells along an edge; the shard's grids may be finer.
        off: for each view, motions of the object before its camera, by which the camera is taken to be wrong.
    """
    photos, masks, cameras = views_of(shards, row, views)
    moved = [
        Camera(c.intrinsics, c.camera_from_world @ (off[i] if off else np.eye(4)) @ object_from_cube, c.width, c.height)
        for i, c in enumerate(cameras)
    ]
    solid = shards.solid_grid(row)
    target = np.zeros((resolution,) * 3, np.float32)
    _resample(solid, object_from_cube, target)
    return lifted(photos, masks, moved, resolution), target


def stacked(samples: list[tuple[np.ndarray, np.ndarray]]) -> LiftingBatch:
    """A batch of samples with one number of views."""
    features, solid = (torch.from_numpy(np.stack(values)) for values in zip(*samples, strict=True))
    return LiftingBatch(features, solid)


def hull_of(shards: Shards, row: int, views: np.ndarray, resolution: int) -> np.ndarray:
    """The visual hull in the object's own cube."""
    _, masks, cameras = views_of(shards, row, views)
    return carved(cameras, masks, OBJECT, resolution)


def views_of(shards: Shards, row: int, views: np.ndarray) -> tuple[list[np.ndarray], list[np.ndarray], list[Camera]]:
    """Photos, masks and cameras of an object's views, the object frame as their world."""
    rgb = shards.rows(np.array([row]), "rgb")[0]
    size = rgb.shape[1]
    masks = shards.masks(np.array([row]), size)[0]
    intrinsics = shards.rows(np.array([row]), "intrinsics")[0].astype(np.float64)
    placed = shards.rows(np.array([row]), "camera_from_object")[0].astype(np.float64)
    cameras = [Camera(intrinsics[v], placed[v], size, size) for v in views]
    return [rgb[v] for v in views], [masks[v] for v in views], cameras


@compiled
def _resample(solid: np.ndarray, object_from_cube: np.ndarray, out: np.ndarray) -> None:
    """Share of 3 x 3 x 3 points of each cell that are solid; nothing is outside the grid."""
    n, r = solid.shape[0], out.shape[0]
    m = object_from_cube
    for i in range(3 * r):
        for j in range(3 * r):
            for o in range(3 * r):
                a, b, c = (i + 0.5) / (3 * r) - 0.5, (j + 0.5) / (3 * r) - 0.5, (o + 0.5) / (3 * r) - 0.5
                x = int(np.floor((m[0, 0] * a + m[0, 1] * b + m[0, 2] * c + m[0, 3] + 0.5) * n))
                y = int(np.floor((m[1, 0] * a + m[1, 1] * b + m[1, 2] * c + m[1, 3] + 0.5) * n))
                z = int(np.floor((m[2, 0] * a + m[2, 1] * b + m[2, 2] * c + m[2, 3] + 0.5) * n))
                if 0 <= x < n and 0 <= y < n and 0 <= z < n and solid[x, y, z]:
                    out[i // 3, j // 3, o // 3] += 1 / 27
