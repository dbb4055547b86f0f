"""Whole runs on boxes: what is done stays done, what fails is named, whoever does the work."""

import json
import os
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mvsam3d.errors import BadFile, InvalidOption, MissingExtra, ObjectsFailed
from mvsam3d.evaluation import work
from mvsam3d.evaluation.protocols import P4, PROTOCOLS
from mvsam3d.evaluation.records import Item, ResultFolder
from mvsam3d.evaluation.runner import Evaluation, Standing, evaluate, sources_of, view_counts
from mvsam3d.evaluation.systems import parse_systems
from mvsam3d.evaluation.work import Outcome, Piece
from mvsam3d.io.glb import write_glb
from mvsam3d.io.photos import load_photos
from tests.evaluation.truths import block, write_truths

NAMES = ("a", "b", "c")


@pytest.fixture(autouse=True)
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    """A protocol of a moment: boxes in their own frame, shapes alone."""
    protocol = replace(P4, name="tiny", size=48, samples=400, rule="none", metrics=("iou_32", "chamfer_l1"), note="")
    monkeypatch.setitem(PROTOCOLS, "tiny", protocol)


@pytest.fixture
def truths(tmp_path: Path) -> Path:
    return write_truths(tmp_path / "truths", *NAMES)


@pytest.fixture
def answers(tmp_path: Path) -> Path:
    """The truth for a, a box too flat for b and for c one with 4 views."""
    folder = write_truths(tmp_path / "answers", "a")
    write_glb(folder / "b.glb", block((1.0, 0.6, 0.2)))
    write_glb(folder / "c.v4.glb", block((1.0, 0.6, 0.2)))
    return folder


def job(truths: Path, out: Path, *systems: str, **more: object) -> Evaluation:
    return Evaluation(truths, out, parse_systems(systems), protocol="tiny", **more)  # type: ignore[arg-type]


def test_a_whole_run(truths: Path, answers: Path, tmp_path: Path) -> None:
    told: list[Standing] = []
    result = evaluate(job(truths, tmp_path / "out", f"made=folder:{answers}", f"other=folder:{truths}"), told.append)
    summary = result.summary
    cells = {(s, v): cell for (s, v, m), cell in summary.cells.items() if m == "iou_32"}
    assert cells["other", 1].value.mean == 1
    assert (cells["made", 1].objects, cells["made", 4].objects) == (2, 3)
    # closed form, up to cells: heights 0.3, 0.4 and 0.5 answered with 0.3, 0.2 and 0.2
    assert cells["made", 4].value.mean == pytest.approx((1 + 0.2 / 0.4 + 0.2 / 0.5) / 3, abs=0.08)
    (failure,) = summary.failures
    assert failure.item == Item("c", "made", 1)
    assert "no result for c with 1 views" in (failure.failure or "")
    with pytest.raises(ObjectsFailed, match=r"1 of 12 answers failed, the first: c, made, 1: .*summary\.md"):
        result.check()
    assert (told[0].done, told[-1].done, told[-1].of, told[-1].failed) == (0, 15, 15, 1)
    assert told[-1].seconds_left == 0
    assert [file.name for file in result.files] == [
        "summary.md",
        "report.html",
        "summary.csv",
        "pairs.csv",
        "objects.csv",
        "curves.svg",
    ]
    text = result.files[0].read_text()
    assert "other is better than made" in text
    assert "no result for c" in text
    found = {path.name for path in (tmp_path / "out" / "objects" / "b").iterdir()}
    assert found >= {"truth.v0.json", "truth.jpg", "inputs.v4.jpg", "made.v1.json", "made.v1.jpg"}


def test_done_is_done_and_failed_is_tried_again(truths: Path, answers: Path, tmp_path: Path) -> None:
    what = job(truths, tmp_path / "out", f"made=folder:{answers}")
    assert len(evaluate(what).summary.failures) == 1
    folder = ResultFolder(what.out)
    kept = folder.path(Item("a", "made", 1), ".json")
    kept.write_text(kept.read_text().replace('"seconds": null', '"seconds": 123.0'))
    broken = folder.path(Item("b", "made", 4), ".json")
    broken.write_text("{")
    write_glb(answers / "c.v1.glb", block())
    done: list[str] = []
    result = evaluate(what, lambda now: done.append(now.doing))
    assert sorted(done[1:]) == ["b, made, 4 views", "c, made, 1 views"]
    assert result.summary.failures == ()
    result.check()
    assert folder.read(Item("a", "made", 1)).seconds == 123  # type: ignore[union-attr]
    assert folder.read(Item("b", "made", 4)) is not None


