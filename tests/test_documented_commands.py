"""Every command line of the public documents runs as printed, and writes the files that they promise.

Scenes are small and of one generated object, the depth is true, and checkpoints/hf is the small model.
"""

import importlib.util
import shlex
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import trimesh
from PIL import Image

from mvsam3d import cli
from mvsam3d.flags import job_from_flags
from mvsam3d.io.depth import DepthPrediction
from mvsam3d.io.glb import read_glb
from mvsam3d.io.point_clouds import read_points
from mvsam3d.io.runs import read_params
from mvsam3d.jobs import Job
from mvsam3d.models.checkpoints import checkpoint_folder
from mvsam3d.perception import depth_flags
from tests.toy_scene import SIDE, views, write_depth, write_photos

ROOT = Path(__file__).parents[1]
SCENES = {"example": "stuffed_toy", "my_object": "my_object", "toy": "toy", "chair": "chair", "room": "lamp"}
SCENES |= {"debug": "object", "object": "object"}
BASIC = ("result.glb", "result.ply", "params.npz", "inference.log", "preview.png", "report.json")
ALL = "--image_names 0,1,2,3,4,5,6,7"
EXAMPLE = f"--input_path ./data/example --mask_prompt stuffed_toy {ALL}"
EXAMPLE_DEPTH = "--da3_output ./da3_outputs/example/da3_output.npz"
DRAWN = tuple(
    f"weights/{name}"
    for name in (
        "stage1_entropy_heatmap.png",
        "stage1_weight_heatmap.png",
        "stage2_entropy_heatmap.png",
        "stage2_weight_heatmap.png",
        "weight_distribution_3d.ply",
        "entropy_per_view.png",
        "entropy_distribution.png",
        "fusion_weights.pt",
        "weight_analysis.log",
    )
)

# Flags of run_inference_weighted.py; the folder of the results below visualization/, its name, and files beside the basic ones.
RECONSTRUCTIONS = {
    "parameters, basic": (EXAMPLE, "example/stuffed_toy", "example_stuffed_toy_8v_s1a30_s2e30", ()),
    "parameters, no weighting": (
        f"{EXAMPLE} --no_stage1_weighting --no_stage2_weighting",
        "example/stuffed_toy",
        "example_stuffed_toy_8v_s1off_s2off",
        (),
    ),
    "parameters, stage 2 only": (
        f"{EXAMPLE} --no_stage1_weighting",
        "example/stuffed_toy",
        "example_stuffed_toy_8v_s1off_s2e30",
        (),
    ),
    "parameters, custom": (
        f"{EXAMPLE} --stage1_entropy_alpha 80.0 --stage2_entropy_alpha 80.0",
        "example/stuffed_toy",
        "example_stuffed_toy_8v_s1a80_s2e80",
        (),
    ),
    "parameters, point clouds": (
        f"{EXAMPLE} {EXAMPLE_DEPTH} --overlay_pointmap --merge_da3_glb",
        "example/stuffed_toy",
        "example_stuffed_toy_8v_s1a30_s2e30",
        ("result_overlay.glb", "result_merged_scene.glb"),
    ),
    "parameters, visibility": (
        f"{EXAMPLE} {EXAMPLE_DEPTH} --stage2_weight_source visibility --stage2_visibility_alpha 60.0",
        "example/stuffed_toy",
        "example_stuffed_toy_8v_s1a30_s2v60t4",
        (),
    ),
    "parameters, mixed": (
        f"{EXAMPLE} {EXAMPLE_DEPTH} --stage2_weight_source mixed --stage2_entropy_alpha 60.0 "
        "--stage2_visibility_alpha 60.0 --stage2_visibility_weight_ratio 0.5",
        "example/stuffed_toy",
        "example_stuffed_toy_8v_s1a30_s2m_e60v60",
        (),
    ),
    "guide, basic": (
        f"--input_path ./data/my_object --mask_prompt my_object {ALL} --model_tag hf --seed 42",
        "my_object/my_object",
        "my_object_my_object_8v_s1a30_s2e30",
        (),
    ),
    "guide, depth": (
        f"--input_path ./data/my_object --mask_prompt my_object {ALL} --da3_output ./da3_outputs/my_object/da3_output.npz "
        "--stage2_weight_source visibility --stage2_visibility_alpha 60.0 --merge_da3_glb --overlay_pointmap",
        "my_object/my_object",
        "my_object_my_object_8v_s1a30_s2v60t4",
        ("result_overlay.glb", "result_merged_scene.glb"),
    ),
    "guide, case 1": (
        f"--input_path ./data/toy --mask_prompt toy {ALL} --seed 42",
        "toy/toy",
        "toy_toy_8v_s1a30_s2e30",
        (),
    ),
    "guide, case 2": (
        f"--input_path ./data/chair --mask_prompt chair {ALL} --da3_output ./da3_outputs/chair/da3_output.npz "
        "--stage2_weight_source visibility --stage2_visibility_alpha 60.0",
        "chair/chair",
        "chair_chair_8v_s1a30_s2v60t4",
        (),
    ),
    "guide, case 3": (
        "--input_path ./data/room --mask_prompt lamp --image_names 0,1,2,3,4 "
        "--da3_output ./da3_outputs/room/da3_output.npz --merge_da3_glb --overlay_pointmap --stage2_weight_source mixed",
        "room/lamp",
        "room_lamp_5v_s1a30_s2m_e30v30",
        ("result_overlay.glb", "result_merged_scene.glb"),
    ),
    "guide, case 4": (
        "--input_path ./data/debug --mask_prompt object --image_names 0,1,2 --visualize_weights --save_attention "
        "--attention_layers 6,9,12 --compute_latent_visibility --stage1_entropy_alpha 30.0 --stage2_entropy_alpha 30.0",
        "debug/object",
        "debug_object_3v_s1a30_s2e30",
        (*DRAWN, "attention/ss/layer_03/step000_view02_idx002.pt", "attention/slat/layer_03/step000_view00_idx000.pt"),
    ),
}

