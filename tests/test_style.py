"""The mechanical part of how the code looks: linter, types, layers, import time."""

import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize(
    "command",
    [
        [sys.executable, "-m", "ruff", "check", "."],
        [sys.executable, "-m", "ruff", "format", "--check", "."],
        [sys.executable, "-m", "mypy"],
        [str(Path(sys.executable).with_name("lint-imports"))],
    ],
    ids=["ruff", "format", "mypy", "layers"],
)
def test_tools_find_nothing(command: list[str]) -> None:
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_importing_the_package_is_light() -> None:
    """At most 0.3 s, and nothing heavy: torch alone takes longer."""
    code = "import sys, mvsam3d; assert 'torch' not in sys.modules and 'numpy' not in sys.modules"
    best = 9.0
    for _ in range(3):
        start = time.perf_counter()
        subprocess.run([sys.executable, "-c", code], check=True)
        best = min(best, time.perf_counter() - start)
    assert best < 0.3 + 0.3  # the interpreter's own start is in it


def test_no_unpickling_and_no_import_named_by_a_file() -> None:
    """Untrusted files are read as data only."""
    for path in (ROOT / "src").rglob("*.py"):
        text = path.read_text()
        assert "allow_pickle=True" not in text, path
        assert "weights_only=False" not in text, path
        for line in text.splitlines():
            assert "torch.load(" not in line or "weights_only=True" in line, f"{path}: {line}"
