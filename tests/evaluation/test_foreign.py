"""Programs and results of others: nothing they are called or do reaches a shell, another folder or another object."""

import json
import os
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mvsam3d.errors import BadFile, InvalidOption, ObjectsFailed
from mvsam3d.evaluation import foreign
from mvsam3d.evaluation.foreign import answer_in, check_template, found_for, run_program
from mvsam3d.evaluation.subjects import Capture
from mvsam3d.geometry.cameras import centred_intrinsics
from mvsam3d.geometry.frames import OBJECT_FROM_GLB
from mvsam3d.io.cameras import load_cameras
from mvsam3d.io.glb import write_glb
from mvsam3d.io.photos import load_photos
from mvsam3d.types import Camera, Photo
from tests.evaluation.truths import block

PYTHON = sys.executable


def capture(count: int = 3) -> Capture:
    mask = np.zeros((20, 30), bool)
    mask[5:15, 8:22] = True
    photos, cameras = [], []
    for i in range(count):
        rgb = np.full((20, 30, 3), 40 + 60 * i, np.uint8)
        photos.append(Photo(f"view; {i}", rgb, mask))
        pose = np.eye(4)
        pose[2, 3] = 2.0 + i
        cameras.append(Camera(centred_intrinsics(30, 20), pose, 30, 20))
    return Capture(tuple(photos), tuple(cameras))


def program(folder: Path, text: str) -> str:
    """A template that runs a Python script."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "script.py").write_text(text)
    return f"'{PYTHON}' '{folder}/script.py' {{photos}} {{masks}} {{cameras}} {{out}}"


SAYS_WHAT_IT_GOT = """
import json, sys
json.dump(sys.argv[1:], open(sys.argv[4] + "/got.json", "w"))
"""


def test_a_program_gets_photos_masks_and_cameras(tmp_path: Path) -> None:
    work = tmp_path / "a b; $(touch hacked)"
    work.mkdir()
    seconds = run_program(program(tmp_path / "x y", SAYS_WHAT_IT_GOT), capture(), work, limit=60.0)
    assert seconds > 0
    photos, masks, cameras, out = json.loads((work / "out" / "got.json").read_text())
    assert out == str(work / "out")
    read, _ = load_photos(Path(photos))  # our own reader takes the folder as it is
    assert [photo.name for photo in read] == ["0", "1", "2"]
    np.testing.assert_array_equal(read[2].rgb, capture().photos[2].rgb)
    np.testing.assert_array_equal(read[2].mask, capture().photos[2].mask)
    assert np.asarray(Image.open(Path(masks) / "1.png")).max() == 255
    found = load_cameras(Path(cameras), ["0", "1", "2"])
    np.testing.assert_allclose(found[2].camera_from_world, capture().cameras[2].camera_from_world)
    assert not list(tmp_path.rglob("hacked"))


def test_words_are_no_shell_s(tmp_path: Path) -> None:
    work = tmp_path / "work"
    work.mkdir()
    script = 'import sys; open(sys.argv[2] + "/a", "w").write(repr(sys.argv[3:]))'
    template = f"{PYTHON} -c '{script}' {{photos}} {{out}} ; touch $HOME | `x` > f"
    run_program(template, capture(1), work, limit=60.0)
    assert eval((work / "out" / "a").read_text()) == [";", "touch", "$HOME", "|", "`x`", ">", "f"]


def test_relative_paths_are_the_caller_s(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "run").write_text(
        f"#!{PYTHON}\nimport sys; open(sys.argv[1] + '/a', 'w').write(open('notes').read())\n"
    )
    (tmp_path / "notes").write_text("here")
    (tmp_path / "run").chmod(0o755)
    monkeypatch.chdir(tmp_path)
    check_template("./run {out} {photos}")
    (tmp_path / "work").mkdir()
    run_program("./run {out} {photos}", capture(1), Path("work"), limit=60.0)
    assert (tmp_path / "work" / "out" / "a").read_text() == "here"
    (tmp_path / "run").unlink()
    (tmp_path / "again").mkdir()
    with pytest.raises(ObjectsFailed, match=r"\./run cannot be run: No such file"):
        run_program("./run {out} {photos}", capture(1), Path("again"), limit=60.0)


def test_a_program_that_fails_says_why(tmp_path: Path) -> None:
    text = "import sys; print('x' * 5000, flush=True); print('no GPU\\nhere', file=sys.stderr); sys.exit(3)"
    (tmp_path / "work").mkdir()
    with pytest.raises(ObjectsFailed, match=r"status 3; it said: x+ no GPU here$") as problem:
        run_program(program(tmp_path, text), capture(1), tmp_path / "work", limit=60.0)
    assert len(str(problem.value)) < 1000


def test_time_ends_a_program_and_all_that_it_started(tmp_path: Path) -> None:
    text = f"""
