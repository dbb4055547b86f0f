"""The whole job with the shipped model on the example scene, as a user runs it."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Literal

import numpy as np
import pytest
import torch
import trimesh
from PIL import Image

from mvsam3d.errors import BadFile, BadPhoto, BadScene, CheckpointMismatch, InvalidOption, NoCameras, ObjectsFailed
from mvsam3d.generation.budget import MemoryBudget
from mvsam3d.inspection import Extras
from mvsam3d.io.glb import read_glb
from mvsam3d.io.ply import read_ply
from mvsam3d.io.runs import read_params
from mvsam3d.io.scenes import read_scene
from mvsam3d.jobs import (
    SHARES,
    Job,
    Loaded,
    ViewWeights,
    check_job,
    chosen_dtype,
    planned,
    read_inputs,
    run_job,
    share_done,
)
from mvsam3d.models.checkpoints import Checkpoint, checkpoint_folder, open_checkpoint
from mvsam3d.models.config import SMALL
from mvsam3d.results import RunFacts, metres_per_unit, odd_views
from mvsam3d.training.objects import look_at
from mvsam3d.types import Camera, GaussianCloud, InWorld, Mesh, Photo, Reconstruction, Voxels
from tests.toy_scene import SIDE, write_depth, write_photos
from tests.toy_scene import views as toy_views

ROOT = Path(__file__).parents[1]
SCENE = ROOT / "examples" / "sofa"
FILES = {"result.glb", "result.ply", "params.npz", "preview.png", "report.json", "inference.log"}


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path]:
    """Twice with the same seed, and once with one view."""
    base = tmp_path_factory.mktemp("results")
    for name, views in (("a", None), ("b", None), ("single", ("1",))):
        run_job(Job(SCENE, base / name, views=views))
    return base / "a", base / "b", base / "single"


def test_all_files_are_there_and_no_others(results: tuple[Path, Path, Path]) -> None:
    for folder in results:
        assert {path.name for path in folder.iterdir() if not path.name.startswith(".")} == FILES


def test_the_same_seed_gives_the_same_bytes(results: tuple[Path, Path, Path]) -> None:
    for name in ("result.glb", "result.ply", "params.npz", "preview.png"):
        assert (results[0] / name).read_bytes() == (results[1] / name).read_bytes(), name


def test_the_mesh_is_textured_closed_and_where_the_splat_is(results: tuple[Path, Path, Path]) -> None:
    mesh, cloud = read_glb(results[0] / "result.glb"), read_ply(results[0] / "result.ply")
    assert mesh.texture is not None
    assert mesh.texture.std() > 1  # not one colour
    vertices = np.asarray(mesh.vertices)
    assert np.abs(vertices).max() <= 0.6
    joined = trimesh.Trimesh(vertices, mesh.faces, process=True, merge_norm=True, merge_tex=True)
    assert joined.volume > 0  # outward winding
    opaque = cloud.means[cloud.opacities > 0.5].numpy()
    low, high = vertices.min(0) - 0.05, vertices.max(0) + 0.05  # two decoders of the same latents: within 1.6 voxels
    assert ((opaque > low) & (opaque < high)).all(1).mean() > 0.9  # cleaning took crumbs from the mesh
    assert (vertices.min(0) > opaque.min(0) - 0.05).all()
    assert (vertices.max(0) < opaque.max(0) + 0.05).all()


def test_parameters_have_the_public_keys(results: tuple[Path, Path, Path]) -> None:
    several, single = read_params(results[0] / "params.npz"), read_params(results[2] / "params.npz")
    assert set(several) - set(single) == {"pointmap_scale", "pointmap_shift"}
    assert several["coords"].shape[1] == 4


def test_the_report_tells_what_was_done(results: tuple[Path, Path, Path]) -> None:
    report = json.loads((results[0] / "report.json").read_text())
    assert [view["name"] for view in report["views"]] == ["0", "1", "2", "3"]
    assert all(0 < view["silhouette_iou"] <= 1 for view in report["views"])
    assert report["seed"] == 42
    tried = re.findall(
        "poses found together: .* the (former|latter) is kept", (results[0] / "inference.log").read_text()
    )
    assert tried == ["former" if report["shape_by_found_poses"] else "latter"], (
        "four photos of an object with a pattern"
    )
    assert not json.loads((results[2] / "report.json").read_text())["shape_by_found_poses"], "of one photo"
    assert set(report["seconds"]) == {"views", "structure", "appearance", "mesh", "poses", "outlines", "texture"}
    glb = np.array(report["frames"]["glb_from_object"]) @ [1.0, 2.0, 3.0, 1.0]
    assert (glb == [1.0, 3.0, -2.0, 1.0]).all()
    assert "4 views" in (results[0] / "inference.log").read_text()


def test_the_object_lies_where_the_photo_shows_it(results: tuple[Path, Path, Path]) -> None:
    """The pose's centre falls into the mask's box in every photo."""
    report = json.loads((results[0] / "report.json").read_text())
    for view in report["views"]:
        pose, k = np.array(view["camera_from_object"]), np.array(view["intrinsics"])
        u, v, w = k @ pose[:3, 3]
        x1, y1, x2, y2 = view["crop_box"]
        assert x1 < u / w < x2
        assert y1 < v / w < y2


def test_wrong_input_leaves_nothing_behind(tmp_path: Path) -> None:
    out = tmp_path / "out"
    for job, kind, words in (
        (Job(tmp_path / "nowhere", out), BadScene, "nowhere"),
        (Job(SCENE, out, object_name="mug"), BadScene, "sofa"),
        (Job(SCENE, out, views=("0", "9")), BadScene, "9"),
        (Job(SCENE, out, model=str(tmp_path)), CheckpointMismatch, "config.json"),
        (Job(SCENE, out, structure_steps=0), InvalidOption, "step"),
        (Job(SCENE, out, weights=ViewWeights(stage2="visibility")), InvalidOption, "--cameras"),
        (Job(SCENE, out, weights=ViewWeights(stage2="mixed"), cameras=tmp_path / "c.json"), BadFile, "c.json"),
    ):
        with pytest.raises(kind) as caught:
            run_job(job)
        assert words in str(caught.value)
        assert list(tmp_path.iterdir()) == []


def test_a_bad_view_is_an_error_or_is_reported(tmp_path: Path) -> None:
    scene = tmp_path / "scene"
    for file in SCENE.rglob("*.*"):
        target = scene / file.relative_to(SCENE)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(file.read_bytes())
    (mask,) = (scene / "masks").rglob("2.png")
    Image.fromarray(np.zeros((320, 320), np.uint8)).save(mask)
    with pytest.raises(BadPhoto, match="2"):
        run_job(Job(scene, tmp_path / "out"))
    report = run_job(Job(scene, tmp_path / "out", skip_bad_views=True))
    assert [view["name"] for view in report["views"]] == ["0", "1", "3"]
    assert report["skipped_views"][0]["name"] == "2"


@pytest.mark.parametrize("weighting", ["visibility", "mixed"])
def test_known_cameras_weigh_the_views(tmp_path: Path, weighting: Literal["visibility", "mixed"]) -> None:
    """Cameras that see the front alone and the back alone give another appearance than four alike."""
    views = []
    for i, side in enumerate((-1, -1, 1, 1)):
        pose = np.eye(4)
        pose[:3] = [[side, 0, 0, 0], [0, 0, -1, 0], [0, side, 0, 3 + i / 10]]  # at y = -3 side, looking at the origin
        views.append({"image": f"{i}.png", "K": [[300, 0, 160], [0, 300, 160], [0, 0, 1]], "w2c": pose.tolist()})
        views[-1] |= {"width": 320, "height": 320}
    (tmp_path / "cameras.json").write_text(json.dumps({"views": views}))
    weights = ViewWeights(stage1="mean", stage2=weighting)
    given = tmp_path / "cameras.json"
    job = Job(SCENE, tmp_path / "out", weights=weights, cameras=given, fusion="velocity", guidance=False)
    report = run_job(job)
    assert report["options"]["weights"]["stage2"] == weighting
    run_job(replace(job, out=tmp_path / "mean", weights=ViewWeights()))
    ours, mean = (read_ply(tmp_path / name / "result.ply").sh_dc.numpy() for name in ("out", "mean"))
    assert ours.shape != mean.shape or not np.allclose(ours, mean)


def test_cameras_that_are_looked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A view whose camera is not found is looked at all the same: it gets its pose from the mesh, but bends and paints nothing."""
    scene = write_photos(tmp_path / "scene", "object", count=6)
    known, _ = toy_views()
    cameras = {}
    for i in (0, 1, 2, 4, 5):
        lens = known.intrinsics[i].astype(np.float64)
        lens[:2, 2] += 0.5  # from the pixels' corners
        cameras[str(i)] = Camera(
            lens, np.vstack([known.camera_from_world[i], [0, 0, 0, 1]]).astype(np.float64), SIDE, SIDE
        )
    found = SimpleNamespace(cameras=cameras, lines=lambda: ["0: 99 points"])
    monkeypatch.setattr("mvsam3d.perception.structure_from_motion.find_cameras", lambda photos: found)
    report = run_job(Job(scene, tmp_path / "out", cameras="auto"))
    assert [view["name"] for view in report["views"]] == list("012345")
    assert (report["skipped_views"], report["views_without_camera"]) == ([], ["3"])
    assert report["world"] is not None
    assert min(view["silhouette_iou"] for view in report["views"]) > 0.75
    assert report["colours"]["from_photos"] == list("01245")
    log = (tmp_path / "out" / "inference.log").read_text()
    assert "0: 99 points" in log
    assert "view 3: its camera was not found" in log
    report = run_job(Job(scene, tmp_path / "unguided", cameras="auto", guidance=False))
    assert [view["name"] for view in report["views"]] == list(
        "01245"
    )  # cameras then say what is seen, so each view needs one
    assert [view["name"] for view in report["skipped_views"]] == ["3"]


