"""What a job writes beside its results: the right files, labels, frames and units. Cameras and depth of the scene are true."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import trimesh

from mvsam3d import inspection, jobs
from mvsam3d.errors import InvalidOption
from mvsam3d.generation.evidence import Sight
from mvsam3d.inspection import Depth, Extras, PoseOptimisation, attention_blocks, block_number, check_measured
from mvsam3d.io.glb import read_glb
from mvsam3d.io.ply import FRAME_COMMENTS
from mvsam3d.io.scenes import Points, Scene, read_scene
from mvsam3d.jobs import Job, ViewWeights, read_inputs, run_job
from mvsam3d.models.config import SMALL
from tests.toy_scene import DISTANCE, SIDE, WALL, WORLD_FROM_OBJECT, views, write_depth, write_photos

COUNT = 3  # photos
TOKENS = 64  # latents of stage 1 of the small model, 4³
PATCHES = 49  # of its encoder, 7 x 7
WEIGHED = ViewWeights(stage1="entropy", stage2="mixed")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    base = tmp_path_factory.mktemp("scene")
    write_photos(base / "photos", "thing", count=COUNT)
    write_depth(base / "da3", wall=np.nan)  # of more photos than are used, in another order
    write_depth(base / "wall")
    return base


@pytest.fixture(scope="module")
def everything(base: Path) -> Path:
    """All that can be written, with view 1 as the pose's."""
    extras = Extras(
        weights=True,
        visibility=True,
        attention=True,
        attention_layers="-1,0",
        slat_start=True,
        merge_scene=True,
        overlay=True,
        debug_images=True,
        pose_optimisation=PoseOptimisation(iterations=12),
    )
    job = Job(base / "photos", base / "all", depth=base / "da3" / "da3_output.npz", weights=WEIGHED, reference=1)
    run_job(replace(job, structure_steps=3, extras=extras))
    return base / "all"


@pytest.fixture(scope="module")
def depth(base: Path) -> Depth:
    job = Job(base / "photos", base / "out", depth=base / "da3" / "da3_output.npz")
    found = read_inputs(job, SMALL, scene=True).depth
    assert found is not None
    return found


def placed(folder: Path, view: int) -> np.ndarray:
    """camera_from_object of a view, by the report."""
    report = json.loads((folder / "report.json").read_text())
    return np.array(report["views"][view]["camera_from_object"])


def moved(target_from_source: np.ndarray, points: np.ndarray) -> np.ndarray:
    return points @ target_from_source[:3, :3].T + target_from_source[:3, 3]


def node(scene: Scene, name: str) -> np.ndarray:
    """Vertices or points of the one node of a name."""
    (found,) = [node for node in scene.nodes if node.name == name]
    return found.shape.vertices if not isinstance(found.shape, Points) else found.shape.positions


# Frames


def test_params_tell_the_pose_twice_and_alike(everything: Path) -> None:
    with np.load(everything / "params.npz", allow_pickle=False) as params:
        assert {"camera_from_object", "glb_from_object", "camera_from_p3d_camera"} <= set(params.files)
        np.testing.assert_allclose(params["camera_from_object"], placed(everything, 1), atol=1e-6)
        p3d = params["translation"][0]
        np.testing.assert_allclose(p3d * [-1, -1, 1], params["camera_from_object"][:3, 3], atol=1e-6)


def test_every_glb_and_ply_tells_its_frame(everything: Path) -> None:
    frames = {}
    for file in everything.rglob("*.glb"):
        scene = read_scene(file)
        assert any("_from_" in name for name in scene.matrices), file
        frames[file.name] = scene.frame
    assert frames == {
        "result.glb": "glb",
        "result_overlay.glb": "p3d_camera",
        "result_merged_scene.glb": "scene",
        "result_merged_scene_optimized.glb": "scene",
        "result_pose_optimized.glb": "p3d_camera",
        "latent_visibility.glb": "glb",
        **{f"self_occlusion_view_{view:02d}.glb": "glb" for view in range(COUNT)},
        "weight_distribution_3d.glb": "glb",
    }
    files = [everything / "result.ply", everything / "weights" / "weight_distribution_3d.ply"]
    assert all(FRAME_COMMENTS.encode() in file.read_bytes()[:2000] for file in files)


def test_the_overlay_is_in_the_camera_of_the_chosen_view(everything: Path) -> None:
    """The cloud is that view's depth map; the object is the result, moved by its pose."""
    known, masks = views()
    scene = read_scene(everything / "result_overlay.glb")
    cloud = node(scene, "input_pointcloud")
    np.testing.assert_allclose(np.sort(cloud[:, 2]), np.sort(known.depth[1][masks[1]]), rtol=1e-5)
    p3d_from_object = np.diag([-1, -1, 1, 1]) @ placed(everything, 1)
    mesh = read_glb(everything / "result.glb")
    expected = moved(p3d_from_object, np.asarray(mesh.vertices))
    np.testing.assert_allclose(node(scene, "sam3d_object"), expected, atol=1e-5)
    np.testing.assert_allclose(moved(scene.matrices["object_from_p3d_camera"], expected), mesh.vertices, atol=1e-5)


