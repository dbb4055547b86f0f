from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from mvsam3d.errors import InvalidOption
from mvsam3d.generation.pose import camera_from_object
from mvsam3d.geometry.cameras import centred_intrinsics, project
from mvsam3d.geometry.hull import Cube, silhouette, soft_hull, uncovered
from mvsam3d.posing.alignment import Alignment
from mvsam3d.posing.known_shape import KnownShape
from mvsam3d.posing.placement import (
    PLACED,
    Placement,
    fitting_cameras,
    of_photo,
    placed_by_cameras,
    pose_of,
    with_model,
)
from mvsam3d.training.objects import look_at
from mvsam3d.types import Camera, Photo
from tests.posing.test_alignment import off_degrees, step

SIDE = 96


def scene(
    world_from_object: np.ndarray, solid: Callable[[np.ndarray], np.ndarray] = step
) -> tuple[list[Photo], list[Camera]]:
    """Photos of a solid, the stepped block, somewhere in a world."""
    lens = centred_intrinsics(SIDE, SIDE)
    block = solid(Cube(np.zeros(3), 1.0).cell_centres(48))
    back = np.linalg.inv(world_from_object)
    photos, cameras = [], []
    for i, azimuth in enumerate(range(0, 360, 45)):
        camera = Camera(lens, look_at(float(azimuth), 25.0 - 10 * (i % 2), 2.4), SIDE, SIDE)
        mask = silhouette(block, Cube(np.zeros(3), 1.0), camera, SIDE, SIDE)
        photos.append(Photo(str(i), np.full((SIDE, SIDE, 3), 128, np.uint8), mask))
        cameras.append(Camera(lens, camera.camera_from_world @ back, SIDE, SIDE))
    return photos, cameras


def test_the_object_is_found_among_its_cameras() -> None:
    """Cameras in a world that is turned, moved and twice as large: rigid cameras, as files have them."""
    world_from_object = np.eye(4)
    world_from_object[:3, :3] = 2.0 * Rotation.from_euler("z", 120, degrees=True).as_matrix()
    world_from_object[:3, 3] = [5.0, -1.0, 0.5]
    photos, cameras = scene(world_from_object)
    rigid = [
        Camera(c.intrinsics, np.vstack([2.0 * c.camera_from_world[:3], [0, 0, 0, 1]]), SIDE, SIDE) for c in cameras
    ]
    assert np.allclose(rigid[0].camera_from_world[:3, :3] @ rigid[0].camera_from_world[:3, :3].T, np.eye(3))
    block = step(Cube(np.zeros(3), 1.0).cell_centres(32))
    structure = torch.from_numpy(np.where(block, 4.0, -4.0)).float()
    guess = pose_of(cameras[0])
    found = placed_by_cameras(
        photos,
        rigid,
        None,
        structure,
        [guess] * len(photos),
        views=fitting_cameras(photos, rigid),
        resolution=48,
        largest_share=1.0,
    )
    assert fitting_cameras(photos, rigid) == tuple(range(8))
    truth = world_from_object
    assert off_degrees(found.world_from_object[:3, :3], truth[:3, :3]) < 6
    assert np.cbrt(np.linalg.det(found.world_from_object[:3, :3])) == pytest.approx(2.0, rel=0.15)  # a hull is larger
    known = found.logits(32) > 0
    middles = np.append((np.argwhere(np.ones((32, 32, 32))) + 0.5) / 32 - 0.5, np.ones((32**3, 1)), 1)
    truly = torch.from_numpy(step(middles @ (np.linalg.inv(truth) @ found.world_from_object).T).reshape(32, 32, 32))
    assert (known & truly).sum() / (known | truly).sum() > 0.7  # what outlines tell of a block with a notch
    pixels, _ = project(found.cameras[0], np.zeros((1, 3)))
    expected, _ = project(rigid[0], found.world_from_object[None, :3, 3])
    assert np.allclose(pixels, expected)
    assert np.allclose(
        camera_from_object(pose_of(found.cameras[0])).numpy(), found.cameras[0].camera_from_world, atol=1e-5
    )


