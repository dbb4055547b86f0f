"""The flags of run_inference_weighted.py: all are there, and what is wrong with them is said before anything is loaded."""

import dataclasses
import json
import shlex
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tyro

from mvsam3d import cli
from mvsam3d.flags import RANGES, Reconstruct, job_from_flags, public_folder, without_photos_flag
from tests.toy_scene import write_depth, write_photos

# Flag of the public script, its default there, and our field.
PUBLIC: dict[str, tuple[Any, str]] = {
    "input_path": (dataclasses.MISSING, "photos"),
    "mask_prompt": (None, "object"),
    "image_names": (None, "views"),
    "model_tag": ("hf", "model"),
    "seed": (42, "seed"),
    "stage1_steps": (50, "stage1_steps"),
    "stage2_steps": (25, "stage2_steps"),
    "decode_formats": ("gaussian,mesh", "decode_formats"),
    "no_stage1_weighting": (False, "no_stage1_weighting"),
    "stage1_entropy_layer": (9, "stage1_entropy_layer"),
    "stage1_entropy_alpha": (30.0, "stage1_entropy_alpha"),
    "no_stage2_weighting": (False, "no_stage2_weighting"),
    "stage2_weight_source": ("entropy", "stage2_weight_source"),
    "stage2_entropy_alpha": (30.0, "stage2_entropy_alpha"),
    "stage2_visibility_alpha": (30.0, "stage2_visibility_alpha"),
    "stage2_attention_layer": (6, "stage2_attention_layer"),
    "stage2_attention_step": (0, "stage2_attention_step"),
    "stage2_min_weight": (0.001, "stage2_min_weight"),
    "stage2_weight_combine_mode": ("average", "stage2_weight_combine_mode"),
    "stage2_visibility_weight_ratio": (0.5, "stage2_visibility_weight_ratio"),
    "self_occlusion_tolerance": (4.0, "self_occlusion_tolerance"),
    "visualize_weights": (False, "visualize_weights"),
    "compute_latent_visibility": (False, "compute_latent_visibility"),
    "save_attention": (False, "save_attention"),
    "attention_layers": (None, "attention_layers"),
    "save_stage2_init": (False, "save_stage2_init"),
    "da3_output": (None, "da3_output"),
    "merge_da3_glb": (False, "merge_da3_glb"),
    "overlay_pointmap": (False, "overlay_pointmap"),
    "run_pose_optimization": (False, "run_pose_optimization"),
    "pose_opt_iterations": (300, "pose_opt_iterations"),
    "pose_opt_lr": (0.01, "pose_opt_lr"),
    "pose_opt_mask_erosion": (3, "pose_opt_mask_erosion"),
    "pose_opt_device": ("cuda", "pose_opt_device"),
    "pose_opt_optimize_scale": (False, "pose_opt_optimize_scale"),
}
OURS: dict[str, tuple[Any, str]] = {  # defaults that differ, and why
    "model_tag": ("small", "is shipped; hf is a folder of the user's"),
    "stage1_steps": (None, "the model's own: 50 for the public one"),
    "stage2_steps": (None, "the model's own: 25 for the public one"),
    "stage1_entropy_layer": (None, "9, or the last of a smaller model"),
    "stage2_attention_layer": (None, "6, or the last of a smaller model"),
    "stage2_weight_source": (None, "entropy by the public script's name, else --weighting"),
    "pose_opt_device": ("cpu", "it takes seconds there"),
}


def test_every_public_flag_with_its_default() -> None:
    assert len(PUBLIC) == 35
    fields = {field.name: field for field in dataclasses.fields(Reconstruct)}
    for flag, (default, name) in PUBLIC.items():
        assert fields[name].default == OURS.get(flag, (default,))[0], flag


