"""LPIPS, the perceptual distance (Zhang et al. 2018, v0.1, AlexNet), with weights that the user brings.

As their authors publish them: AlexNet's of torchvision (features.0.weight ...) and the linear part (lin0.model.1.weight ...).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Float32
from torch import Tensor

from mvsam3d.errors import BadFile, CheckpointMismatch
from mvsam3d.models.tensor_files import read_tensors

SUFFIXES = (".pth", ".pt", ".safetensors")
LAYERS = (  # key, channels in, out, kernel, stride, padding; a pooling of 3 x 3, stride 2, before the second and third
    ("features.0", 3, 64, 11, 4, 2),
    ("features.3", 64, 192, 5, 1, 2),
    ("features.6", 192, 384, 3, 1, 1),
    ("features.8", 384, 256, 3, 1, 1),
    ("features.10", 256, 256, 3, 1, 1),
)
POOLED = (1, 2)
SHIFT, SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)  # of pictures in [-1, 1]
LEAST_SIDE = 31  # pixels: smaller pictures vanish in the poolings


@dataclass(frozen=True)
class Lpips:
    """The networks of LPIPS."""

    weights: Mapping[str, Tensor]

    @torch.no_grad()
    def distance(self, truth: Float32[np.ndarray, "h w 3"], answer: Float32[np.ndarray, "h w 3"]) -> float:
        """Of two pictures in [0, 1], at least LEAST_SIDE pixels a side; 0: the same."""
        total = 0.0
        for layer, (a, b) in enumerate(zip(self._features(truth), self._features(answer), strict=True)):
            total += float(F.conv2d((a - b).square(), self.weights[f"lin{layer}.model.1.weight"]).mean())
        return total

    def _features(self, picture: Float32[np.ndarray, "h w 3"]) -> list[Float[Tensor, "1 channel h2 w2"]]:
        """Each layer's answer, of length 1 at each place."""
        if min(picture.shape[:2]) < LEAST_SIDE:
            raise BadFile(
                f"LPIPS needs pictures of {LEAST_SIDE} pixels a side, got {picture.shape[1]} x {picture.shape[0]}"
            )
        x = torch.from_numpy(np.ascontiguousarray(picture, np.float32)).permute(2, 0, 1)[None] * 2 - 1
        x = (x - x.new_tensor(SHIFT)[:, None, None]) / x.new_tensor(SCALE)[:, None, None]
        found = []
        for layer, (key, _, _, _, stride, padding) in enumerate(LAYERS):
            if layer in POOLED:
                x = F.max_pool2d(x, 3, 2)
            x = F.relu(F.conv2d(x, self.weights[f"{key}.weight"], self.weights[f"{key}.bias"], stride, padding))
            found.append(x / (x.square().sum(1, keepdim=True).sqrt() + 1e-10))
        return found


def load_lpips(folder: Path) -> Lpips | None:
    """The networks from all files of weights in a folder; None: there are none.

    Raises: CheckpointMismatch: the files do not hold those networks, or cannot be read safely.
    """
    paths = sorted(path for path in folder.iterdir() if path.suffix in SUFFIXES) if folder.is_dir() else []
    if not paths:
        return None
    weights = {key: value for path in paths for key, value in read_tensors(path).items()}
    shapes: dict[str, tuple[int, ...]] = {}
    for i, (key, into, out, kernel, _, _) in enumerate(LAYERS):
        shapes |= {
            f"{key}.weight": (out, into, kernel, kernel),
            f"{key}.bias": (out,),
            f"lin{i}.model.1.weight": (1, out, 1, 1),
        }
    wrong = [key for key, shape in shapes.items() if key not in weights or tuple(weights[key].shape) != shape]
    if wrong:
        raise CheckpointMismatch(
            f"{folder}: {', '.join(wrong[:3])} missing or of another shape. LPIPS needs torchvision's AlexNet weights and the linear part "
            "of LPIPS v0.1 for AlexNet, each as a file of tensors"
        )
    return Lpips({key: weights[key].float() for key in shapes})
