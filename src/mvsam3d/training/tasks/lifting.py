"""Task: the lifting network, from photos with known cameras to occupancy in a cube that lies anywhere around the object."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Float32
from scipy.spatial.transform import Rotation
from torch import Tensor, nn

from mvsam3d.geometry.hull import Cube, carved
from mvsam3d.geometry.occupancy import occupancy_iou
from mvsam3d.models.lifted_views import PHOTO_CELLS, LiftedViews
from mvsam3d.models.lifting import LiftingConfig, LiftingNetwork
from mvsam3d.training.cubes import turned
from mvsam3d.training.data import Shards
from mvsam3d.training.tasks.structure_vae import dice_loss, dice_of_chances
from mvsam3d.types import Camera
from mvsam3d.views.lifted import lifted_views, window_grid, window_of, window_size

WEIGHTS = {"entropy": 2.0, "dice": 1.0, "surface": 1.0, "depth": 1.0}  # of the parts of the loss
MEASURED = 48  # held-out objects of each kind
OBJECT = Cube(np.zeros(3), 1.0)


@dataclass(frozen=True)
class LiftingTraining:
    """What the network is shown."""

    own_cube: float = 0.5
    """Share of samples in the object's own cube; the others in one of the loose ones that the shard has. All are turned by quarters about
    the vertical and mirrored."""
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
    """Views, which cells are solid (0 or 1), and how far the surface is at the photo network's spots."""

    views: LiftedViews
    solid: Float[Tensor, "batch x y z"]
    depth: Float[Tensor, "batch view h4 w4"]  # see `surface_depths`


@dataclass(frozen=True)
class Drawn:
    """A random look at an object in a cube."""

    row: int
    views: np.ndarray
    object_from_cube: Float[np.ndarray, "4 4"]
    solid: Bool[np.ndarray, "x y z"]
    off: Sequence[Float[np.ndarray, "4 4"]]
    """For each view, a motion of the object before its camera, by which the camera is taken to be wrong."""

    def taken(self, shards: Shards) -> tuple[list[np.ndarray], list[np.ndarray], list[Camera]]:
        """Photos, masks and cameras, the cube as their world."""
        return in_cube(shards, self.row, self.views, self.object_from_cube, self.off)


def drawn(
    shards: Shards, training: LiftingTraining, size: int, rng: np.random.Generator, *, fine: bool = False
) -> Iterator[Drawn]:
    """Random looks, all with one number of views. `fine`: with the finer solid grids."""
    shards.refresh(most=1)
    rows = rng.integers(len(shards), size=size)
    chances = np.array(training.views)
    total = shards.tensors[0]["mask"].shape[1]
    chances = chances[:total] / chances[:total].sum()
    count = int(rng.choice(len(chances), p=chances)) + 1
    for row in rows:
        object_from_cube, solid = _cube(shards, training, int(row), rng, fine)
        wrong = rng.random() < training.wrong_cameras
        off = [_off(training, rng) if wrong else np.eye(4) for _ in range(count)]
        yield Drawn(int(row), rng.permutation(total)[:count], object_from_cube, solid, off)


def _cube(
    shards: Shards, training: LiftingTraining, row: int, rng: np.random.Generator, fine: bool
) -> tuple[Float[np.ndarray, "4 4"], Bool[np.ndarray, "x y z"]]:
    """object_from_cube, and the solid grid there."""
    if rng.random() < training.own_cube:
        cube, solid = np.eye(4), shards.solid_grid(row, fine=fine)
    else:
        loose = shards.cubes(row, fine=fine)
        cube, solid = loose[int(rng.integers(len(loose)))]
    return turned(cube, solid, int(rng.integers(4)), mirrored=bool(rng.integers(2)))


def _off(training: LiftingTraining, rng: np.random.Generator) -> Float[np.ndarray, "4 4"]:
    """A small motion of the object before a camera."""
    matrix = np.eye(4)
    matrix[:3, :3] = Rotation.from_rotvec(np.radians(training.turned) * rng.normal(size=3)).as_matrix()
    matrix[:3, 3] = training.shifted * rng.normal(size=3)
    return matrix


class LiftingTask:
    """Predict occupancy from lifted views."""

    def __init__(
        self, config: LiftingConfig, train: Shards, held_out: Mapping[str, Shards], training: LiftingTraining
    ) -> None:
        self.networks = nn.ModuleDict({"network": LiftingNetwork(replace(config, detail_channels=0))})
        self.config, self.train, self.held_out, self.training = config, train, held_out, training

    def draw(self, size: int, rng: np.random.Generator) -> LiftingBatch:
        """Random objects, one number of views for the whole batch."""
        samples = []
        for shown in drawn(self.train, self.training, size, rng):
            views = lifted_views(*shown.taken(self.train), self.config.resolution)
            samples.append((views, shown.solid, surface_depths(self.train, shown.row, shown.views)))
        return stacked(samples)

    def loss(self, batch: LiftingBatch, noise: torch.Generator) -> tuple[Tensor, Mapping[str, Tensor]]:
        """Cross-entropy, Dice of the solid and of its surface; where there is a photo network, the error of its depth beside them."""
        network = self.networks["network"]
        assert isinstance(network, LiftingNetwork)
        device = next(network.parameters()).device
        logits, _, depth = network.with_fine(batch.views.to(device))
        solid = batch.solid.to(device)
        parts = occupancy_losses(logits.float(), solid)
        if depth is not None:
            wanted = batch.depth.to(device)
            there = wanted.isfinite()
            parts["depth"] = F.l1_loss(depth.float()[there], wanted[there])
        return weighted(parts), parts

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
                    views = np.arange(count)
                    seen = seen_in(shards, row, views, np.eye(4), self.config.resolution)
                    truth = torch.from_numpy(shards.solid_grid(row))[None]
                    solid = networks["network"](seen.to(device)).cpu() > 0
                    hull = torch.from_numpy(hull_of(shards, row, views, self.config.resolution))[None]
                    ours, its = occupancy_iou(solid, truth), occupancy_iou(hull, truth)
                    found.append([float(v) for v in (ours.solid, ours.surface, its.solid, its.surface)])
                for key, value in zip(("iou", "surface", "hull_iou", "hull_surface"), np.mean(found, 0), strict=True):
                    scores[f"{name}_{key}_{count}"] = float(value)
        return scores