def test_a_view_that_the_result_does_not_explain_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One photo mirrored, its camera as it was: the outlines of the others do not tell that from a mask that is a little off."""
    scene = write_photos(tmp_path / "scene", "object", count=6)
    known, _ = toy_views()
    lenses = known.intrinsics.astype(np.float64)
    lenses[:, :2, 2] += 0.5  # from the pixels' corners
    last = np.array([[0, 0, 0, 1.0]])
    cameras = {
        str(i): Camera(lenses[i], np.concatenate([known.camera_from_world[i].astype(np.float64), last]), SIDE, SIDE)
        for i in range(6)
    }
    found = SimpleNamespace(cameras=cameras, lines=lambda: [])
    monkeypatch.setattr("mvsam3d.perception.structure_from_motion.find_cameras", lambda photos: found)
    said = "the result meets its mask by"
    run_job(Job(scene, tmp_path / "right", cameras="auto"))
    assert said not in (tmp_path / "right" / "inference.log").read_text()
    for path in (scene / "3.jpg", scene / "masks" / "object" / "3.png"):
        Image.open(path).transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(path)
    report = run_job(Job(scene, tmp_path / "mirrored", cameras="auto"))
    assert re.findall(f"view (.): {said}", (tmp_path / "mirrored" / "inference.log").read_text()) == ["3"]
    assert report["views"][3]["silhouette_iou"] < min(report["views"][i]["silhouette_iou"] for i in (0, 1, 2, 4, 5))


def test_odd_views() -> None:
    """Closed form: well below the middle, where that is high; the views of a result that explains none well are not named one by one."""
    assert odd_views([0.98, 0.9, 0.97, 0.94]) == (1,)
    assert odd_views([0.7, 0.5, 0.72]) == ()
    assert odd_views([0.95]) == ()


def test_no_camera_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All views are used, and the log says why there are no cameras."""

    def refuse(photos: object) -> None:
        raise NoCameras("no cameras that can be believed.")

    monkeypatch.setattr("mvsam3d.perception.structure_from_motion.find_cameras", refuse)
    report = run_job(Job(SCENE, tmp_path / "none", cameras="auto"))
    assert [view["name"] for view in report["views"]] == list("0123")
    assert report["world"] is None
    assert "Going on without cameras" in (tmp_path / "none" / "inference.log").read_text()


