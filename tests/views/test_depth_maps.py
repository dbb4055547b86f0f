"""Depth maps back in their photos: a whole map is resized, a cut one lands where the network cut it out."""

import numpy as np
import pytest
import torch

from mvsam3d.errors import BadFile
from mvsam3d.geometry.cameras import centred_intrinsics, project
from mvsam3d.io.depth import DepthViews
from mvsam3d.types import Camera, Photo
from mvsam3d.views.crop import resized_nearest
from mvsam3d.views.depth_maps import (
    Size,
    camera_of_photo,
    photo_cameras,
    photo_pointmaps,
    placement,
    pointmap_in_photo,
    resized,
)

LENS = np.array([[1900.0, 0, 1010], [0, 1880, 745], [0, 0, 1]])


@pytest.mark.parametrize(
    ("photo", "process_res", "size"),
    [
        ((1600, 1200), 504, (504, 378)),  # the documented example of Depth Anything 3
        ((1200, 1600), 504, (378, 504)),
        ((504, 378), 504, (504, 378)),
        ((1000, 1000), 500, (504, 504)),  # 500 / 14 = 35.7
        ((1000, 750), 490, (490, 364)),  # 367.5 rounds to 368, 368 / 14 = 26.3
        ((1008, 721), 504, (504, 364)),  # 360.5 rounds to the even 360, 360 / 14 = 25.7
        ((1008, 714), 504, (504, 364)),  # 357 = 25.5 * 14: ties go up
        ((5040, 3567), 504, (504, 364)),  # 356.7 rounds to 357 = 25.5 * 14
        ((4000, 20), 504, (504, 14)),
    ],
)
def test_size_at_which_the_network_sees_a_photo(photo: Size, process_res: int, size: Size) -> None:
    assert resized(photo, process_res) == size


def test_whole_map_is_resized_to_the_photo() -> None:  # closed form: plain nearest, and the axes of p3d
    points = np.random.default_rng(0).normal(size=(378, 504, 3)).astype(np.float32)
    points[3, 5] = np.nan
    photo = pointmap_in_photo(points, placement((1600, 1200), (504, 378), 504))
    plain = torch.from_numpy(points).permute(2, 0, 1) * torch.tensor([-1.0, -1, 1])[:, None, None]
    torch.testing.assert_close(photo, resized_nearest(plain, 1200, 1600), rtol=0, atol=0, equal_nan=True)


def scene(photo: Size, size: Size, process_res: int) -> tuple[Camera, np.ndarray]:
    """A slanted plane as Depth Anything 3 would give it: the map's camera, its points by the rays of its pixels.

    Made without `placement`: the network's picture of the photo, then the middle of that picture.
    """
    whole = resized(photo, process_res)
    k = np.diag([whole[0] / photo[0], whole[1] / photo[1], 1.0]) @ LENS
    k[:2, 2] -= [(whole[0] - size[0]) / 2, (whole[1] - size[1]) / 2]
    columns, rows = np.meshgrid(np.arange(size[0]) + 0.5, np.arange(size[1]) + 0.5)
    rays = np.stack([columns, rows, np.ones_like(rows)], -1) @ np.linalg.inv(k).T
    depth = 3 / (rays @ np.array([0.2, -0.1, 1.0]))  # the plane 0.2 x - 0.1 y + z = 3
    return Camera(k, np.eye(4), *size), (rays * depth[..., None]).astype(np.float32)


