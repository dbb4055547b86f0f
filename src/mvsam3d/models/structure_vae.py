"""Structure VAE: occupancy grid <-> structure latent, 3D convolutions. Keys of the public ss_encoder and ss_decoder."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from mvsam3d.nn.layers import LayerNorm32

CHANNELS_LAST = torch.channels_last_3d  # what the norms between the convolutions read and leave, so nothing is copied


@dataclass(frozen=True)
class StructureVaeConfig:
    """Size of encoder and decoder; each level after the first halves the grid. Defaults: the public size."""

    channels: tuple[int, ...] = (32, 128, 512)
    """Width of each level, from the occupancy grid (finest) to the latent grid (coarsest)."""
    latent_channels: int = 8
    occupancy_channels: int = 1
    num_res_blocks: int = 2
    """Residual blocks at each level."""
    num_res_blocks_middle: int = 2
    """Residual blocks more at the latent grid."""
    patch: int = 1
    """Side of the cubes of voxels that become the channels of one cell before the first level; 1 in the public model.

    The convolutions of a fine grid cost most and know least: 4 trains over ten times faster on a CPU."""

    token_patch: int = 1
    """Side of the cubes of latent cells that make one token of the flow; 1 in the public model."""

    @property
    def factor(self) -> int:
        """Side of the occupancy grid / side of the latent grid."""
        return int(self.patch * 2 ** (len(self.channels) - 1))


@dataclass(frozen=True)
class Posterior:
    """What the encoder says of the latent: a Gaussian with independent components."""

    mean: Float[Tensor, "batch channel x y z"]
    logvar: Float[Tensor, "batch channel x y z"]

    def sample(self, noise: Float[Tensor, "batch channel x y z"]) -> Float[Tensor, "batch channel x y z"]:
        """The latent at `noise`, standard normal."""
        return self.mean + torch.exp(self.logvar / 2) * noise


def tokens_from_grid(
    grid: Float[Tensor, "batch channel x y z"], patch: int = 1
) -> Float[Tensor, "batch latent channels"]:
    """Cells of a grid in a row: cell (x, y, z) of a cube of side n is token x n^2 + y n + z. `patch`: see `token_patch`."""
    return fold(grid, patch).flatten(2).transpose(1, 2)


def grid_from_tokens(
    tokens: Float[Tensor, "batch latent channels"], patch: int = 1
) -> Float[Tensor, "batch channel x x x"]:
    """The inverse of `tokens_from_grid` for a cube."""
    batch, count, channels = tokens.shape
    side = round(count ** (1 / 3))
    assert side**3 == count, f"{count} tokens are no cube"
    return unfold(tokens.transpose(1, 2).reshape(batch, channels, side, side, side), patch)


def fold(grid: Float[Tensor, "batch channel x y z"], patch: int) -> Float[Tensor, "batch channels x2 y2 z2"]:
    """Cubes of `patch`^3 cells -> the channels of one cell; channel order as in `pixel_shuffle_3d`."""
    b, c, x, y, z = grid.shape
    cells = grid.reshape(b, c, x // patch, patch, y // patch, patch, z // patch, patch)
    return cells.permute(0, 1, 3, 5, 7, 2, 4, 6).reshape(b, c * patch**3, x // patch, y // patch, z // patch)


def unfold(grid: Float[Tensor, "batch channels x y z"], patch: int) -> Float[Tensor, "batch channel x2 y2 z2"]:
    """The inverse of `fold`."""
    b, c, x, y, z = grid.shape
    cells = grid.reshape(b, c // patch**3, patch, patch, patch, x, y, z).permute(0, 1, 5, 2, 6, 3, 7, 4)
    return cells.reshape(b, c // patch**3, x * patch, y * patch, z * patch)


class ChannelNorm(LayerNorm32):
    """LayerNorm over the channels of each cell."""

    def forward(self, input: Float[Tensor, "batch channel x y z"]) -> Float[Tensor, "batch channel x y z"]:
        """Normalise."""
        return super().forward(input.permute(0, 2, 3, 4, 1)).permute(0, 4, 1, 2, 3)


def conv3(channels_in: int, channels_out: int) -> nn.Conv3d:
    """A 3 x 3 x 3 convolution that keeps the grid."""
    return nn.Conv3d(channels_in, channels_out, 3, padding=1)


class ResBlock(nn.Module):
    """x + two normed convolutions; starts as the identity (last convolution zero)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm1 = ChannelNorm(channels)
        self.norm2 = ChannelNorm(channels)
        self.conv1 = conv3(channels, channels)
        self.conv2 = conv3(channels, channels)
        nn.init.zeros_(self.conv2.weight)
        assert self.conv2.bias is not None
        nn.init.zeros_(self.conv2.bias)

    def forward(self, x: Float[Tensor, "batch channel x y z"]) -> Float[Tensor, "batch channel x y z"]:
        """Apply."""
        h = self.conv1(F.silu(self.norm1(x)))
        out: Tensor = x + self.conv2(F.silu(self.norm2(h)))
        return out


