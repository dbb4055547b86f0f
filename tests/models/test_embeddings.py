"""Embeddings on disk: found again by content, shared between objects of a photo, bounded, and never a reason to fail."""

import os
from functools import partial
from pathlib import Path

import pytest
import torch

from mvsam3d.models import public_config
from mvsam3d.models.bundle import Models
from mvsam3d.models.checkpoints import checkpoint_folder, open_checkpoint
from mvsam3d.models.embeddings import EmbeddingCache, image_features
from tests.generation.test_memory import peak
from tests.models import public_folder


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Models:
    public_config.VITS[public_folder.TINY_VIT] = public_folder.VIT
    folder = tmp_path_factory.mktemp("hf")
    public_folder.write_public_folder(folder)
    return open_checkpoint(folder).models(paged=False)


def maps(seed: int, views: int = 2) -> dict[str, torch.Tensor]:
    noise, side = torch.Generator().manual_seed(seed), public_folder.SIDE
    channels = {"image": 3, "rgb_image": 3, "mask": 1, "rgb_image_mask": 1}
    return {name: torch.rand(views, count, side, side, generator=noise) for name, count in channels.items()}


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_what_is_found_is_what_was_made(models: Models, tmp_path: Path) -> None:
    cache, given = EmbeddingCache(tmp_path), maps(0)
    without = image_features(models, "structure_condition", given, None)
    first, second = (image_features(models, "structure_condition", given, cache) for _ in range(2))
    for name, value in without.items():
        assert torch.equal(first[name], value)
        assert torch.equal(second[name], value)
    assert len(names(tmp_path)) == 8
    embedder = models.structure_condition.embedder
    torch.testing.assert_close(first["image"], embedder.features({"image": given["image"]})["image"])


def test_views_are_encoded_one_at_a_time(models: Models) -> None:
    """Point maps too, whose encoder takes most. Seven views more leave the peak where it is, but for what is made of them."""

    def given(views: int) -> dict[str, torch.Tensor]:
        points = torch.rand(
            views, 3, public_folder.SIDE, public_folder.SIDE, generator=torch.Generator().manual_seed(3)
        )
        return {**maps(0, views), "pointmap": points, "rgb_pointmap": points + 1}

    one, eight = (peak(partial(image_features, models, "structure_condition", given(views), None)) for views in (1, 8))
    made = image_features(models, "structure_condition", given(8), None)
    assert eight - one < 2 * sum(value.nbytes for value in made.values()) < one
    together = models.structure_condition.embedder.features(given(8))
    assert set(made) == set(together)
    for name, value in made.items():
        torch.testing.assert_close(value, together[name], rtol=1e-4, atol=1e-5)


def test_what_is_kept_is_used(models: Models, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache, given = EmbeddingCache(tmp_path), maps(0)
    image_features(models, "slat_condition", given, cache)

    def fail(images: torch.Tensor) -> torch.Tensor:
        raise AssertionError("the encoder ran")

    for encoder in models.slat_condition.embedder.module_list:
        monkeypatch.setattr(encoder, "forward", fail)
    image_features(models, "slat_condition", given, cache)
    with pytest.raises(AssertionError, match="the encoder ran"):
        image_features(models, "slat_condition", maps(1), cache)


def test_objects_of_one_photo_share_the_whole_photo(models: Models, tmp_path: Path) -> None:
    """Another object has another crop and other masks; the photo itself is embedded once."""
    cache, mug, chair = EmbeddingCache(tmp_path), maps(0, 1), maps(1, 1)
    image_features(models, "structure_condition", mug, cache)
    assert len(names(tmp_path)) == 4
    image_features(models, "structure_condition", {**chair, "rgb_image": mug["rgb_image"]}, cache)
    assert len(names(tmp_path)) == 7


def test_other_weights_find_nothing(models: Models, tmp_path: Path) -> None:
    cache, given = EmbeddingCache(tmp_path), maps(0, 1)
    image_features(models, "structure_condition", given, cache)
    before = names(tmp_path)
    image_features(models, "slat_condition", given, cache)
    assert len(names(tmp_path) - before) == 4


def test_those_used_longest_ago_go_first(tmp_path: Path) -> None:
    cache = EmbeddingCache(tmp_path, most=10_000)
    for i in range(8):
        cache.put(f"{i}", torch.zeros(500))  # 2 kB and a header
        os.utime(tmp_path / f"{i}.safetensors", (i, i))
        assert sum(path.stat().st_size for path in tmp_path.iterdir()) <= 10_000
        if i == 3:
            assert cache.get("0") is not None
            os.utime(tmp_path / "0.safetensors", (100, 100))  # as reading does, whatever the clock's steps
    assert cache.get("0") is not None
    assert cache.get("1") is None
    assert cache.get("7") is not None


def test_a_broken_file_counts_as_none(tmp_path: Path) -> None:
    cache = EmbeddingCache(tmp_path)
    (tmp_path / "a.safetensors").write_bytes(b"broken")
    assert cache.get("a") is None
    assert not names(tmp_path)


def test_where_nothing_can_be_written_the_run_goes_on(
    models: Models, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("")
    cache, given = EmbeddingCache(tmp_path / "file" / "cache"), maps(0, 1)
    found = image_features(models, "structure_condition", given, cache)
    assert len(found) == 4
    assert "--no-cache" in caplog.text


def test_our_small_model_keeps_nothing(tmp_path: Path) -> None:
    small = open_checkpoint(checkpoint_folder("small")).models()
    assert not image_features(small, "structure_condition", maps(0), EmbeddingCache(tmp_path))
    assert not names(tmp_path)
