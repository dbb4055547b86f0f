"""Recorded tensors of the public systems: `$MVSAM3D_PARITY`, by default `../shared/parity` beside the project."""

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

FOLDER = Path(os.environ.get("MVSAM3D_PARITY", Path(__file__).parents[2] / "shared" / "parity"))


@dataclass(frozen=True)
class Fixture:
    """One recorded case: its JSON, and its tensors under weights/, in/ and out/ with those prefixes removed."""

    meta: dict[str, Any]
    weights: dict[str, Tensor]
    inputs: dict[str, Tensor]
    outputs: dict[str, Tensor]

    def check(self, name: str, actual: Tensor) -> None:
        """Compare with out/NAME: dtype-free, NaN and infinities must sit at the same places."""
        expected = self.outputs[name]
        tolerance = self.meta["tolerance"]
        assert tuple(actual.shape) == tuple(expected.shape), f"{name}: {tuple(actual.shape)} != {tuple(expected.shape)}"
        torch.testing.assert_close(
            actual.detach().to(expected.dtype),
            expected,
            atol=tolerance["atol"],
            rtol=tolerance["rtol"],
            equal_nan=True,
            msg=lambda text: f"{self.meta['name']} out/{name}: {text}",
        )


def require(path: Path) -> Path:
    """The path, or a skip with the reason."""
    if not path.exists():
        pytest.skip(f"no parity data at {path}: set MVSAM3D_PARITY to the folder that holds stage1, stage2, manifests")
    return path


def fixture(stage: str, name: str) -> Fixture:
    """The fixture `stage/name`."""
    meta = json.loads(require(FOLDER / stage / f"{name}.json").read_text())
    tensors = load_file(FOLDER / stage / f"{name}.safetensors")

    def part(prefix: str) -> dict[str, Tensor]:
        return {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}

    return Fixture(meta, part("weights/"), part("in/"), part("out/"))


def names(stage: str, prefix: str = "") -> list[str]:
    """All fixtures of a stage whose name starts with `prefix` (empty if the folder is absent)."""
    return sorted(path.stem for path in (FOLDER / stage).glob(f"{prefix}*.json"))


def manifest(name: str) -> dict[str, Any]:
    """A public checkpoint's key list."""
    content: dict[str, Any] = json.loads(require(FOLDER / "manifests" / f"{name}.json").read_text())
    return content
