"""`mvsam3d cameras`: what it writes and prints, and how it fails."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mvsam3d.cli import main
from mvsam3d.io.cameras import load_cameras, read_cameras
from mvsam3d.perception import structure_from_motion
from mvsam3d.perception.camera_gate import Solution
from mvsam3d.perception.structure_from_motion import CameraReport, FoundCameras
from mvsam3d.types import Photo
from tests.perception.textured_scene import scene


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    photos, _ = scene([0, 40, 80, 120], side=64)
    there = tmp_path / "shoe"
    (there / "images").mkdir(parents=True)
    (there / "masks" / "thing").mkdir(parents=True)
    for photo in photos:
        Image.fromarray(photo.rgb).save(there / "images" / f"{photo.name}.png")
        Image.fromarray(photo.mask).save(there / "masks" / "thing" / f"{photo.name}.png")
    monkeypatch.chdir(tmp_path)
    return there


def pretend(photos: list[Photo]) -> FoundCameras:
    """All but the last photo, at their true places."""
    true = {photo.name: camera for photo, camera in zip(photos, scene([0, 40, 80, 120], side=64)[1])}
    *names, last = true
    cameras = {name: true[name] for name in names}
    solution = Solution("object", cameras, dict.fromkeys(names, 31), 0.4, 0.0, 0.9)
    return FoundCameras(cameras, "object", CameraReport(solution, dict.fromkeys(names, 0.91), (last,), ()))


def test_cameras_are_written_and_told(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(structure_from_motion, "find_cameras", pretend)
    before = sorted(folder.rglob("*"))
    assert main(["cameras", str(folder), "--object", "thing"]) == 0
    printed = capsys.readouterr().out
    assert "0: 31 points, outlines agree to 0.91" in printed
    assert "3: no camera" in printed
    assert "cameras from the object alone: 3 of 4 photos" in printed
    assert printed.strip().endswith("shoe_cameras.json")
    cameras = load_cameras(Path("shoe_cameras.json"), ["2", "0"])
    assert np.allclose(cameras[1].camera_from_world, scene([0], side=64)[1][0].camera_from_world)
    assert sorted(folder.rglob("*")) == before  # nothing is written into the input
    assert main(["cameras", str(folder)]) == 1
    assert "not overwritten" in capsys.readouterr().err


def test_chosen_views_and_file(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(structure_from_motion, "find_cameras", pretend)
    assert main(["cameras", str(folder), "--views", "0,2,3", "--out", "a.json"]) == 0
    assert list(read_cameras(Path("a.json"))) == ["0", "2"]


def test_no_cameras_is_status_1_and_no_file(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["cameras", str(folder), "--views", "0,1"]) == 1
    error = capsys.readouterr().err
    assert "cannot be told from 2 photos" in error
    assert "What helps" in error
    assert not list(Path().glob("*.json"))


def test_a_folder_that_is_not_there_is_told_before_the_work(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["cameras", str(folder), "--out", "nowhere/a.json"]) == 1
    assert "no folder nowhere" in capsys.readouterr().err
