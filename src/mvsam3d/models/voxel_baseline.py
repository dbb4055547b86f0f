"""A plain baseline to measure the model against: photos -> one occupancy grid, in one pass and without generation.

Of the class of Pix2Vox++/F (Xie et al., Pix2Vox++: Multi-scale Context-aware 3D Object Reconstruction from Single and Multiple Images,
IJCV 2020), the small variant without a refiner, written and trained anew: each view is encoded by itself, decoded to a coarse volume by
transposed 3D convolutions, and the volumes are averaged by weights that a small network gives each view at each voxel. It sees what stage
1 sees, crops with masks, and no cameras.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, cast

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from pydantic import TypeAdapter, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from mvsam3d.errors import CheckpointMismatch
from mvsam3d.io.runs import Json, write_whole
from mvsam3d.models.checkpoints import load_strictly
from mvsam3d.models.conv_encoder import NORM_CHANNELS, ConvBlock
from mvsam3d.models.structure_vae import CHANNELS_LAST, conv3, fold, unfold
from mvsam3d.models.tensor_files import read_tensors

START = 4  # cells along an edge of the first volume
LARGEST_FILE = 256 << 20  # bytes; ours has 20 MB
LARGEST_TEXT = 1 << 16  # characters of the config in it
MOST_CHANNELS, MOST_LEVELS = 1024, 6


@dataclass(frozen=True)
class VoxelBaselineConfig:
    """Size of the network: about 5 M parameters, as Pix2Vox++/F."""

    input_size: int = 112
    """Side of the crops; colour and mask go in."""
    widths: tuple[int, ...] = (16, 32, 64, 128)
    """Of the encoder's levels, each of which halves the image."""
    narrow: int = 14
    """Channels of the last level from which the first volume is made, all its cells from all pixels."""
    volumes: tuple[int, ...] = (96, 64, 16, 8)
    """Of the decoder's volumes of 4^3 cells, 8^3, ..."""
    score_width: int = 8
    """Of the network that scores a view's volume."""
    threshold: float = 0.3
    """Probability above which a voxel is occupied: the source's, until one is chosen on training objects."""

    @property
    def side(self) -> int:
        """Pixels along an edge of the encoder's last level."""
        return int(self.input_size // 2 ** len(self.widths))

    @property
    def resolution(self) -> int:
        """Voxels along an edge."""
        return int(START * 2 ** (len(self.volumes) - 1))


def normed(channels: int) -> nn.GroupNorm:
    """Norm over groups of channels of one view."""
    return nn.GroupNorm(max(channels // NORM_CHANNELS, 1), channels)


def doubled(channels_in: int, channels_out: int, *, kernel: int = 4) -> nn.ConvTranspose3d:
    """A transposed convolution to twice the grid."""
    return nn.ConvTranspose3d(channels_in, channels_out, kernel, stride=2, padding=kernel // 2 - 1)


class ViewEncoder(nn.Module):
    """Crop -> features of its pixels, in a row."""

    def __init__(self, config: VoxelBaselineConfig) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for level, (before, width) in enumerate(pairwise((4, *config.widths))):
            layers.append(nn.Conv2d(before, width, 3, stride=2, padding=1))
            layers += [ConvBlock(width)] if level else []
        last = config.widths[-1]
        self.layers = nn.Sequential(*layers, normed(last), nn.SiLU(), nn.Conv2d(last, config.narrow, 1))

    def forward(self, rgba: Float[Tensor, "view 4 h w"]) -> Float[Tensor, "view feature"]:
        """Encode crops with masks, in [0, 1]."""
        pixels = (rgba * 2 - 1).contiguous(memory_format=torch.channels_last)
        found: Tensor = self.layers(pixels)
        return found.flatten(1)


class VolumeDecoder(nn.Module):
    """Features of a view -> channels at each voxel, and at each cell of the halved grid.

    The last transposed convolution, which was the slowest, has a kernel of 2 where the source has 4: on a CPU it takes a third of the time.
    """

    def __init__(self, config: VoxelBaselineConfig) -> None:
        super().__init__()
        first = config.volumes[0]
        self.first = nn.Linear(config.narrow * config.side**2, START**3 * first)
        self.norms = nn.ModuleList(normed(width) for width in config.volumes)
        *coarse, (last, finest) = pairwise(config.volumes)
        levels = [*(doubled(*widths) for widths in coarse), doubled(last, finest, kernel=2)]
        self.up_levels = nn.ModuleList(levels)

    def forward(
        self, features: Float[Tensor, "view feature"]
    ) -> tuple[Float[Tensor, "view fine x y z"], Float[Tensor, "view coarse x2 y2 z2"]]:
        """Decode."""
        cells = self.first(features).view(len(features), START, START, START, -1)
        grids = [F.silu(self.norms[0](cells.permute(0, 4, 1, 2, 3)))]  # channels last in memory already
        for level, norm in zip(self.up_levels, list(self.norms)[1:], strict=True):
            grids.append(F.silu(norm(level(grids[-1]))))
        return grids[-1], grids[-2]


class Scorer(nn.Module):
    """A view's volume and what it was made from -> a score at each voxel, worked out on the halved grid."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.input_layer = conv3(channels + 8, width)
        self.norm = normed(width)
        self.out_layer = nn.Conv3d(width, 8, 3, padding=1, bias=False)  # what all views have in common falls out

    def forward(
        self, channels: Float[Tensor, "view channel x2 y2 z2"], volume: Float[Tensor, "view 1 x y z"]
    ) -> Float[Tensor, "view x y z"]:
        """Score; what counts is the difference between views."""
        seen = torch.cat([channels, fold(volume.sigmoid(), 2)], dim=1).contiguous(memory_format=CHANNELS_LAST)
        scores = unfold(self.out_layer(F.silu(self.norm(self.input_layer(seen)))), 2)
        return scores[:, 0]


def fused(
    volumes: Float[Tensor, "batch view x y z"], scores: Float[Tensor, "batch view x y z"]
) -> Float[Tensor, "batch x y z"]:
    """Logits of the views' probabilities, averaged at each voxel by the softmax of the scores over the views (context-aware fusion).

    Args:
        volumes: logits of each view.
        scores: any finite ones.
    Returns: log(p / (1 - p)) of p = sum of weight * sigmoid(volume), exact where p is next to 0 or 1.
    """
    weights = scores.log_softmax(dim=1)
    full = torch.logsumexp(weights + F.logsigmoid(volumes), dim=1)
    empty = torch.logsumexp(weights + F.logsigmoid(-volumes), dim=1)
    return full - empty


class VoxelBaseline(nn.Module):
    """Crops of objects -> logits of occupancy, inside included, in the object frame."""

    def __init__(self, config: VoxelBaselineConfig) -> None:
        super().__init__()
        self.config = config
        channels = config.volumes[-1]
        self.encoder, self.decoder = ViewEncoder(config), VolumeDecoder(config)
        self.volume = nn.Conv3d(channels, 1, 1)
        self.scorer = Scorer(config.volumes[-2], config.score_width)

    def forward(self, rgba: Float[Tensor, "_ 4 h w"], views: int) -> Float[Tensor, "batch x y z"]:
        """Logits of objects that are shown by so many views each, an object's views next to each other and in any order.

        A single view's volume is the answer as it is, for the softmax over one score is 1.
        """
        fine, coarse = self.decoder(self.encoder(rgba))
        volumes: Tensor = self.volume(fine)
        if views == 1:
            return volumes[:, 0]
        scores = self.scorer(coarse, volumes)
        each = (len(rgba) // views, views, *scores.shape[1:])
        return fused(volumes[:, 0].reshape(each), scores.reshape(each))

    def occupied(self, rgba: Float[Tensor, "_ 4 h w"], views: int) -> Bool[Tensor, "batch x y z"]:
        """Voxels whose probability is above the config's threshold."""
        return occupied(self(rgba, views), self.config.threshold)


def occupied(logits: Float[Tensor, "batch x y z"], threshold: float) -> Bool[Tensor, "batch x y z"]:
    """Voxels whose probability is above a threshold."""
    return logits.sigmoid() > threshold


# Its file: safetensors, with the config and what it was trained on as metadata

_CONFIG = TypeAdapter(VoxelBaselineConfig)


def write_baseline(path: Path, network: nn.Module, config: VoxelBaselineConfig, card: Mapping[str, Json]) -> None:
    """Write weights, config and card to one file, whole or not at all. Raises: BadFile."""
    tensors = {key: value.detach().cpu().contiguous() for key, value in network.state_dict().items()}
    texts = {"config": _CONFIG.dump_json(config).decode(), "card": json.dumps(dict(card), sort_keys=True)}
    write_whole(path, save(tensors, texts))


def read_baseline(path: Path) -> tuple[VoxelBaseline, dict[str, Any]]:
    """The network of a file, and what it was trained on. Raises: CheckpointMismatch: no such file, a broken or a strange one."""
    if path.suffix != ".safetensors":
        raise CheckpointMismatch(
            f"{path} is no .safetensors file: give the weights that `mvsam3d train baseline` wrote"
        )
    if path.is_file() and path.stat().st_size > LARGEST_FILE:
        raise CheckpointMismatch(f"{path} has {path.stat().st_size:,} bytes, a baseline at most {LARGEST_FILE:,}")
    tensors = read_tensors(path)
    config, card = _texts(path)
    with torch.device("meta"):
        network = VoxelBaseline(config)
    load_strictly(network, tensors, str(path))
    return network.eval().requires_grad_(False), card


def _texts(path: Path) -> tuple[VoxelBaselineConfig, dict[str, Any]]:
    """Config and card in a file of tensors."""
    try:
        with safe_open(path, "pt") as file:
            texts = cast("dict[str, str]", file.metadata() or {})
        if not {"config", "card"} <= texts.keys() or any(len(text) > LARGEST_TEXT for text in texts.values()):
            raise ValueError("it has no config and card, or ones that are too long")
        fields, card = json.loads(texts["config"]), json.loads(texts["card"])
        if not isinstance(card, dict) or not isinstance(fields, dict):
            raise ValueError("config or card is no table")
        if unknown := sorted(fields.keys() - vars(VoxelBaselineConfig()).keys()):
            raise ValueError(f"its config has a field {unknown[0]!r}, which no baseline has")
        config = _CONFIG.validate_python(fields)
        _check(config)
    except (ValidationError, ValueError, RecursionError, SafetensorError) as problem:
        text = " ".join(str(problem).split())[:300]
        raise CheckpointMismatch(
            f"{path} holds no baseline ({text}): train one by `mvsam3d train baseline`"
        ) from problem
    return config, card


def _check(config: VoxelBaselineConfig) -> None:
    """Refuse sizes that cannot be built. Raises: ValueError."""
    for name in ("widths", "volumes"):
        count = len(getattr(config, name))
        if not 2 <= count <= MOST_LEVELS:
            raise ValueError(f"{name} names {count} levels, 2 to {MOST_LEVELS} are taken")
    sizes = (*config.widths, *config.volumes, config.narrow, config.score_width)
    if not all(1 <= size <= MOST_CHANNELS for size in sizes):
        raise ValueError(f"widths must be 1 to {MOST_CHANNELS}")
    normed_widths = (*config.widths[1:], *config.volumes, config.score_width)
    if any(size % max(size // NORM_CHANNELS, 1) for size in normed_widths) or min(config.widths[1:]) < NORM_CHANNELS:
        raise ValueError(f"a width cannot be cut into groups of {NORM_CHANNELS} channels")
    if not (16 <= config.input_size <= 1024 and config.side * 2 ** len(config.widths) == config.input_size):
        raise ValueError(f"crops of {config.input_size} pixels cannot be halved {len(config.widths)} times")
    if not 0 < config.threshold < 1:
        raise ValueError(f"threshold = {config.threshold} is no probability")
