"""LPIPS with weights that are brought: found, checked, and by its formula."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from mvsam3d.errors import BadFile, CheckpointMismatch
from mvsam3d.evaluation.perceptual import LAYERS, SCALE, SHIFT, load_lpips


def weights() -> dict[str, torch.Tensor]:
    noise = torch.Generator().manual_seed(0)
    found = {}
    for i, (key, into, out, kernel, _, _) in enumerate(LAYERS):
        found[f"{key}.weight"] = torch.randn(out, into, kernel, kernel, generator=noise) / math.sqrt(into * kernel**2)
        found[f"{key}.bias"] = torch.randn(out, generator=noise) / 10
        found[f"lin{i}.model.1.weight"] = torch.rand(1, out, 1, 1, generator=noise)
    return found


def in_two_files(folder: Path, content: dict[str, torch.Tensor]) -> Path:
    folder.mkdir(exist_ok=True)
    torch.save({key: value for key, value in content.items() if key.startswith("features")}, folder / "alexnet.pth")
    save_file({key: value for key, value in content.items() if key.startswith("lin")}, folder / "lin.safetensors")
    return folder


def plain(content: dict[str, torch.Tensor], a: np.ndarray, b: np.ndarray) -> float:
    """Twin: torch's own modules of AlexNet, in its own order."""
    nn = torch.nn
    net = nn.Sequential(
        *(nn.Conv2d(3, 64, 11, 4, 2), nn.ReLU(), nn.MaxPool2d(3, 2), nn.Conv2d(64, 192, 5, padding=2), nn.ReLU(), nn.MaxPool2d(3, 2)),
        *(nn.Conv2d(192, 384, 3, padding=1), nn.ReLU(), nn.Conv2d(384, 256, 3, padding=1), nn.ReLU()),
        *(nn.Conv2d(256, 256, 3, padding=1), nn.ReLU()),
    )  # fmt: skip
    net.load_state_dict({key.removeprefix("features."): v for key, v in content.items() if key.startswith("features")})
    total = 0.0
    x, y = (
        (torch.tensor(p).permute(2, 0, 1)[None] * 2 - 1 - torch.tensor(SHIFT)[:, None, None])
        / torch.tensor(SCALE)[:, None, None]
        for p in (a, b)
    )
    lin = 0
    with torch.no_grad():
        for layer in net:
            x, y = layer(x), layer(y)
            if isinstance(layer, nn.ReLU):
                u, v = (f / f.norm(dim=1, keepdim=True).clamp(min=1e-10) for f in (x, y))
                total += float(((u - v) ** 2 * content[f"lin{lin}.model.1.weight"]).sum(1).mean())
                lin += 1
    return total


def test_distance_is_that_of_a_plain_twin(tmp_path: Path) -> None:
    found = load_lpips(in_two_files(tmp_path, weights()))
    assert found is not None
    a, b = np.random.default_rng(0).random((2, 64, 80, 3), np.float32)
    assert found.distance(a, b) == pytest.approx(plain(weights(), a, b), rel=1e-4)  # rounding of float32
    assert found.distance(a, b) > 0.01
    with pytest.raises(BadFile, match="31 pixels a side"):
        found.distance(a[:20], b[:20])


def test_no_weights_are_none_and_wrong_ones_an_error(tmp_path: Path) -> None:
    assert load_lpips(tmp_path) is None
    assert load_lpips(tmp_path / "gone") is None
    with pytest.raises(CheckpointMismatch, match=r"lin2\.model\.1\.weight missing"):
        load_lpips(in_two_files(tmp_path / "part", {k: v for k, v in weights().items() if not k.startswith("lin2")}))
    with pytest.raises(CheckpointMismatch, match=r"features\.0\.weight missing or of another shape"):
        load_lpips(in_two_files(tmp_path / "shape", weights() | {"features.0.weight": torch.zeros(64, 3, 7, 7)}))
    (tmp_path / "broken.pth").write_bytes(b"PK\x03\x04 no archive")
    with pytest.raises(CheckpointMismatch):
        load_lpips(tmp_path)