class Down(nn.Module):
    """Halve the grid by a 2 x 2 x 2 convolution."""

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__()
        self.conv = nn.Conv3d(channels_in, channels_out, 2, stride=2)

    def forward(self, x: Float[Tensor, "batch channel x y z"]) -> Float[Tensor, "batch out x2 y2 z2"]:
        """Apply."""
        out: Tensor = self.conv(x)
        return out


def pixel_shuffle_3d(x: Float[Tensor, "batch channel8 x y z"]) -> Float[Tensor, "batch channel x2 y2 z2"]:
    """Double the grid: channel c * 8 + i * 4 + j * 2 + k of cell (x, y, z) -> channel c of (2x + i, 2y + j, 2z + k)."""
    b, c, *size = x.shape
    cells = x.reshape(b, c // 8, 2, 2, 2, *size).permute(0, 5, 2, 6, 3, 7, 4, 1)
    return cells.reshape(b, *(2 * s for s in size), c // 8).permute(0, 4, 1, 2, 3)


class Up(nn.Module):
    """Double the grid: a convolution, then `pixel_shuffle_3d`."""

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__()
        self.conv = conv3(channels_in, channels_out * 8)

    def forward(self, x: Float[Tensor, "batch channel x y z"]) -> Float[Tensor, "batch out x2 y2 z2"]:
        """Apply."""
        return pixel_shuffle_3d(self.conv(x))


def middle(config: StructureVaeConfig) -> nn.Sequential:
    """The residual blocks at the latent grid that belong to no level."""
    return nn.Sequential(*(ResBlock(config.channels[-1]) for _ in range(config.num_res_blocks_middle)))


def output_layer(channels_in: int, channels_out: int) -> nn.Sequential:
    """Norm, SiLU, convolution. Keys 0 and 2."""
    return nn.Sequential(ChannelNorm(channels_in), nn.SiLU(), conv3(channels_in, channels_out))


class StructureEncoder(nn.Module):
    """Occupancy -> posterior of the latent; `channels[0]` at the full grid, `channels[-1]` at the latent's."""

    def __init__(self, config: StructureVaeConfig) -> None:
        super().__init__()
        widths = config.channels
        self.config = config
        self.input_layer = conv3(config.occupancy_channels * config.patch**3, widths[0])
        blocks: list[nn.Module] = []
        for level, width in enumerate(widths):
            blocks += [ResBlock(width) for _ in range(config.num_res_blocks)]
            blocks += [Down(width, coarser) for coarser in widths[level + 1 : level + 2]]
        self.blocks = nn.Sequential(*blocks)
        self.middle_block = middle(config)
        self.out_layer = output_layer(widths[-1], config.latent_channels * 2)

    def forward(self, occupancy: Float[Tensor, "batch occupancy x y z"]) -> Posterior:
        """Encode occupancy (0 or 1, axes of the object frame) on a grid whose side is a multiple of `config.factor`."""
        occupancy = occupancy.contiguous(memory_format=CHANNELS_LAST)
        cells = fold(occupancy, self.config.patch)
        mean, logvar = self.out_layer(self.middle_block(self.blocks(self.input_layer(cells)))).chunk(2, dim=1)
        return Posterior(mean, logvar)


class StructureDecoder(nn.Module):
    """Latent -> logits of occupancy; the encoder's levels, backwards."""

    def __init__(self, config: StructureVaeConfig) -> None:
        super().__init__()
        widths = config.channels[::-1]
        self.input_layer = conv3(config.latent_channels, widths[0])
        self.middle_block = middle(config)
        blocks: list[nn.Module] = []
        for level, width in enumerate(widths):
            blocks += [ResBlock(width) for _ in range(config.num_res_blocks)]
            blocks += [Up(width, finer) for finer in widths[level + 1 : level + 2]]
        self.blocks = nn.Sequential(*blocks)
        self.config = config
        self.out_layer = output_layer(widths[-1], config.occupancy_channels * config.patch**3)

    def forward(self, latent: Float[Tensor, "batch channel x y z"]) -> Float[Tensor, "batch occupancy x2 y2 z2"]:
        """Decode a grid of latents (`grid_from_tokens` makes one of tokens); occupied where the logit > 0."""
        latent = latent.contiguous(memory_format=CHANNELS_LAST)
        return unfold(self.out_layer(self.blocks(self.middle_block(self.input_layer(latent)))), self.config.patch)
