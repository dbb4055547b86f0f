import numpy as np

from mvsam3d.geometry.cameras import centre, centred_intrinsics, project
from mvsam3d.geometry.hull import outline_distance
from mvsam3d.models.lifted_views import WINDOW
from mvsam3d.training.objects import look_at
from mvsam3d.types import Camera
from mvsam3d.views.lifted import FARTHEST, lifted, lifted_views, window_grid, window_of, window_size

SIDE = 40


def scene(*angles: float) -> tuple[list[np.ndarray], list[np.ndarray], list[Camera]]:
    rng = np.random.default_rng(0)
    photos = [rng.integers(0, 256, (SIDE, SIDE, 3)).astype(np.uint8) for _ in angles]
    masks = [np.zeros((SIDE, SIDE), bool) for _ in angles]
    for mask in masks:
        mask[8:30, 12:33] = True
    lens = centred_intrinsics(SIDE, SIDE)
    return photos, masks, [Camera(lens, look_at(a, 20.0, 1.8), SIDE, SIDE) for a in angles]


def bilinear(image: np.ndarray, column: float, row: float) -> np.ndarray:
    x, y = np.clip(column - 0.5, 0, SIDE - 1), np.clip(row - 0.5, 0, SIDE - 1)
    x0, y0 = int(x), int(y)
    x1, y1 = min(x0 + 1, SIDE - 1), min(y0 + 1, SIDE - 1)
    a, b = x - x0, y - y0
    return (1 - b) * ((1 - a) * image[y0, x0] + a * image[y0, x1]) + b * ((1 - a) * image[y1, x0] + a * image[y1, x1])


def test_equals_its_plain_twin() -> None:
    photos, masks, cameras = scene(0.0, 70.0)
    n = 9
    features = lifted(photos, masks, cameras, n)
    assert features.shape == (2, n, n, n, 9)
    for view in range(2):
        mask = masks[view].astype(float)
        colour = (photos[view] / 255 - 0.5) * mask[..., None]
        distance = outline_distance(masks[view])
        for cell in np.ndindex(n, n, n):
            point = (np.array(cell) + 0.5) / n - 0.5
            (column, row), depth = project(cameras[view], point)
            found = features[view][cell]
            share = bilinear(mask, column, row)
            expected = bilinear(colour, column, row) / share if share > 0 else np.zeros(3)
            assert np.allclose(found[:3], expected, atol=1e-5)
            assert np.isclose(found[3], share, atol=1e-5)
            per_cell = cameras[view].intrinsics[0, 0] / depth / n
            far = np.clip(bilinear(distance, column, row) / (per_cell * FARTHEST), -1, 1)
            assert np.isclose(found[4], far, atol=1e-4)
            assert found[5] == (0 <= column < SIDE and 0 <= row < SIDE)
            away = centre(cameras[view]) - point
            assert np.allclose(found[6:], away / np.linalg.norm(away), atol=1e-5)


def test_a_camera_inside_sees_nothing_behind_it() -> None:
    photos, masks, cameras = scene(0.0)
    matrix = cameras[0].camera_from_world.copy()
    matrix[2, 3] = 0.0  # the camera stands in the middle of the cube
    features = lifted(photos, masks, [Camera(cameras[0].intrinsics, matrix, SIDE, SIDE)], 8)[0]
    points = np.stack(np.meshgrid(*[(np.arange(8) + 0.5) / 8 - 0.5] * 3, indexing="ij"), -1)
    behind = points @ matrix[2, :3] + matrix[2, 3] < 0
    assert behind.any()
    assert (features[behind][:, 4] == -1).all()
    assert (features[behind][:, [0, 1, 2, 3, 5]] == 0).all()


def test_scaled_cameras_lift_the_same() -> None:
    """Law: `camera_from_world` that scales, as of a cube in a larger world."""
    photos, masks, cameras = scene(30.0)
    grown = np.diag([3.0, 3.0, 3.0, 1.0]) @ cameras[0].camera_from_world
    scaled = lifted(photos, masks, [Camera(cameras[0].intrinsics, grown, SIDE, SIDE)], 8)
    assert np.allclose(scaled, lifted(photos, masks, cameras, 8), atol=1e-5)


def test_spots_lie_in_the_window_where_the_cells_are() -> None:
    """A photo whose colours are its pixels' places, drawn into the window: read at a cell's spot, they tell where it is seen."""
    _, masks, cameras = scene(0.0, 70.0)
    columns, rows = np.meshgrid(np.arange(SIDE), np.arange(SIDE))
    photo = np.stack([columns * 5, rows * 5, 0 * rows], -1).astype(np.uint8)
    views = lifted_views([photo] * 2, masks, cameras, 16)
    assert views.features.shape == (1, 2, 16, 16, 16, 9)
    windows, spots = views.windows[0].numpy(), views.spots[0].numpy()
    checked = 0
    for view in range(2):
        for cell in np.ndindex(8, 8, 8):
            (column, row), depth = project(cameras[view], (np.array(cell) + 0.5) / 8 - 0.5)
            x, y, beyond, _ = spots[view][cell]
            assert np.isclose(beyond, depth - cameras[view].camera_from_world[2, 3], atol=1e-5)
            if 14 < column < 31 and 10 < row < 28:  # off the outline
                j, i = int((x + 1) / 2 * WINDOW), int((y + 1) / 2 * WINDOW)
                place = (windows[view][:2, i, j] + 0.5) * 255 / 5 + 0.5
                assert np.allclose(place, [column, row], atol=0.5)
                assert np.isclose(windows[view][3, i, j], 1)
                checked += 1
    assert checked > 50
    off = np.abs(spots[..., :2]).max(-1) > 1.0
    assert off.any()
    assert np.abs(windows[:, :3] * (windows[:, 3:] == 0)).max() == 0  # nothing off the object


def test_a_window_knows_its_size() -> None:
    """Closed form: pinhole; the same in a world of other units but for those."""
    _, masks, cameras = scene(0.0)
    box = window_of(masks[0])
    lens, pose = cameras[0].intrinsics, cameras[0].camera_from_world
    assert np.isclose(window_size(cameras[0], box), 22 * 1.1 * 1.8 / lens[0, 0])
    halved = Camera(lens, pose @ np.diag([0.5, 0.5, 0.5, 1]), SIDE, SIDE)  # of a cube half as large
    assert np.isclose(window_size(halved, box), 2 * window_size(cameras[0], box))
    assert np.isclose(
        lifted_views([np.zeros((SIDE, SIDE, 3), np.uint8)], masks, cameras, 4).spots[..., 3],
        window_size(cameras[0], box),
    ).all()
    grid = window_grid(box, 4)
    assert np.allclose(grid[0, 0], [box[0] + box[2] / 8, box[1] + box[2] / 8])
    assert np.allclose(grid[3, 1], [box[0] + 3 * box[2] / 8, box[1] + 7 * box[2] / 8])


def test_what_lies_behind_a_camera_is_in_no_window() -> None:
    photos, masks, cameras = scene(0.0)
    matrix = cameras[0].camera_from_world.copy()
    matrix[2, 3] = 0.0
    spots = lifted_views(photos, masks, [Camera(cameras[0].intrinsics, matrix, SIDE, SIDE)], 8).spots.numpy()
    points = np.stack(np.meshgrid(*[(np.arange(4) + 0.5) / 4 - 0.5] * 3, indexing="ij"), -1)
    behind = points @ matrix[2, :3] < 0
    assert behind.any()
    assert (np.abs(spots[0, 0][behind][:, :2]) >= 3).all()
    assert np.isfinite(spots).all()
