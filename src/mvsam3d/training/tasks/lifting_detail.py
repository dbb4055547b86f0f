"""Task: the detail network, from what a trained lifting network says and the views at finer cells to occupancy there, in cut-outs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from mvsam3d.geometry.occupancy import occupancy_iou, surface
from mvsam3d.models.lifted_views import LiftedViews
from mvsam3d.models.lifting import LiftingConfig, LiftingNetwork
from mvsam3d.models.lifting_detail import DetailNetwork, refined
from mvsam3d.training.data import Shards
from mvsam3d.training.tasks.lifting import LiftingTraining, drawn, in_cube, occupancy_losses, weighted
from mvsam3d.views.lifted import lifted, lifted_views

CUT = 40  # side of what is cut out of the finer grid, in its cells
SURELY_EMPTY = -50.0  # logit of cells that do not count
MEASURED = 32  # held-out objects of each kind


@dataclass(frozen=True)
class DetailBatch:
    """Views of whole cubes, and of a part of each the views at finer cells and which of these are solid (0 or 1) and count."""

    views: LiftedViews
    corners: tuple[tuple[int, int, int], ...]  # first cell of each part, in the finer grid
    finer: Float[Tensor, "batch view cut cut cut feature"]
    solid: Float[Tensor, "batch cut cut cut"]
    counts: Bool[Tensor, "batch cut cut cut"]


class LiftingDetailTask:
    """Predict occupancy between the cells of the lifting network, which stays as it is."""

    def __init__(
        self,
        config: LiftingConfig,
        lifting: LiftingNetwork,
        train: Shards,
        held_out: Mapping[str, Shards],
        training: LiftingTraining,
    ) -> None:
        self.lifting = lifting.eval().requires_grad_(False)
        network = DetailNetwork(config.fine_channels, config.detail_channels, config.detail_blocks)
        self.networks = nn.ModuleDict({"network": network})
        self.reach, self.resolution = network.reach, config.resolution
        self.train, self.held_out, self.training = train, held_out, training

    def draw(self, size: int, rng: np.random.Generator) -> DetailBatch:
        """Random objects, one number of views for the whole batch; parts with some of the surface."""
        views, corners, finer, solids, counting = [], [], [], [], []
        for shown in drawn(self.train, self.training, size, rng, fine=True):
            photos, masks, cameras = shown.taken(self.train)
            views.append(lifted_views(photos, masks, cameras, self.resolution))
            corner = part_with_surface(shown.solid, rng)
            around = shown.object_from_cube @ cube_from_part(corner, len(shown.solid))
            taken = in_cube(self.train, shown.row, shown.views, around, shown.off)
            finer.append(torch.from_numpy(lifted(*taken, CUT)))
            corners.append(corner)
            x, y, z = corner
            solids.append(torch.from_numpy(shown.solid[x : x + CUT, y : y + CUT, z : z + CUT].astype(np.float32)))
            counting.append(torch.from_numpy(whole_sight(corner, len(shown.solid), self.reach)))
        return DetailBatch(
            LiftedViews.joined(views), tuple(corners), torch.stack(finer), torch.stack(solids), torch.stack(counting)
        )

    def loss(self, batch: DetailBatch, noise: torch.Generator) -> tuple[Tensor, Mapping[str, Tensor]]:
        """As the lifting network's, of the cells whose surroundings the network sees."""
        device = next(self.networks.parameters()).device
        with torch.no_grad():
            coarse, fine, _ = self.lifting.to(device).with_fine(batch.views.to(device))
            given = refined_parts(torch.cat([coarse[:, None], fine], 1).float(), batch.corners)
        logits = self.networks["network"](given[:, 0], given[:, 1:], batch.finer.to(device)).float()
        counts = batch.counts.to(device)
        losses = occupancy_losses(
            torch.where(counts, logits, SURELY_EMPTY), torch.where(counts, batch.solid.to(device), 0.0)
        )
        return weighted(losses), losses

    @torch.no_grad()
    def evaluate(self, networks: nn.Module) -> Mapping[str, float]:
        """IoU of solid and surface on the finer grid, in the object's own cube with true cameras, beside those without this network."""
        assert isinstance(networks, nn.ModuleDict)
        scores: dict[str, float] = {}
        device = next(networks.parameters()).device
        lifting = self.lifting.to(device)
        for name, shards in self.held_out.items():
            total = shards.tensors[0]["mask"].shape[1]
            for count in sorted({min(4, total), total}):
                found = []
                for row in range(min(len(shards), MEASURED)):
                    taken = in_cube(shards, row, np.arange(count), np.eye(4))
                    truth = torch.from_numpy(shards.solid_grid(row, fine=True))[None]
                    coarse, fine, _ = lifting.with_fine(lifted_views(*taken, self.resolution).to(device))
                    before, finer = refined(coarse[:, None])[:, 0], torch.from_numpy(lifted(*taken, truth.shape[1]))
                    said = networks["network"](before, refined(fine), finer[None].to(device))
                    ious = [occupancy_iou(logits.cpu() > 0, truth) for logits in (said, before)]
                    found.append([float(v) for iou in ious for v in (iou.solid, iou.surface)])
                keys = ("iou", "surface", "coarse_iou", "coarse_surface")
                for key, value in zip(keys, np.mean(found, 0), strict=True):
                    scores[f"{name}_{key}_{count}"] = float(value)
        return scores


def part_with_surface(solid: Bool[np.ndarray, "x y z"], rng: np.random.Generator) -> tuple[int, int, int]:
    """First cell, even, of a part of the grid around a random place of the solid's surface."""
    cells = np.argwhere(surface(torch.from_numpy(solid)[None])[0].numpy())
    place = cells[rng.integers(len(cells))] if len(cells) else rng.integers(len(solid), size=3)
    x, y, z = (np.clip(place - rng.integers(CUT - 1, size=3), 0, len(solid) - CUT) // 2 * 2).tolist()
    return x, y, z


def cube_from_part(corner: tuple[int, int, int], resolution: int) -> Float[np.ndarray, "4 4"]:
    """From the frame in which a part of a cube's grid is [-0.5, 0.5]^3 to that in which the cube is."""
    matrix = np.diag([CUT / resolution] * 3 + [1.0])
    matrix[:3, 3] = (np.array(corner) + CUT / 2) / resolution - 0.5
    return matrix


def whole_sight(corner: tuple[int, int, int], resolution: int, reach: int) -> Bool[np.ndarray, "cut cut cut"]:
    """The cells of a part whose surroundings within reach are in it, or beyond the grid."""
    along = []
    for first in corner:
        cells = first + np.arange(CUT)
        low = 0 if first == 0 else first + reach
        high = resolution if first + CUT == resolution else first + CUT - reach
        along.append((cells >= low) & (cells < high))
    x, y, z = along
    return np.asarray(x[:, None, None] & y[:, None] & z)


def refined_parts(
    grids: Float[Tensor, "batch channel x y z"], corners: Sequence[tuple[int, int, int]]
) -> Float[Tensor, "batch channel cut cut cut"]:
    """A part of each grid `refined`; first cells are even."""
    padded, beside = F.pad(grids, (1,) * 6, mode="replicate"), CUT // 2 + 2
    parts = [
        grid[:, x // 2 : x // 2 + beside, y // 2 : y // 2 + beside, z // 2 : z // 2 + beside]
        for grid, (x, y, z) in zip(padded, corners, strict=True)
    ]
    return refined(torch.stack(parts))[..., 2:-2, 2:-2, 2:-2]
