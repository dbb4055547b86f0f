"""Answers laid over the truth: similarities are found again, flips only by the starts that hold them."""

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from mvsam3d.errors import InvalidOption
from mvsam3d.evaluation.alignment import aligned, best_similarity, similarity_icp, starts
from mvsam3d.evaluation.measures import surface_samples
from mvsam3d.types import Mesh
from tests.evaluation.shapes import ball, letter, turned

COUNT = 10_000


def points(mesh: Mesh, seed: int) -> np.ndarray:
    return surface_samples(mesh, COUNT, np.random.default_rng(seed)).points


def similarity(rotation: np.ndarray, scale: float, shift: tuple[float, float, float]) -> np.ndarray:
    matrix = np.eye(4)
    matrix[:3, :3], matrix[:3, 3] = scale * rotation, shift
    return matrix


def far_off(found: np.ndarray, answer_from_truth: np.ndarray) -> float:
    """Largest way of a corner of the letter from its place."""
    round_trip = found @ answer_from_truth
    return float(np.abs(turned(letter(), round_trip).vertices - letter().vertices).max())


def test_best_similarity_of_pairs() -> None:
    noise = np.random.default_rng(0)
    source = noise.normal(size=(20, 3))
    target_from_source = similarity(Rotation.random(rng=noise).as_matrix(), 2.5, (1, 2, 3))
    target = source @ target_from_source[:3, :3].T + target_from_source[:3, 3]
    np.testing.assert_allclose(best_similarity(target, source), target_from_source, atol=1e-12)
    mirrored = best_similarity(source * [1, 1, -1], source)
    assert np.linalg.det(mirrored[:3, :3]) > 0  # never a mirroring


@pytest.mark.parametrize(
    ("rule", "degrees"),
    [("icp-4", (0, 0, 170)), ("icp-4", (10, 5, 95)), ("icp-24", (180, 0, 20)), ("icp-24", (90, 15, -80))],
)
def test_a_similarity_is_found_again(rule, degrees) -> None:
    rotation = Rotation.from_euler("xyz", degrees, degrees=True).as_matrix()
    answer_from_truth = similarity(rotation, 0.3, (2.0, -1.0, 0.5))
    found = aligned(points(letter(), 0), points(turned(letter(), answer_from_truth), 1), rule)
    assert far_off(found.truth_from_answer, answer_from_truth) < 0.01  # 10,000 points lie 0.013 apart
    assert found.residual < 0.012
    assert found.rule == rule


def test_one_start_locks_onto_a_flip_and_four_do_not() -> None:  # the trap
    half_turn = similarity(Rotation.from_euler("z", 180, degrees=True).as_matrix(), 1.0, (0, 0, 0))
    truth, answer = points(letter(), 0), points(turned(letter(), half_turn), 1)
    assert far_off(similarity_icp(truth, answer, starts(1)), half_turn) > 0.3
    assert far_off(similarity_icp(truth, answer, starts(4)), half_turn) < 0.01


def test_four_starts_stay_upright_and_twenty_four_do_not() -> None:
    upside_down = similarity(Rotation.from_euler("y", 180, degrees=True).as_matrix(), 1.0, (0, 0, 0))
    truth, answer = points(letter(), 0), points(turned(letter(), upside_down), 1)
    wrong, right = aligned(truth, answer, "icp-4"), aligned(truth, answer, "icp-24")
    assert far_off(wrong.truth_from_answer, upside_down) > 0.3
    assert far_off(right.truth_from_answer, upside_down) < 0.01
    assert wrong.residual > 2 * right.residual  # and the residual says so


def test_an_answer_of_another_shape_does_not_shrink_to_a_point() -> None:
    """Paired one way only, this one ends at 0.02 of its size, on one spot of the ball, with hardly any distance to it."""
    found = aligned(points(ball(), 0), points(letter(), 1), "icp-4")
    assert 0.8 < np.cbrt(np.linalg.det(found.truth_from_answer[:3, :3])) < 1.6
    assert found.residual > 0.1


def test_among_fits_alike_the_answer_is_turned_least() -> None:
    found = aligned(points(ball(), 0), points(ball(), 1), "icp-24")
    rotation = found.truth_from_answer[:3, :3] / np.cbrt(np.linalg.det(found.truth_from_answer[:3, :3]))
    assert np.degrees(np.arccos((np.trace(rotation) - 1) / 2)) < 10


def test_rules_without_a_search() -> None:
    truth = points(letter(), 0)
    known = similarity(np.eye(3), 1.0, (0.5, 0, 0))
    as_it_is = aligned(truth, truth, "none")
    np.testing.assert_array_equal(as_it_is.truth_from_answer, np.eye(4))
    assert as_it_is.residual == 0
    found = aligned(truth, truth - [0.5, 0, 0], "true pose", known)
    np.testing.assert_array_equal(found.truth_from_answer, known)
    assert found.residual == pytest.approx(0, abs=1e-12)
    with pytest.raises(InvalidOption, match="true pose"):
        aligned(truth, truth, "true pose")


def test_the_residual_is_in_longest_sides() -> None:
    plane = np.stack(np.meshgrid(np.linspace(0, 10, 60), np.linspace(0, 10, 60), [0.0]), -1).reshape(-1, 3)
    assert aligned(plane, plane + np.array([0, 0, 1]), "none").residual == pytest.approx(0.1)  # closed form: 1 of 10


def test_starts() -> None:
    for count in (1, 4, 24):
        found = np.stack(starts(count))
        assert len(np.unique(found.round(), axis=0)) == count
        np.testing.assert_array_equal(found[0], np.eye(3))
        np.testing.assert_allclose(np.linalg.det(found), 1)
    assert all((rotation[2] == [0, 0, 1]).all() for rotation in starts(4))