def test_object_and_depth_are_in_one_unit(everything: Path) -> None:
    """The object is as far away as its points in the depth map, and about as long as the true one, which measures 1."""
    known, masks = views()
    measured = known.depth[1][masks[1]]
    assert measured.min() > DISTANCE - 1
    vertices = node(read_scene(everything / "result_overlay.glb"), "sam3d_object")
    assert measured.min() < np.median(vertices[:, 2]) < measured.max()
    assert 0.6 < np.ptp(vertices, axis=0).max() < 1.6  # a small model's guess


def test_what_is_behind_the_object_does_not_change_its_size(base: Path, tmp_path: Path) -> None:
    sizes = []
    for folder in ("da3", "wall"):
        report = run_job(Job(base / "photos", tmp_path / folder, depth=base / folder / "da3_output.npz"))
        sizes.append(np.cbrt(np.linalg.det(np.array(report["views"][0]["camera_from_object"])[:3, :3])))
    assert 0.8 < sizes[1] / sizes[0] < 1.25


def test_the_merged_object_stands_where_the_true_one_is(everything: Path, base: Path) -> None:
    """From the object by the pose, the true camera and the scene's own matrix."""
    known, _ = views()
    scene = read_scene(everything / "result_merged_scene.glb")
    vertices = node(scene, "sam3d_object")
    around = read_scene(base / "da3" / "scene.glb")
    assert around.scene_from_world is not None
    world_from_camera = np.linalg.inv(np.vstack([known.camera_from_world[1], [0, 0, 0, 1]]).astype(np.float64))
    in_scene = around.scene_from_world @ world_from_camera @ placed(everything, 1)
    mesh = read_glb(everything / "result.glb")
    np.testing.assert_allclose(vertices, moved(in_scene, np.asarray(mesh.vertices)), atol=1e-4)
    middle = moved(around.scene_from_world @ WORLD_FROM_OBJECT, np.zeros((1, 3)))[0]  # where the true object is
    found = (vertices.min(0) + vertices.max(0)) / 2
    assert np.linalg.norm(found - middle) < 0.3 * np.ptp(vertices, axis=0).max()
    assert {item.name for item in scene.nodes} >= {"sam3d_object", "da3_geometry_0"}


def test_a_refined_pose_and_its_files(everything: Path) -> None:
    with np.load(everything / "pose_optimization" / "optimized_params.npz", allow_pickle=False) as arrays:
        found = {name: arrays[name] for name in arrays.files}
    with np.load(everything / "params.npz", allow_pickle=False) as params:
        for name in ("rotation", "translation", "scale"):
            np.testing.assert_array_equal(found[f"initial_{name}"], params[name][0])  # params.npz keeps the first pose
            assert found[name].shape == params[name].shape[1:]
        scene_pose = params["camera_from_object"]
    assert 1 <= len(found["cd_history"]) == len(found["loss_history"]) == len(found["scale_history"]) <= 12
    np.testing.assert_allclose(found["scale"], found["initial_scale"], rtol=1e-5)  # the size stays unless asked
    # result_pose_optimized.glb: result.glb by the refined pose, p = (v * s) @ R(q) + t in the p3d camera
    w, x, y, z = found["rotation"] / np.linalg.norm(found["rotation"])
    rotation = trimesh.transformations.quaternion_matrix([w, x, y, z])[:3, :3]
    mesh = read_glb(everything / "result.glb")
    expected = (np.asarray(mesh.vertices) * found["scale"]) @ rotation + found["translation"]
    vertices = node(read_scene(everything / "result_pose_optimized.glb"), "sam3d_object")
    np.testing.assert_allclose(vertices, expected, atol=1e-5)
    before, after = (
        node(read_scene(everything / f"result_merged_scene{suffix}.glb"), "sam3d_object")
        for suffix in ("", "_optimized")
    )
    assert np.allclose(before, after) != bool(found["accepted"])
    assert scene_pose.shape == (4, 4)


def test_depth_is_that_of_the_photos_and_the_masks_fit(depth: Depth) -> None:
    """The file begins with another photo; its first camera is the scene's, and not photo 0's."""
    known, masks = views()
    assert depth.views.names == ("0", "1", "2")
    np.testing.assert_array_equal(np.isfinite(depth.views.depth), masks[:COUNT])
    np.testing.assert_allclose(depth.views.depth[masks[:COUNT]], known.depth[:COUNT][masks[:COUNT]])
    for view in range(COUNT):
        np.testing.assert_allclose(depth.cameras[view].camera_from_world[:3], known.camera_from_world[view], atol=1e-6)
    kept = depth.of([2, 0])
    assert kept.views.names == ("2", "0")
    assert kept.pointmaps_p3d[0] is depth.pointmaps_p3d[2]
    assert kept.cameras == (depth.cameras[2], depth.cameras[0])


