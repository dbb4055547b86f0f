"""From renders to photos: sizes, masks that are never empty, what each flaw leaves alone."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mvsam3d.training import photos
from mvsam3d.training.photos import blocky, blur, photograph


def _disk(size: int, radius: float = 0.35) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    y, x = np.mgrid[:size, :size] + 0.5
    alpha = (x / size - 0.5) ** 2 + (y / size - 0.5) ** 2 < radius**2
    rgb = np.where(alpha[..., None], np.uint8(200), np.uint8(0)) * np.ones(3, np.uint8)
    return rgb.astype(np.uint8), alpha, np.where(alpha, 2.0, np.inf).astype(np.float32)


@given(seed=st.integers(0, 10**6), size=st.sampled_from([32, 57, 112]), strength=st.sampled_from([0.0, 0.5, 1.0, 2.0]))
@settings(max_examples=60, deadline=None)
def test_sizes_and_masks(seed: int, size: int, strength: float) -> None:
    rgb, alpha, depth = _disk(size, 0.05 + 0.4 * (seed % 7) / 7)
    photo, mask = photograph(rgb, alpha, depth, np.random.default_rng(seed), strength=strength)
    assert photo.shape == rgb.shape
    assert photo.dtype == np.uint8
    assert mask.shape == alpha.shape
    assert mask.any()
    if strength == 0:
        np.testing.assert_array_equal(mask, alpha)


def test_without_flaws_the_object_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    rgb, alpha, depth = _disk(64)
    inner = _disk(64, 0.3)[1]  # clear of the softened outline
    for seed in range(10):
        photo, _ = photograph(rgb, alpha, depth, np.random.default_rng(seed), strength=0)
        np.testing.assert_array_equal(photo[inner], rgb[inner])


def test_shares_of_flaws() -> None:
    rgb, alpha, depth = _disk(48)
    clean = bad = cut = 0
    rounds = 400
    for seed in range(rounds):
        photo, mask = photograph(rgb, alpha, depth, np.random.default_rng(seed))
        bare, _ = photograph(rgb, alpha, depth, np.random.default_rng(seed), strength=0)
        corner = bare[:3, :3].reshape(-1)
        clean += bool(np.all(corner == corner[0]) and corner[0] in (0, 255))
        empty = ~photo.any(-1)
        band = (empty.all(0) & ~mask.any(0)).any() or (empty.all(1) & ~mask.any(1)).any()
        cut += bool(band and (alpha & ~mask).sum() > 20)
        bad += bool(np.any(mask != alpha))
    assert clean / rounds == pytest.approx(photos.CLEAN_BACKGROUND, abs=0.1)  # 4 standard deviations
    assert cut / rounds == pytest.approx(photos.TRUNCATED, abs=0.05)
    assert 0.25 < bad / rounds < 0.65


def test_same_chance_same_photo() -> None:
    views = [photograph(*_disk(40), np.random.default_rng(3)) for _ in range(2)]
    np.testing.assert_array_equal(views[0][0], views[1][0])
    np.testing.assert_array_equal(views[0][1], views[1][1])


def test_blur_keeps_flat_and_total() -> None:
    flat = np.full((20, 20, 3), 0.3, dtype=np.float32)
    np.testing.assert_allclose(blur(flat, 2.0), flat, atol=1e-6)
    point = np.zeros((21, 21, 1), dtype=np.float32)
    point[10, 10] = 1
    spread = blur(point, 1.5)
    assert spread.sum() == pytest.approx(1, abs=1e-5)
    y = np.arange(21) - 10
    assert (spread[..., 0].sum(1) * y**2).sum() == pytest.approx(1.5**2, rel=0.1)  # cut off at 2.5 sigma


def test_blocks_lose_less_when_finer() -> None:
    image = np.random.default_rng(0).random((45, 45, 3)).astype(np.float32)
    errors = [float(np.abs(blocky(image, q) - image).mean()) for q in (1e-3, 0.3, 1.0)]
    assert errors[0] < 1e-3  # the transform is orthonormal: only rounding is lost
    assert errors[0] < errors[1] < errors[2] < 0.2
