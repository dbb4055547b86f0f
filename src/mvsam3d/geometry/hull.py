"""What outlines tell of a shape: a point of the object lies inside the outline of every photo.

Grids are cubic, cell (i, j, k) along x, y, z of a `Cube` in the world of the cameras. A mask that reaches the edge of its photo goes on
beyond it, as the object may.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float
from scipy.ndimage import gaussian_filter

from mvsam3d.errors import InvalidOption
from mvsam3d.geometry.cameras import centre, project, resized, triangulated, unproject
from mvsam3d.geometry.compiled import compiled
from mvsam3d.types import Camera

COARSE = 48  # cells along an edge with which the object is first looked for
FIRST_ROOM = 1.6  # side of the first cube in sizes of the object as its masks show it
HALF_DIAGONAL = np.sqrt(3) / 2
LIKELY = 1.5  # cells over which odds are smoothed where a depth is looked for
FILLED = 1.5  # log odds of a cell that is filled because a photo shows something there
RAY_SIDE = 160  # pixels along the longer side of a photo in which silhouettes are compared

Mask = Bool[np.ndarray, "_ _"]


@dataclass(frozen=True)
class Cube:
    """A cube along the axes of the world."""

    centre: Float[np.ndarray, " 3"]
    side: float

    def world_from_cube(self) -> Float[np.ndarray, "4 4"]:
        """From the frame in which the cube is [-0.5, 0.5]^3."""
        matrix = np.diag([self.side] * 3 + [1.0])
        matrix[:3, 3] = self.centre
        return matrix

    def cell_centres(self, resolution: int) -> Float[np.ndarray, "x y z 3"]:
        """Middles of the cells of a grid, in the world."""
        axis = ((np.arange(resolution) + 0.5) / resolution - 0.5) * self.side
        grid = np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), -1)
        middles: Float[np.ndarray, "x y z 3"] = grid + self.centre
        return middles


def quarter_turn(count: int) -> Float[np.ndarray, "4 4"]:
    """From a cube's frame, turned about its vertical by so many quarters, to the frame itself."""
    turn = np.eye(4)
    turn[:2, :2] = np.linalg.matrix_power(np.array([[0, -1], [1, 0]]), count)
    return turn


def in_cube_frame(camera: Camera, cube: Cube) -> Camera:
    """The camera with the cube's frame as its world; `camera_from_world` then scales."""
    return Camera(camera.intrinsics, camera.camera_from_world @ cube.world_from_cube(), camera.width, camera.height)


def outline_distance(mask: Mask) -> Float[np.ndarray, "h w"]:
    """Pixels from the middle of each pixel to the outline, positive inside."""
    import cv2

    padded = np.pad(mask, 1, mode="edge").astype(np.uint8)  # beyond the edge the mask goes on
    inside, outside = (
        # squares of distances between pixels are whole numbers; the last bits of what OpenCV returns depend on where its memory lies
        np.sqrt(
            np.round(np.square(cv2.distanceTransform(where, cv2.DIST_L2, cv2.DIST_MASK_PRECISE).astype(np.float64)))
        )
        for where in (padded, 1 - padded)
    )
    signed: Float[np.ndarray, "h w"] = np.where(padded > 0, inside - 0.5, 0.5 - outside)[1:-1, 1:-1].astype(np.float32)
    return signed


def distances_inside(
    camera: Camera, distance: Float[np.ndarray, "h w"], points_world: Float[np.ndarray, "*rows 3"]
) -> tuple[Float[np.ndarray, "*rows"], Float[np.ndarray, "*rows"]]:
    """Of each point: pixels inside the outline (negative outside), and pixels that a unit of length covers there.

    Beyond the photo the value at its nearest edge holds; behind the camera nothing is inside.

    Args:
        camera: for the photo's pixels.
        distance: see `outline_distance`; of the photo's size.
        points_world: points.
    """
    pixels, depth = project(camera, points_world)
    front = depth > 0
    pixels = np.where(front[..., None], pixels, 0.0)
    h, w = distance.shape
    columns = np.clip(pixels[..., 0], 0, w - 1).astype(np.int64)
    rows = np.clip(pixels[..., 1], 0, h - 1).astype(np.int64)
    scale = np.cbrt(abs(np.linalg.det(camera.camera_from_world[:3, :3])))  # of a similarity
    focal = np.sqrt(abs(camera.intrinsics[0, 0] * camera.intrinsics[1, 1]))
    per_unit = np.where(front, focal * scale / np.where(front, depth, 1.0), 0.0)
    return np.where(front, distance[rows, columns], -np.inf), per_unit


