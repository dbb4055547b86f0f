import numpy as np
import pytest

from mvsam3d.errors import InvalidOption
from mvsam3d.geometry.cameras import centred_intrinsics
from mvsam3d.geometry.depth_odds import DEEP, FREE, HIT, MOST, depth_odds
from mvsam3d.geometry.hull import Cube
from mvsam3d.rendering.framing import turn_camera
from mvsam3d.types import Camera

SIDE, CELLS, DISTANCE = 160, 32, 3.0
CUBE = Cube(np.zeros(3), 1.0)


def before(wall: float, *, turned: float = 0.0) -> tuple[Camera, np.ndarray, np.ndarray]:
    """A camera that looks along +Y at a wall y = `wall`, its depth map and a mask of all but a border."""
    camera = Camera(centred_intrinsics(SIDE, SIDE, 1.2 * SIDE), turn_camera(turned, 0.0, DISTANCE), SIDE, SIDE)
    mask = np.zeros((SIDE, SIDE), bool)
    mask[10:-10, 10:-10] = True
    return camera, np.full((SIDE, SIDE), DISTANCE + wall), mask


def along(odds: np.ndarray) -> np.ndarray:
    """Through the middle, from the camera on."""
    middle: np.ndarray = odds[CELLS // 2, :, CELLS // 2]
    return middle


def test_a_wall_is_free_before_it_hit_at_it_and_unknown_behind() -> None:
    """Closed form at every cell of a ray."""
    camera, depth, mask = before(0.0)
    found = along(depth_odds([camera], [depth], [mask], CUBE, CELLS, error=0.0))
    behind = np.arange(CELLS) + 0.5 - CELLS / 2  # cells
    np.testing.assert_allclose(found[behind < -1.5], FREE)
    np.testing.assert_allclose(found[(behind >= -0.5) & (behind < 0)], HIT)
    inside = behind > 0
    np.testing.assert_allclose(found[inside], HIT * np.clip(1 - behind[inside] / (DEEP + 0.5), 0, 1), atol=1e-6)
    assert (found[behind > DEEP + 0.5] == 0).all()


def test_views_add_up_and_are_bounded() -> None:
    camera, depth, mask = before(0.0)
    one, three = (depth_odds([camera] * n, [depth] * n, [mask] * n, CUBE, CELLS) for n in (1, 3))
    np.testing.assert_allclose(three, np.clip(3 * one, -MOST, MOST))
    assert three.min() == -MOST


def test_a_forgiven_error_takes_nothing_away() -> None:
    """Law: depths too long by less than the error leave no free space at the true surface, longer ones do."""
    camera, depth, mask = before(0.0)
    behind = along(np.indices((CELLS,) * 3)[1]) + 0.5 - CELLS / 2
    surface = (behind > 0) & (behind < 2)
    kept = along(depth_odds([camera], [1.03 * depth], [mask], CUBE, CELLS, error=0.04))
    lost = along(depth_odds([camera], [1.03 * depth], [mask], CUBE, CELLS, error=0.0))
    assert (kept[surface] >= 0).all()
    assert (lost[surface] < 0).all()


def test_unknown_depths_outlines_and_what_lies_off_the_mask_tell_nothing() -> None:
    camera, depth, mask = before(0.0)
    assert not depth_odds([camera], [np.full_like(depth, np.nan)], [mask], CUBE, CELLS).any()
    assert not depth_odds([camera], [depth], [np.zeros_like(mask)], CUBE, CELLS).any()
    thin = np.zeros_like(mask)
    thin[:, 79:81] = True  # two pixels wide: each is at the outline
    assert not depth_odds([camera], [depth], [thin], CUBE, CELLS).any()
    away = Camera(camera.intrinsics, turn_camera(180.0, 0.0, -DISTANCE), SIDE, SIDE)  # looks away from the cube
    assert not depth_odds([away], [depth], [mask], CUBE, CELLS).any()


def test_a_depth_map_may_have_another_size_than_its_mask() -> None:
    """Law: the same plane seen at half the size says the same."""
    camera, depth, mask = before(0.1)
    full, half = (depth_odds([camera], [d], [mask], CUBE, CELLS) for d in (depth, depth[::2, ::2]))
    np.testing.assert_allclose(along(full), along(half))


def test_two_opposite_views_leave_the_slab_between_their_walls() -> None:
    """The slab 0 < y < 0.5 remains where it was unknown, and all before both walls is gone."""
    views = [before(0.0), before(-0.25, turned=180.0)]  # the second sees the plane y = 0.25 from behind
    cameras, depths, masks = [v[0] for v in views], [v[1] for v in views], [v[2] for v in views]
    odds = depth_odds(cameras, depths, masks, CUBE, CELLS, error=0.0)
    y = (np.arange(CELLS) + 0.5) / CELLS - 0.5
    line = along(odds)
    assert (line[(y > 0.0) & (y < 0.25)] >= 0).all()
    assert (line[(y < -0.05) | (y > 0.30)] < 0).all()


def test_wrong_arguments_are_named() -> None:
    camera, depth, mask = before(0.0)
    with pytest.raises(InvalidOption, match="2 cameras, 1 depth maps"):
        depth_odds([camera] * 2, [depth], [mask], CUBE, CELLS)
    scaled = Camera(camera.intrinsics, camera.camera_from_world @ np.diag([2.0, 2, 2, 1]), SIDE, SIDE)
    with pytest.raises(InvalidOption, match="camera 0 scales its world by 2"):
        depth_odds([scaled], [depth], [mask], CUBE, CELLS)