import subprocess, sys, time
child = subprocess.Popen([{PYTHON!r}, "-c", "import time; time.sleep(600)"])
open({str(tmp_path / "child")!r}, "w").write(str(child.pid))
time.sleep(600)
"""
    (tmp_path / "work").mkdir()
    start = time.monotonic()
    with pytest.raises(ObjectsFailed, match=r"still running after 3 s"):
        run_program(program(tmp_path, text), capture(1), tmp_path / "work", limit=3.0)
    assert time.monotonic() - start < 60
    child = int((tmp_path / "child").read_text())
    for _ in range(50):
        if not alive(child):
            return
        time.sleep(0.1)
    pytest.fail("what the program had started is still running")


def alive(process: int) -> bool:
    """A process that is not just waiting to be buried."""
    try:
        os.kill(process, 0)
        return Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except (ProcessLookupError, FileNotFoundError):
        return False


def test_a_deaf_program_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(foreign, "PATIENCE", 0.5)
    text = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)"
    (tmp_path / "work").mkdir()
    with pytest.raises(ObjectsFailed, match="still running"):
        run_program(program(tmp_path, text), capture(1), tmp_path / "work", limit=3.0)


@pytest.mark.parametrize(
    ("template", "words"),
    [
        ("true {out}", r"\{photos\} is missing"),
        ("true {photos}", r"\{out\} is missing"),
        ("true {photos} {out} {home}", r"\{home\} is unknown"),
        ("true {photos} {out} {}", r"\{\} is unknown"),
        ("true '{photos} {out}", "quotation"),
        ("no-such-program {photos} {out}", "no program 'no-such-program'"),
    ],
)
def test_templates_that_cannot_run_are_refused_at_once(template: str, words: str) -> None:
    with pytest.raises(InvalidOption, match=words):
        check_template(template)
    check_template("true {photos} {masks} {cameras} {out}")


LAYOUTS = ("chair/v4/result.glb", "chair/v4/any.glb", "chair.v4.glb", "chair.glb", "chair/mesh.glb")


@pytest.mark.parametrize("layout", LAYOUTS)
def test_results_are_found(layout: str, tmp_path: Path) -> None:
    (tmp_path / layout).parent.mkdir(parents=True, exist_ok=True)
    write_glb(tmp_path / layout, block())
    answer, notes = answer_in(found_for(tmp_path, "chair", 4), frame="own", up="y")
    assert answer.mesh is not None
    assert answer.truth_from_answer is None
    assert notes == ()
    np.testing.assert_allclose(np.ptp(answer.mesh.vertices, axis=0), (1, 0.6, 0.3), atol=1e-6)
    with pytest.raises(ObjectsFailed, match=r"no result for table with 4 views: none of table/v4, table\.v4\.glb"):
        found_for(tmp_path, "table", 4)


def test_results_of_a_number_of_views_come_first(tmp_path: Path) -> None:
    for name in LAYOUTS[1:]:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        write_glb(tmp_path / name, block())
    assert found_for(tmp_path, "chair", 4) == tmp_path / "chair" / "v4"
    assert found_for(tmp_path, "chair", 1) == tmp_path / "chair.glb"


@pytest.mark.parametrize("name", ["../secret", "..", "/etc"])
def test_an_object_s_name_leads_to_no_other_folder(name: str, tmp_path: Path) -> None:
    write_glb(tmp_path / "secret.glb", block())
    (tmp_path / "results").mkdir()
    with pytest.raises(ObjectsFailed, match="no result"):
        found_for(tmp_path / "results", name, 1)


def test_which_mesh_is_meant(tmp_path: Path) -> None:
    with pytest.raises(ObjectsFailed, match=r"no mesh was made: .* among no files"):
        answer_in(tmp_path, frame="own", up="y")
    (tmp_path / "log.txt").write_text("")
    with pytest.raises(ObjectsFailed, match=r"among log\.txt"):
        answer_in(tmp_path, frame="own", up="y")
    write_glb(tmp_path / "b.glb", block())
    write_glb(tmp_path / "c.glb", block())
    with pytest.raises(ObjectsFailed, match=r"2 meshes were made \(b\.glb, c\.glb\)"):
        answer_in(tmp_path, frame="own", up="y")
    write_glb(tmp_path / "result.glb", block((0.2, 0.2, 0.2)))
    answer, _ = answer_in(tmp_path, frame="own", up="y")
    assert answer.mesh is not None
    assert float(np.ptp(answer.mesh.vertices)) == pytest.approx(0.2)
    (tmp_path / "result.glb").write_bytes(b"glTF and no more")
    with pytest.raises(BadFile, match=r"result\.glb"):
        answer_in(tmp_path, frame="own", up="y")


def similarity() -> np.ndarray:
    matrix = np.eye(4)
    matrix[:3, :3] = 2 * np.array([[0, -1, 0], [1, 0, 0], [0, 0, 1]])
    matrix[:3, 3] = (1, 2, 3)
    return matrix


@pytest.mark.parametrize("up", ["y", "z"])
def test_the_way_to_the_world_is_of_the_file_s_own_axes(up: str, tmp_path: Path) -> None:
    write_glb(tmp_path / "result.glb", block())
    (tmp_path / "world_from_result.json").write_text(json.dumps(similarity().tolist()))
    answer, _ = answer_in(tmp_path, frame="own", up=up)  # type: ignore[arg-type]
    assert answer.mesh is not None
    assert answer.truth_from_answer is not None
    stored = block().vertices @ np.linalg.inv(OBJECT_FROM_GLB[:3, :3]).T  # as the file has them
    expected = stored @ similarity()[:3, :3].T + similarity()[:3, 3]
    found = answer.mesh.vertices @ answer.truth_from_answer[:3, :3].T + answer.truth_from_answer[:3, 3]
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_our_own_report_tells_the_way(tmp_path: Path) -> None:
    write_glb(tmp_path / "result.glb", block())
    (tmp_path / "report.json").write_text(json.dumps({"world": {"world_from_object": similarity().tolist()}}))
    answer, _ = answer_in(tmp_path, frame="own", up="y")
    np.testing.assert_allclose(answer.truth_from_answer, similarity())  # type: ignore[arg-type]
    (tmp_path / "report.json").write_text(json.dumps({"world": None}))
    assert answer_in(tmp_path, frame="own", up="y")[0].truth_from_answer is None
    np.testing.assert_array_equal(answer_in(tmp_path, frame="truth", up="z")[0].truth_from_answer, np.eye(4))  # type: ignore[arg-type]


NO_WAYS = ("", "{", "null", "[[1]]", '[["a", 1, 1, 1]]', "[" * 100_000)
NO_SIMILARITIES = (np.diag([1, 2, 1, 1]), np.diag([-1, 1, 1, 1]), np.zeros((4, 4)), np.eye(4) * np.nan)


@pytest.mark.parametrize("content", [*NO_WAYS, *(json.dumps(matrix.tolist()) for matrix in NO_SIMILARITIES)])
def test_a_way_that_is_none_is_an_error(content: str, tmp_path: Path) -> None:
    write_glb(tmp_path / "result.glb", block())
    (tmp_path / "world_from_result.json").write_text(content)
    with pytest.raises(BadFile, match="world_from_result"):
        answer_in(tmp_path, frame="own", up="y")