def carved(
    cameras: Sequence[Camera], masks: Sequence[Mask], cube: Cube, resolution: int, *, margin: float = 0.5
) -> Bool[np.ndarray, "x y z"]:
    """The visual hull: cells whose middle lies inside every outline, or at most `margin` cells beside it.

    Raises: InvalidOption: a camera and its mask differ in size.
    """
    _check(cameras, masks)
    points = cube.cell_centres(resolution)
    kept = np.ones(points.shape[:3], bool)
    for camera, mask in zip(cameras, masks, strict=True):
        inside, per_unit = distances_inside(camera, outline_distance(mask), points[kept])
        kept[kept] = inside >= -margin * per_unit * cube.side / resolution
    return kept


def soft_hull(
    cameras: Sequence[Camera],
    masks: Sequence[Mask],
    cube: Cube,
    resolution: int,
    *,
    mask_error: float = 1.5,
    wrong: float = 0.02,
) -> Float[np.ndarray, "x y z"]:
    """Probability that each cell is inside every true outline.

    Args:
        cameras: of the photos.
        masks: of the photos.
        cube: where the grid lies.
        resolution: cells along its edges.
        mask_error: standard deviation of an outline, pixels; the half side of a cell as the camera sees it is added in squares.
        wrong: chance that a mask says nothing of a point, as where another object or a hole in the mask is.
    Raises: InvalidOption: a camera and its mask differ in size.
    """
    _check(cameras, masks)
    points = cube.cell_centres(resolution)
    product = np.ones(points.shape[:3])
    for camera, mask in zip(cameras, masks, strict=True):
        inside, per_unit = distances_inside(camera, outline_distance(mask), points)
        spread = np.hypot(mask_error, 0.5 * per_unit * cube.side / resolution)
        with np.errstate(over="ignore"):
            chance = 1 / (1 + np.exp(-1.7 * inside / spread))  # a logistic curve about as steep as the normal one
        product *= wrong + (1 - wrong) * chance
    return product


def cube_around(cameras: Sequence[Camera], masks: Sequence[Mask], *, room: float = 1.1) -> Cube:
    """The cube around the visual hull; `room`: its side in the hull's longest sides.

    One photo does not tell how far the object is, and as large as it is far: it is put where the world's origin is, or else one unit away.

    Raises: InvalidOption: the rays are parallel, no point is inside all outlines, or a camera and its mask
        differ in size.
    """
    _check(cameras, masks)
    middles = np.stack([np.argwhere(mask).mean(0)[::-1] + 0.5 for mask in masks])
    if len(cameras) == 1:
        _, depth = project(cameras[0], np.zeros(3))
        meeting = unproject(cameras[0], middles[0], np.where(depth > 0, depth, 1.0))
        return Cube(meeting, room * _seen_size(cameras[0], masks[0], meeting))
    meeting = triangulated(cameras, middles)
    cube = Cube(meeting, FIRST_ROOM * max(_seen_size(c, m, meeting) for c, m in zip(cameras, masks, strict=True)))
    for _ in range(2):
        solid = carved(cameras, masks, cube, COARSE, margin=HALF_DIAGONAL)
        if not solid.any():
            raise InvalidOption(
                "no point lies inside the outlines of all views: a camera or a mask is wrong, or they belong to different photos"
            )
        cube = cube_of(solid, cube, room)
    return cube


def cube_of(solid: Bool[np.ndarray, "x y z"], cube: Cube, room: float) -> Cube:
    """The cube around the solid cells of another's grid; `room`: its side in their longest sides."""
    cells = np.argwhere(solid)
    low, high = cells.min(0) / len(solid) - 0.5, (cells.max(0) + 1) / len(solid) - 0.5
    return Cube(cube.centre + cube.side * (low + high) / 2, float(cube.side * (high - low).max() * room))


def _seen_size(camera: Camera, mask: Mask, where: Float[np.ndarray, " 3"]) -> float:
    """Longest side of the mask's bounding box at the depth of a point, in the world's units."""
    pixels, depth = project(camera, where)
    rows, columns = np.argwhere(mask).min(0), np.argwhere(mask).max(0)
    side = float((columns - rows + 1).max())
    ends = unproject(camera, pixels + np.array([[0.0, 0.0], [side, 0.0]]), np.array([depth, depth]))
    return float(np.linalg.norm(ends[1] - ends[0]))


