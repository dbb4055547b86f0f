"""The floor below an object that is photographed from above: found where the masks end, and nothing else is touched."""

import numpy as np
import pytest

from mvsam3d.geometry.cameras import centred_intrinsics
from mvsam3d.geometry.hull import Cube, carved, silhouette
from mvsam3d.posing.floor import floor_layer, standing
from mvsam3d.posing.known_shape import KnownShape
from mvsam3d.training.objects import look_at
from mvsam3d.types import Camera

SIDE, CELLS = 320, 48
CUBE = Cube(np.zeros(3), 1.0)
FLOOR = 18  # layer on which the box stands
RATHER = 0.7  # chance of a cell inside the outlines


def ring(elevation: float) -> list[Camera]:
    lens = centred_intrinsics(SIDE, SIDE)
    return [Camera(lens, look_at(float(azimuth), elevation, 2.6), SIDE, SIDE) for azimuth in range(0, 360, 45)]


def box() -> np.ndarray:
    solid = np.zeros((CELLS,) * 3, bool)
    solid[14:34, 16:32, FLOOR:36] = True
    return solid


def seen(solid: np.ndarray, cameras: list[Camera]) -> tuple[KnownShape, list[np.ndarray]]:
    """What is rather inside than not, by the outlines alone, and the masks."""
    masks = [silhouette(solid, CUBE, camera, SIDE, SIDE) for camera in cameras]
    chance = np.where(carved(cameras, masks, CUBE, CELLS), RATHER, 1 - RATHER)
    return KnownShape(CUBE, chance, chance, "hull"), masks


@pytest.mark.parametrize("elevation", [20.0, 35.0, 50.0])
def test_the_cone_below_a_box_goes(elevation: float) -> None:
    cameras = ring(elevation)
    shape, masks = seen(box(), cameras)
    assert (shape.probability[:, :, : FLOOR - 3] == RATHER).any()
    floor = floor_layer(shape.probability > 0.5, CUBE, cameras, masks)
    assert FLOOR - 3 <= floor <= FLOOR
    stood = standing(shape, cameras, masks).probability
    assert (stood[:, :, :floor] < 0.5).all()
    assert stood[:, :, floor:] == pytest.approx(shape.probability[:, :, floor:])


def test_what_is_sure_of_a_cell_below_is_believed() -> None:
    cameras = ring(35.0)
    shape, masks = seen(box(), cameras)
    shape.probability[24, 24, 5] = 0.98
    stood = standing(shape, cameras, masks).probability
    assert stood[24, 24, 5] > 0.5
    assert (stood[:, :, 5] > 0.5).sum() == 1


def test_a_foot_that_masks_show_stands_on_the_floor() -> None:
    table = box()
    table[22:26, 22:26, 6:FLOOR] = True
    cameras = ring(20.0)
    shape, masks = seen(table, cameras)
    assert 3 <= floor_layer(shape.probability > 0.5, CUBE, cameras, masks) <= 6


def test_cameras_below_leave_the_shape_alone() -> None:
    cameras = [*ring(35.0), *ring(-20.0)]
    shape, masks = seen(box(), cameras)
    assert standing(shape, cameras, masks) is shape
    assert floor_layer(np.zeros((CELLS,) * 3, bool), CUBE, cameras, masks) == 0
