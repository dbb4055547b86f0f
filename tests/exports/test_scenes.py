import numpy as np
import pytest
import torch
import trimesh

from mvsam3d.errors import BadFile
from mvsam3d.exports import scenes as exports
from mvsam3d.exports.scenes import write_merged_objects, write_merged_scene, write_overlay, write_posed
from mvsam3d.generation.pose import camera_from_object
from mvsam3d.geometry.frames import object_from_glb
from mvsam3d.io.runs import RunFolder
from mvsam3d.io.scenes import Node, Points, Scene, read_scene
from mvsam3d.types import Mesh, Photo, Pose
from tests.parity import FOLDER, fixture, require

POSE = Pose(torch.tensor([0.3, -0.8, 0.2, 0.4]), torch.tensor([0.1, -0.2, 1.9]), torch.tensor([0.7, 0.7, 0.7]))
UV = np.random.default_rng(0).random((3, 2))
TEXTURE = np.random.default_rng(0).integers(0, 256, (4, 8, 3)).astype(np.uint8)
TRIANGLE = Mesh(np.array([[0.5, 0, 0], [0, 0.25, 0], [0, 0, -0.5]]), np.array([[0, 1, 2]]), uv=UV, texture=TEXTURE)


def fan(points):
    """A mesh through the points, in their order."""
    count = len(points)
    return Mesh(points, np.stack([np.zeros(count - 2, int), np.arange(1, count - 1), np.arange(2, count)], axis=1))


def pose_matrix(pose=POSE):
    unit = Pose(pose.rotation / pose.rotation.norm(), pose.translation, pose.scale)
    return camera_from_object(unit).double().numpy()


def node(path, name):
    (found,) = [node.shape for node in read_scene(path).nodes if node.name == name]
    return found


def known():
    """The public system's numbers: vertices of a GLB, its pose, and where the two writers must put them."""
    case = fixture("multiview", "object_to_camera")
    config = case.meta["config"]
    scale = torch.full((3,), config["scale"])
    pose = Pose(torch.tensor(config["rotation_wxyz"]), torch.tensor(config["translation"]), scale)
    mesh = fan(object_from_glb(case.inputs["glb_vertices"].double().numpy()))
    return case, mesh, camera_from_object(pose).double().numpy()


def photo(height=6, width=9):
    rgb = np.random.default_rng(1).integers(0, 256, (height, width, 3)).astype(np.uint8)
    return Photo("front", rgb, np.ones((height, width), np.bool_))


def test_overlay_is_the_public_one(tmp_path):
    case, mesh, matrix = known()
    write_overlay(tmp_path / "a.glb", mesh, matrix, torch.ones(3, 4, 5), photo())
    case.check("camera_p3d", torch.from_numpy(node(tmp_path / "a.glb", "sam3d_object").vertices))


def test_merge_is_the_consistent_one(tmp_path):
    case, mesh, matrix = known()
    camera = np.eye(4)
    camera[:3] = case.inputs["extrinsics0"].numpy()
    place = case.inputs["hf_alignment"].double().numpy()
    around = Scene((Node("cloud", Points(np.zeros((1, 3)))),))
    write_merged_scene(tmp_path / "a.glb", around, mesh, matrix, camera, place)
    case.check("aligned_consistent", torch.from_numpy(node(tmp_path / "a.glb", "sam3d_object").vertices))


@pytest.mark.parametrize("reference", [0, 1, 2])
def test_object_points_meet_their_scene_points(reference, tmp_path):
    """An object made of what a view's depth map shows, given by its pose in that view, lies on the scene's own points.

    The world is camera 1, so each of the three cameras stands to it in another way.
    """
    case = fixture("multiview", "da3_tiny")
    scene = read_scene(require(FOLDER / "multiview" / "da3_scene_tiny.glb"))
    points_camera = case.outputs["pointmaps"][reference][case.inputs["object_mask"][reference] > 0].double().numpy()
    matrix, camera = pose_matrix(), np.eye(4)
    camera[:3] = case.inputs["extrinsics"][reference].numpy()
    back = np.linalg.inv(matrix)
    mesh = fan(points_camera @ back[:3, :3].T + back[:3, 3])
    write_merged_scene(tmp_path / "a.glb", scene, mesh, matrix, camera, scene.scene_from_world)
    placed = node(tmp_path / "a.glb", "sam3d_object").vertices
    cloud = node(tmp_path / "a.glb", "da3_geometry_0").positions
    apart = np.linalg.norm(placed[:, None] - cloud[None], axis=2).min(axis=1)
    shown = apart < 1e-4  # the scene has only points of high confidence
    assert shown.mean() > 0.5
    off = camera.copy()
    off[:3, 3] += 0.05  # far more than float32 can do, less than between neighbouring pixels
    write_merged_scene(tmp_path / "b.glb", scene, mesh, matrix, off, scene.scene_from_world)
    moved = node(tmp_path / "b.glb", "sam3d_object").vertices
    assert np.linalg.norm(moved[:, None] - cloud[None], axis=2).min(axis=1)[shown].min() > 1e-4