def test_other_options_are_refused_by_name(truths: Path, answers: Path, tmp_path: Path) -> None:
    what = job(truths, tmp_path / "out", f"made=folder:{answers}", objects=1, views=(1,))
    evaluate(what)
    for other, words in (
        (replace(what, seed=3), "seed was 0 and is 3"),
        (replace(what, views=(1, 2)), r"views was \[1\] and is \[1, 2\]"),
        (replace(what, systems=parse_systems([f"made=folder@z:{answers}"])), 'systems.made.up was "y" and is "z"'),
        (replace(what, objects=2), r"objects\.c was null"),
        (replace(what, up="z"), 'up was "y" and is "z"'),
        (replace(what, protocol="P4"), 'protocol was "tiny" and is "P4"'),
    ):
        with pytest.raises(InvalidOption, match=words):
            evaluate(other)
    write_glb(truths / "a.glb", block((1.0, 1.0, 1.0)))  # the true object is another one now
    with pytest.raises(InvalidOption, match=r"objects\.a was"):
        evaluate(what)
    evaluate(replace(what, out=tmp_path / "new", jobs=1))


def test_objects_that_cannot_be_read_are_named(truths: Path, tmp_path: Path) -> None:
    (truths / "broken.glb").write_bytes(b"glTF")
    (truths / "empty.ply").write_text("ply\nformat ascii 1.0\nelement vertex 0\nproperty float x\nend_header\n")
    result = evaluate(job(truths, tmp_path / "out", f"made=folder:{truths}", views=(1,)))
    assert [name for name, _ in result.summary.unread] == ["broken", "empty"]
    assert result.summary.failures == ()
    assert result.summary.asked == 3
    with pytest.raises(ObjectsFailed, match="2 objects cannot be used, the first: broken: "):
        result.check()


def test_a_bug_in_a_system_fails_its_answer_only(truths: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def run(system: object, subject: object, *rest: object, **more: object) -> object:
        raise ZeroDivisionError("of all things")

    monkeypatch.setattr(work, "run_system", run)
    result = evaluate(job(truths, tmp_path / "out", f"made=folder:{truths}", views=(1,)))
    assert {r.failure for r in result.summary.failures} == {"ZeroDivisionError: of all things"}
    assert set(result.summary.floor) == {"iou_32", "chamfer_l1"}


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"views": (0,)}, "--views 0"),
        ({"views": (1, 1)}, "--views 1,1"),
        ({"views": (65,)}, "--views 65"),
        ({"objects": 0}, "--objects 0"),
        ({"jobs": 0}, "--jobs 0"),
        ({"seed": -1}, "--seed -1"),
        ({"split": "val"}, "no index.json"),
        ({"protocol": "P9"}, "--protocol P9 is none of"),
        ({"folder": Path("no/where")}, "no/where"),
    ],
)
def test_options_are_checked_before_anything_is_made(
    more: dict[str, object], words: str, truths: Path, tmp_path: Path
) -> None:
    with pytest.raises((InvalidOption, BadFile), match=words):
        evaluate(replace(job(truths, tmp_path / "out", f"folder:{truths}"), **more))  # type: ignore[arg-type]
    assert not (tmp_path / "out").exists()


def test_truths_and_answers_stand_upright(truths: Path, tmp_path: Path) -> None:
    """Files that have +Z up on both sides lie on each other as those with +Y up do, and not on those."""
    scores = []
    for i, (up, mark) in enumerate((("y", ""), ("z", "@z"), ("z", ""))):
        what = job(truths, tmp_path / str(i), f"made=folder{mark}:{truths}", up=up, views=(1,), objects=1)
        scores.append(evaluate(what).summary.cells["made", 1, "iou_32"].value.mean)
    assert scores[:2] == [1, 1]
    assert scores[2] < 0.7


def test_view_counts() -> None:
    assert view_counts("1, 4,16") == (1, 4, 16)
    for text in ("", "1,", "one", "1.5", "-1"):
        with pytest.raises(InvalidOption, match="--views"):
            view_counts(text)


def test_a_name_is_no_other_objects_name(truths: Path, tmp_path: Path) -> None:
    rows = [
        {"set": "x", "id": "1", "file": "a.glb", "split": "val"},
        {"set": "x", "id": "1", "file": "b.glb", "split": "val"},
    ]
    (truths / "index.json").write_text(json.dumps(rows))
    with pytest.raises(BadFile, match="'x-1'"):
        sources_of(job(truths, tmp_path, f"folder:{truths}"))


PROGRAM = """
import os, shutil, signal, sys, time
from pathlib import Path
truths, out, how = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
with open(sys.argv[4], "a") as log: log.write("x")
if how == "die": os.kill(os.getppid(), signal.SIGKILL)
if how == "slow": time.sleep(3)
shutil.copy(truths / "a.glb", out / "result.glb")
"""


