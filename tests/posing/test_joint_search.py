"""Poses chosen together: what each part of it says, and a shape that one photo alone cannot tell the heading of."""

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
import trimesh

from mvsam3d.geometry.cameras import centred_intrinsics
from mvsam3d.posing.joint_search import FEWEST, JointSearch, Shown, agreements, best_choice, searched_together
from mvsam3d.posing.search import PoseSearch, searched_pose
from mvsam3d.types import Camera, Mesh
from tests.posing.test_search import SIZE, drawn, seen_from, turn_between

JOINT = JointSearch()
FAR = np.array([[0.0, 0, 0], [100.0, 0, 0]])  # two colours that have nothing to do with each other


def shown(kinds: list[list[int]], often: tuple[float, float], weight: float = 1.0) -> Shown:
    """A photo whose poses show patch p in colour kinds[pose][p]; -1: not seen."""
    table = np.array(kinds)
    shares = np.stack([table == colour for colour in (0, 1)], -1).astype(np.float64)
    return Shown(shares, weight * (table >= 0), FAR, np.array(often))


def test_rare_colours_that_meet_say_more_and_colours_that_do_not_speak_against() -> None:
    """Closed form: log of P(a, b at one place) / P(a) P(b), with colours so far apart that only an unrelated place joins them."""
    w = JOINT.wrong
    first, second = shown([[0, 1]], (0.9, 0.1)), shown([[0, -1], [-1, 1], [1, 0], [-1, -1], [0, 1]], (0.9, 0.1))
    (found,) = agreements([first, second], JOINT)[0, 1]
    common, rare, apart = math.log((1 - w) / 0.9 + w), math.log((1 - w) / 0.1 + w), math.log(w)
    np.testing.assert_allclose(found, [common, rare, 2 * apart, 0.0, common + rare], atol=1e-9)
    assert rare > 10 * common > 0
    half = agreements([first, shown([[-1, 1]], (0.9, 0.1), weight=0.5)], JOINT)[0, 1]
    np.testing.assert_allclose(half, [[0.5 * rare]])  # of what was seen by few pixels


def test_the_choice_is_the_best_of_all_where_all_can_be_tried() -> None:
    """Plain twin: every combination of 5 poses of 4 photos."""
    for seed in range(10):
        rng = np.random.default_rng(seed)
        fits = [rng.normal(size=5) * 0.05 for _ in range(4)]
        pairs = {(i, j): rng.normal(size=(5, 5)) * 10 for i, j in itertools.combinations(range(4), 2)}
        weight = JOINT.worth / 3

        def worth(choice: tuple[int, ...]) -> float:
            own = sum(fits[i][a] for i, a in enumerate(choice))  # noqa: B023
            return own + weight * sum(table[choice[i], choice[j]] for (i, j), table in pairs.items())  # noqa: B023

        assert best_choice(fits, pairs, JOINT) == max(itertools.product(range(5), repeat=4), key=worth)


def test_without_agreement_each_photo_keeps_its_own_best() -> None:
    fits = [np.array([0.1, 0.3]), np.array([0.5, 0.2]), np.array([0.0, 0.1])]
    pairs = {(i, j): np.zeros((2, 2)) for i, j in itertools.combinations(range(3), 2)}
    assert best_choice(fits, pairs, JOINT) == (1, 0, 1)


def sign_post() -> tuple[Mesh, Mesh]:
    """A box with a wall of each colour, and the same box in grey, which looks alike from two sides."""
    box = trimesh.creation.box((0.9, 0.5, 0.6)).subdivide().subdivide()
    box = trimesh.Trimesh(
        box.vertices[box.faces].reshape(-1, 3), np.arange(3 * len(box.faces)).reshape(-1, 3), process=False
    )
    walls = {
        0: (0.9, 0.1, 0.1),
        1: (0.1, 0.7, 0.2),
        2: (0.2, 0.3, 0.9),
        3: (0.9, 0.8, 0.1),
        4: (0.9, 0.9, 0.9),
        5: (0.1, 0.1, 0.1),
    }
    normal = box.face_normals
    wall = 2 * np.abs(normal).argmax(1) + (normal[np.arange(len(normal)), np.abs(normal).argmax(1)] > 0)
    colours = np.repeat(np.array([walls[int(w)] for w in wall]), 3, axis=0).astype(np.float32)
    painted = Mesh(np.asarray(box.vertices, np.float32), np.asarray(box.faces), colours)
    return painted, replace(painted, vertex_colours=np.full_like(colours, 0.5))


def worst_turn(found: list[np.ndarray], true: list[np.ndarray]) -> float:
    """Degrees by which the turn from one view to another is off, at most."""
    return max(
        turn_between(found[i] @ np.linalg.inv(found[j]), true[i] @ np.linalg.inv(true[j]))
        for i, j in itertools.combinations(range(len(true)), 2)
    )


def test_colours_tell_the_headings_that_a_plain_shape_leaves_open() -> None:
    """Laid alone, the grey box is turned by half a turn in some photo; together, the photos' colours forbid it."""
    painted, grey = sign_post()
    true = [seen_from(azimuth, 0.45, (0.0, 0.0)) for azimuth in (0.5, 1.7, 2.9, 4.2, 5.4)]
    photos, boxes = zip(*(drawn(painted, pose) for pose in true), strict=True)
    # all are predicted from the front: the nearest pose that fits is right for some, half a turn off for others
    cameras = [Camera(centred_intrinsics(SIZE, SIZE), seen_from(0.5, 0.45, (0.0, 0.0)), SIZE, SIZE)] * len(true)
    found = searched_together(grey, photos, cameras, boxes, PoseSearch(), JOINT)
    assert found.together is not None
    assert worst_turn([pose.camera_from_object for pose in found.alone], true) > 120
    assert worst_turn([pose.camera_from_object for pose in found.together], true) < 15
    assert min(pose.fit for pose in found.together) > 0.7


@pytest.mark.parametrize("joint", [None, JOINT])
def test_few_photos_are_each_found_alone(joint: JointSearch | None) -> None:
    painted, _ = sign_post()
    count = FEWEST if joint is None else FEWEST - 1
    true = [seen_from(azimuth, 0.45, (0.0, 0.0)) for azimuth in np.arange(count) * 1.3]
    photos, boxes = zip(*(drawn(painted, pose) for pose in true), strict=True)
    cameras = [Camera(centred_intrinsics(SIZE, SIZE), seen_from(0.5, 0.45, (0.0, 0.0)), SIZE, SIZE)] * count
    found = searched_together(painted, photos, cameras, boxes, PoseSearch(), joint)
    assert found.together is None
    for one, *rest in zip(found.alone, photos, cameras, boxes, strict=True):
        np.testing.assert_array_equal(
            one.camera_from_object, searched_pose(painted, *rest, PoseSearch()).camera_from_object
        )
