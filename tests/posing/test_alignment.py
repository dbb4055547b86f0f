from dataclasses import replace

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from mvsam3d.geometry.cameras import centred_intrinsics
from mvsam3d.geometry.hull import Cube, carved, silhouette
from mvsam3d.posing.alignment import Alignment, SolidBox, aligned, in_object_frame, upward
from mvsam3d.training.objects import look_at
from mvsam3d.types import Camera

SIDE = 32
OBJECT = Cube(np.zeros(3), 1.0)


def step(points: np.ndarray) -> np.ndarray:
    """An L with a fin: no rotation brings it onto itself. Longest side 1, around the origin."""
    x, y, z = points[..., 0], points[..., 1], points[..., 2]
    foot = (abs(x) < 0.5) & (abs(y) < 0.25) & (z > -0.35) & (z < -0.1)
    back = (x < -0.25) & (x > -0.5) & (abs(y) < 0.25) & (z > -0.35) & (z < 0.35)
    fin = (x > 0.1) & (x < 0.5) & (y > 0.0) & (y < 0.25) & (z > -0.1) & (z < 0.1)
    return foot | back | fin


def grid(world_from_object: np.ndarray, cube: Cube) -> np.ndarray:
    points = cube.cell_centres(SIDE) - world_from_object[:3, 3]
    return step(points @ np.linalg.inv(world_from_object[:3, :3]).T).astype(float)


def placed(rotation: np.ndarray, scale: float, where: list[float]) -> np.ndarray:
    matrix = np.eye(4)
    matrix[:3, :3], matrix[:3, 3] = scale * rotation, where
    return matrix


def cameras(world_from_ring: np.ndarray) -> list[Camera]:
    lens = centred_intrinsics(64, 64)
    back = np.linalg.inv(world_from_ring)
    return [Camera(lens, look_at(a, 25.0, 3.0) @ back, 64, 64) for a in (0.0, 90.0, 180.0, 270.0)]


def masks(truth: np.ndarray, views: list[Camera]) -> list[np.ndarray]:
    """Outlines of the stepped block from the cameras."""
    solid = step(OBJECT.cell_centres(SIDE))
    placed = [Camera(c.intrinsics, c.camera_from_world @ truth, c.width, c.height) for c in views]
    return [silhouette(solid, OBJECT, camera, camera.width, camera.height) for camera in placed]


def found_among(truth: np.ndarray, cube: Cube, views: list[Camera]) -> Alignment:
    structure = grid(np.eye(4), OBJECT)
    return aligned(structure, grid(truth, cube), cube, views, masks(truth, views))


def off_degrees(a: np.ndarray, b: np.ndarray) -> float:
    turn = (a / np.cbrt(np.linalg.det(a))).T @ (b / np.cbrt(np.linalg.det(b)))
    return float(np.degrees(np.arccos(np.clip((np.trace(turn) - 1) / 2, -1, 1))))


@pytest.mark.parametrize("degrees", [0.0, 73.0, 200.0])
def test_a_turned_shape_is_found(degrees: float) -> None:
    truth = placed(Rotation.from_euler("z", degrees, degrees=True).as_matrix(), 1.7, [0.3, -0.2, 0.9])
    cube = Cube(np.array([0.35, -0.15, 0.85]), 2.6)
    found = found_among(truth, cube, cameras(np.eye(4)))
    assert off_degrees(found.world_from_model[:3, :3], truth[:3, :3]) < 5
    assert np.cbrt(np.linalg.det(found.world_from_model[:3, :3])) == pytest.approx(1.7, rel=0.08)
    assert np.linalg.norm(found.world_from_model[:3, 3] - truth[:3, 3]) < 0.1
    assert found.agreement > 0.9


