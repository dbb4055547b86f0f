from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mvsam3d.errors import InvalidOption
from mvsam3d.geometry.cameras import centre, centred_intrinsics, project
from mvsam3d.geometry.hull import (
    Cube,
    carved,
    covering,
    cube_around,
    distances_inside,
    in_cube_frame,
    outline_distance,
    silhouette,
    silhouette_ious,
    soft_hull,
    uncovered,
)
from mvsam3d.training.objects import look_at
from mvsam3d.types import Camera

WIDTH, HEIGHT = 120, 100
RADIUS = 0.3
WHERE = np.array([0.2, -0.1, 0.4])  # the ball's middle in the world


def cameras(*angles: tuple[float, float], distance: float = 2.0) -> list[Camera]:
    """Cameras around the ball, by azimuth and elevation."""
    lens = centred_intrinsics(WIDTH, HEIGHT)
    shift = np.eye(4)
    shift[:3, 3] = -WHERE
    return [Camera(lens, look_at(a, e, distance) @ shift, WIDTH, HEIGHT) for a, e in angles]


def shadow(camera: Camera, radius: float = RADIUS, where: np.ndarray = WHERE) -> np.ndarray:
    """Closed form: pixels whose ray passes the ball's middle within its radius."""
    rows, columns = np.mgrid[:HEIGHT, :WIDTH] + 0.5
    rays = np.stack([columns, rows, np.ones_like(rows)], -1) @ np.linalg.inv(camera.intrinsics).T
    rays = rays @ camera.camera_from_world[:3, :3]
    rays /= np.linalg.norm(rays, axis=-1, keepdims=True)
    to = where - centre(camera)
    return np.linalg.norm(to - (rays @ to)[..., None] * rays, axis=-1) < radius


AROUND = [(0.0, 10.0), (60.0, -20.0), (120.0, 30.0), (200.0, 5.0), (290.0, 60.0), (30.0, 80.0)]
CUBE = Cube(WHERE + 0.02, 0.9)


def test_distance_to_a_straight_outline() -> None:
    mask = np.zeros((20, 30), bool)
    mask[:, :10] = True  # the outline runs along column 10, and the mask goes on beyond three edges
    expected = 10 - (np.arange(30) + 0.5)
    assert np.allclose(outline_distance(mask), expected[None], atol=1e-5)


def test_the_hull_of_a_ball() -> None:
    views = cameras(*AROUND)
    masks = [shadow(camera) for camera in views]
    points = CUBE.cell_centres(40)
    ball = np.linalg.norm(points - WHERE, axis=-1) < RADIUS
    hull = carved(views, masks, CUBE, 40)
    assert hull[ball].all()
    assert (hull & ball).sum() / hull.sum() > 0.75  # six outlines leave little beside the ball
    soft = soft_hull(views, masks, CUBE, 40)
    assert soft[np.linalg.norm(points - WHERE, axis=-1) < 0.8 * RADIUS].min() > 0.9
    assert soft[np.linalg.norm(points - WHERE, axis=-1) > 1.6 * RADIUS].max() < 0.1


def test_carving_equals_its_plain_twin() -> None:
    views = cameras(*AROUND[:3])
    masks = [shadow(camera) for camera in views]
    hull = carved(views, masks, CUBE, 12, margin=0.0)
    for cell in np.ndindex(12, 12, 12):
        point = CUBE.centre + CUBE.side * ((np.array(cell) + 0.5) / 12 - 0.5)
        inside = True
        for camera, mask in zip(views, masks):
            pixel, depth = project(camera, point)
            column, row = int(np.clip(pixel[0], 0, WIDTH - 1)), int(np.clip(pixel[1], 0, HEIGHT - 1))
            inside &= bool(depth > 0 and mask[row, column])
        assert hull[cell] == inside


@settings(max_examples=15, deadline=None)
@given(order=st.permutations(range(4)), left_out=st.integers(0, 3))
def test_order_is_nothing_and_a_view_only_takes(order: Sequence[int], left_out: int) -> None:
    views = cameras(*AROUND[:4])
    masks = [shadow(camera) for camera in views]
    hull, soft = carved(views, masks, CUBE, 16), soft_hull(views, masks, CUBE, 16)
    assert (carved([views[i] for i in order], [masks[i] for i in order], CUBE, 16) == hull).all()
    assert np.allclose(soft_hull([views[i] for i in order], [masks[i] for i in order], CUBE, 16), soft)
    rest = [i for i in range(4) if i != left_out]
    assert (carved([views[i] for i in rest], [masks[i] for i in rest], CUBE, 16) | ~hull).all()
    assert (soft_hull([views[i] for i in rest], [masks[i] for i in rest], CUBE, 16) >= soft - 1e-12).all()


def test_one_wrong_mask_does_not_erase_the_soft_hull() -> None:
    views = cameras(*AROUND)
    masks = [shadow(camera) for camera in views]
    masks[2] = np.roll(masks[2], 60, axis=1)
    middle = soft_hull(views, masks, Cube(WHERE, 0.1), 4)
    assert not carved(views, masks, Cube(WHERE, 0.1), 4).any()
    assert middle.min() > 0.015  # chance that the mask says nothing, times five that agree


def test_the_cube_holds_the_ball() -> None:
    views = cameras(*AROUND)
    cube = cube_around(views, [shadow(camera) for camera in views])
    assert np.linalg.norm(cube.centre - WHERE) < 0.1 * RADIUS
    assert 2 * RADIUS < cube.side < 2.8 * RADIUS


