from dataclasses import replace

import numpy as np
import pytest
import torch

from mvsam3d.errors import InvalidOption, NothingFound
from mvsam3d.geometry.cameras import project
from mvsam3d.posing.object_points import (
    DepthView,
    PointChoice,
    belongs,
    depth_points,
    depth_view,
    eroded,
    in_camera,
    object_points,
    seen_from,
)
from mvsam3d.types import Camera
from tests.parity import fixture


def recorded_camera(intrinsics: torch.Tensor, extrinsics: torch.Tensor) -> Camera:
    """As the public system projects: its int(u) is our floor(u), with the intrinsics as they are."""
    matrix = np.eye(4)
    matrix[: len(extrinsics)] = extrinsics.numpy()
    return Camera(intrinsics.double().numpy(), matrix, 42, 28)


def test_recorded_projection() -> None:
    f = fixture("multiview", "object_points")
    pixels, depth = project(recorded_camera(f.inputs["K"], f.inputs["w2c"]), f.inputs["points_world"].double().numpy())
    inside = (depth > 0) & (pixels >= 0).all(axis=1) & (pixels < (42, 28)).all(axis=1)
    f.check("uv", torch.from_numpy(pixels))
    f.check("depth", torch.from_numpy(depth))
    f.check("valid", torch.from_numpy(inside))


@pytest.mark.parametrize("side", [0, 3])
def test_recorded_choice(side: int) -> None:
    f = fixture("multiview", "object_points")
    cameras = [recorded_camera(*pair) for pair in zip(f.inputs["intrinsics"], f.inputs["extrinsics"], strict=True)]
    views = [
        DepthView(camera, depth.numpy(), mask.numpy() > f.meta["config"]["mask_threshold"])
        for camera, depth, mask in zip(cameras, f.inputs["depth_maps"], f.inputs["masks"], strict=True)
    ]
    world_from_scene = np.linalg.inv(f.inputs["hf_alignment"].double().numpy())
    points = f.inputs["scene_points"].double().numpy() @ world_from_scene[:3, :3].T + world_from_scene[:3, 3]
    found = belongs(points, views, PointChoice(mask_erosion=side))
    expected = f.outputs[f"is_object_erode{side}"].numpy() > 0.5
    assert (found != expected).sum() <= 5  # of 2117: points are at pixel borders, where rounding decides
    assert expected.sum() > 200


CAMERA = Camera(np.array([[20.0, 0, 5], [0, 20, 4], [0, 0, 1]]), np.eye(4), 10, 8)
INNER = np.zeros((8, 10), bool)
INNER[2:6, 3:8] = True


def plane(depth: float = 2.0) -> DepthView:
    return DepthView(CAMERA, np.full((8, 10), depth, np.float32), INNER)


def test_erosion() -> None:  # closed form: 5 x 4 pixels lose their rim; the border of the picture is no rim
    assert eroded(INNER, 3).sum() == 3 * 2
    assert np.array_equal(eroded(INNER, 0), INNER)
    assert eroded(np.ones((4, 4), bool), 3).all()
    with pytest.raises(InvalidOption, match="-1"):
        eroded(INNER, -1)


def test_points_of_a_depth_map_are_its_pixel_centres() -> None:
    points = depth_points([plane()], torch.Generator().manual_seed(0), PointChoice(mask_erosion=0))
    pixels, depth = project(CAMERA, points)
    rows, columns = np.nonzero(INNER)
    np.testing.assert_allclose(pixels, np.stack([columns, rows], 1) + 0.5)
    np.testing.assert_allclose(depth, 2.0)
    assert belongs(points, [plane()], PointChoice(mask_erosion=0)).all()


def test_unknown_depth_gives_no_points() -> None:
    view = plane()
    view.depth[2:4] = [[np.nan], [0.0]]
    view.depth[4, 3:5] = np.inf, -1.0
    points = depth_points([view], torch.Generator().manual_seed(0), PointChoice(mask_erosion=0))
    assert len(points) == INNER.sum() - 10 - 2
    assert not belongs(np.array([[0.0, -0.1, 2.0]]), [view], PointChoice(mask_erosion=0)).any()  # row 3, NaN or 0


def test_which_points_of_a_scene() -> None:
    points = np.array(
        [[0, 0, 2.0], [0, 0, 2.19], [0, 0, 2.21], [0, 0, 1.81], [0, 0, 1.79], [0.4, 0, 2], [0, 0, -2], [9, 0, 2]]
    )
    expected = [
        True,
        True,
        False,
        True,
        False,
        False,
        False,
        False,
    ]  # by 10 % of depth 2, by the mask, before the camera
    assert belongs(points, [plane()], PointChoice()).tolist() == expected
    away = replace(CAMERA, camera_from_world=np.array([[1.0, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 5], [0, 0, 0, 1]]))
    both = [plane(), DepthView(away, np.full((8, 10), 7.3, np.float32), INNER)]  # sees what the first has up to z = 3
    assert belongs(points, both, PointChoice()).tolist() == [*[True] * 6, False, False]


def test_many_points_are_drawn_by_seed() -> None:
    points = np.random.default_rng(0).normal(0, 0.01, (500, 3)) + np.array([0, 0, 2])
    choice = PointChoice(most=100)
    first, again, other = (
        object_points(points, [plane()], torch.Generator().manual_seed(s), choice) for s in (1, 1, 2)
    )
    assert first.shape == (100, 3)
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
    assert len(np.unique(first, axis=0)) == 100


def test_nothing_on_the_object() -> None:
    generator = torch.Generator().manual_seed(0)
    with pytest.raises(NothingFound, match="any of 1 views"):
        object_points(np.array([[0.0, 0, 3]]), [plane()], generator)
    with pytest.raises(NothingFound, match="any of 0 views"):
        depth_points([], generator)


def test_masks_are_brought_to_the_size_of_the_map() -> None:
    large = INNER.repeat(3, axis=0).repeat(3, axis=1)
    assert np.array_equal(depth_view(CAMERA, plane().depth, large).mask, INNER)
    with pytest.raises(InvalidOption, match="10 x 8"):
        depth_view(CAMERA, np.zeros((9, 10)), INNER)


def test_cameras_seen_from_one_of_them() -> None:
    rng = np.random.default_rng(0)
    cameras = []
    for _ in range(2):
        matrix = np.eye(4)
        matrix[:3, :3], matrix[:3, 3] = np.linalg.qr(rng.normal(size=(3, 3)))[0], rng.normal(size=3)
        cameras.append(replace(CAMERA, camera_from_world=matrix))
    points = rng.normal(size=(6, 3))
    moved = in_camera(cameras[0], points)
    for before, after in zip(cameras, seen_from(cameras[0], cameras), strict=True):
        np.testing.assert_allclose(project(after, moved)[0], project(before, points)[0])
    np.testing.assert_allclose(seen_from(cameras[0], cameras)[0].camera_from_world, np.eye(4), atol=1e-12)
