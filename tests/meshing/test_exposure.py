import numpy as np
import pytest

from mvsam3d.meshing.exposure import MOST_GAIN, NO_SHIFT, evening_gains, model_shift


def shared_light(views, points=4000, seed=0):
    random = np.random.default_rng(seed)
    light = random.uniform(0.1, 0.4, (1, points, 3)).repeat(views, axis=0)
    weights = (random.uniform(size=(views, points)) < 0.5) * random.uniform(0.5, 1, (views, points))
    return light, weights


def test_factors_are_undone_also_among_outliers():
    light, weights = shared_light(4)
    factors = np.array([[1.5, 1.2, 1.0], [1.0, 1.0, 1.3], [0.8, 0.9, 0.9], [1.0, 1.1, 0.7]])
    seen = light * factors[:, None]
    clean = evening_gains(seen, weights) * factors
    np.testing.assert_allclose(clean, clean[:1].repeat(4, axis=0), rtol=5e-3)  # the pull to 1 takes 1/1000
    seen[0, ::5] = 0.9  # a fifth of one photo is a highlight
    noisy = evening_gains(seen, weights) * factors
    np.testing.assert_allclose(noisy, noisy[:1].repeat(4, axis=0), rtol=0.05)


def test_the_mean_stays():
    light, weights = shared_light(3)
    gains = evening_gains(light * np.array([2.0, 1.0, 1.0])[:, None, None], (weights > 0) * 1.0)
    share = ((weights > 0) & ((weights > 0).sum(axis=0) >= 2)).sum(axis=1)
    np.testing.assert_allclose(np.average(np.log(gains), axis=0, weights=share), 0, atol=1e-9)


def test_light_that_moves_is_no_exposure():
    """The photos disagree at random by a factor of about 2 a point, with little in common: gains stay near 1."""
    light, weights = shared_light(2)
    random = np.random.default_rng(1)
    gains = evening_gains(
        light * np.exp(random.normal(0.0, 0.7, light.shape[:2]))[..., None] * np.array([1.15, 1.0])[:, None, None],
        weights,
    )
    assert abs(np.log(gains[1] / gains[0])).max() < 0.07  # half of log 1.15, and less


def test_gains_that_explain_little_are_hardly_believed():
    """Every point is shared, so log 1.06 is certain; but it is a small part of disagreement of 0.15 a point."""
    light, _ = shared_light(2)
    random = np.random.default_rng(1)
    seen = light * np.exp(random.normal(0.0, 0.15, light.shape[:2]))[..., None] * np.array([1.06, 1.0])[:, None, None]
    gains = evening_gains(seen, np.ones(light.shape[:2]))
    assert abs(np.log(gains[1] / gains[0])).max() < 0.02


def test_photos_that_share_nothing_stay():
    light, weights = shared_light(2)
    weights[0, ::2] = weights[1, 1::2] = 0
    np.testing.assert_array_equal(evening_gains(light, weights), 1)
    assert evening_gains(light * np.array([1.0, 0.05])[:, None, None], weights + 1).max() <= MOST_GAIN


def test_shift_by_hand():
    random = np.random.default_rng(0)
    model = random.uniform(0.05, 0.5, (5000, 3))
    gain, offset = np.array([2.0, 1.0, 0.5]), np.array([0.02, -0.01, 0.1])
    photos = model * gain + offset
    photos[:400] = 0.9
    found = model_shift(model, photos, np.ones(5000))
    np.testing.assert_allclose(found.gain, gain, rtol=0.02)
    np.testing.assert_allclose(found.offset, offset, atol=0.005)
    np.testing.assert_allclose(found(np.array([[0.0, 0.0, 0.2]])), [[0.02, 0.0, 0.2]], atol=0.006)


def test_a_plain_model_takes_the_ratio():
    model = np.full((100, 3), 0.2)
    photos = np.random.default_rng(0).normal([0.1, 0.2, 0.4], 0.001, (100, 3))
    found = model_shift(model, photos, np.ones(100))
    np.testing.assert_allclose(found.gain, [0.5, 1.0, 2.0], rtol=0.01)
    np.testing.assert_allclose(found.offset, 0, atol=1e-3)


def test_nothing_seen_shifts_nothing():
    assert model_shift(np.ones((3, 3)), np.ones((3, 3)), np.zeros(3)) is NO_SHIFT
    assert pytest.approx(NO_SHIFT(np.full((1, 3), 0.3))) == 0.3