def test_cameras_are_looked_for_unless_something_speaks_against_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The command line's way where --cameras is left out."""
    looked = []

    def refuse(photos: Sequence[Photo]) -> None:
        looked.append(len(photos))
        raise NoCameras("no cameras that can be believed.")

    monkeypatch.setattr("mvsam3d.perception.structure_from_motion.find_cameras", refuse)
    job = Job(SCENE, tmp_path / "out", cameras="if_possible")
    assert read_inputs(job, SMALL).cameras is None
    assert looked == [4]
    assert "Going on without cameras" in caplog.text
    read_inputs(replace(job, views=("0", "1")), SMALL)
    read_inputs(replace(job, guidance=False), SMALL)
    read_inputs(job, replace(SMALL, lifting=None))  # as of the public checkpoints
    read_inputs(replace(job, cameras=None), SMALL)
    assert looked == [4]
    assert "pycolmap" not in caplog.text
    monkeypatch.setattr("mvsam3d.jobs.find_spec", lambda name: None)
    read_inputs(job, SMALL)
    assert looked == [4]
    assert 'pip install "mvsam3d[pose]"' in caplog.text


def test_cameras_that_nobody_asked_for_are_not_counted_on(tmp_path: Path) -> None:
    job = Job(SCENE, tmp_path / "out", cameras="auto", weights=ViewWeights(stage2="visibility"))
    check_job(job)
    with pytest.raises(InvalidOption, match="--cameras"):
        check_job(replace(job, cameras="if_possible"))


