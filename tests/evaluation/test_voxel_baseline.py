from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from mvsam3d.errors import CheckpointMismatch, InvalidOption, NothingFound
from mvsam3d.evaluation.protocols import P7, Judgement, judged
from mvsam3d.evaluation.rigs import Ring, captured
from mvsam3d.evaluation.subjects import Answer, Capture, Subject
from mvsam3d.evaluation.systems import Baseline, Oracle, parse_system, run_system
from mvsam3d.evaluation.voxel_baseline import baseline_answer
from mvsam3d.models.voxel_baseline import VoxelBaseline, VoxelBaselineConfig, write_baseline
from tests.evaluation.truths import block

TINY = VoxelBaselineConfig(widths=(8, 8, 8, 8), narrow=2, volumes=(8, 8, 8, 8))
BOX = Subject("box", block(), None, "box.glb")  # 1 x .6 x .3, its longest side along x


class Boxed(nn.Module):
    """Says the box of the truth whatever it sees, with a hollow in it."""

    def __init__(self, config: VoxelBaselineConfig) -> None:
        super().__init__()
        self.config, self.seen = config, []

    def occupied(self, rgba: torch.Tensor, views: int) -> torch.Tensor:
        self.seen.append(rgba)
        at = (np.indices((32,) * 3).transpose(1, 2, 3, 0) + 0.5) / 32 - 0.5
        solid = torch.from_numpy((np.abs(at) < np.array([0.5, 0.3, 0.15])).all(-1))
        solid[10:20, 14:18, 15:17] = False
        return solid[None]


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    path = tmp_path / "weights.safetensors"
    write_baseline(path, VoxelBaseline(TINY), TINY, {})
    return path


def no_oracle(answer: Answer, photos: Capture) -> Judgement:
    raise AssertionError("nobody asks the truth")


def test_it_is_named_by_its_file(weights: Path) -> None:
    named = parse_system(f"theirs=baseline:weights={weights}")
    assert (named.label, named.system) == ("theirs", Baseline(weights))
    told = named.described()
    assert (told["kind"], told["weights"]) == ("baseline", str(weights))
    torch.manual_seed(1)
    write_baseline(weights, VoxelBaseline(TINY), TINY, {})
    assert parse_system(f"baseline:weights={weights}").described()["sha256"] != told["sha256"]


def test_wrong_files_are_told(weights: Path, tmp_path: Path) -> None:
    with pytest.raises(InvalidOption, match="give baseline:weights="):
        parse_system("baseline")
    with pytest.raises(InvalidOption, match="there is no file"):
        parse_system(f"baseline:weights={tmp_path / 'none.safetensors'}")
    weights.write_bytes(weights.read_bytes()[:100])
    with pytest.raises(CheckpointMismatch, match="broken or cut off"):
        parse_system(f"baseline:weights={weights}").described()


def test_its_answer_is_judged_where_it_stands(weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A network that knows the box is right by protocol P7; what it is shown are crops as our model's, and no cameras."""
    network, photos = Boxed(TINY), captured(BOX, Ring(views=2), 96)
    monkeypatch.setattr("mvsam3d.evaluation.voxel_baseline._loaded", lambda path, device: network)
    blind = Capture(photos.photos, ())
    made = run_system(Baseline(weights), BOX, blind, tmp_path, oracle=Oracle(no_oracle, "iou_32"), seed=0, views=2)
    found = judged(made.answer, BOX, photos, photos, P7, np.random.default_rng(0))
    assert found.metrics["iou_32"] > 0.95
    assert made.answer.occupied is not None
    assert made.answer.occupied[10:20, 14:18, 15:17].all()  # the hollow is filled
    assert (made.answer.mesh, made.answer.truth_from_answer) == (None, None)
    assert made.answer.seconds > 0
    (rgba,) = network.seen
    assert rgba.shape == (2, 4, 112, 112)
    for crop in rgba:
        rows, columns = torch.nonzero(crop[3], as_tuple=True)
        longer = max(int(np.ptp(rows.numpy())), int(np.ptp(columns.numpy()))) + 1
        assert longer == pytest.approx(112 / 1.2, abs=3)  # the crop is 1.2 times the mask
        assert crop[:3, crop[3] == 0].mean() > 0.99  # white ground
        assert crop[:3, crop[3] == 1].mean() < 0.95


def test_a_real_network_answers_and_may_find_nothing(weights: Path) -> None:
    photos = captured(BOX, Ring(views=3), 64).photos
    answer = baseline_answer(weights, photos, "cpu")
    again = baseline_answer(weights, photos[::-1], "cpu")
    assert answer.occupied is not None
    assert answer.occupied.shape == (32, 32, 32)
    assert again.occupied is not None
    assert (answer.occupied ^ again.occupied).mean() < 1e-3  # order of photos: rounding at the threshold
    empty = VoxelBaseline(TINY)
    with torch.no_grad():
        empty.volume.weight.zero_()
        empty.volume.bias.fill_(-5.0)
    other = weights.with_name("empty.safetensors")
    write_baseline(other, empty, TINY, {})
    with pytest.raises(NothingFound, match=r"above 0\.3"):
        baseline_answer(other, photos, "cpu")