def test_the_axes_of_the_world_do_not_matter() -> None:
    """As structure from motion gives them: the same photos in a world that lies on its side."""
    photos, cameras = scene(np.eye(4))
    block = step(Cube(np.zeros(3), 1.0).cell_centres(32))
    structure = torch.from_numpy(np.where(block, 4.0, -4.0)).float()
    turned = np.eye(4)
    turned[:3, :3] = Rotation.from_euler("xyz", [100, 20, -50], degrees=True).as_matrix()
    found = []
    for back in (np.eye(4), np.linalg.inv(turned)):
        given = [replace(c, camera_from_world=c.camera_from_world @ back) for c in cameras]
        poses = [pose_of(c) for c in cameras]
        views = tuple(range(len(photos)))
        found.append(
            placed_by_cameras(photos, given, None, structure, poses, views=views, resolution=32, largest_share=1.0)
        )
    first, second = found
    off = off_degrees(second.world_from_object[:3, :3], turned[:3, :3] @ first.world_from_object[:3, :3])
    assert off < 3
    solid, same = ((placement.logits(32) > 0).numpy() for placement in found)
    assert (solid & same).sum() / (
        solid | same
    ).sum() > 0.8  # the level world turns about its vertical: other cells of 1/32


def test_a_view_without_camera_tells_nothing_and_is_placed_by_the_models_pose() -> None:
    photos, cameras = scene(np.eye(4))
    block = step(Cube(np.zeros(3), 1.0).cell_centres(32))
    structure = torch.from_numpy(np.where(block, 4.0, -4.0)).float()
    poses = [pose_of(camera) for camera in cameras]
    some = [None if i == 3 else camera for i, camera in enumerate(cameras)]
    views = fitting_cameras(photos, some)
    assert views == (0, 1, 2, 4, 5, 6, 7)

    def found(cameras: list[Camera | None], views: tuple[int, ...]) -> Placement:
        return placed_by_cameras(photos, cameras, None, structure, poses, views=views, resolution=32, largest_share=1.0)

    placement = found(some, views)
    misled = replace(cameras[3], camera_from_world=cameras[0].camera_from_world)
    assert np.array_equal(  # whatever camera it has, as it does not tell
        found([*some[:3], misled, *some[4:]], views).shape.probability, placement.shape.probability
    )
    corners = np.array([[x, y, z] for x in (-0.4, 0.4) for y in (-0.4, 0.4) for z in (-0.4, 0.4)])
    expected = project(
        replace(cameras[3], camera_from_world=cameras[3].camera_from_world @ placement.world_from_object), corners
    )
    shown = project(placement.cameras[3], corners)  # the model's frame was found again among the cameras, to a cell
    assert np.abs(shown[0] - expected[0]).max() < 3


def test_the_model_hollows_what_outlines_cannot_and_is_not_believed_against_them() -> None:
    """A pot: its hull is filled. A model that knows it empties it; one that says that half of it is missing contradicts the outlines."""
    cube = Cube(np.zeros(3), 1.0)
    points = cube.cell_centres(48)
    radius = np.hypot(points[..., 0], points[..., 1])
    pot = (radius < 0.45) & ((radius > 0.35) | (points[..., 2] < -0.25)) & (abs(points[..., 2]) < 0.35)
    lens = centred_intrinsics(SIDE, SIDE)
    cameras = [Camera(lens, look_at(60.0 * i, 40.0, 3.0), SIDE, SIDE) for i in range(6)]
    masks = [silhouette(pot, cube, camera, SIDE, SIDE) for camera in cameras]
    hull = soft_hull(cameras, masks, cube, 48)
    shape = KnownShape(cube, np.clip(hull, 0.0, 0.9), hull, "hull")
    right = torch.from_numpy(np.where(pot, 4.0, -4.0))
    half = torch.from_numpy(np.where(pot & (points[..., 0] < 0), 4.0, -4.0))
    floor = pot & (radius < 0.35)
    faint = torch.from_numpy(np.where(floor, -1.5, right.numpy()))  # thin things are faint: their height is not sure
    for model, taken in ((right, 0.7), (faint, 0.7), (half, 0.0)):
        together, share = with_model(shape, model, Alignment(np.eye(4), 0.9), cameras, masks, 3.0)
        assert share == taken
        solid = together.probability > 0.5
        overlap = (solid & pot).sum() / (solid | pot).sum()
        assert (overlap > 0.9) == (model is not half)
        assert solid[floor].mean() > 0.8
    assert with_model(shape, right, Alignment(np.eye(4), 0.9), cameras, masks, 0.5)[1] == 0.0
    nothing_new = torch.from_numpy(np.where(hull > 0.5, 4.0, -4.0))
    assert with_model(shape, nothing_new, Alignment(np.eye(4), 0.9), cameras, masks, 3.0)[1] == 0.0


