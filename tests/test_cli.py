"""The command line: what it prints, and how it fails."""

import logging
from pathlib import Path

import pytest

from mvsam3d.cli import main, public_main

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
        (["reconstruct", str(SCENE), "--out", f"{__file__}/out"], "test_cli.py"),
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


def test_warnings_are_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--views", "0", "--out", str(tmp_path / "a"), "--visualize-weights", "--decode-formats", "mesh"]
    assert main(["reconstruct", str(SCENE), *flags, "--search-poses", "False"]) == 0
    captured = capsys.readouterr()
    assert captured.err.strip() == "warning: no weights are drawn: there is one view"
    assert "mvsam3d view" not in captured.out  # which wants a splat too
    assert not logging.getLogger("mvsam3d").handlers


def test_some_objects_failing_is_status_1(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    flags = ["--object", "sofa,mug", "--views", "0", "--search-poses", "False", "--out", str(out)]
    assert main(["reconstruct", str(SCENE), *flags]) == 1
    assert "1 of 2 objects failed" in capsys.readouterr().err
    assert (out / "sofa" / "result.glb").is_file()
    assert not (out / "mug").exists()


def test_help_names_the_public_flags_too(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        public_main(["--help"])
    printed = capsys.readouterr().out
    for flag in ("--mask-prompt", "--image-names", "--model-tag", "--da3-output"):
        assert flag in printed
    assert "--no-no-" not in printed


def test_help_names_the_commands(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["--help"])
    assert stopped.value.code == 0
    printed = capsys.readouterr().out
    for command in ("reconstruct", "depth", "downsample", "view", "train", "evaluate"):
        assert command in printed