def test_a_view_of_another_object_is_left_out_and_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mvsam3d.pipeline.agreeing", lambda shapes, unseen: torch.tensor([True, True, False, True]))
    report = run_job(Job(SCENE, tmp_path / "out", drop_outliers=True))
    assert [view["name"] for view in report["views"]] == ["0", "1", "3"]
    assert [view["name"] for view in report["skipped_views"]] == ["2"]
    assert "view 2 left out" in (tmp_path / "out" / "inference.log").read_text()
    assert [view["name"] for view in run_job(Job(SCENE, tmp_path / "all", drop_outliers=False))["views"]] == list(
        "0123"
    )


def test_cameras_that_do_not_fit_leave_the_choice_of_views_to_the_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cameras that show nothing in common tell no shape, and an odd view is found as if there were none."""
    lens = [[900.0, 0, 160], [0, 900.0, 160], [0, 0, 1]]
    views = [
        {"image": f"{i}.png", "width": 320, "height": 320, "K": lens, "w2c": look_at(20.0 * i, 10.0, 9.0).tolist()}
        for i in range(4)
    ]
    for i, view in enumerate(views):
        view["w2c"][0][3] += 3.0 * (-1) ** i
    (tmp_path / "cameras.json").write_text(json.dumps({"views": views}))
    monkeypatch.setattr("mvsam3d.pipeline.agreeing", lambda shapes, unseen: torch.tensor([True, True, False, True]))
    report = run_job(Job(SCENE, tmp_path / "out", cameras=tmp_path / "cameras.json", drop_outliers=True))
    assert report["world"] is None
    assert [view["name"] for view in report["skipped_views"]] == ["2"]
    assert "the cameras do not fit the masks" in (tmp_path / "out" / "inference.log").read_text()


def test_the_options_in_the_report_are_those_of_the_job(results: tuple[Path, Path, Path]) -> None:
    """Every choice is there; those left to the model are the model's."""
    options = json.loads((results[2] / "report.json").read_text())["options"]
    assert set(options) == {field.name for field in fields(Job)}
    assert (options["views"], options["seed"], options["formats"]) == (["1"], 42, ["gaussian", "mesh"])
    assert (options["fusion"], options["structure_steps"], options["slat_steps"]) == ("joint", 1, 1)
    assert (options["weights"]["stage1"], options["weights"]["stage1_layer"]) == ("mean", 3)
    assert options["search_poses"] is True
    assert options["dtype"] == "fp32"
    assert json.dumps(options) in (results[2] / "inference.log").read_text()


