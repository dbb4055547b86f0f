"""The command line: what it prints, and how it fails."""

import logging
from pathlib import Path

import pytest

from mvsam3d.cli import _standing_line, main, public_main
from mvsam3d.evaluation.runner import Standing
from tests.evaluation.truths import write_truths

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
        (["evaluate", "nowhere", "--out", "out"], "nowhere"),
        (["evaluate", str(SCENE), "--out", "out", "--systems", "theirs"], "theirs"),
        (["evaluate", str(SCENE), "--out", "out", "--views", "one"], "--views one"),
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
    told = captured.err.strip().splitlines()  # the pose that is not searched does not meet the mask
    assert [line.split(" by ")[0] for line in told[:-1]] == 2 * ["warning: view 0: the mesh meets its mask"]
    assert told[-1] == "warning: no weights are drawn: there is one view"
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


def test_evaluate_prints_tables_and_names_what_failed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    truths = write_truths(tmp_path / "truths", "a", "b")
    answers = write_truths(tmp_path / "answers", "a")
    flags = ["--systems", f"made=folder:{answers}", f"true=folder:{truths}", "--views", "1", "--protocol", "P7"]
    command = ["evaluate", str(truths), "--out", str(tmp_path / "out"), *flags]
    assert main(command) == 1
    captured = capsys.readouterr()
    assert "## Failures: 1 of 4 answers failed" in captured.out
    assert "true is better than made" not in captured.out  # on the one object that both have they are alike
    (row,) = (line.split("|")[2:4] for line in captured.out.splitlines() if line.startswith("| made"))
    assert [cell.strip() for cell in row] == ["1", "1"]
    assert str(tmp_path / "out" / "report.html") in captured.out
    lines = captured.err.strip().splitlines()
    assert lines[0].startswith("0 of 6: beginning")
    assert "6 of 6, 1 failed, 0 s left" in lines[-2]
    assert lines[-1].startswith("mvsam3d: 1 of 4 answers failed, the first: b, made, 1: ")

    write_truths(tmp_path / "answers", "a", "b")
    assert main(command) == 0
    assert capsys.readouterr().err.splitlines()[0].startswith("5 of 6: ")

    assert main([*command, "--seed", "1"]) == 1
    assert "seed was 0 and is 1" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0 s"), (89.0, "89 s"), (90.0, "2 min"), (5000.0, "83 min"), (5400.0, "1.5 h")]
)
def test_time_left(seconds: float, text: str) -> None:
    standing = Standing(1, 9, 2, "a chair", seconds)
    assert _standing_line(standing) == f"1 of 9, 2 failed, {text} left: a chair"
    assert _standing_line(Standing(0, 9, 0, "beginning", None)) == "0 of 9: beginning"