def external(folder: Path, truths: Path, how: str) -> str:
    (folder / "program.py").write_text(PROGRAM)
    return f"made=external:{sys.executable} {folder}/program.py {truths} {{out}} {how} {folder}/runs {{photos}}"


def test_processes_give_what_one_gives(truths: Path, answers: Path, tmp_path: Path) -> None:
    """Twin: the records are the same, but for the time."""
    found = []
    for jobs in (1, 2):
        what = replace(
            job(truths, tmp_path / f"out{jobs}", f"made=folder:{answers}", views=(4,), jobs=jobs), protocol="P4"
        )
        result = evaluate(what)
        assert result.summary.failures == ()
        read = ResultFolder(what.out).read
        found.append([read(Item(name, system, v)) for name in NAMES for system, v in (("made", 4), ("truth", 0))])
    assert found[0] == found[1]
    assert None not in found[0]


def test_a_process_that_is_killed_fails_its_piece_only(truths: Path, answers: Path, tmp_path: Path) -> None:
    systems = parse_systems([external(tmp_path, truths, "die"), f"safe=folder:{answers}"])
    what = Evaluation(truths, tmp_path / "out", systems, views=(4,), protocol="P4", jobs=2, objects=2)
    result = evaluate(what)
    assert {r.item.system for r in result.summary.failures} == {"made"}
    assert all("ended with signal 9" in (r.failure or "") for r in result.summary.failures)
    assert result.summary.cells["safe", 4, "chamfer_l1"].objects == 2


def test_a_killed_run_goes_on(truths: Path, tmp_path: Path) -> None:
    """A run that is killed at any time leaves whole records, and the next run does the rest."""
    out = tmp_path / "out"
    command = [sys.executable, "-m", "mvsam3d.cli", "evaluate", str(truths), "--views", "1,4", "--protocol", "P4"]
    command += ["--out", str(out), "--systems", external(tmp_path, truths, "slow")]
    running = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    try:
        end = time.monotonic() + 150
        while len(list(out.rglob("made.*.json"))) < 2 and time.monotonic() < end:
            assert running.poll() is None
            time.sleep(0.05)
    finally:
        os.killpg(running.pid, signal.SIGKILL)
        running.wait()
    done = {path: path.read_bytes() for path in out.rglob("*.json")}
    assert len([path for path in done if path.name.startswith("made")]) >= 2
    assert not (out / "summary.md").exists()
    started = len((tmp_path / "runs").read_text())
    finished = subprocess.run(command, capture_output=True, text=True)
    assert finished.returncode == 0, finished.stderr
    assert all(path.read_bytes() == content for path, content in done.items())
    assert len(list(out.rglob("made.*.json"))) == 6
    assert not list(out.rglob("*.json.*.partial"))
    assert len((tmp_path / "runs").read_text()) <= started + 6 - 2
    assert "6 of 6" not in finished.stdout  # nothing failed, nothing is pending


def test_photos_of_real_objects(tmp_path: Path) -> None:
    """A scene of photos: its suggested photos go in, those that no number of views uses test, and what it lacks is named."""
    scene = written_scene(tmp_path / "scenes" / "box")
    written_scene(tmp_path / "scenes" / "bare", mesh=False)
    (tmp_path / "made").mkdir()
    what = job(tmp_path / "scenes", tmp_path / "out", f"made=folder:{tmp_path}/made", views=(1, 2, 3))
    write_glb(tmp_path / "made" / "box.glb", block())
    assert [source.name for source in sources_of(what)] == ["bare", "box"]
    result = evaluate(what)
    assert [name for name, _ in result.summary.unread] == ["bare"]
    (failure,) = result.summary.failures
    assert (failure.item.views, "only 1, 2" in (failure.failure or "")) == (3, True)
    assert result.summary.cells["made", 2, "iou_32"].value.mean > 0.95
    assert [source.name for source in sources_of(replace(what, folder=scene))] == ["box"]
    with pytest.raises(InvalidOption, match="no split"):
        sources_of(replace(what, split="val"))


def test_photos_that_go_in_test_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scene = written_scene(tmp_path / "box")
    seen: dict[int, tuple[list[str], list[str]]] = {}

    def judged(
        answer: object, subject: object, inputs: work.Capture, tests: work.Capture, *rest: object, **more: object
    ) -> object:
        seen[len(inputs.photos)] = [p.name for p in inputs.photos], [p.name for p in tests.photos]
        return work.Judgement({"iou_32": 1.0}, {}, None)

    monkeypatch.setattr(work, "judged", judged)
    write_glb(tmp_path / "box.glb", block())
    evaluate(job(scene, tmp_path / "out", f"made=folder:{tmp_path}", views=(1, 2)))
    assert seen == {1: (["0"], ["1", "3"]), 2: (["0", "2"], ["1", "3"])}


