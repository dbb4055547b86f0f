"""What the doctor tells, and that its exit status says whether a run would work."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from mvsam3d import doctor, jobs
from mvsam3d.cli import main
from mvsam3d.doctor import measured_speed, operations, sha256, tried
from mvsam3d.models import public_config
from mvsam3d.models.config import SMALL, ModelConfig
from tests.models import public_folder


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    public_config.VITS[public_folder.TINY_VIT] = public_folder.VIT
    folder = tmp_path_factory.mktemp("hf")
    public_folder.write_public_folder(folder)
    return folder


@pytest.fixture
def healthy(monkeypatch: pytest.MonkeyPatch) -> None:
    """The try is a test of its own."""
    monkeypatch.setattr(doctor, "tried", lambda device: [np.ones(3)])
    for module in (doctor, jobs):
        monkeypatch.setattr(module, "bf16_gain", lambda: 0.02)


def said(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, dict[str, str]]:
    status = main(["doctor", *arguments])
    lines = capsys.readouterr().out.splitlines()
    return status, {line[3:].split(":", 1)[0]: line[:2] + line.split(":", 1)[1] for line in lines}


@pytest.mark.usefixtures("healthy")
def test_all_is_well(published: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, lines = said(capsys, "--model", str(published))
    assert status == 0
    assert all(line.startswith("ok") for line in lines.values())
    assert torch.__version__ in lines["versions"]
    assert "the public SAM 3D Objects" in lines["checkpoint"]
    assert sha256(published / "ss_generator.ckpt") in lines["ss_generator.ckpt"]
    assert "not the file that was first published" in lines["ss_generator.ckpt"]  # it is a tiny one
    assert "SAM License" in lines["licence"]
    assert "4 views" in lines["memory"]
    assert "GFLOP/s" in lines["time"]
    assert "float32: matrices are multiplied 0.02 times as fast in bfloat16" in lines["precision"]


@pytest.mark.usefixtures("healthy")
def test_too_little_memory_is_told(published: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, lines = said(capsys, "--model", str(published), "--memory-budget", "0.01", "--no-hashes")
    assert status == 1
    assert lines["memory"].startswith("!!")
    assert "too much" in lines["memory"]
    assert "SHA-256" not in lines["ss_decoder.ckpt"]


@pytest.mark.usefixtures("healthy")
def test_a_file_that_does_not_fit_is_told(published: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "hf"
    shutil.copytree(published, folder)
    weights = torch.load(folder / "ss_decoder.ckpt", weights_only=True)
    weights.pop("input_layer.bias")
    torch.save(weights, folder / "ss_decoder.ckpt")
    status, lines = said(capsys, "--model", str(folder))
    assert status == 1
    assert "input_layer.bias" in lines["checkpoint"]
    status, lines = said(capsys, "--model", str(tmp_path / "nowhere"))
    assert status == 1
    assert "pipeline.yaml" in lines["checkpoint"]


def test_a_device_that_is_not_there_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    status, lines = said(capsys, "--device", "nonsense")
    assert status == 1
    assert "nonsense" in lines["device"]


def test_networks_that_compute_nonsense_are_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(doctor, "tried", lambda device: [np.array([1.0, np.nan])])
    status, lines = said(capsys, "--no-hashes")
    assert status == 1
    assert "not finite" in lines["self-test"]


def test_the_try_reaches_the_splat_and_repeats() -> None:
    first, second = tried(torch.device("cpu")), tried(torch.device("cpu"))
    assert all(np.array_equal(a, b) for a, b in zip(first, second))
    assert 0 < float(first[1][0]) < 1


def test_speed_is_that_of_products_and_work_grows_with_views() -> None:
    assert measured_speed(torch.device("cpu"), torch.float32) > 1e8
    two, four = (operations(ModelConfig(), views, 20_000) for views in (2, 4))
    assert 1e15 < two < four < 2 * two  # what views share is done once
    assert operations(SMALL, 4, 5000) < 1e-3 * four
