import numpy as np
import torch

from mvsam3d.io.refined_pose import write_refined_pose
from mvsam3d.types import Pose


def pose(x: float) -> Pose:
    return Pose(torch.tensor([1.0, 0, 0, 0]), torch.tensor([x, 0, 2]), torch.full((3,), 0.5))


def test_public_keys_without_pickles(tmp_path) -> None:
    histories = {f"{name}_history": np.arange(4.0) + i for i, name in enumerate(("loss", "distance", "scale"))}
    for name in ("a.npz", "b.npz"):
        write_refined_pose(tmp_path / name, pose(0.1), pose(0.3), **histories, accepted=True)
    with np.load(tmp_path / "a.npz", allow_pickle=False) as file:
        arrays = {key: file[key] for key in file.files}
    assert {key: value.shape for key, value in arrays.items()} == {
        **{"scale": (3,), "rotation": (4,), "translation": (3,)},
        **{"loss_history": (4,), "cd_history": (4,), "scale_history": (4,), "accepted": ()},
        **{"initial_scale": (3,), "initial_rotation": (4,), "initial_translation": (3,)},
    }
    np.testing.assert_allclose(arrays["translation"], [0.1, 0, 2])
    np.testing.assert_allclose(arrays["initial_translation"], [0.3, 0, 2])
    np.testing.assert_allclose(arrays["cd_history"], [1, 2, 3, 4])
    assert arrays["accepted"]
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()
    assert len(list(tmp_path.iterdir())) == 2