@pytest.mark.parametrize("separator", ["_", "-"])
def test_every_public_flag_is_read(separator: str) -> None:
    given = {"stage2_weight_source": "mixed", "stage2_weight_combine_mode": "multiply"}
    arguments: list[str] = []
    for flag, (default, name) in PUBLIC.items():
        arguments.append(f"--{flag.replace('_', separator)}")
        if default is not False:
            kind = type(default) if default is not dataclasses.MISSING else str
            given.setdefault(flag, {int: "7", float: "0.25"}.get(kind, f"some/{name}"))
            arguments.append(given[flag])
    flags = tyro.cli(Reconstruct, args=without_photos_flag(arguments))
    for flag, (default, name) in PUBLIC.items():
        value = getattr(flags, name)
        assert value is True if default is False else str(value) == given[flag], flag


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three views, with depth, and with depth without a scene."""
    base = tmp_path_factory.mktemp("scene")
    write_photos(base / "photos", "thing", count=3)
    depth = write_depth(base / "da3")
    (base / "bare").mkdir()
    (base / "bare" / depth.name).write_bytes(depth.read_bytes())
    (base / "broken").mkdir()
    (base / "broken" / depth.name).write_bytes(depth.read_bytes())
    (base / "broken" / "scene.glb").write_bytes(b"glTF and nothing else")
    return base


DEPTH, BARE, BROKEN = (f"--da3_output {folder}/da3_output.npz" for folder in ("da3", "bare", "broken"))


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        # what needs something else
        ("--merge_da3_glb", ("--merge-da3-glb", "--da3-output")),
        ("--overlay_pointmap", ("--overlay-pointmap", "--da3-output")),
        ("--run_pose_optimization", ("--run-pose-optimization", "--da3-output")),
        ("--stage2_weight_source visibility", ("visibility", "--da3-output")),
        ("--stage2_weight_source mixed", ("mixed", "--da3-output")),
        ("--weighting mixed", ("mixed", "--da3-output")),
        ("--visibility_mask", ("--visibility-mask", "--da3-output")),
        ("--visibility_depth --cameras cameras.json", ("--visibility-depth", "one source")),
        (f"--merge_da3_glb {BARE}", ("bare/scene.glb", "--no-vis")),
        (f"--merge_da3_glb {BROKEN}", ("broken/scene.glb",)),
        ("--merge_da3_glb --da3_output nowhere.npz", ("nowhere.npz", "is not there")),
        ("--attention_layers 1", ("--attention-layers", "--save-attention")),
        ("--attention_dense", ("--attention-dense", "--save-attention")),
        ("--no_stage2_weighting --stage2_weight_source entropy", ("--no-stage2-weighting", "choose one")),
        ("--weighting mean --stage2_weight_source entropy", ("--weighting mean", "choose one")),
        # names and numbers that are none
        ("--decode_formats gaussian,obj", ("--decode-formats", "'obj'", "gaussian, mesh")),
        ("--decode_formats ''", ("--decode-formats", "gaussian, mesh")),
        ("--pose_view last", ("--pose-view last", "most-visible")),
        ("--pose_view -1", ("--pose-view -1",)),
        ("--pose_view 3", ("view 3", "0 to 2")),
        ("--image_names 0,,1", ("''", "name")),
        ("--image_names 0,9", ("no view 9", "0, 1, 2")),
        ("--image_names 0,../1", ("'../1'",)),
        ("--mask_prompt thing,..", ("'..'",)),
        ("--mask_prompt thing,", ("''",)),
        ("--mask_prompt thing,thing", ("thing,thing", "once")),
        ("--model_tag nowhere", ("nowhere", "config.json")),
        ("--device tpu9", ("tpu9",)),
        ("--device meta", ("meta",)),
        ("--shortcut", ("distilled", "leave --shortcut out")),
        ("--stage1_every 0", ("--stage1-every 0", "1 to 100")),
        ("--stage1_steps 6 --stage1_every 2 --weighting entropy --stage1_attention_step 2", ("step 2", "not asked")),
        ("--scale_length 0", ("--scale-length 0", "0.0001 to 10000")),
        ("--scale_length 1 --metric_cameras --cameras c.json", ("--metric-cameras", "choose one")),
        ("--metric_cameras", ("--metric-cameras", "--cameras")),
        # blocks and steps of the model
        ("--stage1_entropy_layer 24", ("--stage1-entropy-layer 24", "0 to 3")),
        ("--stage1_entropy_layer -1", ("--stage1-entropy-layer -1", "0 to 3")),
        ("--stage2_attention_layer 24", ("--stage2-attention-layer 24", "0 to 3")),
        ("--cameras none --save_attention --attention_layers 24", ("--attention-layers", "24", "0 to 3")),
        ("--cameras none --save_attention --attention_layers -5", ("-5", "0 to 3")),
        ("--cameras none --save_attention --attention_layers 1,two", ("'two'",)),
        ("--weighting entropy --stage2_attention_step 1", ("step 1", "0 to 0")),
        ("--weighting entropy --stage2_min_weight 0.5", ("0.5", "0.3333")),
        (
            f"--run_pose_optimization --pose_opt_mask_erosion 30 {DEPTH}",
            ("--pose-opt-mask-erosion 30", "50", "has 0"),
        ),
        (f"--run_pose_optimization --pose_opt_mask_erosion 22 {DEPTH}", ("--pose-opt-mask-erosion 22", "50", "has 8")),
    ],
)
def test_errors_come_before_the_model(
    flags: str,
    words: tuple[str, ...],
    scene: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    check_error(flags, words, scene, monkeypatch, capsys)


# Just outside, and not a number; written out where the limits are more than an end of the table.
OUTSIDE = [
    (name, value)
    for name, (_, most) in RANGES.items()
    for value in ("-1", str(int(most) + 1), *(["nan"] if name != "seed" else []))
] + [(name, "0") for name in ("stage1_steps", "stage2_steps", "memory_budget", "pose_opt_iterations", "pose_opt_lr")]
OUTSIDE += [("stage2_visibility_weight_ratio", "1.01"), ("seed", "-9"), ("self_occlusion_tolerance", "-0.1")]


@pytest.mark.parametrize(("name", "value"), OUTSIDE)
def test_numbers_out_of_range(
    name: str, value: str, scene: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = "int" in str(Reconstruct.__annotations__[name])
    if whole and value == "nan":
        assert status_of(f"--{name} nan", scene, monkeypatch) == 2
        return
    check_error(f"--{name} {value}", (f"--{name.replace('_', '-')}", value, "give", "to"), scene, monkeypatch, capsys)


def check_error(
    flags: str,
    words: tuple[str, ...],
    scene: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """One line with the words, status 1, and nothing was loaded or written."""
    before = sorted(scene.rglob("*"))
    assert status_of(flags, scene, monkeypatch) == 1
    error = capsys.readouterr().err.strip()
    assert error.startswith("mvsam3d: ")
    assert "\n" not in error, error
    for word in words:
        assert word in error, error
    assert sorted(scene.rglob("*")) == before


def status_of(flags: str, scene: Path, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.chdir(scene)
    loaded = "mvsam3d.models.checkpoints.Checkpoint.models"
    monkeypatch.setattr(loaded, lambda *_, **__: pytest.fail("the model was loaded"))
    try:
        return cli.main(["reconstruct", "photos", "--out", "out", *shlex.split(flags)])
    except SystemExit as stopped:
        return int(str(stopped.code))


@pytest.mark.parametrize(
    "flags",
    [
        "--seed first",
        "--stage1_steps 2.5",
        "--stage2_weight_source both",
        "--stage2_weight_combine_mode sum",
        "--weighting best",
        "--unknown 1",
        "--stage1_entropy_alpha",
        "another/folder",
    ],
)
def test_wrong_types_and_choices_end_with_status_2(flags: str, scene: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert status_of(flags, scene, monkeypatch) == 2
    assert not (scene / "out").exists()


def test_the_limits_themselves_are_taken() -> None:
    for end in (0, 1):
        ends = {
            name: (int if "int" in str(Reconstruct.__annotations__[name]) else float)(r[end])
            for name, r in RANGES.items()
        }
        job = job_from_flags(Reconstruct(Path("photos"), run_pose_optimization=True, **ends))
        assert job.seed == ends["seed"]
        assert job.extras.pose_optimisation is not None
        assert job.extras.pose_optimisation.iterations == ends["pose_opt_iterations"]


def test_a_single_view_needs_no_weights(scene: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(scene)
    flags = ["--image_names", "1", "--visualize_weights", *DEPTH.split(), "--stage2_weight_source", "mixed"]
    assert cli.public_main(["--input_path", "photos", *flags, "--out", "single"]) == 0
    assert "no weights are drawn: there is one view" in Path("single/inference.log").read_text()
    assert not Path("single/weights").exists()
    report = json.loads(Path("single/report.json").read_text())
    assert [view["name"] for view in report["views"]] == ["1"]
    with np.load("single/params.npz", allow_pickle=False) as params:
        assert params["rotation"].shape == (1, 4)


def test_weights_of_the_public_script() -> None:
    """Both stages by entropy unless a flag says otherwise; ours leaves it to the model."""
    photos = Path("photos")
    assert job_from_flags(Reconstruct(photos)).weights.stage1 is None
    weights = job_from_flags(Reconstruct(photos, weighting="entropy", stage2_weight_source="mixed")).weights
    assert (weights.stage1, weights.stage2) == ("entropy", "mixed")
    weights = job_from_flags(Reconstruct(photos, weighting="entropy", no_stage2_weighting=True)).weights
    assert (weights.stage1, weights.stage2) == ("entropy", "mean")
    weights = job_from_flags(Reconstruct(photos, weighting="visibility")).weights
    assert (weights.stage1, weights.stage2) == ("mean", "visibility")  # stage 1 has no voxels that cameras could see


def test_cameras_are_looked_for_where_that_can_help_unless_a_flag_says_otherwise() -> None:
    photos = Path("photos")
    assert job_from_flags(Reconstruct(photos)).cameras == "if_possible"
    assert job_from_flags(Reconstruct(photos, cameras="auto")).cameras == "auto"
    assert job_from_flags(Reconstruct(photos, cameras="none")).cameras is None
    assert job_from_flags(Reconstruct(photos, cameras="c.json")).cameras == Path("c.json")


@pytest.mark.parametrize(
    ("choices", "folder"),
    [
        ({}, "toy/default/toy_default_mv_s1a30_s2e30_20260102_030405"),
        ({"object": "a", "views": "0,1"}, "toy/a/toy_a_2v_s1a30_s2e30_20260102_030405"),
        ({"object": "a", "views": "7"}, "toy/a/toy_a_7_s1a30_s2e30_20260102_030405"),
        ({"stage1_entropy_alpha": 12.5}, "toy/default/toy_default_mv_s1a12.5_s2e30_20260102_030405"),
        (
            {"no_stage1_weighting": True, "stage2_weight_source": "visibility"},
            "toy/default/toy_default_mv_s1off_s2v30t4_20260102_030405",
        ),
        ({"no_stage2_weighting": True}, "toy/default/toy_default_mv_s1a30_s2off_20260102_030405"),
        ({"weighting": "mean"}, "toy/default/toy_default_mv_s1off_s2off_20260102_030405"),
        ({"stage2_weight_source": "mixed"}, "toy/default/toy_default_mv_s1a30_s2m_e30v30_20260102_030405"),
        (
            {"object": "a, b", "stage2_weight_source": "visibility"},
            "toy/multiobject/toy_a_b_multiobj_s1a30_s2v30_20260102_030405",
        ),
    ],
)
def test_public_folders(choices: dict[str, Any], folder: str) -> None:
    flags = Reconstruct(Path("data/toy"), **{"weighting": "entropy", **choices})
    assert public_folder(flags, datetime(2026, 1, 2, 3, 4, 5)) == Path("visualization", folder)
