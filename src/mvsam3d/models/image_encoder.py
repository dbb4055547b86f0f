"""DINOv2 with registers: image or mask -> tokens. Keys of the public checkpoints, `backbone.` included."""

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from mvsam3d.nn.blocks import VitBlock, init_vit
from mvsam3d.nn.layers import LayerNorm32

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class VitConfig:
    """Size and use of a vision transformer. Defaults: dinov2_vitl14_reg as the public stage 1 uses it."""

    kind: Literal["vit"] = "vit"
    input_size: int = 518
    """Images are resized to this square."""
    position_size: int = 518
    """Image size of the table of positions; at another input size the table is resized."""
    patch_size: int = 14
    width: int = 1024
    depth: int = 24
    heads: int = 16
    mlp_ratio: float = 4.0
    registers: int = 4
    normalize_images: bool = True
    """Subtract the ImageNet mean and divide by its deviation, of masks too."""
    prenorm_features: bool = False
    """Give all tokens before the last norm, normed without parameters, instead of class and patches after it."""
    frozen: bool = True
    """Do not train it."""

    @property
    def prefix(self) -> int:
        """Leading tokens that are no patches."""
        return 1 + self.registers if self.prenorm_features else 1


class PatchEmbed(nn.Module):
    """Square patches -> tokens, row-major. Key proj."""

    def __init__(self, patch: int, width: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, width, patch, stride=patch)

    def forward(self, images: Float[Tensor, "batch 3 h w"]) -> Float[Tensor, "batch channel rows columns"]:
        """Embed."""
        out: Tensor = self.proj(images)
        return out


class VisionTransformer(nn.Module):
    """The network proper; `mask_token` belongs to the checkpoint and is not used."""

    def __init__(self, config: VitConfig) -> None:
        super().__init__()
        width, grid = config.width, config.position_size // config.patch_size
        self.cls_token = nn.Parameter(torch.randn(1, 1, width) * 1e-6)
        self.pos_embed = nn.Parameter(nn.init.trunc_normal_(torch.empty(1, 1 + grid**2, width), std=0.02))
        self.register_tokens = nn.Parameter(torch.randn(1, config.registers, width) * 1e-6)
        self.mask_token = nn.Parameter(torch.zeros(1, width))
        self.patch_embed = PatchEmbed(config.patch_size, width)
        self.blocks = nn.Sequential(
            *(VitBlock(width, config.heads, config.mlp_ratio, layer_scale=True) for _ in range(config.depth))
        )
        self.norm = LayerNorm32(width, eps=1e-6)
        init_vit(self.blocks)

    def positions(self, rows: int, columns: int) -> Float[Tensor, "1 patch channel"]:
        """Positions of the patches of a rows x columns grid; resized if need be (bicubic, antialias)."""
        table = self.pos_embed[:, 1:]
        side = round(table.shape[1] ** 0.5)
        if (rows, columns) == (side, side):
            return table
        grid = table.float().transpose(1, 2).reshape(1, -1, side, side)
        resized = F.interpolate(grid, size=(rows, columns), mode="bicubic", antialias=True)
        return resized.flatten(2).transpose(1, 2).to(table.dtype)

    def forward(self, images: Float[Tensor, "batch 3 h w"]) -> Float[Tensor, "batch token channel"]:
        """Tokens before the last norm: class, registers (which have no position), patches row by row."""
        patches = self.patch_embed(images)
        x = patches.flatten(2).transpose(1, 2) + self.positions(*patches.shape[-2:])
        first = torch.cat([self.cls_token + self.pos_embed[:, :1], self.register_tokens], dim=1)
        x = torch.cat([first.expand(len(x), -1, -1), x], dim=1)
        out: Tensor = self.blocks(x)
        return out


class ImageEncoder(nn.Module):
    """Image or mask -> `config.prefix` tokens (class, maybe registers), then a token per patch, row by row."""

    mean: Tensor
    std: Tensor

    def __init__(self, config: VitConfig) -> None:
        super().__init__()
        self.config = config
        self.backbone = VisionTransformer(config)
        self.register_buffer("mean", torch.tensor(IMAGENET_MEAN)[:, None, None], persistent=False)
        self.register_buffer("std", torch.tensor(IMAGENET_STD)[:, None, None], persistent=False)
        if config.frozen:
            self.requires_grad_(False)

    def restore_constants(self, device: torch.device) -> None:
        """Mean and deviation anew, which no checkpoint holds: for an encoder built on the meta device."""
        self.mean = torch.tensor(IMAGENET_MEAN, device=device)[:, None, None]
        self.std = torch.tensor(IMAGENET_STD, device=device)[:, None, None]

    def preprocess(self, images: Float[Tensor, "batch colour h w"]) -> Float[Tensor, "batch 3 size size"]:
        """Resize (bilinear, no antialias), repeat a single channel, normalise."""
        size = self.config.input_size
        images = F.interpolate(images, size=(size, size), mode="bilinear", align_corners=False)
        images = images.expand(-1, 3, -1, -1)
        return (images - self.mean) / self.std if self.config.normalize_images else images

    def forward(self, images: Float[Tensor, "batch colour h w"]) -> Float[Tensor, "batch token channel"]:
        """Encode images (3 channels) or masks (1 channel) in [0, 1], of any size."""
        tokens: Tensor = self.backbone(self.preprocess(images))
        if self.config.prenorm_features:
            return F.layer_norm(tokens.float(), tokens.shape[-1:]).to(images.dtype)
        tokens = self.backbone.norm(tokens)
        return torch.cat([tokens[:, :1], tokens[:, 1 + self.config.registers :]], dim=1).to(images.dtype)
