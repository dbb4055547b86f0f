"""Matches of constructed descriptors, and points that turn up where the picture was moved to."""

import numpy as np

from mvsam3d.perception.matching import FeatureOptions, Features, matches, photo_features, root_sift
from tests.perception.textured_scene import noise


def features(descriptors: np.ndarray, points: np.ndarray | None = None) -> Features:
    """`points`: far from each other if left out."""
    if points is None:
        points = np.arange(len(descriptors))[:, None] * np.array([[10.0, 7.0]])
    return Features(points.astype(np.float32), root_sift(descriptors.astype(np.float32)))


def random_descriptors(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(0, 1, (count, 128)) ** 4


def test_root_sift_is_the_hellinger_kernel() -> None:
    a, b = random_descriptors(2)
    roots = root_sift(np.stack([a, b]).astype(np.float32))
    assert np.allclose(roots[0] @ roots[1], np.sqrt(a / a.sum() * b / b.sum()).sum(), atol=1e-6)
    assert np.allclose(np.linalg.norm(roots, axis=1), 1, atol=1e-6)


def test_a_shuffled_set_is_matched_back() -> None:
    there = random_descriptors(1500)  # more than one block
    order = np.random.default_rng(1).permutation(len(there))
    found = matches(features(there), features(there[order]))
    assert len(found) == len(there)
    assert np.array_equal(order[found[:, 1]], found[:, 0])


def test_twins_are_no_match_unless_they_are_one_point() -> None:
    there = random_descriptors(20)
    twice = np.concatenate([there, there[:1]]) + np.random.default_rng(1).uniform(0, 0.02, (21, 128))
    places = np.concatenate([np.arange(20)[:, None] * np.array([[10.0, 7.0]]), [[100.0, 0.0]]])
    assert 0 not in matches(features(there), features(twice, places))[:, 0]
    places[-1] = places[0] + 1.5  # within `apart`: another copy of the point
    assert 0 in matches(features(there), features(twice, places))[:, 0]


def test_a_match_must_hold_both_ways() -> None:
    there = random_descriptors(20)
    near = there.copy()
    near[1] = 0.9 * there[0] + 0.1 * there[1]  # likes point 0 best, which has a better match
    near[0] = there[0]
    found = matches(features(near), features(there), ratio=1.0)
    assert [1, 0] not in found.tolist()
    assert [0, 0] in found.tolist()


def test_matches_by_the_definition() -> None:  # plain twin
    one, other = features(random_descriptors(60, 2)), features(random_descriptors(80, 3))
    distance = np.linalg.norm(one.descriptors[:, None] - other.descriptors[None], axis=-1)
    expected = []
    for i, row in enumerate(distance):
        first, second = np.argsort(row)[:2]
        if row[first] < 0.98 * row[second] and distance[:, first].argmin() == i:
            expected.append([i, int(first)])
    found = matches(one, other, ratio=0.98)
    assert expected
    assert sorted(found.tolist()) == sorted(expected)


def test_points_turn_up_where_the_picture_was_moved() -> None:
    picture = noise(256, 0)
    shifted = np.roll(picture, (20, 30), axis=(0, 1))
    mask = np.zeros((256, 256), bool)
    mask[40:200, 40:200] = True
    options = FeatureOptions(most=300, copies=((1.0, 0.0), (1.7, 90.0), (1.5, 30.0)))
    one = photo_features(picture, mask, options, inside=True)
    other = photo_features(shifted, np.roll(mask, (20, 30), axis=(0, 1)), options, inside=True)
    pairs = matches(one, other)
    moved = other.points[pairs[:, 1]] - one.points[pairs[:, 0]]
    assert len(pairs) > 200
    assert np.abs(np.median(moved, axis=0) - [30, 20]).max() < 0.05
    assert (np.abs(moved - [30, 20]).max(axis=1) < 1).mean() > 0.97


def test_points_of_stretched_copies_lie_where_the_photo_shows_them() -> None:
    """A dot stands out in every copy."""
    rows, columns = np.mgrid[:120, :160] + 0.5
    dot = 255 * np.exp(-((columns - 70.25) ** 2 + (rows - 50.75) ** 2) / (2 * 4.0**2))
    picture = np.repeat(dot[..., None], 3, axis=2).astype(np.uint8)
    for copy in ((1.0, 0.0), (1.5, 90.0), (1.5, 0.0), (1.5, 60.0)):
        found = photo_features(picture, np.zeros((120, 160), bool), FeatureOptions(copies=(copy,)), inside=False)
        assert np.linalg.norm(found.points - [70.25, 50.75], axis=1).min() < 0.1, copy


def test_points_keep_to_their_side_of_the_outline() -> None:
    picture = noise(256, 1)
    mask = np.zeros((256, 256), bool)
    mask[60:180, 80:220] = True
    options = FeatureOptions(most=500, border=3)
    for inside in (True, False):
        found = photo_features(picture, mask, options, inside=inside).points.astype(int)
        assert len(found) > 100
        assert (mask[found[:, 1], found[:, 0]] == inside).all()
    black = picture * mask[..., None]  # the object looks the same to us when it is cut out
    whole, cut = (photo_features(p, mask, options, inside=True) for p in (picture, black))
    assert np.array_equal(whole.points, cut.points)
    assert np.array_equal(whole.descriptors, cut.descriptors)
