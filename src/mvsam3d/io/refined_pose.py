"""`pose_optimization/optimized_params.npz`: a refined pose and how it came about, as arrays."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path

import numpy as np
from jaxtyping import Float
from torch import Tensor

from mvsam3d.io.runs import write_whole
from mvsam3d.types import Pose


def write_refined_pose(
    path: Path,
    pose: Pose,
    initial: Pose,
    *,
    loss_history: Float[np.ndarray, " round"],
    distance_history: Float[np.ndarray, " round"],
    scale_history: Float[np.ndarray, " round"],
    accepted: bool,
) -> None:
    """Write the file, whole or not at all; equal input gives equal bytes.

    Keys and shapes are the public ones (scale 3, rotation 4, translation 3, loss_history, cd_history, scale_history); the initial
    pose, there a pickled dict, is initial_scale, initial_rotation, initial_translation. `accepted` is ours.

    Args:
        path: of the file.
        pose: in the p3d camera of the reference view, as in params.npz.
        initial: likewise.
        loss_history: what was minimised.
        distance_history: mean distance of the measured points to the mesh, in the unit of the pose.
        scale_history: in the same unit.
        accepted: False: the refined pose was no better, and `pose` is the initial one.
    """
    arrays = {
        **{name: _values(value) for name, value in vars(pose).items()},
        "loss_history": loss_history.astype(np.float32),
        "cd_history": distance_history.astype(np.float32),
        "scale_history": scale_history.astype(np.float32),
        **{f"initial_{name}": _values(value) for name, value in vars(initial).items()},
        "accepted": np.array(accepted),
    }
    file = BytesIO()
    np.savez(file, allow_pickle=False, **arrays)
    write_whole(path, file.getvalue())


def _values(value: Float[Tensor, " n"]) -> Float[np.ndarray, " n"]:
    return value.detach().cpu().numpy().astype(np.float32)
