"""The trainer's whole way at tiny size: data, four parts, slices, export, and the exported model at work."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from mvsam3d.errors import InvalidOption
from mvsam3d.models.checkpoints import load_checkpoint
from mvsam3d.training.recipes import PARTS, RunOptions, export_run, train_recipe

BLOCKED = """
import sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("tyro", "rich", "trimesh", "cv2", "xatlas", "fast_simplification", "viser", "matplotlib"):
            raise ImportError(name)
sys.meta_path.insert(0, Blocked())
import mvsam3d.training.__main__
"""


def test_all_parts_train_resume_and_export(tmp_path: Path) -> None:
    options = RunOptions(run=tmp_path / "run", data=tmp_path / "cache")
    told: list[str] = []
    for steps in (1, 2):  # the second call continues the first
        train_recipe(
            "tiny",
            RunOptions(**{**vars(options), "steps": steps}),
            lambda text, done, of: told.append(text),
        )
    for part in PARTS:
        rows = [json.loads(line) for line in (tmp_path / "run" / part / "metrics.jsonl").read_text().splitlines()]
        assert max(row["step"] for row in rows) == 2
        assert any(part in text for text in told)
        assert (tmp_path / "run" / part / "losses.png").exists()
    export_run("tiny", options, tmp_path / "checkpoint")
    models, config, card = load_checkpoint(tmp_path / "checkpoint")
    assert models.config == config
    assert all(std > 0 for std in config.slat.std)
    assert card["parts"]["structure_flow"]["samples_seen"] == 2 * 2
    assert card["data"]["generated_objects"] == 2 * 4


def test_parts_need_those_before_them(tmp_path: Path) -> None:
    with pytest.raises(InvalidOption, match="structure_vae"):
        train_recipe("tiny", RunOptions(run=tmp_path / "run", data=tmp_path, part="structure_flow"), lambda *_: None)


def test_unknown_recipes_are_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidOption, match="small, tiny"):
        train_recipe("huge", RunOptions(run=tmp_path, data=tmp_path), lambda *_: None)


def test_the_trainer_needs_few_packages() -> None:
    done = subprocess.run([sys.executable, "-c", BLOCKED], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-500:]