def occupancy_losses(logits: Float[Tensor, "batch x y z"], solid: Float[Tensor, "batch x y z"]) -> dict[str, Tensor]:
    """Cross-entropy, Dice of the solid and of its surface."""
    return {
        "entropy": F.binary_cross_entropy_with_logits(logits, solid),
        "dice": dice_loss(logits[:, None], solid[:, None]),
        "surface": surface_loss(logits, solid),
    }


def weighted(parts: Mapping[str, Tensor]) -> Tensor:
    """The parts' sum by `WEIGHTS`."""
    return torch.stack([WEIGHTS[name] * part for name, part in parts.items()]).sum()


def surface_loss(logits: Float[Tensor, "batch x y z"], solid: Float[Tensor, "batch x y z"]) -> Float[Tensor, ""]:
    """Dice loss of the cells that are solid and have an empty one around them, as `geometry.occupancy.surface` counts them."""
    return dice_of_chances(_shell(logits.sigmoid())[:, None], _shell(solid)[:, None])


def _shell(chance: Float[Tensor, "batch x y z"]) -> Float[Tensor, "batch x y z"]:
    """Of each cell, that it is solid and that the least solid one around it, itself among them, is not."""
    least = -F.max_pool3d(F.pad(-chance, (1,) * 6), 3, stride=1)
    return chance * (1 - least)


def seen_in(
    shards: Shards,
    row: int,
    views: np.ndarray,
    object_from_cube: Float[np.ndarray, "4 4"],
    resolution: int,
    off: Sequence[Float[np.ndarray, "4 4"]] | None = None,
) -> LiftedViews:
    """What an object's views show in a cube of `resolution` cells along an edge; for the others see `in_cube`."""
    return lifted_views(*in_cube(shards, row, views, object_from_cube, off), resolution)


def in_cube(
    shards: Shards,
    row: int,
    views: np.ndarray,
    object_from_cube: Float[np.ndarray, "4 4"],
    off: Sequence[Float[np.ndarray, "4 4"]] | None = None,
) -> tuple[list[np.ndarray], list[np.ndarray], list[Camera]]:
    """Photos, masks and cameras of an object's views, a cube as their world.

    Args:
        shards: of the object.
        row: its row.
        views: the views to show.
        object_from_cube: a similarity, maybe with a mirror, from the frame in which the cube is [-0.5, 0.5]^3.
        off: for each view, a motion of the object before its camera, by which the camera is taken to be wrong.
    """
    photos, masks, cameras = views_of(shards, row, views)
    moved = [
        Camera(c.intrinsics, c.camera_from_world @ (off[i] if off else np.eye(4)) @ object_from_cube, c.width, c.height)
        for i, c in enumerate(cameras)
    ]
    return photos, masks, moved


def surface_depths(shards: Shards, row: int, views: np.ndarray) -> Float32[np.ndarray, "view h4 w4"]:
    """Depth of the surface behind the object's centre at the photo network's spots, in sizes of the window; nan where there is none."""
    _, masks, cameras = views_of(shards, row, views)
    maps = shards.rows(np.array([row]), "depth")[0][views]
    out = np.full((len(views), PHOTO_CELLS, PHOTO_CELLS), np.nan, np.float32)
    for found, mask, camera, depth in zip(out, masks, cameras, maps, strict=True):
        box = window_of(mask)
        at = np.floor(window_grid(box, PHOTO_CELLS) * len(depth) / len(mask)).astype(int)
        columns, rows = np.clip(at, 0, len(depth) - 1).transpose(2, 0, 1)
        known = (at == np.stack([columns, rows], -1)).all(-1) & np.isfinite(depth[rows, columns])
        found[known] = (depth[rows, columns][known] - camera.camera_from_world[2, 3]) / window_size(camera, box)
    return out


def stacked(samples: Sequence[tuple[LiftedViews, np.ndarray, np.ndarray]]) -> LiftingBatch:
    """A batch of samples (views, solid grid, depths) with one number of views."""
    views, solid, depth = zip(*samples, strict=True)
    return LiftingBatch(
        LiftedViews.joined(views),
        torch.from_numpy(np.stack(solid).astype(np.float32)),
        torch.from_numpy(np.stack(depth)),
    )


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