# Flags that the documents print without the rest of a line, and what they mean in the job.
PIECES: dict[str, Callable[[Job], object]] = {
    "--stage1_steps 25 --stage2_steps 15 --image_names 0,1,2": lambda job: (
        (job.structure_steps, job.slat_steps, job.views) == (25, 15, ("0", "1", "2"))
    ),
    "--stage1_steps 50 --stage2_steps 25 --image_names 0,1,2,3,4": lambda job: len(job.views or ()) == 5,
    f"--stage1_steps 100 --stage2_steps 50 {ALL}": lambda job: (job.structure_steps, job.slat_steps) == (100, 50),
    "--image_names 0,1,2,3": lambda job: job.views == ("0", "1", "2", "3"),
    "--stage1_entropy_alpha 15.0 --stage2_entropy_alpha 15.0": lambda job: (
        (job.weights.stage1_alpha, job.weights.stage2_entropy_alpha) == (15, 15)
    ),
    "--stage1_entropy_layer 9": lambda job: job.weights.stage1_layer == 9,
    "--stage2_attention_layer 6": lambda job: job.weights.stage2_layer == 6,
    "--stage2_attention_step 0": lambda job: job.weights.stage2_step == 0,
    "--stage2_min_weight 0.001": lambda job: job.weights.stage2_floor == 0.001,
    "--stage2_weight_source entropy": lambda job: job.weights.stage2 == "entropy",
    "--stage2_weight_source visibility": lambda job: job.weights.stage2 == "visibility",
    "--stage2_weight_source mixed": lambda job: job.weights.stage2 == "mixed",
    "--stage2_weight_combine_mode average": lambda job: job.weights.combine == "average",
    "--stage2_visibility_weight_ratio 0.5": lambda job: job.weights.visibility_share == 0.5,
    "--self_occlusion_tolerance 4.0": lambda job: job.sight.tolerance == 4,
    "--self_occlusion_tolerance 8.0": lambda job: job.sight.tolerance == 8,
    "--decode_formats gaussian,mesh": lambda job: job.formats == ("gaussian", "mesh"),
    "--decode_formats mesh": lambda job: job.formats == ("mesh",),
    "--save_attention --attention_layers 4,5,6": lambda job: job.extras.attention_layers == "4,5,6",
    "--save_stage2_init": lambda job: job.extras.slat_start,
    "--visualize_weights": lambda job: job.extras.weights,
    "--compute_latent_visibility": lambda job: job.extras.visibility,
    "--model_tag hf": lambda job: job.model == "hf",
    "--seed 42": lambda job: job.seed == 42,
}


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the scenes, depth and checkpoint that the documents name."""
    base = tmp_path_factory.mktemp("work")
    for scene, name in SCENES.items():
        write_photos(base / "data" / scene, name)
    for scene in ("example", "my_object", "chair", "room"):
        write_depth(base / "da3_outputs" / scene)
    (base / "checkpoints").mkdir()
    (base / "checkpoints" / "hf").symlink_to(checkpoint_folder("small"), target_is_directory=True)
    return base


def check_file(path: Path) -> None:
    """It is there and can be read, and a picture shows something."""
    match path.suffix:
        case ".glb":
            assert len(trimesh.load(path).geometry) > 0, path
        case ".ply":
            assert len(read_points(path).positions) > 100, path
        case ".png":
            assert np.asarray(Image.open(path)).std() > 1, path
        case ".npz":
            with np.load(path, allow_pickle=False) as arrays:
                assert len(arrays.files) > 0, path
        case _:
            assert path.stat().st_size > 0, path


@pytest.mark.parametrize("case", RECONSTRUCTIONS)
def test_reconstructions(case: str, workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flags, folder, name, more = RECONSTRUCTIONS[case]
    monkeypatch.chdir(workplace)
    before = set(Path("visualization", folder).glob("*"))
    assert cli.public_main(shlex.split(flags)) == 0
    (out,) = set(Path("visualization", folder).glob("*")) - before
    assert out.name.startswith(f"{name}_2")  # then the date
    for file in (*BASIC, *more):
        check_file(out / file)
    assert len(read_glb(out / "result.glb").faces) > 100
    public = {"translation", "rotation", "scale", "downsample_factor", "pointmap_scale", "pointmap_shift", "coords"}
    assert public <= read_params(out / "params.npz").keys()
    assert any(out.glob("debug_masked_images/*_masked.png"))
    if "weights/" not in " ".join(more):
        assert not (out / "weights").exists()


def spelled(flags: str, separator: str) -> list[str]:
    """The same command line with - for _ in the flags, or with = before values."""
    words = shlex.split(flags)
    if separator == "-":
        return [word.replace("_", "-") if word.startswith("--") else word for word in words]
    joined: list[str] = []
    for word in words:
        if word.startswith("--") or not joined:
            joined.append(word)
        else:
            joined[-1] += f"={word}"
    return joined


@pytest.mark.parametrize("separator", ["_", "-", "="])
def test_the_same_flags_by_our_command(separator: str, workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(workplace)
    flags = "--input_path ./data/room --mask_prompt lamp --image_names 0,2 --model_tag hf --stage2_weight_source mixed "
    flags += "--da3_output ./da3_outputs/room/da3_output.npz --overlay_pointmap"
    given = shlex.split(flags) if separator == "_" else spelled(flags, separator)
    out = workplace / "ours" / str(ord(separator))
    assert cli.main(["reconstruct", *given, "--out", str(out)]) == 0
    for file in (*BASIC, "result_overlay.glb"):
        check_file(out / file)
    assert not (out / "debug_masked_images").exists()


@pytest.mark.parametrize("flags", PIECES)
def test_pieces_of_command_lines(flags: str, workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    depth = "--da3_output ./da3_outputs/example/da3_output.npz"
    jobs: list[Job] = []
    monkeypatch.chdir(workplace)
    monkeypatch.setattr(
        cli, "_reconstruct", lambda flags, out: jobs.append(job_from_flags(replace(flags, out=flags.out or out)))
    )
    assert cli.public_main(["--input_path", "./data/example", *shlex.split(depth), *shlex.split(flags)]) == 0
    assert PIECES[flags](jobs[0])


def test_public_numbers_of_blocks_run(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Layers 9 and 6 are those of 24: the small model takes its last and says so; many steps run too."""
    monkeypatch.chdir(workplace)
    flags = "--input_path ./data/toy --image_names 0,3 --stage1_steps 25 --stage2_steps 15 "
    flags += "--stage1_entropy_layer 9 --stage2_attention_layer 6 --stage2_attention_step 3 --out steps"
    assert cli.public_main(shlex.split(flags)) == 0
    said = Path("steps/inference.log").read_text()
    assert "--stage1-entropy-layer 9: this model has the blocks 0 to 3, the last is taken" in said
    assert "--stage2-attention-layer 6: this model has the blocks 0 to 3, the last is taken" in said


