import pytest
import torch

from mvsam3d.errors import InvalidOption
from mvsam3d.exports.attention import AttentionWriter, attention_bytes, parse_layers
from mvsam3d.io.runs import RunFolder
from mvsam3d.nn.probe import patch_entropy

COORDS = torch.tensor([[1, 2, 3], [4, 5, 6], [7, 8, 9]]).int()


def attention(latents=3, keys=7, seed=0):
    return torch.rand(latents, keys, generator=torch.Generator().manual_seed(seed)).softmax(1)


@pytest.mark.parametrize(
    ("text", "layers"),
    [(None, (6,)), ("4", (4, 6)), ("4,5,6", (4, 5, 6)), (" 23 , -1", (23, 6)), ("-18,6", (6,)), ("-24", (0, 6))],
)
def test_layers(text, layers):
    assert parse_layers(text, 24, 6) == layers


@pytest.mark.parametrize(
    ("text", "message"),
    [("24", "0 to 23"), ("-25", "-1 to -24"), ("", "whole number"), ("4,,5", "whole number"), ("six", "'six'")],
)
def test_layers_out_of_range(text, message):
    with pytest.raises(InvalidOption, match=message):
        parse_layers(text, 24, 6)


def test_a_map_and_its_labels(tmp_path):
    writer = AttentionWriter(RunFolder(tmp_path), 4)
    for step in (0, 1):
        writer.write("slat", 6, step, 3, attention(seed=step), COORDS)
    writer.write("structure", 9, 0, 0, attention())
    files = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*.pt"))
    assert files == [
        "attention/slat/layer_06/step000_view03_idx000.pt",
        "attention/slat/layer_06/step001_view03_idx001.pt",
        "attention/ss/layer_09/step000_view00_idx000.pt",
    ]
    content = torch.load(tmp_path / files[1], weights_only=True)
    assert torch.equal(content["attention"], attention(seed=1).half()[None])
    assert content["coords"].tolist() == [[0, 1, 2, 3], [0, 4, 5, 6], [0, 7, 8, 9]]
    labels = {name: content[name] for name in ("stage", "layer", "step", "view", "num_views", "latent_name")}
    assert labels == {"stage": "slat", "layer": 6, "step": 1, "view": 3, "num_views": 4, "latent_name": "slat"}
    first = torch.load(tmp_path / files[2], weights_only=True)
    assert "coords" not in first
    assert "timestamp" not in first


def test_equal_maps_give_equal_files(tmp_path):
    for name in ("a", "b"):
        AttentionWriter(RunFolder(tmp_path / name), 1).write("slat", 0, 0, 0, attention(), COORDS)
    a, b = (next((tmp_path / name).rglob("*.pt")).read_bytes() for name in ("a", "b"))
    assert a == b


@pytest.mark.parametrize(("latents", "keys"), [(64, 50), (500, 300)])
def test_size_is_announced(latents, keys, tmp_path):
    """At most the announced size, and no more than 3 kB a file less; a slice of a larger map is stored alone."""
    writer, coords = AttentionWriter(RunFolder(tmp_path), 2), torch.zeros(latents, 3).int()
    for view in range(2):
        writer.write("slat", 1, 0, view, attention(latents, 4 * keys)[:, :keys], coords)
    size = sum(path.stat().st_size for path in tmp_path.rglob("*.pt"))
    announced = attention_bytes("slat", latents=latents, keys=keys, layers=1, steps=1, views=2)
    assert announced - 2 * 3072 < size <= announced


def test_half_precision_keeps_the_entropy(tmp_path):
    """As in the public stage 2: 5496 keys, of which 1369 are the photo's. float16 has steps of 6e-8 near 0."""
    g = torch.Generator().manual_seed(0)
    whole = (2 * torch.randn(20, 5496, generator=g)).softmax(1)[:, 5:1374]
    AttentionWriter(RunFolder(tmp_path), 1).write("structure", 0, 0, 0, whole)
    stored = torch.load(next(tmp_path.rglob("*.pt")), weights_only=True)["attention"].float()
    torch.testing.assert_close(patch_entropy(stored), patch_entropy(whole[None]), atol=1e-4, rtol=0)