@pytest.mark.parametrize(
    ("half", "device", "gain", "chosen"),
    [
        (torch.float16, "cpu", 0.03, torch.float32),
        (torch.float16, "cpu", 1.4, torch.float32),
        (torch.float16, "cpu", 1.6, torch.bfloat16),
        (torch.float32, "cpu", 5.0, torch.float32),  # not meant for it, as the small one
        (torch.float16, "cuda", 0.03, torch.float16),
    ],
)
def test_precision_is_what_pays(
    half: torch.dtype, device: str, gain: float, chosen: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mvsam3d.jobs.bf16_gain", lambda: gain)
    checkpoint = replace(open_checkpoint(checkpoint_folder("small")), half=half)
    assert chosen_dtype("auto", checkpoint, torch.device(device)) == chosen
    assert chosen_dtype("fp16", checkpoint, torch.device(device)) == torch.float16


def test_weights_without_room_are_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    loaded = Loaded("small", "cpu")
    assert planned(loaded, 1 << 34).keys_values > 0
    assert not caplog.records
    assert planned(loaded, 1 << 20) == MemoryBudget(0, 0, 0)
    assert "0.00 GiB may be used" in caplog.text
    assert "--memory-budget" in caplog.text


def test_the_objects_own_length_makes_the_mesh_metric(tmp_path: Path, results: tuple[Path, Path, Path]) -> None:
    report = run_job(Job(SCENE, tmp_path / "out", views=("1",), scale_length=0.32))
    (mesh,) = trimesh.load(tmp_path / "out" / "result.glb").geometry.values()
    assert max(mesh.extents) == pytest.approx(0.32, rel=1e-4)
    assert max(report["size"]["bounding_box_m"]) == pytest.approx(0.32, rel=1e-4)
    assert report["size"]["metric"] is True
    without = results[2]  # of the same view
    assert json.loads((without / "report.json").read_text())["size"] == {"metric": False}
    assert (without / "result.ply").read_bytes() == (tmp_path / "out" / "result.ply").read_bytes()
    (same,) = trimesh.load(without / "result.glb").geometry.values()
    unit = report["size"]["metres_per_object_unit"]
    np.testing.assert_allclose(mesh.vertices, unit * same.vertices, atol=1e-6)


def test_a_size_from_metric_cameras() -> None:
    """Closed form: the object frame is three of the world's metres long."""
    triangle = Mesh(np.array([[0, 0, 0], [1, 0, 0], [0, 0.5, 0]], np.float32), np.array([[0, 1, 2]]))
    world_from_object = np.diag([3.0, 3.0, 3.0, 1.0])
    world_from_object[:3, :3] = 3 * np.array([[0, -1, 0], [1, 0, 0], [0, 0, 1.0]])
    cloud = GaussianCloud(*(torch.zeros(0, *size) for size in ((3,), (3,), (4,), (), (3,))))
    lost = Reconstruction(triangle, cloud, Voxels(torch.zeros(0, 3, dtype=torch.int32), 32), (), (), ())
    placed = replace(lost, in_world=InWorld(world_from_object, 0.9, "hull"))
    facts = RunFacts(0, {}, {})
    assert metres_per_unit(placed, facts) is None
    assert metres_per_unit(placed, replace(facts, metric_cameras=True)) == pytest.approx(3.0)
    assert metres_per_unit(lost, replace(facts, longest_side=2.0)) == pytest.approx(2.0)
    with pytest.raises(InvalidOption, match="--scale-length"):
        metres_per_unit(lost, replace(facts, metric_cameras=True))


@pytest.mark.parametrize(("formats", "left_out"), [(("mesh",), "result.ply"), (("gaussian",), "result.glb")])
def test_formats(formats: tuple[Literal["gaussian", "mesh"]], left_out: str, tmp_path: Path) -> None:
    run_job(Job(SCENE, tmp_path / "out", views=("0",), search_poses=False, formats=formats))
    assert {path.name for path in (tmp_path / "out").iterdir() if not path.name.startswith(".")} == FILES - {left_out}


@pytest.mark.parametrize(("which", "name"), [("first", "0"), (2, "2"), ("largest-mask", None), ("most-visible", None)])
def test_the_view_whose_pose_is_the_objects(
    which: Literal["first", "largest-mask", "most-visible"] | int, name: str | None, tmp_path: Path
) -> None:
    report = run_job(Job(SCENE, tmp_path / "out", reference=which, search_poses=False, drop_outliers=False))
    masks = [np.asarray(Image.open(path)).mean() for path in sorted((SCENE / "masks").rglob("*.png"))]
    expected = {"largest-mask": str(int(np.argmax(masks)))}.get(str(which), name)
    if expected is not None:
        assert report["reference_view"] == expected
    (view,) = [view for view in report["views"] if view["name"] == report["reference_view"]]
    with np.load(tmp_path / "out" / "params.npz", allow_pickle=False) as params:
        np.testing.assert_allclose(params["camera_from_object"], view["camera_from_object"], atol=1e-6)


# Several objects


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Photos with masks of a and b, empty ones of c, and depth."""
    base = tmp_path_factory.mktemp("shelf")
    write_photos(base / "photos", "a", "b", "c", count=2)
    for mask in (base / "photos" / "masks" / "c").iterdir():
        Image.fromarray(np.zeros((112, 112), np.uint8)).save(mask)
    write_depth(base / "da3")
    return base


def test_several_objects_are_kept_and_merged_and_failures_named(
    shelf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One checkpoint is loaded; c has empty masks, d none."""
    loaded = []
    load = Checkpoint.models
    monkeypatch.setattr(Checkpoint, "models", lambda self, *how: loaded.append(self.folder) or load(self, *how))
    depth = shelf / "da3" / "da3_output.npz"
    job = Job(shelf / "photos", tmp_path / "out", object_name="a, b,c,d", depth=depth, search_poses=False)
    with pytest.raises(ObjectsFailed) as caught:
        run_job(replace(job, extras=Extras(overlay=True, debug_images=True, merge_scene=True)))
    said = str(caught.value)
    assert said.startswith("2 of 4 objects failed")
    assert "c: " in said
    assert "empty mask" in said
    assert "d: " in said
    assert len(loaded) == 1
    out = tmp_path / "out"
    assert {path.name for path in out.iterdir() if path.is_dir()} == {"a", "b"}
    for name in ("a", "b"):
        files = {path.name for path in (out / name).iterdir()}
        assert files == FILES | {"result_overlay.glb", "result_merged_scene.glb", "debug_masked_images"}
        said = (out / name / "inference.log").read_text()
        assert [f'"object_name": "{other}"' in said for other in "ab"] == [other == name for other in "ab"]
    assert "object d" in (out / "inference.log").read_text()
    merged, around = (read_scene(out / f"result_multiobj_merged{suffix}.glb") for suffix in ("", "_scene"))
    assert [node.name for node in merged.nodes] == ["sam3d_a", "sam3d_b"]
    assert {"sam3d_a", "sam3d_b", "da3_geometry_0"} <= {node.name for node in around.nodes}
    assert merged.frame == "scene"
    (alone,) = [node for node in read_scene(out / "b" / "result_merged_scene.glb").nodes if node.name == "sam3d_b"]
    np.testing.assert_allclose(merged.nodes[1].shape.vertices, alone.shape.vertices)


def test_all_objects_failing_leaves_nothing(shelf: Path, tmp_path: Path) -> None:
    with pytest.raises(ObjectsFailed, match=r"every object failed: c: .*; d: "):
        run_job(Job(shelf / "photos", tmp_path / "out", object_name="c,d"))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["a,..", "a,.", "a,", ",", "a,../../b", "a,/b", "..", "a,a"])