def test_a_hollow_shape_is_found_in_a_hull_that_is_larger() -> None:
    """A pot seen from above: its hull is filled and has a cone above. The model knows the pot; outlines tell size and place."""
    points = OBJECT.cell_centres(SIDE)
    radius = np.hypot(points[..., 0], points[..., 1])
    pot = (radius < 0.5) & ((radius > 0.4) | (points[..., 2] < -0.25)) & (abs(points[..., 2]) < 0.4)
    views = [replace(c, camera_from_world=look_at(60.0 * i, 40.0, 3.0)) for i, c in enumerate(cameras(np.eye(4)) * 2)][
        :6
    ]
    truth = placed(np.eye(3), 0.7, [0.1, 0.0, -0.1])
    outlines = [
        silhouette(pot, OBJECT, replace(c, camera_from_world=c.camera_from_world @ truth), c.width, c.height)
        for c in views
    ]
    cube = Cube(np.array([0.1, 0.0, 0.0]), 1.1)
    hull = carved(views, outlines, cube, SIDE).astype(float)
    assert hull.sum() * (1.1 / SIDE) ** 3 > 2 * pot.sum() * (0.7 / SIDE) ** 3
    found = aligned(pot.astype(float), hull, cube, views, outlines)
    assert found.agreement > 0.93
    assert np.cbrt(np.linalg.det(found.world_from_model[:3, :3])) == pytest.approx(0.7, rel=0.05)
    assert np.linalg.norm(found.world_from_model[:3, 3] - truth[:3, 3]) < 0.04


def test_a_frame_around_solid_cells() -> None:
    """Closed form: cells 2 to 5 of 8 along x, one cell along y and z; the frame's longest side is theirs, or they fill half of it."""
    values = np.zeros((8, 8, 8))
    values[2:6, 4, 4] = 0.9
    frame = SolidBox(values).frame(np.eye(3))
    assert np.allclose(frame, placed(np.eye(3), 0.5, [0.0, 0.0625, 0.0625]))
    assert np.allclose(SolidBox(values).frame(np.eye(3), 2.0)[:3, :3], np.eye(3))


def test_up_comes_from_the_cameras() -> None:
    """The whole scene lies on its side: -Y of the world is up."""
    tipped = Rotation.from_euler("x", 90, degrees=True).as_matrix()
    ring = np.eye(4)
    ring[:3, :3] = tipped
    up = upward(cameras(ring))
    assert up is not None
    assert np.allclose(up, tipped[:, 2], atol=1e-6)
    truth = placed(tipped @ Rotation.from_euler("z", 130, degrees=True).as_matrix(), 1.0, [0, 0, 0])
    cube = Cube(np.zeros(3), 1.5)
    found = found_among(truth, cube, cameras(ring))
    assert off_degrees(found.world_from_model[:3, :3], truth[:3, :3]) < 5


def test_cameras_from_everywhere_tell_no_up() -> None:
    """Half of the cameras are upside down; the object lies on its side."""
    turned = np.diag([-1.0, -1.0, 1.0, 1.0])
    views = cameras(np.eye(4))
    views = [*views, *(Camera(c.intrinsics, turned @ c.camera_from_world, 64, 64) for c in views)]
    assert upward(views) is None
    truth = placed(Rotation.from_euler("yz", [90, 40], degrees=True).as_matrix(), 1.0, [0, 0, 0])
    cube = Cube(np.zeros(3), 1.5)
    found = found_among(truth, cube, views)
    assert off_degrees(found.world_from_model[:3, :3], truth[:3, :3]) < 5


def test_a_grid_in_the_object_frame() -> None:
    """Closed form: a cube's grid whose cells are the object frame's own, and one turned by a quarter."""
    values = np.random.default_rng(0).random((8, 8, 8))
    assert np.allclose(in_object_frame(values, np.eye(4), 8).numpy(), values, atol=1e-6)
    quarter = np.eye(4)
    quarter[:3, :3] = [[0, -1, 0], [1, 0, 0], [0, 0, 1]]  # x of the object is y of the cube
    assert np.allclose(in_object_frame(values, quarter, 8).numpy(), np.rot90(values, -1, (0, 1)), atol=1e-6)
    assert in_object_frame(np.ones((4, 4, 4)), placed(np.eye(3), 3.0, [0, 0, 0]), 6).numpy()[0].max() == 0
