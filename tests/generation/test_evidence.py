"""Cameras -> where they stand in the object frame -> which tokens they see."""

import math

import numpy as np
import pytest
import torch

from mvsam3d.errors import InvalidOption
from mvsam3d.generation.evidence import Sight, cameras_in_object, centres_in_object, tokens_of, tokens_seen, visibility
from mvsam3d.generation.pose import camera_from_object
from mvsam3d.geometry.cameras import centred_intrinsics, project, triangulated
from mvsam3d.geometry.rotations import matrix_from_quaternion
from mvsam3d.geometry.transforms import similarity
from mvsam3d.types import Camera, Photo, Pose, Voxels
from tests.parity import fixture


def test_recorded_cameras_and_what_they_see() -> None:
    f = fixture("multiview", "visibility_cameras")
    config = f.meta["config"]
    pose = Pose(
        torch.tensor(config["rotation_wxyz"]), torch.tensor(config["translation"]), torch.full((3,), config["scale"])
    )
    cameras = []
    for extrinsics in f.inputs["extrinsics"].numpy():
        full = np.eye(4)
        full[:3] = extrinsics
        cameras.append(Camera(centred_intrinsics(64, 64), full, 64, 64))
    centres = centres_in_object(cameras, (), camera_from_object(pose), same_units=True)
    f.check("camera_voxel_consistent", torch.from_numpy((centres + 0.5) * 64))
    f.check("visible_consistent_half", visibility(Voxels(f.inputs["coords"][:, 1:], 64), centres, config["tolerance"]))