def test_one_photo_tells_all_but_the_distance() -> None:
    """The cube covers the mask, as far as the origin is."""
    camera = cameras(AROUND[0])[0]
    cube = cube_around([camera], [shadow(camera)])
    pixels, depth = project(camera, np.stack([np.zeros(3), cube.centre]))
    rows, columns = np.nonzero(shadow(camera))
    assert depth[1] == pytest.approx(depth[0])
    assert np.allclose(pixels[1], [columns.mean() + 0.5, rows.mean() + 0.5], atol=0.01)
    assert cube.side * camera.intrinsics[0, 0] / depth[1] == pytest.approx(1.1 * (np.ptp(columns) + 1), rel=0.05)


def test_scaled_cameras_see_the_same() -> None:
    """Law: a world in other units, and cameras whose matrix scales."""
    views = cameras(*AROUND)
    masks = [shadow(camera) for camera in views]
    hull = carved(views, masks, CUBE, 20)
    unit = Cube(np.zeros(3), 1.0)
    placed = [in_cube_frame(camera, CUBE) for camera in views]
    assert (carved(placed, masks, unit, 20) == hull).all()
    near = cube_around(placed, masks)
    expected = cube_around(views, masks)
    assert np.allclose(near.side * CUBE.side, expected.side, rtol=1e-6)
    assert np.allclose(CUBE.centre + CUBE.side * near.centre, expected.centre, atol=1e-6)
    _, per_unit = distances_inside(placed[0], outline_distance(masks[0]), np.zeros((1, 3)))
    _, expected_per_unit = distances_inside(views[0], outline_distance(masks[0]), CUBE.centre[None])
    assert np.allclose(per_unit, expected_per_unit * CUBE.side)


def test_the_outline_of_a_solid() -> None:
    views = cameras(*AROUND[:3])
    points = CUBE.cell_centres(96)
    ball = np.linalg.norm(points - WHERE, axis=-1) < RADIUS
    for camera in views:
        seen, truth = silhouette(ball, CUBE, camera, WIDTH, HEIGHT), shadow(camera)
        assert (seen & truth).sum() / (seen | truth).sum() > 0.97
    scores = silhouette_ious(ball, CUBE, views, [shadow(views[0]), shadow(views[1]), ~shadow(views[2])])
    assert scores[:2].min() > 0.97
    assert scores[2] < 0.05
    assert silhouette_ious(np.zeros((4, 4, 4), bool), CUBE, views, [shadow(c) for c in views]).max() == 0


def test_the_part_of_a_mask_that_a_solid_leaves_out() -> None:
    """Closed form: of the ball's disc, what lies more than some cells beside the disc of a smaller ball."""
    views = cameras((0, 0), (90, 0), (0, 89))
    masks = [shadow(camera) for camera in views]
    cube = Cube(WHERE, 1.0)
    middles = np.linalg.norm(cube.cell_centres(64) - WHERE, axis=-1)
    assert uncovered(middles < RADIUS, cube, views, masks, 1.5).max() == 0
    for beside in (1.0, 3.0):
        rest = (RADIUS**2 - (0.2 + beside / 64) ** 2) / RADIUS**2
        np.testing.assert_allclose(uncovered(middles < 0.2, cube, views, masks, beside), rest, atol=0.04)
    assert (uncovered(middles < -1, cube, views, masks, 1.5) == 1).all()


def test_what_a_mask_shows_is_filled_where_it_is_likeliest() -> None:
    """A ball of which a slab is missing; along each ray through the gap, the cells of one plane are likeliest."""
    views = cameras((0, 0), (60, 10))
    masks = [shadow(camera) for camera in views]
    cube = Cube(WHERE, 1.0)
    points = cube.cell_centres(48) - WHERE
    ball = np.linalg.norm(points, axis=-1) < RADIUS
    gap = ball & (np.abs(points[..., 2]) < 0.1)
    odds = np.where(ball & ~gap, 3.0, -3.0)
    odds[gap & (np.abs(points[..., 1]) < 2.5 / 48)] = -0.5
    assert uncovered(odds > 0, cube, views, masks, 1.0).max() > 0.2
    filled = covering(odds, cube, views, masks, 1.0)
    assert uncovered(filled > 0, cube, views, masks, 1.0).max() < 0.02
    new = (filled > 0) & (odds <= 0)
    assert (
        np.abs(points[new][:, 1]).mean() < 0.1
    )  # near the likely cells: cells of the gap's near side are .2 away in the mean
    assert np.array_equal(covering(np.where(ball, 3.0, -3.0), cube, views, masks, 1.0), np.where(ball, 3.0, -3.0))


def test_what_is_behind_a_camera_is_not_inside() -> None:
    camera = cameras((0.0, 0.0))[0]
    behind = centre(camera) + (centre(camera) - WHERE)
    inside, _ = distances_inside(camera, outline_distance(np.ones((HEIGHT, WIDTH), bool)), behind[None])
    assert inside[0] == -np.inf


def test_wrong_input_is_named() -> None:
    views = cameras(*AROUND[:2])
    masks = [shadow(camera) for camera in views]
    with pytest.raises(InvalidOption, match=r"view 1: .* 120 x 100 pixels, the mask has 100 x 120"):
        carved(views, [masks[0], masks[1].T], CUBE, 8)
    with pytest.raises(InvalidOption, match="view 0: the mask is empty"):
        soft_hull(views, [np.zeros_like(masks[0]), masks[1]], CUBE, 8)
    top, left = np.zeros((HEIGHT, WIDTH), bool), np.zeros((HEIGHT, WIDTH), bool)
    top[:5, :5], left[-5:, -5:] = True, True
    with pytest.raises(InvalidOption, match="all views: a camera or a mask is wrong"):
        cube_around(views, [top, left])
    with pytest.raises(InvalidOption, match="along one line"):
        cube_around([views[0], views[0]], [masks[0], masks[0]])
