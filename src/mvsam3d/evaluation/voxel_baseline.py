"""The voxel baseline as a system to judge: photos -> the solid, in cells of its object frame. It is given no cameras."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import torch

from mvsam3d.errors import NothingFound
from mvsam3d.evaluation.metrics import filled
from mvsam3d.evaluation.subjects import Answer
from mvsam3d.models.config import SMALL
from mvsam3d.models.view_tokens import with_rgba
from mvsam3d.models.voxel_baseline import VoxelBaseline, read_baseline
from mvsam3d.pipeline import stacked, view_config
from mvsam3d.types import Photo
from mvsam3d.views.prepare import prepare_views


def baseline_answer(weights: Path, photos: Sequence[Photo], device: str) -> Answer:
    """What the baseline of a file makes of photos, cut out as for our small model.

    Returns: the filled solid and the seconds it took; reading the file is not the object's time.
    Raises: BadPhoto. CheckpointMismatch: see `read_baseline`. NothingFound: no voxel reaches the threshold.
    """
    network = _loaded(weights, device)
    crops = view_config(replace(SMALL, image_size=network.config.input_size))
    start = time.perf_counter()
    maps = stacked(prepare_views(photos, crops), torch.device(device))
    with torch.no_grad():
        cells = network.occupied(with_rgba(maps)["rgba"], len(photos)).cpu()
    if not cells.any():
        raise NothingFound(f"no voxel's probability is above {network.config.threshold}: check the masks, or add views")
    return Answer(occupied=filled(cells)[0].numpy(), seconds=time.perf_counter() - start)


def weights_identity(weights: Path) -> str:
    """A short name for the content of the file. Raises: CheckpointMismatch."""
    read_baseline(weights)
    return hashlib.sha256(weights.read_bytes()).hexdigest()[:16]


@lru_cache(maxsize=2)
def _loaded(weights: Path, device: str) -> VoxelBaseline:
    """Kept in this process."""
    network: VoxelBaseline = read_baseline(weights)[0].to(device)
    return network
