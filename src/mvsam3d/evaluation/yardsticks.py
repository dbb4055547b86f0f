"""Answers that need no reconstruction: a model that does no better has not learnt to see shape."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from mvsam3d.geometry.occupancy import iou
from mvsam3d.models.view_tokens import ViewTokens
from mvsam3d.training.data import Shards
from mvsam3d.training.view_batch import drawn_views

THRESHOLDS = (0.3, 0.4, 0.5)  # share of a group's objects that must be solid in a cell of its mean shape
AT_ONCE = 256  # objects held unpacked: 8 MB of cells at 32^3
FITTED = 2048  # training objects that choose the thresholds
GALLERY = 4000  # training objects that may be retrieved, by one photo each
PHOTOS_AT_ONCE = 64

Grid = Bool[Tensor, "x y z"]


def mean_shapes(
    training: Shards, rows: Int64[np.ndarray, " row"], groups: Int64[np.ndarray, " row"], resolution: int
) -> dict[int, Grid]:
    """The mean solid of the rows of each group, made solid at the threshold that fits this group's own rows best."""
    names, counts = np.unique(groups, return_counts=True)
    sums = {int(group): np.zeros((resolution,) * 3, np.int64) for group in names}
    for part in _parts(len(rows), AT_ONCE):
        solid = training.solid(rows[part], resolution)
        for group in np.unique(groups[part]):
            sums[int(group)] += solid[groups[part] == group].sum(0)
    means = {int(group): torch.from_numpy(sums[int(group)] / count) for group, count in zip(names, counts)}
    fitted = _spread(len(rows), FITTED)
    return _best_cuts(means, training, rows[fitted], groups[fitted], resolution)


def _best_cuts(
    means: Mapping[int, Float[Tensor, "x y z"]],
    training: Shards,
    rows: Int64[np.ndarray, " row"],
    groups: Int64[np.ndarray, " row"],
    resolution: int,
) -> dict[int, Grid]:
    cuts = {group: torch.stack([mean > threshold for threshold in THRESHOLDS]) for group, mean in means.items()}
    fits = {group: torch.zeros(len(THRESHOLDS)) for group in means}
    for part in _parts(len(rows), AT_ONCE):
        for solid, group in zip(torch.from_numpy(training.solid(rows[part], resolution)), groups[part]):
            fits[int(group)] += iou(cuts[int(group)], solid.expand_as(cuts[int(group)]))
    return {group: cuts[group][int(fit.argmax())] for group, fit in fits.items()}


@dataclass(frozen=True)
class Gallery:
    """Training objects that a photo can be compared with."""

    condition: ViewTokens
    training: Shards
    rows: Int64[np.ndarray, " row"]
    features: Float[Tensor, "row channel"]  # unit length, about `centre`
    centre: Float[Tensor, " channel"]

    def nearest(
        self, shards: Shards, rows: Int64[np.ndarray, " object"], resolution: int
    ) -> Bool[Tensor, "object x y z"]:
        """Solids of the training objects whose photo is most like the first view of `rows`, by cosine."""
        features = _centred(described(self.condition, shards, rows), self.centre)
        best = (features @ self.features.T).argmax(1).numpy()
        return torch.from_numpy(self.training.solid(self.rows[best], resolution))


def gallery(condition: ViewTokens, training: Shards, most: int = GALLERY) -> Gallery:
    """The first views of `most` training objects, spread evenly over all of them, as the model's own image encoder sees them."""
    rows = _spread(len(training), most)
    features = described(condition, training, rows)
    centre = features.mean(0)
    return Gallery(condition, training, rows, _centred(features, centre), centre)


def described(
    condition: ViewTokens, shards: Shards, rows: Int64[np.ndarray, " object"]
) -> Float[Tensor, "object channel"]:
    """What the first view of each object looks like: the mean of its condition tokens."""
    parts = []
    for part in _parts(len(rows), PHOTOS_AT_ONCE):
        first = np.zeros((len(rows[part]), 1), np.int64)
        maps = drawn_views(shards, rows[part], first, pointmap=False, images=True).maps
        parts.append(condition(maps, 1).tokens.mean(1))
    return torch.cat(parts)


def _centred(features: Float[Tensor, "row channel"], centre: Float[Tensor, " channel"]) -> Float[Tensor, "row channel"]:
    return torch.nn.functional.normalize(features - centre, dim=1)


def _parts(count: int, size: int) -> Iterator[slice]:
    return (slice(start, start + size) for start in range(0, count, size))


def _spread(count: int, most: int) -> Int64[np.ndarray, " row"]:
    """Up to `most` of `count` rows, evenly spread."""
    return np.unique(np.linspace(0, count - 1, min(count, most)).round().astype(np.int64))
