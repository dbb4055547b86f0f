"""Conversion: the same numbers in another file, each backbone once, in little memory."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from mvsam3d.errors import CheckpointMismatch, InvalidOption
from mvsam3d.models import public_config
from mvsam3d.models.bundle import Models
from mvsam3d.models.checkpoints import checkpoint_folder, load_checkpoint, open_checkpoint
from mvsam3d.models.convert import convert_checkpoint
from tests.models import public_folder


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Models]:
    public_config.VITS[public_folder.TINY_VIT] = public_folder.VIT
    folder = tmp_path_factory.mktemp("hf")
    return folder, public_folder.write_public_folder(folder)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_the_numbers_stay_up_to_the_precision_asked_for(
    published: tuple[Path, Models], tmp_path: Path, dtype: torch.dtype
) -> None:
    convert_checkpoint(published[0], tmp_path / "out", dtype)
    before, after = load_checkpoint(published[0]), load_checkpoint(tmp_path / "out")
    assert after[1:] == before[1:]
    for (key, a), (other, b) in zip(before[0].state_dict().items(), after[0].state_dict().items(), strict=True):
        assert key == other
        assert torch.equal(b, a.to(dtype).to(a.dtype) if not torch.equal(a, b) else a), key
    assert open_checkpoint(tmp_path / "out").half == torch.float16  # what it is meant to run in


def test_a_copied_backbone_is_written_once_and_held_once(published: tuple[Path, Models], tmp_path: Path) -> None:
    done = convert_checkpoint(published[0], tmp_path / "out")
    first, second = (f"structure_condition.embedder.module_list.{i}.backbone." for i in (0, 1))
    assert dict(done.shared) == {second: first}
    names = load_file(tmp_path / "out" / "weights.safetensors")
    assert any(name.startswith(first) for name in names)
    assert not any(name.startswith(second) for name in names)
    encoders: Any = open_checkpoint(tmp_path / "out").models(paged=False).structure_condition.embedder.module_list
    a, b = (encoder.backbone.pos_embed for encoder in encoders[:2])
    assert a.data_ptr() == b.data_ptr()


def test_another_number_in_a_copy_makes_it_no_copy(published: tuple[Path, Models], tmp_path: Path) -> None:
    folder = tmp_path / "hf"
    public_folder.write_public_folder(folder)
    content = torch.load(folder / "ss_generator.ckpt", weights_only=True)
    content["state_dict"]["_base_models.condition_embedder.module_list.1.backbone.norm.bias"][3] += 1
    torch.save(content, folder / "ss_generator.ckpt")
    assert not convert_checkpoint(folder, tmp_path / "out").shared


def test_a_checkpoint_of_our_own_can_be_converted_too(tmp_path: Path) -> None:
    small = checkpoint_folder("small")
    convert_checkpoint(small, tmp_path / "out", torch.float16)
    before, after = load_file(small / "weights.safetensors"), load_file(tmp_path / "out" / "weights.safetensors")
    assert set(before) == set(after)
    assert all(torch.equal(value.to(after[key].dtype), after[key]) for key, value in before.items())
    assert json.loads((tmp_path / "out" / "config.json").read_text())["card"] == open_checkpoint(small).card


def test_it_writes_over_nothing_and_leaves_nothing_half_written(published: tuple[Path, Models], tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("kept")
    with pytest.raises(InvalidOption, match="already"):
        convert_checkpoint(published[0], tmp_path)
    folder = tmp_path / "hf"
    public_folder.write_public_folder(folder)
    weights = torch.load(folder / "slat_decoder_mesh.ckpt", weights_only=True)
    weights["blocks.0.mlp.mlp.0.weight"][0, 0] = 1e30
    torch.save(weights, folder / "slat_decoder_mesh.ckpt")
    with pytest.raises(InvalidOption, match=r"mesh_decoder.blocks.0.mlp.mlp.0.weight holds 1e\+30, too large"):
        convert_checkpoint(folder, tmp_path / "out", torch.float16)
    assert not any((tmp_path / "out").iterdir())
    weights["blocks.0.mlp.mlp.0.weight"][0, 0] = float("nan")
    torch.save(weights, folder / "slat_decoder_mesh.ckpt")
    with pytest.raises(CheckpointMismatch, match="NaN"):
        convert_checkpoint(folder, tmp_path / "out")
    assert not any((tmp_path / "out").iterdir())


def test_files_that_do_not_share_what_they_say_are_refused(published: tuple[Path, Models], tmp_path: Path) -> None:
    convert_checkpoint(published[0], tmp_path / "out")
    config = tmp_path / "out" / "config.json"
    content = json.loads(config.read_text())
    for shared in ({"structure_flow.": "nowhere."}, {"structure_flow.": "slat_flow."}, {"": "x"}, {"a": 3}, [1]):
        config.write_text(json.dumps({**content, "shared": shared}))
        with pytest.raises(CheckpointMismatch):
            load_checkpoint(tmp_path / "out")


def test_memory_is_that_of_two_tensors(tmp_path: Path) -> None:
    """Of its own: what is mapped from files is the system's to take back. The whole model has ten times as much."""
    code = f"""
import threading, time
from pathlib import Path
import torch
from mvsam3d.models.checkpoints import checkpoint_folder, open_checkpoint
from mvsam3d.models.convert import convert_checkpoint
def anonymous():
    return int(next(line for line in open("/proc/self/status") if line.startswith("RssAnon")).split()[1]) * 1024
small = checkpoint_folder("small")
opened = open_checkpoint(small)
sizes = [value.numel() * 4 for name in opened.parts for value in opened.weights(name).values()]
convert_checkpoint(small, Path({str(tmp_path / "warm")!r}), torch.float32)
before, most, going = anonymous(), 0, True
def watch():
    global most
    while going:
        most = max(most, anonymous() - before)
        time.sleep(0.0005)
thread = threading.Thread(target=watch); thread.start()
convert_checkpoint(small, Path({str(tmp_path / "out")!r}), torch.float32)
going = False
thread.join()
print(most, max(sizes), sum(sizes))
"""
    if not Path("/proc/self/status").is_file():
        pytest.skip("memory is read from /proc")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    most, largest, whole = map(int, done.stdout.split())
    assert most < 2 * largest + (4 << 20)  # the names and shapes of the networks take some
    assert whole > 3 * (2 * largest + (4 << 20))