def looking_at(position: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Rigid camera_from_world, OpenCV axes, +Z up in the world."""
    forward = (target - position) / np.linalg.norm(target - position)
    right = np.cross(forward, [0, 0, 1])
    right /= np.linalg.norm(right)
    rotation = np.stack([right, np.cross(forward, right), forward])
    out = np.eye(4)
    out[:3, :3], out[:3, 3] = rotation, -rotation @ position
    return out


def test_units_of_the_world_are_found_from_the_masks() -> None:
    """Law: a scene in other units, turned and moved, has the same cameras in the object frame."""
    rng = np.random.default_rng(0)
    angle = np.arange(5) * 1.1
    centres = np.stack([2 * np.cos(angle), 2 * np.sin(angle), 0.5 + 0 * angle], 1)
    object_cameras = [looking_at(centre, np.array([0.05, 0.0, 0.0])) for centre in centres]
    turn = matrix_from_quaternion(torch.from_numpy(rng.normal(size=4)))
    object_from_world = similarity(turn, torch.from_numpy(rng.normal(size=3)), torch.tensor(0.23)).numpy()
    cameras, photos = [], []
    for rigid in object_cameras:
        full = rigid @ object_from_world
        full[:3] /= 0.23  # rigid again: the camera's own lengths are the world's
        camera = Camera(centred_intrinsics(200, 160, 300.0), full, 200, 160)
        pixel, _ = project(camera, np.linalg.inv(object_from_world)[:3, 3])  # the object frame's origin
        mask = np.zeros((80, 100), bool)  # a photo of half the size of the camera file's
        rows, columns = np.indices(mask.shape) + 0.5
        mask[np.hypot(columns - pixel[0] / 2, rows - pixel[1] / 2) < 9] = True
        cameras.append(camera)
        photos.append(Photo("x", np.zeros((80, 100, 3), np.uint8), mask))
    for reference in (0, 3):
        pose = torch.from_numpy(object_cameras[reference])
        found = centres_in_object(cameras, photos, pose, reference=reference, same_units=False)
        np.testing.assert_allclose(found, centres, atol=0.02)  # masks are whole pixels
        placed = cameras_in_object(cameras, photos, pose, reference=reference, same_units=False)
        points_object = rng.uniform(-0.5, 0.5, (20, 3))
        points_world = (points_object - object_from_world[:3, 3]) @ np.linalg.inv(object_from_world[:3, :3]).T
        for camera, own in zip(cameras, placed):
            pixels, depth = project(camera, points_world)
            found_pixels, found_depth = project(own, points_object)
            np.testing.assert_allclose(found_pixels, pixels, atol=2.0)  # of 200
            np.testing.assert_allclose(found_depth, depth, rtol=0.02)  # in the units of the world


def test_rays_that_never_meet() -> None:
    camera = Camera(centred_intrinsics(10, 10), np.eye(4), 10, 10)
    with pytest.raises(InvalidOption, match="view from the side"):
        triangulated([camera, camera], np.full((2, 2), 5.0))


def test_rays_meet() -> None:  # closed form
    target = np.array([0.3, -0.1, 0.2])
    cameras = [
        Camera(
            centred_intrinsics(64, 48),
            looking_at(np.array([3 * math.cos(a), 3 * math.sin(a), 1.0]), np.zeros(3)),
            64,
            48,
        )
        for a in (0.0, 0.4, 2.0)
    ]
    pixels = np.stack([project(camera, target)[0] for camera in cameras])
    np.testing.assert_allclose(triangulated(cameras, pixels), target, atol=1e-9)


SIDE = 20.0  # pixels of a token's side at the slab's front
FRONT = 6 + 2 * (8.5 / 32 - 0.5)  # depth of the centres of its first layer; the second lies 2 / 32 behind
ALL = 200.0  # 64ths: nothing hides anything


def slab() -> tuple[Voxels, np.ndarray]:
    """A plate of 16 x 16 x 2 tokens across the view, and the tokens' indices."""
    grid = np.stack(np.meshgrid(np.arange(16, 48), np.arange(16, 48), np.arange(16, 20), indexing="ij"), -1)
    voxels = Voxels(torch.from_numpy(grid.reshape(-1, 3).astype(np.int32)), 64)
    return voxels, tokens_of(voxels)[0].numpy()


def ahead(principal: tuple[float, float] = (200.0, 200.0)) -> Camera:
    """Looks along +z from 3 units before the centre, its lengths half a unit: object x is camera 2 x."""
    focal = SIDE * 32 / 2 * FRONT
    k = np.array([[focal, 0, principal[0]], [0, focal, principal[1]], [0, 0, 1]])
    return Camera(k, np.array([[2.0, 0, 0, 0], [0, 2, 0, 0], [0, 0, 2, 6], [0, 0, 0, 1]]), 400, 400)


def test_nothing_chosen_is_self_occlusion() -> None:
    voxels, _ = slab()
    camera = ahead()
    centre = np.array([[0.0, 0.0, -3.0]])
    assert centres_in_object([camera], (), torch.eye(4), same_units=True).tolist() == [[0, 0, 0]]
    for tolerance in (0.0, 1.0, 4.0):
        plain = visibility(voxels, centre, tolerance)
        torch.testing.assert_close(tokens_seen(voxels, [camera], Sight(tolerance)), plain)
    assert 0 < visibility(voxels, centre, 0.0).mean() < 1


@pytest.mark.parametrize(("margin", "first"), [(0.0, 16), (0.4, 16), (0.6, 15), (1.0, 15), (1.6, 14)])
def test_tokens_outside_the_photo(margin: float, first: int) -> None:
    """Closed form: the photo's left border runs through the middle of the plate, token 16 begins there."""
    voxels, tokens = slab()
    sight = Sight(ALL, frustum=True, margin=margin)
    seen = tokens_seen(voxels, [ahead((0.0, 200.0)), ahead((200.0, 400.0))], sight).bool().numpy()
    np.testing.assert_array_equal(seen[0], tokens[:, 0] >= first)
    np.testing.assert_array_equal(seen[1], tokens[:, 1] < 32 - first)  # the lower border
    behind = Camera(ahead().intrinsics, np.diag([2.0, 2, 2, 1]) @ np.diag([1.0, 1, -1, 1]), 400, 400)
    behind.camera_from_world[2, 3] = -6
    assert not tokens_seen(voxels, [behind], sight).any()


@pytest.mark.parametrize("side", [400, 200])  # of the mask, in pixels: a photo may be smaller than its camera's image
def test_tokens_over_a_hole_of_the_mask(side: int) -> None:
    """Closed form: a hole of 4 x 4 tokens. Half a side from its edge the centres of its outer tokens lie."""
    voxels, tokens = slab()
    mask = np.ones((side, side), bool)
    middle, hole = side // 2, round(4 * SIDE * side / 400)
    mask[middle : middle + hole, middle : middle + hole] = False
    camera = ahead()

    def seen(margin: float) -> np.ndarray:
        return tokens_seen(voxels, [camera], Sight(ALL, mask=True, margin=margin), masks=[mask]).bool().numpy()[0]

    across = tokens[:, :2] - 16
    np.testing.assert_array_equal(seen(0.0), ~((across >= 0) & (across < 4)).all(1))
    np.testing.assert_array_equal(seen(1.0), ~((across >= 1) & (across < 3)).all(1))
    np.testing.assert_array_equal(seen(2.0), True)
    mask[:, :] = False
    mask[:, :middle] = True
    np.testing.assert_array_equal(seen(0.0), across[:, 0] < 0)


def test_photo_that_shows_a_part() -> None:
    """The mask's own border counts: tokens far outside the photo are not on the mask, whatever its border pixels say."""
    voxels, tokens = slab()
    mask = np.ones((400, 400), bool)
    sight = Sight(ALL, mask=True)
    seen = tokens_seen(voxels, [ahead((0.0, 200.0))], sight, masks=[mask]).bool().numpy()
    np.testing.assert_array_equal(seen[0], tokens[:, 0] >= 15)


def test_tokens_behind_what_was_measured() -> None:
    """Closed form: something stands at depth 4 before the left half; the plate's second layer is 2 / 64 of the cube behind."""
    voxels, tokens = slab()
    depth = np.full((200, 200), FRONT)
    depth[:, :100] = 4.0
    depth[:50, :100] = np.nan  # not measured: tokens 8 to 10 of y lie there
    clear, unknown = tokens[:, 0] >= 16, tokens[:, 1] <= 10

    def seen(tolerance: float) -> np.ndarray:
        sight = Sight(ALL, depth=True, depth_tolerance=tolerance)
        return tokens_seen(voxels, [ahead()], sight, depths=[depth]).bool().numpy()[0]

    np.testing.assert_array_equal(seen(1.5), (tokens[:, 2] == 8) & clear | unknown & ~clear)
    np.testing.assert_array_equal(seen(2.5), clear | unknown)


def test_every_test_only_takes_away() -> None:
    """Law: all tests together see what each of them sees."""
    voxels, _ = slab()
    rng = np.random.default_rng(0)
    cameras = [ahead((0.0, 200.0)), ahead()]
    masks = [rng.random((400, 400)) > 0.4 for _ in cameras]
    depths = [FRONT + rng.uniform(-0.2, 0.2, (100, 100)) for _ in cameras]

    def seen(**choices: bool) -> torch.Tensor:
        return tokens_seen(voxels, cameras, Sight(1.0, margin=0.0, **choices), masks=masks, depths=depths)

    each = [seen(), seen(frustum=True), seen(mask=True), seen(depth=True)]
    torch.testing.assert_close(seen(frustum=True, mask=True, depth=True), torch.stack(each).prod(0))
    assert all(0 < one.sum() < each[0].sum() for one in each[1:])


def test_maps_that_are_missing_or_of_another_photo() -> None:
    voxels, _ = slab()
    with pytest.raises(InvalidOption, match="needs a mask for each of 1 views, and there are none"):
        tokens_seen(voxels, [ahead()], Sight(mask=True))
    with pytest.raises(InvalidOption, match="needs a depth map for each of 1 views, and there are 2"):
        tokens_seen(voxels, [ahead()], Sight(depth=True), depths=[np.ones((4, 4))] * 2)
    with pytest.raises(InvalidOption, match=r"the mask of view 0 has 400 x 300 pixels, .* was cut"):
        tokens_seen(voxels, [ahead()], Sight(mask=True), masks=[np.ones((300, 400), bool)])
    photo = Photo("7", np.zeros((300, 400, 3), np.uint8), np.ones((300, 400), bool))
    with pytest.raises(InvalidOption, match="the photo 7 has 400 x 300 pixels"):
        centres_in_object([ahead()], [photo], torch.eye(4), same_units=False)
