"""The trainer's whole way at tiny size: data, four parts, slices, export, and the exported model at work."""

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from mvsam3d.errors import InvalidOption
from mvsam3d.models.checkpoints import load_checkpoint
from mvsam3d.training.data import mapped, save_whole
from mvsam3d.training.recipes import PARTS, RunOptions, export_run, start_from, train_recipe

BLOCKED = """
import sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("tyro", "rich", "trimesh", "cv2", "xatlas", "fast_simplification", "viser", "matplotlib"):
            raise ImportError(name)
sys.meta_path.insert(0, Blocked())
import mvsam3d.training.__main__
"""


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the data, the run and the checkpoint of the tiny recipe."""
    folder = tmp_path_factory.mktemp("trained")
    options = RunOptions(run=folder / "run", data=folder / "cache")
    told: list[str] = []
    for steps in (1, 2):  # the second call continues the first
        train_recipe("tiny", replace(options, steps=steps), lambda text, done, of: told.append(text))
    export_run("tiny", options, folder / "checkpoint")
    (folder / "told").write_text("\n".join(told))
    return folder


def test_all_parts_train_resume_and_export(trained: Path) -> None:
    for part in PARTS:
        rows = [json.loads(line) for line in (trained / "run" / part / "metrics.jsonl").read_text().splitlines()]
        assert max(row["step"] for row in rows) == 2
        assert part in (trained / "told").read_text()
        assert (trained / "run" / part / "losses.png").exists()
    models, config, card = load_checkpoint(trained / "checkpoint")
    assert models.config == config
    assert all(std > 0 for std in config.slat.std)
    assert card["parts"]["structure_flow"]["samples_seen"] == 2 * 2
    assert card["data"]["generated_objects"] == 2 * 4


def quiet(text: str, done: int, of: int) -> None:
    """Report to nobody."""


@pytest.mark.parametrize("start", ["run", "checkpoint"])
def test_training_starts_from_other_weights(trained: Path, tmp_path: Path, start: str) -> None:
    options = RunOptions(run=tmp_path, data=trained / "cache", start=str(trained / start), steps=0)
    train_recipe("tiny", options, quiet)
    for part in PARTS:
        before, now = (torch.load(run / part / "state.pt", weights_only=True) for run in (trained / "run", tmp_path))
        assert now["step"] == 0
        for key, value in now["networks"].items():
            if part == "structure_vae" and key.startswith("decoder") and start == "checkpoint":
                continue  # a checkpoint holds the decoder that was trained along with the flow
            torch.testing.assert_close(value, before["averaged"][key], rtol=1e-3, atol=1e-6)  # half precision


def test_another_seed_shows_other_draws(trained: Path, tmp_path: Path) -> None:
    learnt = {}
    for seed in (None, 0, 1):
        run = tmp_path / str(seed)
        options = RunOptions(run, trained / "cache", "lifting", start=str(trained / "run"), steps=1, seed=seed)
        train_recipe("tiny", options, quiet)
        state = torch.load(run / "lifting" / "state.pt", weights_only=True)
        learnt[seed] = state["networks"]["network.view_layer.weight"]
    assert torch.equal(learnt[None], learnt[0])
    assert not torch.equal(learnt[0], learnt[1])


def test_shards_without_finer_grids_are_named(trained: Path, tmp_path: Path) -> None:
    data = tmp_path / "cache"
    shutil.copytree(trained / "cache", data)
    old = sorted((data / "lifting").glob("generated-*.safetensors"))[0]
    save_whole({key: value for key, value in mapped(old).items() if not key.startswith("fine_")}, old)
    options = RunOptions(tmp_path / "run", data, "lifting_detail", start=str(trained / "run"), steps=1)
    with pytest.raises(InvalidOption, match=f"{old.name}: made without finer grids, as 1 of"):
        train_recipe("tiny", options, quiet)


def test_autoencoders_are_not_trained_when_they_start_from_others(trained: Path, tmp_path: Path) -> None:
    options = RunOptions(run=tmp_path, data=trained / "cache", start=str(trained / "run"), steps=1)
    train_recipe("tiny", options, quiet)
    assert [torch.load(tmp_path / part / "state.pt", weights_only=True)["step"] for part in PARTS] == [0, 1, 0, 1, 1, 1]


def test_a_start_without_encoders_is_refused(trained: Path, tmp_path: Path) -> None:
    copied = tmp_path / "copied"
    shutil.copytree(trained / "checkpoint", copied, ignore=shutil.ignore_patterns("encoders*"))
    load_checkpoint(copied)  # good enough to reconstruct with
    with pytest.raises(InvalidOption, match=r"encoders\.safetensors"):
        train_recipe("tiny", RunOptions(run=tmp_path / "run", data=tmp_path / "cache", start=str(copied)), quiet)
    assert not (tmp_path / "cache").exists()  # nothing was made first


def test_a_network_does_not_start_from_another() -> None:
    with pytest.raises(InvalidOption, match="weight"):
        start_from(nn.Linear(2, 3), nn.Linear(3, 3).state_dict())
    with pytest.raises(InvalidOption, match="share no name"):
        start_from(nn.Linear(2, 3), {"other": torch.zeros(1)})


def test_the_flow_trains_the_decoder_and_leaves_the_latents(trained: Path) -> None:
    """The decoder learns with the flow, so a checkpoint holds the flow's copy and not the VAE's."""
    vae, flow = (
        torch.load(trained / "run" / part / "state.pt", weights_only=True)["averaged"]
        for part in ("structure_vae", "structure_flow")
    )
    key = "decoder.out_layer.2.weight"
    assert not torch.equal(vae[key], flow[key])
    shipped = load_file(trained / "checkpoint" / "weights.safetensors")[f"structure_{key}"].float()
    torch.testing.assert_close(shipped, flow[key], rtol=1e-3, atol=1e-6)


def test_parts_need_those_before_them(tmp_path: Path) -> None:
    with pytest.raises(InvalidOption, match="structure_vae"):
        train_recipe("tiny", RunOptions(run=tmp_path / "run", data=tmp_path, part="structure_flow"), lambda *_: None)


def test_unknown_recipes_are_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidOption, match="small, tiny"):
        train_recipe("huge", RunOptions(run=tmp_path, data=tmp_path), lambda *_: None)


def test_the_trainer_needs_few_packages() -> None:
    done = subprocess.run([sys.executable, "-c", BLOCKED], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-500:]
