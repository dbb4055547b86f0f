"""What stage 2 starts from -> `stage2_init.pt`, to repeat it alone."""

from __future__ import annotations

from pathlib import Path

import torch
from jaxtyping import Float, Int32
from torch import Tensor

from mvsam3d.exports.tensors import write_tensors


@torch.no_grad()
def write_slat_start(
    path: Path,
    coords: Int32[Tensor, "voxel 4"],
    initial_noise: Float[Tensor, "1 voxel channel"],
    tokens: Float[Tensor, "view 1 token width"],
    *,
    steps: int,
    guidance: float,
) -> None:
    """Write the public system's keys; read with torch.load(path, weights_only=True). Equal starts give equal bytes.

    Args:
        path: file.
        coords: batch, x, y, z of the active voxels.
        initial_noise: of the first step.
        tokens: condition tokens of each view.
        steps: of the schedule.
        guidance: strength s of (1 + s) conditional - s unconditional.
    """
    content = {
        "coords": _own(coords),
        "initial_noise": _own(initial_noise),
        "latent_shape": tuple(initial_noise.shape),
        "num_views": len(tokens),
        "inference_steps": steps,
        "condition_args": (_own(tokens),),
        "slat_cfg_strength": guidance,
        "use_distillation": False,
    }
    write_tensors(path, content)


def _own(tensor: Tensor) -> Tensor:
    """On the CPU and without the rest of a larger tensor that it may be a part of, which would be saved too."""
    return tensor.detach().cpu().clone()
