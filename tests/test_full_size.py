"""The benchmark of the public size, at a tiny one: what it counts is what is computed, and what it writes is what it measured."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

from mvsam3d.generation.footprint import SURFACE
from mvsam3d.io.glb import read_glb
from mvsam3d.io.ply import read_ply
from mvsam3d.models.checkpoints import product_keys
from mvsam3d.models.slat_flow import SlatFlow
from mvsam3d.models.structure_flow import StructureFlow
from tests.generation.test_cost import counted

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "full_size.py"


@pytest.fixture(scope="module")
def benchmark_module() -> ModuleType:
    spec = importlib.util.spec_from_file_location("full_size", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["full_size"] = module  # where its dataclasses look for their names
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("views", [1, 3])
@pytest.mark.parametrize("kept", [False, True])
def test_the_operations_of_an_evaluation_are_those_counted(
    benchmark_module: ModuleType, views: int, kept: bool
) -> None:
    full_size, sizes = benchmark_module, benchmark_module.TINY
    place = full_size.Place(torch.device("cpu"), torch.float32)
    network = full_size.random_network(lambda: StructureFlow(sizes.structure), "structure_flow", place)
    call = full_size.structure_evaluation(network, sizes, views, place, kept=kept)
    assert counted(call) == full_size.one_evaluation(full_size.structure_cost(sizes), views, kept)
    network = full_size.random_network(lambda: SlatFlow(sizes.slat), "slat_flow", place)
    voxels = full_size.shell(sizes.voxels, sizes.slat.resolution)
    call = full_size.slat_evaluation(network, sizes, voxels, views, place, kept=kept)
    assert counted(call) == full_size.one_evaluation(full_size.slat_cost(sizes, voxels), views, kept)


def test_weights_are_drawn_in_the_precision_of_a_reconstruction(benchmark_module: ModuleType) -> None:
    place = benchmark_module.Place(torch.device("cpu"), torch.bfloat16)
    network = benchmark_module.random_network(
        lambda: StructureFlow(benchmark_module.TINY.structure), "structure_flow", place
    )
    half = set(product_keys("structure_flow", network))
    kinds = {key: value.dtype for key, value in network.state_dict().items()}
    assert {key for key, kind in kinds.items() if kind == torch.bfloat16} == half
    assert half < set(kinds)
    assert all(bool(value.isfinite().all()) and bool(value.any()) for value in network.state_dict().values())


@pytest.mark.parametrize("kind", ["evaluations", "runs"])
def test_the_command_writes_what_it_measured(kind: str, tmp_path: Path) -> None:
    out = tmp_path / "table.json"
    command = [
        sys.executable,
        str(SCRIPT),
        "--tiny",
        "--dtype",
        "bf16",
        "--views",
        "2",
        "--rounds",
        "1",
        "--out",
        str(out),
    ]
    subprocess.run(command + ["--runs", "--steps", "3"] * (kind == "runs"), check=True, capture_output=True)
    rows = json.loads(out.read_text())[kind]
    if kind == "runs":
        assert [row["stage"] for row in rows] == ["structure", "slat"]
        assert all(row["ratio"] == row["public_seconds"] / row["ours_seconds"] for row in rows)
        assert all(row["operations"] > 1 for row in rows)
    else:
        assert [(row["stage"], row["kept"]) for row in rows] == [
            ("structure", False), ("structure", True), ("slat", False), ("slat", True)
        ]  # fmt: skip
        assert all(row["share"] == row["gflops"] / row["peak_gflops"] for row in rows)
        assert rows[0]["tflop"] > rows[1]["tflop"]


def test_a_whole_run_is_weighed_network_by_network(tmp_path: Path) -> None:
    """Tiny, photos to files: what is foretold is what the doctor would, of the voxels that there were; each network was seen at work."""
    out = tmp_path / "table.json"
    command = [
        sys.executable,
        "-m",
        "benchmarks.full_run",
        str(tmp_path / "made"),
        "--tiny",
        "--views",
        "2",
        "--dtype",
        "fp32",
    ]
    subprocess.run(
        [*command, "--steps", "2", "1", "--out", str(out)], check=True, capture_output=True, cwd=SCRIPT.parents[1]
    )
    found = json.loads(out.read_text())
    assert len(read_glb(tmp_path / "made" / "result" / "result.glb").faces) == found["mesh"]["faces"] > 1000
    assert len(read_ply(tmp_path / "made" / "result" / "result.ply").means) == found["gaussians"]
    voxels = found["voxels"]["count"]
    assert 0.8 < voxels / (15_000 / 16) < 1.2  # a grid of 16 has a 16th of the surface of one of 64
    assert found["gaussians"] == 4 * voxels
    stages = {row["network"]: row for row in found["stages"]}
    assert stages["surface"]["activations"] == SURFACE * voxels
    # tokens, keys and values of two blocks; of a view 4 photos and masks of 5 tokens, and 2 point maps of 4
    assert stages["structure_flow"]["kept"] == 2 * 28 * 4 * (32 + 2 * 2 * 32)
    assert stages["slat_flow"]["kept"] < stages["structure_flow"]["kept"]  # one step keeps none
    assert all(row["seconds"] > 0 and row["ratio"] == row["measured"] / row["foretold"] for row in found["stages"])
