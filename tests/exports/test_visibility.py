import numpy as np
import torch

from mvsam3d.exports.visibility import looks_in_object, write_latent_visibility
from mvsam3d.generation.evidence import cameras_in_object, centres_in_object, tokens_of, visibility
from mvsam3d.geometry.rotations import matrix_from_quaternion
from mvsam3d.io.runs import RunFolder
from mvsam3d.io.scenes import read_scene
from mvsam3d.types import Camera, FusionRecord, Photo, Voxels

WALL = Voxels(torch.tensor([[x, y, z] for x in (2, 12) for y in range(4, 12) for z in range(4, 12)]).int(), 16)
CENTRES = np.array([[-2.0, 0.1, 0.2], [2.5, 0.3, -0.1]])  # one before the first wall, one behind the second


def looking(centre):
    """camera_from_object of a camera at `centre` that looks at the origin."""
    look = -centre / np.linalg.norm(centre)
    right = np.cross(look, (0, 0, 1.0))
    right /= np.linalg.norm(right)
    matrix = np.eye(4)
    matrix[:3, :3] = np.stack([right, np.cross(look, right), look])
    matrix[:3, 3] = -matrix[:3, :3] @ centre
    return matrix


def test_drawn_is_what_the_cameras_see(tmp_path):
    tokens, _ = tokens_of(WALL)
    seen = visibility(WALL, CENTRES, 4.0)
    record = FusionRecord("slat", tokens, 8, torch.full_like(seen, 0.5), None, seen)
    write_latent_visibility(RunFolder(tmp_path), record, CENTRES, -CENTRES, ["a", "b"])
    near = tokens[:, 0].numpy() == 1
    for view, facing in enumerate((near, ~near)):
        path = tmp_path / f"latent_visibility_per_view/self_occlusion_view_{view:02d}.glb"
        shapes = {node.name: node.shape for node in read_scene(path).nodes}
        colours = shapes["voxels_points"].colours
        green = colours[:, 1] > colours[:, 0]
        np.testing.assert_array_equal(green, seen[view].numpy() > 0)
        assert green[facing].all()
        assert not green[~facing].any()
        other = shapes[f"camera_{1 - view:02d}_{'ba'[view]}"].vertex_colours
        np.testing.assert_allclose(other, 0.7, atol=1e-4)
    both = {node.name: node.shape for node in read_scene(tmp_path / "latent_visibility.glb").nodes}
    mean = both["voxels_points"].colours
    assert (mean[:, 0] > 0.9).all()  # half of the views see each: yellow
    assert (mean[:, 1] > 0.9).all()
    x, y, z = CENTRES[1]
    np.testing.assert_allclose(both["camera_01_b"].vertices[0], [x, z, -y], atol=1e-6)
    assert np.abs(both["voxels_cubes"].vertices).max() <= 0.5


def test_cameras_of_another_world_look_at_the_object():
    """Cameras that look at the object's origin, in a world turned and moved: their axes pass through it."""
    turn = np.eye(4)
    turn[:3, :3] = matrix_from_quaternion(torch.tensor([0.5, 0.1, -0.7, 0.3])).double().numpy()
    turn[:3, 3] = (3, -1, 2)
    object_from_world = np.linalg.inv(turn)
    cameras = [Camera(np.eye(3), looking(centre) @ object_from_world, 10, 10) for centre in CENTRES]
    photo = Photo("a", np.zeros((10, 10, 3), np.uint8), np.ones((10, 10), np.bool_))
    for reference in (0, 1):
        scaled = np.diag([1.0, 1, 1, 1])
        scaled[:3] = looking(CENTRES[reference])[:3]
        pose = torch.from_numpy(scaled)
        looks = looks_in_object(cameras_in_object(cameras, [photo] * 2, pose, reference=reference, same_units=True))
        centres = centres_in_object(cameras, [photo] * 2, pose, reference=reference, same_units=True)
        np.testing.assert_allclose(centres, CENTRES, atol=1e-6)
        np.testing.assert_allclose(looks, -CENTRES / np.linalg.norm(CENTRES, axis=1, keepdims=True), atol=1e-6)
