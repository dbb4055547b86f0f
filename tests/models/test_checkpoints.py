"""Checkpoint folders: round trip, and one clear error for each way of being broken."""

import json
import struct
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from mvsam3d.errors import CheckpointMismatch
from mvsam3d.models.bundle import Models
from mvsam3d.models.checkpoints import load_checkpoint, save_checkpoint
from mvsam3d.models.config import SMALL, ModelConfig

TINY = replace(
    SMALL,
    structure=replace(SMALL.structure, flow=replace(SMALL.structure.flow, blocks=1)),
    slat=replace(SMALL.slat, flow=replace(SMALL.slat.flow, blocks=1)),
)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Models]:
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("checkpoint")
    models = Models(TINY)
    save_checkpoint(folder, TINY, models, {"recipe": "none"})
    return folder, models


@pytest.fixture
def copy(saved: tuple[Path, Models], tmp_path: Path) -> Path:
    for file in saved[0].iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    return tmp_path


def test_round_trip_to_half_precision(saved: tuple[Path, Models]) -> None:
    folder, models = saved
    loaded, config, card = load_checkpoint(folder)
    assert config == TINY
    assert card == {"recipe": "none"}
    for (name, a), (other, b) in zip(models.state_dict().items(), loaded.state_dict().items(), strict=True):
        assert name == other
        assert b.dtype == a.dtype
        torch.testing.assert_close(b, a.half().to(a.dtype) if a.is_floating_point() else a, rtol=0, atol=0)


def refused(folder: Path, *words: str) -> None:
    with pytest.raises(CheckpointMismatch) as caught:
        load_checkpoint(folder)
    for word in words:
        assert word in str(caught.value)


def test_missing_and_extra_keys_are_named(copy: Path) -> None:
    weights = load_file(copy / "weights.safetensors")
    key = next(iter(weights))
    stranger = f"{key}.stranger"
    weights[stranger] = weights.pop(key)
    save_file(weights, copy / "weights.safetensors")
    refused(copy, key, stranger, "1 keys missing", "1 unknown")


def test_tensors_of_no_network_are_named(copy: Path) -> None:
    weights = load_file(copy / "weights.safetensors")
    save_file({**weights, "optimizer.step": torch.zeros(1)}, copy / "weights.safetensors")
    refused(copy, "optimizer.step", "no known part")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers_are_named(copy: Path, value: float) -> None:
    weights = load_file(copy / "weights.safetensors")
    key = next(key for key, value in weights.items() if value.ndim == 2)
    weights[key][1, 2] = value
    save_file(weights, copy / "weights.safetensors")
    refused(copy, key, "NaN or infinity")


def test_wrong_shapes_are_named(copy: Path) -> None:
    weights = load_file(copy / "weights.safetensors")
    key = next(key for key, value in weights.items() if value.ndim == 2)
    weights[key] = weights[key][:1].contiguous()
    save_file(weights, copy / "weights.safetensors")
    refused(copy, key, "instead of")


@pytest.mark.parametrize("kept", [0, 4, 100, 5000])
def test_truncated_weights(copy: Path, kept: int) -> None:
    path = copy / "weights.safetensors"
    path.write_bytes(path.read_bytes()[:kept])
    refused(copy, "weights.safetensors")


def test_a_huge_header_is_not_read(copy: Path) -> None:
    (copy / "weights.safetensors").write_bytes(struct.pack("<Q", 1 << 60) + b"{}")
    refused(copy, "header", str(1 << 60))


def test_a_header_that_announces_more_than_there_is(copy: Path) -> None:
    header = json.dumps({"a": {"dtype": "F16", "shape": [1 << 30, 1 << 30], "data_offsets": [0, 8]}}).encode()
    (copy / "weights.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + bytes(8))
    refused(copy, "weights.safetensors")


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{}", '{"model": 3}', '{"model": {"image_size": "big"}}', '{"model": {"imagesize": 3}}', "[" * 5000],
)
def test_broken_configs(copy: Path, text: str) -> None:
    (copy / "config.json").write_text(text)
    refused(copy, "config.json")


def test_a_config_of_monstrous_sizes_is_refused_at_once(copy: Path) -> None:
    content = json.loads((copy / "config.json").read_text())
    content["model"]["slat"]["flow"]["blocks"] = 10**9
    (copy / "config.json").write_text(json.dumps(content))
    refused(copy, "config.json", "blocks")


def test_an_empty_folder_says_what_is_expected(tmp_path: Path) -> None:
    refused(tmp_path, "config.json", "--model")


def test_the_default_config_is_the_public_model() -> None:
    with torch.device("meta"):
        models = Models(ModelConfig())
    millions = sum(p.numel() for p in models.structure_flow.parameters()) / 1e6
    assert 955 < millions < 970  # 960 M, with the position table and time embeddings