def test_a_scene_that_does_not_tell_its_frame_has_the_first_camera_of_the_file(base: Path, tmp_path: Path) -> None:
    known, _ = views()
    source = base / "da3" / "da3_output.npz"
    (tmp_path / source.name).write_bytes(source.read_bytes())
    trimesh.Scene(trimesh.PointCloud([[0.0, 0, 1]])).export(tmp_path / "scene.glb")
    found = read_inputs(Job(base / "photos", tmp_path, depth=tmp_path / source.name), SMALL, scene=True).depth
    assert found is not None
    assert found.scene_from_world is not None
    first = np.vstack([known.camera_from_world[7], [0, 0, 0, 1]])  # the last photo comes first in the file
    np.testing.assert_allclose(found.scene_from_world, np.diag([1, -1, -1, 1]) @ first, atol=1e-6)


def test_points_for_the_pose_are_the_masks_own(depth: Depth, base: Path) -> None:
    """As many as pixels in the masks, all nearer than the wall; eroded masks have fewer."""
    _, masks = views()
    photos = read_inputs(Job(base / "photos", base / "out"), SMALL).photos
    points = inspection._measured(PoseOptimisation(mask_erosion=0), photos, depth, torch.Generator())
    assert len(points) == masks[:COUNT].sum()
    camera = depth.cameras[0].camera_from_world
    assert (moved(camera, points)[:, 2] < WALL - 1).all()
    fewer = inspection._measured(PoseOptimisation(mask_erosion=3), photos, depth, torch.Generator())
    assert len(fewer) < len(points)
    with pytest.raises(InvalidOption, match="has 0"):
        check_measured(PoseOptimisation(mask_erosion=40), photos, depth)


# Weights, attention, visibility, start of stage 2


def test_attention_files_and_labels(everything: Path) -> None:
    report = json.loads((everything / "report.json").read_text())
    cells = {"ss": TOKENS, "slat": None}
    steps = {"ss": range(3), "slat": range(1)}
    files = {str(file.relative_to(everything)) for file in (everything / "attention").rglob("*.pt")}
    expected = set()
    for stage in ("ss", "slat"):
        for layer in (0, 3):  # -1 is the last of four, which is measured too
            for index, (step, view) in enumerate((s, v) for s in steps[stage] for v in range(COUNT)):
                name = f"attention/{stage}/layer_{layer:02d}/step{step:03d}_view{view:02d}_idx{index:03d}.pt"
                expected.add(name)
                content = torch.load(everything / name, weights_only=True)
                assert (content["stage"], content["layer"], content["step"], content["view"]) == (
                    stage,
                    layer,
                    step,
                    view,
                )
                assert content["num_views"] == COUNT
                rows, keys = content["attention"].shape[1:]
                assert keys == PATCHES
                assert rows == (cells[stage] or len(content["coords"]))
                total = content["attention"][0].float().sum(1)
                assert float(total.min()) > 0
                assert float(total.max()) <= 1.001  # a part of all that is looked at
    assert files == expected
    assert report["options"]["extras"]["attention_layers"] == "-1,0"
    said = (everything / "inference.log").read_text()
    assert (
        f"attention of structure: up to 2 layers x 3 steps x 3 views = 18 files of {TOKENS} x {PATCHES} numbers" in said
    )


def test_dense_attention_is_whole_and_is_announced(base: Path, tmp_path: Path) -> None:
    job = Job(base / "photos", tmp_path / "out", search_poses=False)
    run_job(replace(job, extras=Extras(attention=True, attention_dense=True)))
    file = tmp_path / "out" / "attention" / "ss" / "layer_03" / "step000_view01_idx001.pt"
    content = torch.load(file, weights_only=True)
    assert content["keys"] == "all condition tokens"
    assert content["attention"].shape[2] >= COUNT * PATCHES
    total = content["attention"][0].float().sum(1)
    torch.testing.assert_close(total, torch.ones_like(total), rtol=0, atol=5e-3)  # half precision
    assert f"x {content['attention'].shape[2]} numbers" in (tmp_path / "out" / "inference.log").read_text()


def test_more_attention_than_the_disk_holds_is_refused(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("Usage", (), {"free": 1000})())
    with pytest.raises(InvalidOption, match="--save-attention"):
        run_job(Job(base / "photos", tmp_path / "out", extras=Extras(attention=True)))
    assert list(tmp_path.iterdir()) == []


