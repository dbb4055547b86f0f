"""The script benchmarks/held_out.py: its options, its output, and how it fails."""

import importlib.util
import json
from pathlib import Path
from types import ModuleType

import pytest

from mvsam3d.evaluation import benchmark
from mvsam3d.evaluation.benchmark import Row, Table
from mvsam3d.evaluation.metrics import Score
from mvsam3d.models.config import SMALL

ROOT = Path(__file__).parents[2]


@pytest.fixture
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("held_out", ROOT / "benchmarks" / "held_out.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_options_reach_the_benchmark_and_the_table_comes_out(
    script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    row = Row("meshes", "model", 1, Score(0.5123, 0.01), Score(0.25, None), 7)
    asked: list[tuple[str, Path, Path | None]] = []

    def evaluate_model(model: str, data: Path, meshes: Path | None) -> Table:
        asked.append((model, data, meshes))
        return Table(model, 32, SMALL.sampling, 0, (row,), ())

    monkeypatch.setattr(script, "evaluate_model", evaluate_model)
    out = tmp_path / "deep" / "table.json"
    assert script.main(["--data", "d", "--model", "m", "--meshes", "x", "--out", str(out)]) == 0
    assert asked == [("m", Path("d"), Path("x"))]
    assert "0.512 ± 0.010" in capsys.readouterr().out
    assert json.loads(out.read_text())["rows"][0]["objects"] == 7

    assert script.main([]) == 0
    assert asked[1] == ("small", Path("cache"), None)


def test_errors_are_one_line_and_status_1(
    script: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert script.evaluate_model is benchmark.evaluate_model
    assert script.main(["--model", str(tmp_path / "nowhere")]) == 1
    error = capsys.readouterr().err.strip()
    assert error.startswith("held_out.py: ")
    assert "\n" not in error