def written_scene(folder: Path, *, mesh: bool = True) -> Path:
    """Four photos of the box, of which 0, or 0 and 2 go in."""
    from PIL import Image

    from mvsam3d.evaluation.rigs import Ring, captured
    from mvsam3d.evaluation.subjects import Subject
    from mvsam3d.io.cameras import write_cameras

    capture = captured(Subject("box", block(), None, ""), Ring(views=4), 48)
    (folder / "images").mkdir(parents=True)
    (folder / "masks" / "object").mkdir(parents=True)
    for i, photo in enumerate(capture.photos):
        Image.fromarray(photo.rgb).save(folder / "images" / f"{i}.png")
        Image.fromarray(photo.mask * np.uint8(255)).save(folder / "masks" / "object" / f"{i}.png")
    write_cameras(folder / "cameras.json", {str(i): camera for i, camera in enumerate(capture.cameras)})
    content = json.loads((folder / "cameras.json").read_text())
    content["suggested_inputs"] = {"1": [0], "2": [0, 2]}
    (folder / "cameras.json").write_text(json.dumps(content))
    assert len(load_photos(folder)[0]) == 4
    if mesh:
        from mvsam3d.geometry.frames import object_from_glb

        lying = replace(block(), vertices=object_from_glb(block().vertices))  # such files have +Z up as they are
        write_glb(folder / "mesh.glb", lying)
    return folder


def test_ray_is_asked_for_by_name(truths: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingExtra, match=r'pip install "mvsam3d\[ray\]"'):
        evaluate(job(truths, tmp_path / "out", f"folder:{truths}", ray=True))


@pytest.fixture
def ray(monkeypatch: pytest.MonkeyPatch) -> Iterator[object]:
    """A cluster on this machine, whose workers are not put behind all other processes."""
    module = pytest.importorskip("ray", reason="needs the PyPI package ray")
    monkeypatch.setenv("RAY_worker_niceness", "0")
    module.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    yield module
    module.shutdown()


def test_ray_gives_what_one_process_gives(ray: object, truths: Path, answers: Path, tmp_path: Path) -> None:
    """Twin, and resumable: a second run in the same folder without Ray has nothing left to do."""
    what = Evaluation(truths, tmp_path / "ray", parse_systems([f"made=folder:{answers}"]), (4,), "P4", ray=True)
    result = evaluate(what)
    assert result.summary.failures == ()
    alone = replace(what, out=tmp_path / "one", ray=False)
    evaluate(alone)
    for name in NAMES:
        for system, views in (("made", 4), ("truth", 0)):
            item = Item(name, system, views)
            assert ResultFolder(what.out).read(item) == ResultFolder(alone.out).read(item) is not None
    done: list[str] = []
    evaluate(replace(what, ray=False), lambda now: done.append(now.doing))
    assert done == ["beginning"]


def test_a_lost_ray_worker_fails_its_piece_only(ray: object, truths: Path, answers: Path, tmp_path: Path) -> None:
    systems = parse_systems([external(tmp_path, truths, "die"), f"safe=folder:{answers}"])
    what = Evaluation(truths, tmp_path / "out", systems, (4,), "P4", ray=True, objects=1)
    (failure,) = evaluate(what).summary.failures
    assert (failure.item.system, "is lost" in (failure.failure or "")) == ("made", True)


def test_pieces_that_are_left_are_shared_out() -> None:
    """Workers keep to an object, and help each other out at the end."""

    def piece(name: str, views: int) -> Piece:
        return Piece(work.Scene(name, Path()), None, views, (1,), "tiny", 0)

    waiting = work._by_object([piece("a", 0), piece("b", 0), piece("a", 1), piece("a", 2)])
    own: list[deque[Piece]] = [deque(), deque()]
    given = [work._next(own[worker], waiting, own) for worker in (0, 1, 1, 0, 1)]
    assert [None if found is None else f"{found.source.name}{found.views}" for found in given] == [
        "a0",
        "b0",
        "a1",
        "a2",
        None,
    ]


def test_an_outcome_can_be_sent() -> None:
    import pickle

    found = Outcome(work.failed(Item("a", "b", 1), "x" * 10_000), {".jpg": b"1"}, 2.0)
    assert pickle.loads(pickle.dumps(found)) == found
    assert len(found.record.failure or "") == 2000