def depth_network(photos: Sequence[np.ndarray], process_res: int) -> DepthPrediction:
    """Knows the photos of the toy scene."""
    known, _ = views()
    assert [photo.shape for photo in photos] == [(SIDE, SIDE, 3)] * len(photos)
    return DepthPrediction(**{name: value[: len(photos)] for name, value in vars(known).items()})


@pytest.mark.parametrize(
    ("flags", "out"),
    [
        ("--input_path ./data/my_object --output_path ./da3_outputs/my_object", "my_object"),
        ("--input_path ./data/chair --output_path ./da3_outputs/chair", "chair"),
        ("--input_path ./data/object", "object"),
        ("--image_dir ./data/toy --output_dir ./da3_outputs/toy", "toy"),  # the current spelling
    ],
)
@pytest.mark.parametrize("by", ["scripts/run_da3.py", "mvsam3d depth"])
def test_depth(flags: str, out: str, by: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_photos(tmp_path / shlex.split(flags)[1], "thing", count=3)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("mvsam3d.perception.depth_anything.depth_anything", lambda model_path, device: depth_network)
    given = shlex.split(flags)
    assert (depth_flags.main(given) if by.startswith("scripts") else cli.main(["depth", *given])) == 0
    for file in ("da3_output.npz", "scene.glb", "scene.jpg", "exports/mini_npz/results.npz", "depth_vis/0000.jpg"):
        check_file(Path("da3_outputs", out, file))
    with np.load(Path("da3_outputs", out, "da3_output.npz"), allow_pickle=False) as arrays:
        keys = {"depth", "extrinsics", "intrinsics", "pointmaps", "pointmaps_sam3d", "image_files", "process_res"}
        assert set(arrays.files) == keys


@pytest.mark.parametrize("how", ["--voxel 0.02", "--uniform 2", "--random 0.5"])
@pytest.mark.parametrize("by", ["tools/downsample_pointcloud.py", "mvsam3d downsample"])
def test_downsampling(how: str, by: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    trimesh.creation.icosphere(subdivisions=4, radius=0.1).export("output.glb")
    given = ["output.glb", *shlex.split(how), "-o", "output_down.ply"]
    assert (script(by).main(given) if by.startswith("tools") else cli.main(["downsample", *given])) == 0
    assert 50 < len(read_points(Path("output_down.ply")).positions) <= 2562 / 2


def script(name: str) -> object:
    """A script of the repository as a module."""
    spec = importlib.util.spec_from_file_location(Path(name).stem, ROOT / name)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_scripts_are_the_entries() -> None:
    assert script("run_inference_weighted.py").public_main is cli.public_main
    assert script("scripts/run_da3.py").main is depth_flags.main