@pytest.mark.parametrize(
    ("photo", "size"),
    [
        ((2016, 1512), (504, 378)),  # not cut
        ((2016, 1512), (378, 378)),  # a landscape photo among portraits
        ((1512, 2016), (378, 378)),  # a portrait among landscapes
        ((2016, 1000), (378, 252)),  # 252 is the height of a photo of 1000 rows: stretched by 1.6 %
        ((300, 200), (504, 336)),  # a photo smaller than the map
    ],
)
def test_points_are_seen_at_their_pixels(photo: Size, size: Size) -> None:
    """The photo's camera projects each point of the photo's map into the map's pixel around it."""
    camera, points = scene(photo, size, 504)
    place = placement(photo, size, 504)
    found = pointmap_in_photo(points, place)
    lens = camera_of_photo(camera, place)
    np.testing.assert_allclose(lens.intrinsics, LENS, atol=1e-9)
    assert (lens.width, lens.height) == photo
    p3d = found.permute(1, 2, 0).double().numpy() * [-1, -1, 1]
    pixels, _ = project(lens, p3d)
    rows, columns = np.indices(p3d.shape[:2]) + 0.5
    off = np.abs(pixels - np.stack([columns, rows], -1))
    known = np.isfinite(p3d[..., 0])
    # nearest: within half a pixel of the map, and half of the photo's own
    step = np.array([photo[0] / place.whole[0], photo[1] / place.whole[1]])
    assert (off[known] <= (step + 1) / 2 + 1e-3).all()
    assert known.mean() == pytest.approx(size[0] * size[1] / place.whole[0] / place.whole[1], rel=0.01)
    assert known.any(0).argmax() == pytest.approx(place.left * step[0], abs=1)
    assert known[:, ::-1].any(0).argmax() == pytest.approx(place.left * step[0], abs=1)  # cut alike on both sides


def test_a_point_of_the_world_in_map_and_photo() -> None:
    """Law: what the cut map shows at a spot, the photo shows at the spot's place."""
    camera, points = scene((2016, 1512), (378, 378), 504)
    place = placement((2016, 1512), (378, 378), 504)
    point = points[100, 200].astype(np.float64)
    in_map, _ = project(camera, point)
    in_photo, _ = project(camera_of_photo(camera, place), point)
    np.testing.assert_allclose(in_map, [200.5, 100.5], atol=1e-3)
    np.testing.assert_allclose(in_photo, [(200.5 + 63) * 4, 100.5 * 4], atol=1e-2)  # 63 columns cut, zoom 4
    column, row = in_photo.astype(int)
    np.testing.assert_allclose(pointmap_in_photo(points, place)[:, row, column] * torch.tensor([-1, -1, 1]), point)


def views(sizes: dict[str, Size], size: Size) -> DepthViews:
    made = [scene(photo, size, 504) for photo in sizes.values()]
    points = np.stack([points for _, points in made])
    return DepthViews(tuple(sizes), tuple(camera for camera, _ in made), points[..., 2], points, 504)


def photo_of(name: str, size: Size) -> Photo:
    return Photo(name, np.zeros((size[1], size[0], 3), np.uint8), np.ones((size[1], size[0]), bool))


def test_mixed_set_by_name() -> None:
    sizes = {"0": (2016, 1512), "1": (1512, 2016), "2": (1008, 756)}
    found = views(sizes, (378, 378))
    photos = [photo_of(name, sizes[name]) for name in ("2", "0")]
    maps, cameras = photo_pointmaps(found, photos), photo_cameras(found, photos)
    assert [tuple(map_.shape) for map_ in maps] == [(3, 756, 1008), (3, 1512, 2016)]
    assert [(camera.width, camera.height) for camera in cameras] == [(1008, 756), (2016, 1512)]
    np.testing.assert_allclose(cameras[1].intrinsics, LENS, atol=1e-9)
    with pytest.raises(BadFile, match="no depth for the photo 7"):
        photo_pointmaps(found, [photo_of("7", (2016, 1512))])


@pytest.mark.parametrize(
    ("photo", "size", "process_res"),
    [
        ((1200, 1600), (504, 378), 504),  # lies on its side
        ((1600, 1200), (504, 392), 504),  # higher than the photo
        ((42, 28), (42, 28), 504),  # another process_res
        ((1600, 1200), (504, 377), 504),
    ],
)
def test_maps_of_other_photos(photo: Size, size: Size, process_res: int) -> None:
    with pytest.raises(BadFile, match=r"a\.npz, 3: a depth map of .* was not made of a photo of"):
        placement(photo, size, process_res, name="a.npz, 3")


def test_a_camera_at_the_photos_size_is_kept() -> None:
    camera = Camera(centred_intrinsics(504, 378), np.eye(4), 504, 378)
    same = camera_of_photo(camera, placement((504, 378), (504, 378), 504))
    np.testing.assert_array_equal(same.intrinsics, camera.intrinsics)