def test_names_that_lead_elsewhere_touch_nothing(name: str, shelf: Path, tmp_path: Path) -> None:
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "mine.txt").write_text("kept")
    with pytest.raises(InvalidOption):
        run_job(Job(shelf / "photos", tmp_path / "results" / "out", object_name=name))
    assert [path.name for path in tmp_path.rglob("*")] == ["results", "mine.txt"]


def test_objects_without_depth_are_not_merged_and_the_log_says_so(shelf: Path, tmp_path: Path) -> None:
    reports = run_job(Job(shelf / "photos", tmp_path / "out", object_name="a,b", search_poses=False))
    assert list(reports) == ["a", "b"]
    assert "the objects are not merged" in (tmp_path / "out" / "inference.log").read_text()
    assert not list((tmp_path / "out").glob("result_*"))


def test_sizes_are_known_before_networks_are_loaded() -> None:
    loaded = Loaded("small", "cpu")
    assert loaded.size.structure.flow.blocks == 4
    assert "models" not in vars(loaded)


def test_ctrl_c_leaves_no_partial_output(tmp_path: Path) -> None:
    # a shell that starts tests in the background has them ignore the signal, which children inherit
    code = (
        "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler); "
        "from mvsam3d.cli import main; sys.exit(main(sys.argv[1:]))"
    )
    command = [sys.executable, "-c", code, "reconstruct", str(SCENE), "--out", str(tmp_path / "out"), "--quiet"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, env={**os.environ})
    deadline = time.monotonic() + 120
    while not any(tmp_path.iterdir()) and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.02)  # the hidden work folder appears when the job begins
    process.send_signal(signal.SIGINT)
    assert process.wait(120) == 130
    assert list(tmp_path.iterdir()) == []


def test_progress_never_goes_back() -> None:
    steps = [share_done(stage, done, 2) for stage in SHARES for done in (0, 1, 2)]
    assert steps == sorted(steps)
    assert steps[0] == 0
    assert steps[-1] == 1
