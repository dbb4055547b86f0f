import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from mvsam3d.errors import CheckpointMismatch
from mvsam3d.models.voxel_baseline import (
    VoxelBaseline,
    VoxelBaselineConfig,
    fused,
    occupied,
    read_baseline,
    write_baseline,
)

TINY = VoxelBaselineConfig(input_size=16, widths=(8, 8), narrow=2, volumes=(8, 8), score_width=8)


def network() -> VoxelBaseline:
    torch.manual_seed(0)
    made = VoxelBaseline(TINY).eval()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return made


def crops(count: int) -> torch.Tensor:
    return torch.rand(count, 4, 16, 16, generator=torch.Generator().manual_seed(1))


def test_equal_views_fuse_to_one_view() -> None:  # law, whatever the scores; logits of p next to 0 and 1 survive
    volume = torch.tensor([-60.0, -3.0, 0.0, 0.7, 9.0, 60.0]).view(1, 1, 6, 1, 1)
    scores = torch.randn(1, 3, 6, 1, 1, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(fused(volume.expand(1, 3, 6, 1, 1), scores), volume[:, 0], rtol=1e-5, atol=1e-6)


def test_scores_weigh_probabilities() -> None:
    """Closed form: weights 3/4 and 1/4 of .8 and .2 give .65; a score far above the others decides alone, at its voxel only."""
    volumes = torch.tensor([0.8, 0.2]).logit().view(1, 2, 1, 1, 1).expand(1, 2, 2, 1, 1)
    scores = torch.zeros(1, 2, 2, 1, 1)
    scores[0, 0, 0], scores[0, 1, 1] = torch.tensor(3.0).log(), 50.0
    found = fused(volumes, scores).sigmoid().flatten()
    torch.testing.assert_close(found, torch.tensor([0.75 * 0.8 + 0.25 * 0.2, 0.2]))


@torch.no_grad()
@pytest.mark.parametrize("views", [1, 2, 5])
def test_any_number_of_views_and_no_order(views: int) -> None:
    made, x = network(), crops(2 * views)
    logits = made(x, views)
    assert logits.shape == (2, 8, 8, 8)
    turned = x.unflatten(0, (2, views)).roll(1, dims=1).flatten(0, 1)
    torch.testing.assert_close(made(turned, views), logits, rtol=1e-4, atol=1e-5)
    mixed = made(x.flip(0), views)  # the objects change places, and nothing passes between them
    torch.testing.assert_close(mixed, logits.flip(0), rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_views_given_twice_change_nothing_but_views_differ() -> None:
    made, x = network(), crops(2)
    alone = made(x, 1)
    both = made(x, 2)
    torch.testing.assert_close(made(x[[0, 0, 0]], 3), alone[:1], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(made(x[[0, 1, 0, 1]], 4), both, rtol=1e-4, atol=1e-5)
    probability, (low, high) = both[0].sigmoid(), torch.aminmax(alone.sigmoid(), dim=0)
    assert (probability >= low - 1e-6).all()  # law: an average
    assert (probability <= high + 1e-6).all()
    assert not torch.allclose(probability, alone.sigmoid().mean(0), atol=1e-5)  # and not the plain one


def test_size_is_that_of_its_class() -> None:
    with torch.device("meta"):
        made = VoxelBaseline(VoxelBaselineConfig())
        logits = made(torch.empty(4, 4, 112, 112), 2)
    assert 4.25e6 <= sum(p.numel() for p in made.parameters()) <= 5.75e6  # Pix2Vox++/F has 5.0 million
    assert logits.shape == (2, 32, 32, 32)


def test_every_weight_learns() -> None:
    made = network().train()
    made(crops(4), 2).square().mean().backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in made.parameters())


def test_occupied_is_a_probability() -> None:
    logits = torch.tensor([0.31, 0.29, 0.5]).logit().view(3, 1, 1, 1)
    assert occupied(logits, 0.3).flatten().tolist() == [True, False, True]


def test_its_file_holds_all_of_it(tmp_path: Path) -> None:
    made, config = network(), replace(TINY, threshold=0.45)
    write_baseline(tmp_path / "b.safetensors", made, config, {"steps": 7})
    read, card = read_baseline(tmp_path / "b.safetensors")
    assert (read.config, card) == (config, {"steps": 7})
    assert not read.training
    x = crops(2)
    with torch.no_grad():
        assert torch.equal(read(x, 2), made(x, 2))
        assert torch.equal(read.occupied(x, 2), made(x, 2).sigmoid() > 0.45)
    assert [path.name for path in tmp_path.iterdir()] == ["b.safetensors"]


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"widths": [8, 10**9]}, "widths must be 1 to 1024"),
        ({"widths": [8, 16]}, "instead of"),
        ({"widths": [8, 4]}, "groups of 8"),
        ({"volumes": [8] * 40}, "volumes names 40 levels"),
        ({"input_size": 17}, "cannot be halved 2 times"),
        ({"threshold": 1.5}, "threshold = 1.5"),
        ({"threshold": "NaN"}, "threshold"),
        ({"narrow": "many"}, "narrow"),
        ({"narrow": 0}, "widths must be"),
        ({"model": "SAM3D"}, "a field 'model'"),
        ({"narrow": 3}, "not a VoxelBaseline of this size"),
    ],
)
def test_strange_configs_are_refused(tmp_path: Path, fields: dict[str, object], words: str) -> None:
    path = tmp_path / "b.safetensors"
    write_baseline(path, network(), TINY, {})
    with safe_open(path, "pt") as file:
        texts, tensors = file.metadata(), {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    save_file(tensors, path, {**texts, "config": json.dumps({**json.loads(texts["config"]), **fields})})
    with pytest.raises(CheckpointMismatch, match=words):
        read_baseline(path)


def test_hostile_files_are_refused(tmp_path: Path) -> None:
    path, good = tmp_path / "b.safetensors", tmp_path / "good.safetensors"
    write_baseline(good, network(), TINY, {})
    content = good.read_bytes()
    with pytest.raises(CheckpointMismatch, match="is no file"):
        read_baseline(path)
    with pytest.raises(CheckpointMismatch, match=r"is no \.safetensors file"):
        read_baseline(tmp_path / "b.pt")
    for broken in (b"", b"\xff" * 64, content[:-8], content[: len(content) // 2], (1 << 62).to_bytes(8, "little")):
        path.write_bytes(broken)
        with pytest.raises(CheckpointMismatch, match="broken or cut off"):
            read_baseline(path)
    tensors = dict(network().state_dict())
    save_file(tensors, path)
    with pytest.raises(CheckpointMismatch, match="no config and card"):
        read_baseline(path)
    config = json.dumps({"narrow": 2})
    for card in ("[]", "[" * 100_000, "{", json.dumps({"long": "x" * (1 << 17)})):
        save_file(tensors, path, {"config": config, "card": card})
        with pytest.raises(CheckpointMismatch, match="holds no baseline"):
            read_baseline(path)
    spoilt = {**tensors, "volume.bias": torch.tensor([float("nan")])}
    write_baseline(path, network(), TINY, {})
    with safe_open(path, "pt") as file:
        save_file(spoilt, path, file.metadata())
    with pytest.raises(CheckpointMismatch, match="NaN"):
        read_baseline(path)
    with path.open("wb") as file:
        file.truncate(300 << 20)  # sparse: takes no room
    with pytest.raises(CheckpointMismatch, match="a baseline at most"):
        read_baseline(path)
