"""What is believed and what is not: true cameras, folded ones, few, and lenses that do not exist."""

from dataclasses import replace

import numpy as np
import pytest

from mvsam3d.geometry.cameras import centre, project
from mvsam3d.perception.camera_gate import CameraGate, Solution, agreement_by_name, epipolar_distances, judged
from mvsam3d.types import Camera, Photo
from tests.perception.textured_scene import scene

GATE = CameraGate()


@pytest.fixture(scope="module")
def ring() -> tuple[list[Photo], list[Camera]]:
    return scene([45 * i for i in range(8)], side=160)


def solution(cameras: list[Camera]) -> Solution:
    named = {str(i): camera for i, camera in enumerate(cameras)}
    return Solution("photo", named, dict.fromkeys(named, 50), 0.3, 0.0, 0.95)


def test_true_cameras_are_believed(ring: tuple[list[Photo], list[Camera]]) -> None:
    photos, cameras = ring
    verdict = judged(solution(cameras), photos, GATE)
    assert verdict.reasons == ()
    assert verdict.worst()[1] > 0.93  # true cameras lose what the cells and pixels of the comparison are worth


def test_a_folded_ring_is_caught_by_the_masks(ring: tuple[list[Photo], list[Camera]]) -> None:
    """The half behind put onto the half in front, as texture that repeats every half turn does it."""
    photos, cameras = ring
    verdict = judged(solution([*cameras[:4], *cameras[:4]]), photos, GATE)
    assert any("the masks contradict the cameras" in reason for reason in verdict.reasons)


def test_one_camera_30_degrees_off_is_caught(ring: tuple[list[Photo], list[Camera]]) -> None:
    photos, _ = ring
    _, others = scene([0, 45, 90, 135, 210, 225, 270, 315], side=160)  # view 4 stands at 210 instead of 180
    verdict = judged(solution(others), photos, GATE)
    assert any("the masks contradict the cameras" in reason for reason in verdict.reasons)


def test_masks_that_meet_nowhere(ring: tuple[list[Photo], list[Camera]]) -> None:
    photos, cameras = ring
    away = np.eye(4)
    away[0, 3] = 5.0
    off = [replace(c, camera_from_world=c.camera_from_world @ away) if i == 0 else c for i, c in enumerate(cameras)]
    assert any("the masks contradict" in reason for reason in judged(solution(off), photos, GATE).reasons)


def test_too_few_views_and_too_few_of_many(ring: tuple[list[Photo], list[Camera]]) -> None:
    photos, cameras = ring
    assert "5 of 8 photos" in judged(solution(cameras[:5]), photos, GATE).reasons[0]
    assert "(not 5, 6, 7)" in judged(solution(cameras[:5]), photos, GATE).reasons[0]
    assert judged(solution(cameras[:6]), photos, GATE).reasons == ()  # one bad photo, and one that hung by it alone
    assert "2 of 2 photos" in judged(solution(cameras[:2]), photos[:2], GATE).reasons[0]


@pytest.mark.parametrize(("focal", "believed"), [(0.4, False), (0.6, True), (2.9, True), (9.0, False)])
def test_focal_lengths_of_usual_lenses(focal: float, believed: bool, ring: tuple[list[Photo], list[Camera]]) -> None:
    photos, cameras = ring
    lens = np.diag([focal * 160, focal * 160, 1.0])
    reasons = judged(solution([replace(c, intrinsics=lens) for c in cameras]), photos, GATE).reasons
    assert any("focal length" in reason for reason in reasons) != believed


def test_matches_left_over_speak_against_cameras(ring: tuple[list[Photo], list[Camera]]) -> None:
    photos, cameras = ring
    verdict = judged(replace(solution(cameras), explained=0.3), photos, GATE)
    assert len(verdict.reasons) == 1
    assert "30%" in verdict.reasons[0]


def test_agreement_names_the_views(ring: tuple[list[Photo], list[Camera]]) -> None:
    photos, cameras = ring
    ious = agreement_by_name({p.name: c for p, c in zip(photos, cameras)}, photos[2:5])
    assert list(ious) == ["2", "3", "4"]


def test_distances_from_epipolar_lines(ring: tuple[list[Photo], list[Camera]]) -> None:
    """Closed form: none for two pictures of a point; what a pixel is moved across its line, by half, as it is on it otherwise."""
    one, other = ring[1][0], ring[1][2]
    points = np.random.default_rng(0).uniform(-0.4, 0.4, (20, 3))
    a, b = project(one, points)[0], project(other, points)[0]
    assert epipolar_distances(one, other, a, b).max() < 1e-9
    epipole = project(other, centre(one))[0]
    along = (b - epipole) / np.linalg.norm(b - epipole, axis=1, keepdims=True)
    across = np.stack([-along[:, 1], along[:, 0]], axis=1)
    assert epipolar_distances(one, other, a, b + 3 * along).max() < 1e-9
    lines = epipolar_distances(one, other, a, b + 3 * across)
    assert (lines > 1.5).all()  # 3 in the other photo, and something in this one
