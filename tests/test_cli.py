"""The command line: what it prints, and how it fails."""

from pathlib import Path

import pytest

from mvsam3d.cli import main

SCENE = Path(__file__).parents[1] / "examples" / "sofa"


def test_reconstruct_prints_where_the_results_are(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "chair"
    assert main(["reconstruct", str(SCENE), "--views", "0,2", "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    for name in ("result.glb", "result.ply", "preview.png"):
        assert f"{out}/{name}" in printed
        assert (out / name).stat().st_size > 0


def test_quiet_prints_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["reconstruct", str(SCENE), "--views", "0", "--out", str(tmp_path / "a"), "--quiet"]) == 0
    captured = capsys.readouterr()
    assert captured.out == captured.err == ""


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["reconstruct", "nowhere"], "nowhere"),
        (["reconstruct", str(SCENE), "--model", "nowhere"], "config.json"),
        (["reconstruct", str(SCENE), "--views", "0,17"], "17"),
        (["view", "nowhere"], "nowhere"),
        (["train", "huge"], "huge"),
    ],
)
def test_errors_are_one_line_and_status_1(
    arguments: list[str],
    words: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 1
    error = capsys.readouterr().err.strip()
    assert error.startswith("mvsam3d: ")
    assert words in error
    assert "Traceback" not in error


def test_help_names_the_commands(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["--help"])
    assert stopped.value.code == 0
    printed = capsys.readouterr().out
    for command in ("reconstruct", "view", "train", "evaluate"):
        assert command in printed
