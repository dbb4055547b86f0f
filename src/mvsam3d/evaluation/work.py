"""One piece of an evaluation: what a system makes of one object from some photos, judged; and who does the pieces.

Pieces are done in this process, by processes beside it, or by a Ray cluster. Each is a value that can be sent, and so is its Outcome:
whoever does the work, only the caller writes.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import sys
import tempfile
import time
import zlib
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, assert_never

import numpy as np

from mvsam3d.errors import BadScene, InvalidOption, MissingExtra, MvSam3dError
from mvsam3d.evaluation.perceptual import Lpips, load_lpips
from mvsam3d.evaluation.protocols import PROTOCOLS, Judgement, Protocol, floor, input_rig, judged
from mvsam3d.evaluation.readings import deciding
from mvsam3d.evaluation.records import LONGEST_REASON, Item, Record
from mvsam3d.evaluation.rigs import captured
from mvsam3d.evaluation.subjects import Answer, Capture, Subject, SubjectFile, read_real_subject, read_subject
from mvsam3d.evaluation.systems import Named, Oracle, run_system
from mvsam3d.evaluation.tiles import answer_strip, photo_strip, truth_strip

log = logging.getLogger(__name__)

TRUTH = "truth"  # the system that answers with the true object itself


@dataclass(frozen=True)
class Scene:
    """A folder of photos of a real object, with true cameras and a true mesh."""

    name: str
    folder: Path


Source = SubjectFile | Scene


@dataclass(frozen=True)
class Piece:
    """What is to be done. `system` None: judge the truth against itself."""

    source: Source
    system: Named | None
    views: int
    all_views: tuple[int, ...]  # of the whole evaluation: photos of a scene that any of them uses test none
    protocol: str
    seed: int
    cache: Path | None = None
    lpips: Path | None = None

    @property
    def item(self) -> Item:
        """Its name in the results."""
        return Item(self.source.name, TRUTH if self.system is None else self.system.label, self.views)


@dataclass(frozen=True)
class Outcome:
    """A record and pictures by file name ending."""

    record: Record
    pictures: dict[str, bytes] = field(default_factory=dict)
    seconds: float = 0.0  # all that it took


def outcome_of(piece: Piece) -> Outcome:
    """Do a piece; what goes wrong is said in the record. Anything but a full disk or Ctrl-C does not stop the others."""
    start = time.perf_counter()
    try:
        found = _done(piece)
    except MvSam3dError as problem:
        found = Outcome(failed(piece.item, str(problem)))
    except Exception as problem:
        log.exception("%s, %s, %d views: %s", *vars(piece.item).values(), problem)
        found = Outcome(failed(piece.item, f"{type(problem).__name__}: {problem}"))
    return replace(found, seconds=time.perf_counter() - start)


def failed(item: Item, reason: str) -> Record:
    """The record of an answer that there is none of."""
    return Record(item, failure=reason[:LONGEST_REASON] or "no reason is known")


def _done(piece: Piece) -> Outcome:
    protocol = PROTOCOLS[piece.protocol]
    try:
        subject = _subject(piece.source)
    except MvSam3dError as problem:
        return Outcome(replace(failed(piece.item, str(problem)), unread=True))
    noise = _noise(piece)
    if piece.system is None:
        return _of_truth(piece, subject, protocol, noise)
    inputs, tests = _photographed(piece, subject, protocol, piece.views)

    def judge(answer: Answer, photos: Capture) -> Judgement:
        return judged(answer, subject, photos, tests, protocol, _noise(piece), lpips=_lpips(piece.lpips))

    with tempfile.TemporaryDirectory(prefix="mvsam3d-") as folder:
        made = run_system(
            piece.system.system,
            subject,
            inputs,
            Path(folder),
            oracle=Oracle(
                judge, deciding(protocol), f"{subject.name}, {subject.source}, {protocol.name}, {piece.seed}"
            ),
            seed=piece.seed,
            views=piece.views,
        )
    answer = made.answer
    judgement = judge(answer, inputs)
    record = Record(
        piece.item,
        metrics=judgement.metrics,
        missing=judgement.missing,
        rule=None if judgement.alignment is None else judgement.alignment.rule,
        residual=None if judgement.alignment is None else judgement.alignment.residual,
        seconds=answer.seconds or None,
        notes=made.notes,
    )
    if not judgement.metrics:
        why = "; ".join(f"{name}: {reason}" for name, reason in judgement.missing.items())
        return Outcome(replace(record, failure=f"nothing could be measured: {why}"[:LONGEST_REASON]))
    pictures = {}
    if answer.mesh is not None and judgement.alignment is not None:
        placed = judgement.alignment.truth_from_answer
        pictures[".jpg"] = answer_strip(subject, answer.mesh, placed, noise)
    return Outcome(record, pictures)


def _of_truth(piece: Piece, subject: Subject, protocol: Protocol, noise: np.random.Generator) -> Outcome:
    judgement = floor(subject, protocol, noise, cache=_cache(piece, protocol), lpips=_lpips(piece.lpips))
    pictures = {"truth.jpg": truth_strip(subject)}
    for views in piece.all_views:
        try:
            inputs, _ = _photographed(piece, subject, protocol, views)
            pictures[f"inputs.v{views}.jpg"] = photo_strip(inputs.photos)
        except MvSam3dError as problem:
            log.info("%s has no photos for %d views: %s", piece.source.name, views, problem)  # each answer says so
    record = Record(
        piece.item,
        metrics=judgement.metrics,
        missing=judgement.missing,
        rule=None if judgement.alignment is None else judgement.alignment.rule,
        residual=None if judgement.alignment is None else judgement.alignment.residual,
        notes=subject.notes,
    )
    return Outcome(record, pictures)


def _noise(piece: Piece) -> np.random.Generator:
    """The same for all systems on one object, so that they are judged by the same points."""
    return np.random.default_rng([piece.seed, zlib.crc32(piece.source.name.encode())])


@lru_cache(maxsize=1)
def _subject(source: Source) -> Subject:
    """The true object; that of the last piece is kept, as its next piece often follows."""
    match source:
        case SubjectFile():
            return read_subject(source)
        case Scene():
            subject, _, _ = _scene(source)
            if subject is None:
                raise BadScene(f"{source.folder} has no mesh.glb: there is no true shape to judge by")
            return subject
        case _:
            assert_never(source)


@lru_cache(maxsize=1)
def _scene(scene: Scene) -> tuple[Subject | None, Capture, dict[int, tuple[int, ...]]]:
    return read_real_subject(scene.folder)


@lru_cache(maxsize=1)
def _lpips(folder: Path | None) -> Lpips | None:
    return None if folder is None else load_lpips(folder)


def _cache(piece: Piece, protocol: Protocol) -> Path | None:
    """A rig without cameras has no pictures to keep."""
    return piece.cache if protocol.tests.views else None


def _photographed(piece: Piece, subject: Subject, protocol: Protocol, views: int) -> tuple[Capture, Capture]:
    """Photos for the system, and photos that it does not see."""
    if isinstance(piece.source, SubjectFile):
        cache = _cache(piece, protocol)
        inputs = captured(subject, input_rig(protocol, views), protocol.size, cache)
        return inputs, captured(subject, protocol.tests, protocol.size, cache)
    _, every, suggested = _scene(piece.source)
    if views not in suggested:
        known = ", ".join(str(count) for count in sorted(suggested)) or "none"
        raise InvalidOption(f"{piece.source.folder} suggests no {views} photos to put in, only {known}")
    used = {i for count in piece.all_views for i in suggested.get(count, ())}
    rest = [i for i in range(len(every.photos)) if i not in used]
    return _some(every, suggested[views]), _some(every, rest)


def _some(capture: Capture, chosen: Sequence[int]) -> Capture:
    return replace(
        capture,
        photos=tuple(capture.photos[i] for i in chosen),
        cameras=tuple(capture.cameras[i] for i in chosen),
    )


# Who does the pieces


def in_turn(pieces: Sequence[Piece]) -> Iterator[tuple[Piece, Outcome]]:
    """One after the other, here."""
    for piece in pieces:
        yield piece, outcome_of(piece)


class _Worker:
    """A process that does one piece at a time."""

    def __init__(self, threads: int) -> None:
        context = multiprocessing.get_context("spawn")  # a forked torch hangs
        self.pipe, there = context.Pipe()
        self.process = context.Process(target=_serve, args=(there, threads), daemon=True)
        self.process.start()
        there.close()
        self.piece: Piece | None = None

    def give(self, piece: Piece | None) -> None:
        """Let it begin; None: it has nothing to do."""
        self.piece = piece
        if piece is not None:
            self.pipe.send(piece)

    def result(self) -> Outcome:
        """What it has made; a record of its death if it died."""
        assert self.piece is not None
        try:
            found = self.pipe.recv()
            assert isinstance(found, Outcome)
            return found
        except (EOFError, OSError):
            self.process.join()
            code = self.process.exitcode
            how = f"signal {-code}" if code is not None and code < 0 else f"status {code}"
            hint = "; often memory: fewer --jobs" if code == -signal.SIGKILL else ""
            return Outcome(failed(self.piece.item, f"the process that worked on it ended with {how}{hint}"))

    def end(self) -> None:
        """Whatever it is doing."""
        self.process.terminate()
        self.process.join()
        self.pipe.close()


def _serve(pipe: Connection, threads: int) -> None:
    """The life of a worker."""
    import torch

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the caller's, who ends us
    signal.signal(
        signal.SIGTERM, lambda number, frame: sys.exit(128 + number)
    )  # so that programs we started are ended, too
    torch.set_num_threads(threads)
    while True:
        try:
            piece = pipe.recv()
        except EOFError:
            return
        pipe.send(outcome_of(piece))


def by_processes(pieces: Sequence[Piece], jobs: int) -> Iterator[tuple[Piece, Outcome]]:
    """By `jobs` processes beside this one, in the order in which they are done. A process that dies fails its piece only."""
    threads = max((os.cpu_count() or 1) // jobs, 1)
    waiting = _by_object(pieces)
    workers = [_Worker(threads) for _ in range(min(jobs, len(pieces)))]
    own: list[deque[Piece]] = [deque() for _ in workers]
    try:
        for i, worker in enumerate(workers):
            worker.give(_next(own[i], waiting, own))
        while busy := {w.pipe: i for i, w in enumerate(workers) if w.piece is not None}:
            for pipe in wait(list(busy)):
                assert isinstance(pipe, Connection)
                i = busy[pipe]
                piece, found = workers[i].piece, workers[i].result()
                assert piece is not None
                if not workers[i].process.is_alive():
                    workers[i].end()
                    workers[i] = _Worker(threads)
                workers[i].give(_next(own[i], waiting, own))
                yield piece, found
    finally:
        for worker in workers:
            worker.end()


def _by_object(pieces: Sequence[Piece]) -> deque[deque[Piece]]:
    groups: dict[Source, deque[Piece]] = {}
    for piece in pieces:
        groups.setdefault(piece.source, deque()).append(piece)
    return deque(groups.values())


def _next(own: deque[Piece], waiting: deque[deque[Piece]], everyones: Sequence[deque[Piece]]) -> Piece | None:
    """For a worker: the next piece of its object, else of a new object, else of the object that has most left; None: all are given out."""
    if not own and waiting:
        own.extend(waiting.popleft())
    source = own or max(everyones, key=len)
    return source.popleft() if source else None


def by_ray(pieces: Sequence[Piece], jobs: int | None) -> Iterator[tuple[Piece, Outcome]]:
    """By a Ray cluster: the one that RAY_ADDRESS names, or else this machine. Every machine must see the input folder.

    Args:
        jobs: pieces at a time; None: as many as the cluster has CPUs.
    Raises: MissingExtra: Ray is not installed.
    """
    try:
        import ray
    except ImportError as problem:
        raise MissingExtra('--ray needs Ray, which is not installed: pip install "mvsam3d[ray]"') from problem
    begun = not ray.is_initialized()
    if begun:
        ray.init(log_to_driver=False, include_dashboard=False)
    try:
        most = jobs or max(int(ray.cluster_resources().get("CPU", 1)), 1)
        remote = ray.remote(num_cpus=1, max_retries=0)(outcome_of)
        waiting = deque(pieces)
        running: dict[Any, Piece] = {}
        while waiting or running:
            while waiting and len(running) < most:
                piece = waiting.popleft()
                running[remote.remote(piece)] = piece
            (done, *_), _ = ray.wait(list(running), num_returns=1)
            piece = running.pop(done)
            try:
                yield piece, ray.get(done)
            except ray.exceptions.RayError as problem:
                first = str(problem).splitlines()[0]
                yield piece, Outcome(failed(piece.item, f"the worker that had it is lost: {first}"))
    finally:
        if begun:
            ray.shutdown()