def hull_agreement(
    cameras: Sequence[Camera], masks: Sequence[Mask], resolution: int, *, margin: float
) -> Float[np.ndarray, " view"]:
    """IoU of each mask and the outline of the visual hull of all, which right cameras make nearly 1.

    Raises: InvalidOption: see `cube_around`.
    """
    cube = cube_around(cameras, masks)
    return silhouette_ious(carved(cameras, masks, cube, resolution, margin=margin), cube, cameras, masks)


def silhouette_ious(
    solid: Bool[np.ndarray, "x y z"], cube: Cube, cameras: Sequence[Camera], masks: Sequence[Mask]
) -> Float[np.ndarray, " view"]:
    """Intersection over union of each mask and the outline of a solid grid, at RAY_SIDE pixels."""
    scores = []
    for shown, seen, _ in _outlines(solid, cube, cameras, masks):
        either = (shown | seen).sum()
        scores.append((shown & seen).sum() / either if either else 1.0)
    return np.array(scores)


def uncovered(
    solid: Bool[np.ndarray, "x y z"], cube: Cube, cameras: Sequence[Camera], masks: Sequence[Mask], beside: float
) -> Float[np.ndarray, " view"]:
    """The part of each mask that lies more than `beside` cells beside the outline of a solid grid, at RAY_SIDE pixels."""
    import cv2

    parts = []
    for shown, seen, camera in _outlines(solid, cube, cameras, masks):
        cell = _pixels_per_cell(camera, cube, len(solid))
        away = cv2.distanceTransform((~seen).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
        parts.append(float((away[shown] > beside * cell).mean()) if seen.any() and shown.any() else 1.0)
    return np.array(parts)


def covering(
    odds: Float[np.ndarray, "x y z"],
    cube: Cube,
    cameras: Sequence[Camera],
    masks: Sequence[Mask],
    beside: float,
    rim: float = 0.0,
) -> Float[np.ndarray, "x y z"]:
    """Log odds whose solid covers the masks, but for their rims: on each ray through a gap of more than `beside` cells, the most probable
    place is filled, two or three cells thick. What is seen is there, even where nothing is sure of its depth. Gaps within `rim` cells of a
    mask's outline are left alone.
    """
    import cv2

    filled, likely = (
        odds.copy(),
        gaussian_filter(odds, LIKELY, mode="nearest"),
    )  # smooth, so that neighbours agree on the depth
    for i in range(len(cameras)):
        ((shown, seen, camera),) = _outlines(filled > 0, cube, cameras[i : i + 1], masks[i : i + 1])
        cell = _pixels_per_cell(camera, cube, len(odds))
        if rim > 0:
            framed = np.pad(shown, 1).astype(np.uint8)  # a mask ends with its photo
            shown &= cv2.distanceTransform(framed, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)[1:-1, 1:-1] > rim * cell
        if seen.any():
            away = cv2.distanceTransform((~seen).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
            reach = beside * cell
            gaps = shown & (away > reach)
            core = cv2.distanceTransform((shown & ~seen).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE) > reach
            near = cv2.distanceTransform((~core).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE) <= 2 * reach
            shown = gaps & near & core.any()  # of the gaps, those wide enough
        if shown.any():
            start, rays = _rays(in_cube_frame(camera, cube), camera.width, camera.height)
            _fill(filled, likely, start, rays[shown])
    return filled


def _pixels_per_cell(camera: Camera, cube: Cube, resolution: int) -> float:
    _, depth = project(camera, cube.centre)
    scale = np.cbrt(abs(np.linalg.det(camera.camera_from_world[:3, :3])))
    focal = np.sqrt(abs(camera.intrinsics[0, 0] * camera.intrinsics[1, 1]))
    return float(focal * scale / max(float(depth), 1e-9) * cube.side / resolution)


def _outlines(
    solid: Bool[np.ndarray, "x y z"], cube: Cube, cameras: Sequence[Camera], masks: Sequence[Mask]
) -> Iterator[tuple[Mask, Mask, Camera]]:
    """Each mask and the solid's outline in it, RAY_SIDE pixels long or less, and the camera of so many pixels."""
    _check(cameras, masks)
    for camera, mask in zip(cameras, masks, strict=True):
        small, shown = shrunk(camera, mask, min(1.0, RAY_SIDE / max(camera.width, camera.height)))
        yield shown, silhouette(solid, cube, camera, small.width, small.height), small


def shrunk(camera: Camera, mask: Mask, zoom: float) -> tuple[Camera, Mask]:
    """A camera and its mask at so many times as many pixels along an edge, one at least; of the mask, those nearest to their middles."""
    small = resized(camera, max(round(camera.width * zoom), 1), max(round(camera.height * zoom), 1))
    rows = ((np.arange(small.height) + 0.5) / small.height * camera.height).astype(int)
    columns = ((np.arange(small.width) + 0.5) / small.width * camera.width).astype(int)
    return small, mask[rows][:, columns]


def silhouette(
    solid: Bool[np.ndarray, "x y z"], cube: Cube, camera: Camera, width: int, height: int
) -> Bool[np.ndarray, "height width"]:
    """Where a camera's photo, scaled to `width` by `height` pixels, shows the solid: a ray through each pixel's middle."""
    start, rays = _rays(in_cube_frame(camera, cube), width, height)
    hit = np.zeros((height, width), np.bool_)
    _hit(solid, start, rays, hit)
    return hit


def _rays(placed: Camera, width: int, height: int) -> tuple[Float[np.ndarray, " 3"], Float[np.ndarray, "h w 3"]]:
    """Where a camera stands, and unit rays through the middles of its photo's pixels, were it `width` by `height`."""
    pixels = np.stack(
        np.meshgrid(
            (np.arange(width) + 0.5) / width * placed.width, (np.arange(height) + 0.5) / height * placed.height
        ),
        -1,
    )
    rays = np.concatenate([pixels, np.ones((height, width, 1))], -1) @ np.linalg.inv(placed.intrinsics).T
    rays = rays @ np.linalg.inv(placed.camera_from_world[:3, :3]).T
    rays /= np.linalg.norm(rays, axis=-1, keepdims=True)
    return centre(placed), rays


@compiled
def _span(start: np.ndarray, ray: np.ndarray) -> tuple[float, float]:
    """Where a ray enters and leaves the cube [-0.5, 0.5]^3."""
    near, far = 0.0, 1e30
    for axis in range(3):
        d, s = ray[axis], start[axis]
        if abs(d) < 1e-12:
            if abs(s) > 0.5:
                far = -1.0
            continue
        a, b = (-0.5 - s) / d, (0.5 - s) / d
        near, far = max(near, min(a, b)), min(far, max(a, b))
    return near, far


@compiled
def _fill(odds: np.ndarray, likely: np.ndarray, start: np.ndarray, rays: np.ndarray) -> None:
    """Make the likeliest cell on each ray, and those that share a face with it, rather inside than not."""
    n = odds.shape[0]
    for row in range(rays.shape[0]):
        near, far = _span(start, rays[row])
        best, x, y, z = -1e30, -1, -1, -1
        t = near + 0.25 / n
        while t < far:
            i = int((start[0] + t * rays[row, 0] + 0.5) * n)
            j = int((start[1] + t * rays[row, 1] + 0.5) * n)
            k = int((start[2] + t * rays[row, 2] + 0.5) * n)
            if 0 <= i < n and 0 <= j < n and 0 <= k < n and likely[i, j, k] > best:
                best, x, y, z = likely[i, j, k], i, j, k
            t += 0.5 / n
        if x >= 0:
            for i in range(max(x - 1, 0), min(x + 2, n)):
                for j in range(max(y - 1, 0), min(y + 2, n)):
                    for k in range(max(z - 1, 0), min(z + 2, n)):
                        if abs(i - x) + abs(j - y) + abs(k - z) <= 1:
                            odds[i, j, k] = max(odds[i, j, k], FILLED)


@compiled
def _hit(solid: np.ndarray, start: np.ndarray, rays: np.ndarray, hit: np.ndarray) -> None:
    """Steps of half a cell through the cube [-0.5, 0.5]^3."""
    n = solid.shape[0]
    for row in range(rays.shape[0]):
        for column in range(rays.shape[1]):
            near, far = _span(start, rays[row, column])
            t = near + 0.25 / n
            while t < far:
                i = int((start[0] + t * rays[row, column, 0] + 0.5) * n)
                j = int((start[1] + t * rays[row, column, 1] + 0.5) * n)
                k = int((start[2] + t * rays[row, column, 2] + 0.5) * n)
                if 0 <= i < n and 0 <= j < n and 0 <= k < n and solid[i, j, k]:
                    hit[row, column] = True
                    break
                t += 0.5 / n


def _check(cameras: Sequence[Camera], masks: Sequence[Mask]) -> None:
    for i, (camera, mask) in enumerate(zip(cameras, masks, strict=True)):
        if mask.shape != (camera.height, camera.width):
            raise InvalidOption(
                f"view {i}: the camera is for {camera.width} x {camera.height} pixels, the mask has {mask.shape[1]} x {mask.shape[0]}"
            )
        if not mask.any():
            raise InvalidOption(f"view {i}: the mask is empty, so it tells nothing of the shape")
