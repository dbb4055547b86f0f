import json
import logging
import os
import zipfile

import numpy as np
import pytest
import torch

from mvsam3d.errors import BadFile, InvalidOption
from mvsam3d.io import runs
from mvsam3d.io.runs import read_params, run_folder, write_params, write_whole
from mvsam3d.types import Pose, Voxels


def names(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def fill(out, content="new", **options):
    with run_folder(out, **options) as run:
        run.path("a/b.txt").write_text(content)


def test_everything_is_there_at_the_end_and_nothing_before(tmp_path):
    out = tmp_path / "deep" / "out"
    with run_folder(out) as run:
        run.write_json("report.json", {"größe": [1, 2.5], "none": None})
        run.path("a/b.txt").write_text("hello")
        assert not out.exists()
    assert names(out) == [".mvsam3d-run", "a", "a/b.txt", "report.json"]
    assert json.loads((out / "report.json").read_text()) == {"größe": [1, 2.5], "none": None}
    assert names(tmp_path / "deep") == ["out", *(f"out/{name}" for name in names(out))]
    ordinary = tmp_path / "ordinary"
    ordinary.mkdir()
    assert out.stat().st_mode == ordinary.stat().st_mode


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, ValueError])
def test_nothing_is_left_after_an_error(error, tmp_path):
    def interrupted():
        with run_folder(tmp_path / "deep" / "er" / "out") as run:
            run.path("a/b.txt").write_text("hello")
            raise error

    with pytest.raises(error):
        interrupted()
    assert names(tmp_path) == []


def test_an_error_keeps_the_earlier_run(tmp_path):
    fill(tmp_path / "out", "old")
    before = names(tmp_path)
    with pytest.raises(ValueError, match="JSON"), run_folder(tmp_path / "out") as run:
        run.write_json("report.json", float("nan"))
    assert names(tmp_path) == before
    assert (tmp_path / "out/a/b.txt").read_text() == "old"


def test_an_earlier_run_is_replaced(tmp_path):
    with run_folder(tmp_path / "out") as run:
        run.path("old.txt").write_text("old")
    fill(tmp_path / "out")
    assert names(tmp_path / "out") == [".mvsam3d-run", "a", "a/b.txt"]
    assert len(list(tmp_path.iterdir())) == 1


def test_an_empty_folder_is_used(tmp_path):
    (tmp_path / "out").mkdir()
    fill(tmp_path / "out")
    assert (tmp_path / "out/a/b.txt").exists()


@pytest.mark.parametrize("earlier_run", [False, True])
def test_other_peoples_files_are_kept_unless_told_otherwise(earlier_run, tmp_path):
    out = tmp_path / "out"
    if earlier_run:
        fill(out)
    out.mkdir(exist_ok=True)
    (out / "thesis.tex").write_text("years of work")
    with pytest.raises(InvalidOption, match=r"thesis\.tex"):
        fill(out)
    assert (out / "thesis.tex").exists()
    fill(out, overwrite=True)
    assert names(out) == [".mvsam3d-run", "a", "a/b.txt"]


def test_folders_that_are_never_replaced(tmp_path, monkeypatch):
    inside = tmp_path / "out" / "inside"
    inside.mkdir(parents=True)
    monkeypatch.chdir(inside)
    with pytest.raises(InvalidOption, match="current folder"):
        fill(tmp_path / "out", overwrite=True)
    (tmp_path / "file").write_text("")
    with pytest.raises(InvalidOption, match="is a file"):
        fill(tmp_path / "file", overwrite=True)


def test_a_failed_swap_brings_the_old_folder_back(tmp_path, monkeypatch):
    fill(tmp_path / "out", "old")
    rename = runs.Path.rename

    def failing(self, target):
        if self.name.endswith(".partial"):
            raise OSError("disk full")
        return rename(self, target)

    monkeypatch.setattr(runs.Path, "rename", failing)
    with pytest.raises(OSError, match="disk full"):
        fill(tmp_path / "out")
    assert (tmp_path / "out/a/b.txt").read_text() == "old"
    assert len(list(tmp_path.iterdir())) == 1


def test_log(tmp_path):
    logger = logging.getLogger("mvsam3d.io")
    with run_folder(tmp_path / "out") as run:
        with run.log():
            logger.info("seen")
            logger.debug("not asked for")
        logger.info("too late")
    text = (tmp_path / "out" / "inference.log").read_text()
    assert text.endswith("INFO mvsam3d.io: seen\n")
    assert text.count("\n") == 1


def test_whole_files(tmp_path, monkeypatch):
    path = tmp_path / "a.bin"
    write_whole(path, b"old")

    def failing(*_):
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", failing)
    with pytest.raises(BadFile, match="disk full"):
        write_whole(path, b"new")
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["a.bin"]


POSE = Pose(torch.tensor([1.0, 0, 0, 0]), torch.tensor([0.0, 0.0, 2.0]), torch.tensor([0.5, 0.5, 0.5]))
VOXELS = Voxels(torch.tensor([[1, 2, 3], [63, 0, 0]], dtype=torch.int32), 64)


def test_params(tmp_path):
    path = tmp_path / "params.npz"
    write_params(path, POSE, VOXELS, downsample_factor=2, pointmap=(torch.ones(3), torch.zeros(3)))
    arrays = read_params(path)
    described = {key: (value.shape, value.dtype.name) for key, value in arrays.items()}
    assert described == {
        "translation": ((1, 3), "float32"),
        "rotation": ((1, 4), "float32"),
        "scale": ((1, 3), "float32"),
        "downsample_factor": ((), "int64"),
        "pointmap_scale": ((1, 3), "float32"),
        "pointmap_shift": ((1, 3), "float32"),
        "coords": ((2, 4), "int32"),
    }
    np.testing.assert_array_equal(arrays["coords"], [[0, 1, 2, 3], [0, 63, 0, 0]])
    np.testing.assert_array_equal(arrays["translation"], [[0, 0, 2]])
    assert arrays["downsample_factor"] == 2
    first = path.read_bytes()
    write_params(path, POSE, VOXELS, downsample_factor=2, pointmap=(torch.ones(3), torch.zeros(3)))
    assert path.read_bytes() == first


def test_params_of_one_view(tmp_path):
    write_params(tmp_path / "params.npz", POSE, VOXELS)
    assert "pointmap_scale" not in read_params(tmp_path / "params.npz")


class Harm:
    def __reduce__(self):
        return (os.mkdir, ("harm",))


def test_broken_params(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "params.npz"
    write_params(path, POSE, VOXELS)
    good = path.read_bytes()
    path.write_bytes(good[: len(good) // 2])
    with pytest.raises(BadFile, match="cannot be read"):
        read_params(path)
    np.savez(path, translation=np.array([Harm()], dtype=object))
    with pytest.raises(BadFile, match="cannot be read"):
        read_params(path)
    assert not (tmp_path / "harm").exists()
    np.savez(path, translation=np.zeros((1, 3)))
    with pytest.raises(BadFile, match="rotation, scale, downsample_factor missing"):
        read_params(path)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("coords.npy", bytes(4096))
    monkeypatch.setattr(runs, "PARAMS_LIMIT", 1000)
    with pytest.raises(BadFile, match="4,096 bytes"):
        read_params(path)