def test_matrices_in_the_file_lead_back_to_the_object(tmp_path):
    camera = pose_matrix(Pose(torch.tensor([0.1, 0.2, 0.9, -0.3]), torch.tensor([1.0, 0, 2]), torch.ones(3)))
    place = np.diag([1.0, -1, -1, 1])
    around = Scene((Node("cloud", Points(np.zeros((1, 3)))),))
    write_merged_scene(tmp_path / "merged.glb", around, TRIANGLE, pose_matrix(), camera, place)
    write_overlay(tmp_path / "overlay.glb", TRIANGLE, pose_matrix(), torch.ones(3, 4, 5), photo())
    write_posed(tmp_path / "posed.glb", TRIANGLE, pose_matrix(), frame="camera")
    for name, frame in (("merged", "scene"), ("overlay", "p3d_camera"), ("posed", "camera")):
        scene = read_scene(tmp_path / f"{name}.glb")
        assert scene.frame == frame
        matrix = scene.matrices[f"object_from_{frame}"]
        mesh = node(tmp_path / f"{name}.glb", "sam3d_object")
        np.testing.assert_allclose(mesh.vertices @ matrix[:3, :3].T + matrix[:3, 3], TRIANGLE.vertices, atol=1e-6)
        np.testing.assert_array_equal(mesh.texture, TEXTURE)
        np.testing.assert_allclose(mesh.uv, UV, atol=1e-7)


def test_a_posed_mesh_turns_its_normals_too(tmp_path):
    write_posed(tmp_path / "a.glb", TRIANGLE, pose_matrix(), frame="camera")
    mesh = trimesh.load(tmp_path / "a.glb", force="mesh", process=False)
    np.testing.assert_allclose(mesh.vertex_normals, np.repeat(mesh.face_normals, 3, axis=0), atol=1e-5)


def test_overlay_points_have_the_photo_s_colours(tmp_path):
    picture = photo(4, 5)
    u, v = np.meshgrid(np.arange(5.0), np.arange(4.0))
    pointmap = torch.from_numpy(np.stack([u, v, np.ones((4, 5))])).float()
    pointmap[2, 0, 1], pointmap[0, 3, 3] = torch.inf, torch.nan
    write_overlay(tmp_path / "a.glb", TRIANGLE, pose_matrix(), pointmap, picture)
    cloud = node(tmp_path / "a.glb", "input_pointcloud")
    assert len(cloud.positions) == 18
    column, row = cloud.positions[:, 0].astype(int), cloud.positions[:, 1].astype(int)
    np.testing.assert_allclose(cloud.colours, picture.rgb[row, column] / 255, atol=1e-4)  # 16 bits of linear light


@pytest.mark.parametrize(("most", "shown"), [(100, 100), (99, 50), (30, 25)])
def test_large_point_maps_are_thinned(most, shown, tmp_path, monkeypatch):
    monkeypatch.setattr(exports, "MOST_POINTS", most)
    write_overlay(tmp_path / "a.glb", TRIANGLE, pose_matrix(), torch.ones(3, 10, 10), photo())
    assert len(node(tmp_path / "a.glb", "input_pointcloud").positions) == shown


def test_an_empty_point_map_is_an_error(tmp_path):
    with pytest.raises(BadFile, match="front"):
        write_overlay(tmp_path / "a.glb", TRIANGLE, pose_matrix(), torch.full((3, 2, 2), torch.nan), photo())


def merged_files(tmp_path, places):
    around = Scene((Node("cloud", Points(np.zeros((1, 3)))),))
    files = {}
    for i, (name, place) in enumerate(places.items()):
        files[name] = tmp_path / f"{name}.glb"
        mesh = Mesh(TRIANGLE.vertices + i, TRIANGLE.faces, uv=UV, texture=TEXTURE // (i + 1))
        write_merged_scene(files[name], around, mesh, pose_matrix(), np.eye(4), place)
    return files


def test_objects_of_one_scene_stand_side_by_side(tmp_path):
    files = merged_files(tmp_path, {"cup": np.eye(4), "pan": np.eye(4)})
    write_merged_objects(RunFolder(tmp_path), files, with_scene=True, suffix="_optimized")
    whole = tmp_path / "result_multiobj_merged_scene_optimized.glb"
    assert [n.name for n in read_scene(whole).nodes] == ["da3_cloud", "sam3d_cup", "sam3d_pan"]
    only = tmp_path / "result_multiobj_merged_optimized.glb"
    assert [n.name for n in read_scene(only).nodes] == ["sam3d_cup", "sam3d_pan"]
    for path in (whole, only):
        np.testing.assert_array_equal(node(path, "sam3d_pan").texture, TEXTURE // 2)
        matrix = read_scene(path).matrices["pan_from_scene"]
        back = node(path, "sam3d_pan").vertices @ matrix[:3, :3].T + matrix[:3, 3]
        np.testing.assert_allclose(back, TRIANGLE.vertices + 1, atol=1e-6)


def test_objects_of_two_scenes_are_not_mixed(tmp_path):
    moved = np.eye(4)
    moved[0, 3] = 0.1
    files = merged_files(tmp_path, {"cup": np.eye(4), "pan": moved})
    with pytest.raises(BadFile, match="another scene"):
        write_merged_objects(RunFolder(tmp_path), files, with_scene=False)