def test_weights_are_those_of_the_run(everything: Path) -> None:
    content = torch.load(everything / "weights" / "fusion_weights.pt", weights_only=True)
    weights = torch.stack([content["weights_downsampled"][view] for view in range(COUNT)])
    torch.testing.assert_close(weights.sum(0), torch.ones(weights.shape[1]), rtol=0, atol=1e-5)
    assert float(weights.std(0).max()) > 0.1  # some views count more
    config = content["config"]
    assert (config["entropy_alpha"], config["attention_layer"], config["attention_step"]) == (30.0, 3, 0)
    for name in ("stage1_entropy_heatmap.png", "stage2_visibility_heatmap.png", "entropy_per_view.png"):
        assert (everything / "weights" / name).stat().st_size > 1000


def test_visibility_is_drawn_for_each_view(everything: Path) -> None:
    content = torch.load(everything / "weights" / "fusion_weights.pt", weights_only=True)
    seen = torch.stack([content["visibility"][view] for view in range(COUNT)])
    assert set(seen.unique().tolist()) == {0.0, 1.0}
    assert 0.05 < float(seen.mean()) < 0.9  # each camera sees a side
    assert len(list((everything / "latent_visibility_per_view").iterdir())) == COUNT


def test_the_start_of_stage_2(everything: Path) -> None:
    content = torch.load(everything / "stage2_init.pt", weights_only=True)
    with np.load(everything / "params.npz", allow_pickle=False) as params:
        np.testing.assert_array_equal(content["coords"].numpy(), params["coords"])
    assert content["latent_shape"] == (1, len(content["coords"]), 8)
    assert (content["num_views"], content["inference_steps"]) == (COUNT, 1)


def test_without_cameras_visibility_is_warned_of(base: Path, tmp_path: Path) -> None:
    run_job(Job(base / "photos", tmp_path / "out", search_poses=False, extras=Extras(visibility=True, weights=True)))
    said = (tmp_path / "out" / "inference.log").read_text()
    assert "no visibility is drawn" in said
    assert "all views count alike" in said
    assert not (tmp_path / "out" / "latent_visibility.glb").exists()


def test_masks_and_depth_change_what_cameras_see(base: Path, tmp_path: Path) -> None:
    """A token that one more test hides is hidden."""
    job = Job(base / "photos", tmp_path / "a", depth=base / "da3" / "da3_output.npz", weights=WEIGHED)
    job = replace(job, extras=Extras(weights=True))
    run_job(job)
    run_job(replace(job, out=tmp_path / "b", sight=Sight(mask=True, depth=True)))
    plain, strict = (torch.load(tmp_path / name / "weights" / "fusion_weights.pt", weights_only=True) for name in "ab")
    few, many = (torch.stack(list(content["visibility"].values())) for content in (strict, plain))
    assert bool((few <= many).all())
    assert float(few.sum()) < float(many.sum())


# Blocks


@pytest.mark.parametrize(("number", "blocks", "found"), [(9, 24, 9), (9, 4, 3), (23, 4, 3), (3, 4, 3), (0, 4, 0)])
def test_block_numbers_of_the_public_networks(
    number: int, blocks: int, found: int, caplog: pytest.LogCaptureFixture
) -> None:
    assert block_number("--layer", number, blocks) == found
    assert (f"--layer {number}: this model has the blocks 0 to {blocks - 1}" in caplog.text) == (found != number)


@pytest.mark.parametrize(("number", "blocks"), [(24, 24), (24, 4), (-1, 4)])
def test_blocks_that_no_model_has(number: int, blocks: int) -> None:
    with pytest.raises(InvalidOption, match=f"--layer {number}: this model has the blocks 0 to {blocks - 1}"):
        block_number("--layer", number, blocks)


@pytest.mark.parametrize(
    ("text", "blocks", "found"),
    [(None, 4, (3,)), ("6,9,12", 4, (3,)), ("-1,0", 4, (3, 0)), ("-2", 4, (2, 3)), ("1, 6", 24, (1, 6, 3))],
)
def test_attention_blocks(text: str | None, blocks: int, found: tuple[int, ...]) -> None:
    assert attention_blocks(text, blocks, 3, "slat") == found


def test_debug_images_are_of_the_views(everything: Path) -> None:
    names = sorted(file.name for file in (everything / "debug_masked_images").iterdir())
    assert names == [f"{i:02d}_{i}_{kind}.png" for i in range(COUNT) for kind in ("image", "masked")]


def test_the_scene_is_not_read_where_nobody_wants_it(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inspection, "read_scene", lambda path: pytest.fail("it was read"))
    job = Job(base / "photos", base / "out", depth=base / "da3" / "da3_output.npz")
    found = jobs.read_inputs(job, SMALL).depth
    assert found is not None
    assert found.scene is None
    assert found.views.depth.shape == (COUNT, SIDE, SIDE)