@pytest.mark.parametrize("agreement", [0.9, 0.8])
def test_the_cone_that_no_camera_sees_into_is_not_there_where_the_model_is_placed_well(agreement: float) -> None:
    """A block under cameras that all look down: its hull goes on below it, outside the model's frame."""
    cube = Cube(np.zeros(3), 2.0)
    points = cube.cell_centres(48)
    block = (abs(points) < 0.45).all(-1)
    lens = centred_intrinsics(SIDE, SIDE)
    cameras = [Camera(lens, look_at(60.0 * i, 50.0, 4.0), SIDE, SIDE) for i in range(6)]
    masks = [silhouette(block, cube, camera, SIDE, SIDE) for camera in cameras]
    hull = soft_hull(cameras, masks, cube, 48)
    shape = KnownShape(cube, np.clip(hull, 0.0, 0.9), hull, "hull")
    knows_nothing = torch.zeros(32, 32, 32, dtype=torch.float64)
    together, _ = with_model(shape, knows_nothing, Alignment(np.eye(4), agreement), cameras, masks, 0.0)
    below = points[..., 2] < -0.55
    assert ((hull > 0.6) & below).sum() > 100
    assert ((together.probability > 0.5) & below).any() == (agreement < PLACED)
    assert (together.probability > 0.5)[block].mean() > 0.9


@pytest.mark.parametrize("at", [-0.4, -0.21, 0.0, 0.13, 0.33])
def test_a_wall_thinner_than_a_cell_stays_whole(at: float) -> None:
    """A leaning wall of .7 cells of the coarse grid: no ray through it misses it, wherever it stands."""
    points = Cube(np.zeros(3), 1.0).cell_centres(64)
    wall = abs(points[..., 0] - 0.1 * points[..., 1] - 0.5 * at) < 0.7 / 64
    shape = KnownShape(Cube(np.zeros(3), 1.0), np.where(wall, 0.9, 0.1), np.ones_like(wall, dtype=float), "lifting")
    placement = Placement(shape, Alignment(np.eye(4), 0.9), 0.0, np.eye(4), np.eye(4), ())
    assert (placement.logits(32) > 0).any(0).all()
    assert np.array_equal(placement.logits(64).numpy() > 0, wall)  # on the shape's own cells it is what it was


def test_a_wall_with_holes_is_closed_where_the_masks_show_it() -> None:
    """A plate with holes of two cells before masks of the whole plate; what is beside the plate stays empty."""
    points = Cube(np.zeros(3), 1.0).cell_centres(32)
    plate = (abs(points[..., 0]) < 0.07) & (abs(points[..., 1:]) < 0.4).all(-1)
    holes = plate & (np.indices(plate.shape)[1] % 8 < 2) & (np.indices(plate.shape)[2] % 8 < 2)
    lens = centred_intrinsics(SIDE, SIDE)
    cameras = tuple(Camera(lens, look_at(float(turn), 0.0, 3.0), SIDE, SIDE) for turn in (80, 100))
    masks = [silhouette(plate, Cube(np.zeros(3), 1.0), camera, SIDE, SIDE) for camera in cameras]
    chance = np.where(plate & ~holes, 0.9, 0.1)
    cube = Cube(np.zeros(3), 1.0)
    shape = KnownShape(cube, chance, chance, "lifting")
    placement = Placement(shape, Alignment(np.eye(4), 0.9), 0.0, np.eye(4), np.eye(4), cameras)
    open_ = placement.logits(32).numpy() > 0
    assert uncovered(open_, cube, cameras, masks, 0.5).min() > 0.02
    closed = placement.covering_logits(32, (0, 1), masks).numpy() > 0
    assert uncovered(closed, cube, cameras, masks, 0.5).max() < 0.002
    assert open_.sum() < closed.sum() < 1.2 * plate.sum()


def test_a_camera_of_a_smaller_image() -> None:
    camera = Camera(centred_intrinsics(50, 40), np.eye(4), 50, 40)
    photo = Photo("0", np.zeros((80, 100, 3), np.uint8), np.ones((80, 100), bool))
    assert np.allclose(of_photo(camera, photo).intrinsics, centred_intrinsics(100, 80))


def test_a_camera_of_another_shape_is_refused() -> None:
    photo = Photo("p7", np.zeros((80, 100, 3), np.uint8), np.ones((80, 100), bool))
    with pytest.raises(
        InvalidOption, match=r"view p7: its camera is for 40 x 50 pixels, the photo has 100 x 80.*upright"
    ):
        of_photo(Camera(centred_intrinsics(40, 50), np.eye(4), 40, 50), photo)
    with pytest.raises(InvalidOption, match="whole photo"):
        of_photo(Camera(centred_intrinsics(50, 50), np.eye(4), 50, 50), photo)
    nearly = Camera(centred_intrinsics(33, 27), np.eye(4), 33, 27)  # 1.25 in whole pixels
    assert of_photo(nearly, photo).width == 100
