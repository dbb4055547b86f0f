"""A folder of true objects, systems and numbers of views -> a folder of records, tables and a page to look at.

What has been done stays done: a run that was ended in any way goes on where it stopped. What failed is tried again by the next run.
"""

from __future__ import annotations

import hashlib
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from mvsam3d.errors import BadFile, InvalidOption, ObjectsFailed
from mvsam3d.evaluation.charts import as_file
from mvsam3d.evaluation.gallery import Page, curves_of, page
from mvsam3d.evaluation.mesh_files import Up
from mvsam3d.evaluation.protocols import PROTOCOLS, Protocol
from mvsam3d.evaluation.readings import leading, ordered
from mvsam3d.evaluation.records import REPORT, Item, Record, ResultFolder
from mvsam3d.evaluation.subjects import SubjectFile, is_real_scene, spread, subject_files
from mvsam3d.evaluation.systems import Named
from mvsam3d.evaluation.tables import (
    Summary,
    arrow,
    as_markdown,
    objects_csv,
    pairs_csv,
    summarise,
    summary_csv,
)
from mvsam3d.evaluation.work import TRUTH, Outcome, Piece, Scene, Source, by_processes, by_ray, in_turn
from mvsam3d.io.runs import Json, write_whole

FORMAT = 1  # of the folder: raised when records mean something else than before
CACHE = "photos"
MOST_VIEWS = 64


@dataclass(frozen=True)
class Evaluation:
    """What to evaluate, and how."""

    folder: Path
    out: Path
    systems: tuple[Named, ...]
    views: tuple[int, ...] = (1, 4)
    protocol: str = "default"
    split: str | None = None
    """Of a folder with an index.json."""
    up: Up = "y"
    """Axis that points up in meshes without an index.json."""
    objects: int | None = None
    """At most so many, evenly spread over the folder."""
    seed: int = 0
    jobs: int | None = None
    """Pieces at a time; None: 1 here, all CPUs of a Ray cluster."""
    ray: bool = False
    lpips: Path | None = None
    """Folder of the weights of LPIPS; None: it is left out by name."""


@dataclass(frozen=True)
class Standing:
    """How far a run is."""

    done: int
    of: int
    failed: int
    doing: str
    seconds_left: float | None  # None: not known yet


Progress = Callable[[Standing], None]


@dataclass(frozen=True)
class Result:
    """What a run leaves."""

    summary: Summary
    facts: tuple[str, ...]
    files: tuple[Path, ...]

    def check(self) -> None:
        """Raises: ObjectsFailed: an answer is missing or an object cannot be used; all are named in the tables."""
        failures, unread = len(self.summary.failures), len(self.summary.unread)
        if not failures and not unread:
            return
        first = [f"{r.item.subject}, {r.item.system}, {r.item.views}: {r.failure}" for r in self.summary.failures[:1]]
        first = first or [f"{name}: {why}" for name, why in self.summary.unread[:1]]
        said = [f"{failures} of {self.summary.asked} answers failed"] if failures else []
        said += [f"{unread} object{'s' * (unread > 1)} cannot be used"] if unread else []
        raise ObjectsFailed(f"{' and '.join(said)}, the first: {first[0]}. All are named in {self.files[0]}")


def evaluate(job: Evaluation, progress: Progress | None = None) -> Result:
    """Do what is not done yet, then write the tables and the page.

    Raises: InvalidOption: options out of range, or others than the folder was begun with; BadFile: nothing to evaluate;
        MissingExtra: Ray is not installed.
    """
    check(job)
    sources = sources_of(job)
    protocol = PROTOCOLS[job.protocol]
    folder = ResultFolder(job.out)
    folder.begin(options_of(job, sources))
    pieces = pieces_of(job, sources)
    known = {piece.item: record for piece in pieces if (record := folder.read(piece.item)) is not None}
    waiting = [piece for piece in pieces if piece.item not in known or known[piece.item].failure is not None]
    clock = _Clock(len(pieces), len(pieces) - len(waiting), job.jobs or 1, waiting, progress)
    for piece, found in _workers(job, waiting):
        for name, content in found.pictures.items():
            write_whole(_picture(folder, piece.item, name), content)
        folder.write(found.record)
        known[piece.item] = found.record
        clock.tell(piece, found)
    return report(folder, sources, job.systems, job.views, protocol, tuple(known.values()), seed=job.seed)


def view_counts(text: str) -> tuple[int, ...]:
    """Of 1,4,8. Raises: InvalidOption: not numbers."""
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() for part in parts):
        raise InvalidOption(f"--views {text}: give numbers of photos with commas, as 1,4,8")
    return tuple(int(part) for part in parts)


def check(job: Evaluation) -> None:
    """Raises: InvalidOption."""
    if job.protocol not in PROTOCOLS:
        raise InvalidOption(f"--protocol {job.protocol} is none of {', '.join(PROTOCOLS)}")
    if (
        not job.views
        or any(not 1 <= count <= MOST_VIEWS for count in job.views)
        or len(set(job.views)) < len(job.views)
    ):
        raise InvalidOption(f"--views {','.join(map(str, job.views))}: give numbers from 1 to {MOST_VIEWS}, each once")
    if job.objects is not None and job.objects < 1:
        raise InvalidOption(f"--objects {job.objects}: give 1 or more")
    if job.jobs is not None and not 1 <= job.jobs <= 1024:
        raise InvalidOption(f"--jobs {job.jobs}: give 1 to 1024")
    if job.seed < 0:
        raise InvalidOption(f"--seed {job.seed}: give 0 or more")
    if any(named.label == TRUTH for named in job.systems):
        raise InvalidOption(f"a system cannot be called {TRUTH!r}: that is the true object's own line")


def sources_of(job: Evaluation) -> tuple[Source, ...]:
    """The true objects of a folder: meshes, photos of a scene, or folders of such photos. Raises: BadFile, InvalidOption."""
    folder = job.folder
    if is_real_scene(folder):
        return (Scene(folder.resolve().name, folder),)
    scenes = sorted(path for path in folder.iterdir() if is_real_scene(path)) if folder.is_dir() else []
    if scenes and job.split is not None:
        raise InvalidOption(f"{folder} holds scenes of photos, which have no split: leave --split out")
    sources: tuple[Source, ...] = tuple(Scene(path.name, path) for path in scenes[: job.objects])
    sources = sources or spread(subject_files(folder, split=job.split, up=job.up), job.objects)
    names = [source.name for source in sources]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise BadFile(
            f"{folder} has {len(twice)} names that several objects have, as {twice[0]!r}: rename all but one of each"
        )
    return sources


def options_of(job: Evaluation, sources: Sequence[Source]) -> dict[str, Json]:
    """All that changes a record: what a folder is begun with."""
    return {
        "format": FORMAT,
        "protocol": job.protocol,
        "up": job.up,
        "views": list(job.views),
        "seed": job.seed,
        "lpips": job.lpips is not None,
        "systems": {named.label: named.described() for named in job.systems},
        "objects": {source.name: _content(source) for source in sources},
    }


def _content(source: Source) -> str:
    """A hash of the true object's files; of one that cannot be read, that."""
    if isinstance(source, SubjectFile):
        paths = [source.path]
    else:
        paths = sorted(path for path in source.folder.rglob("*") if path.is_file())
    hashed = hashlib.sha256()
    for path in paths:
        try:
            with path.open("rb") as file:
                hashed.update(hashlib.file_digest(file, "sha256").digest())
        except OSError as problem:
            hashed.update(str(problem.strerror).encode())
    return hashed.hexdigest()[:16]


def pieces_of(job: Evaluation, sources: Sequence[Source]) -> tuple[Piece, ...]:
    """All that is to be done, object by object, so that a run that is ended has whole objects."""
    cache = job.out / CACHE
    return tuple(
        Piece(source, system, count, job.views, job.protocol, job.seed, cache, job.lpips)
        for source in sources
        for system, count in (
            (None, 0),
            *((system, count) for count in job.views for system in job.systems),
        )
    )


def _workers(job: Evaluation, waiting: Sequence[Piece]) -> Iterator[tuple[Piece, Outcome]]:
    if not waiting:
        return iter(())
    if job.ray:
        return by_ray(waiting, job.jobs)
    return in_turn(waiting) if (job.jobs or 1) == 1 else by_processes(waiting, job.jobs or 1)


def _picture(folder: ResultFolder, item: Item, name: str) -> Path:
    return folder.path(item, name) if name.startswith(".") else folder.of_subject(item.subject, name)


class _Clock:
    """Tells how far a run is, and how long the rest takes by what pieces of its kind took."""

    def __init__(self, of: int, done: int, jobs: int, waiting: Sequence[Piece], progress: Progress | None) -> None:
        self._of, self._done, self._jobs, self._failed = of, done, jobs, 0
        self._left = [_kind(piece) for piece in waiting]
        self._took: dict[tuple[str, int], list[float]] = {}
        self._progress = progress
        self._start = time.perf_counter()
        self._say("beginning")

    def tell(self, piece: Piece, found: Outcome) -> None:
        """A piece is done."""
        self._done += 1
        self._failed += found.record.failure is not None
        self._left.remove(_kind(piece))
        self._took.setdefault(_kind(piece), []).append(found.seconds)
        item = piece.item
        self._say(f"{item.subject}, {item.system}" + (f", {item.views} views" if item.views else ""))

    def _say(self, doing: str) -> None:
        if self._progress is not None:
            self._progress(Standing(self._done, self._of, self._failed, doing, self._seconds_left()))

    def _seconds_left(self) -> float | None:
        if not self._took:
            return None
        means = {kind: sum(took) / len(took) for kind, took in self._took.items()}
        others = sum(means.values()) / len(means)
        return sum(means.get(kind, others) for kind in self._left) / self._jobs


def _kind(piece: Piece) -> tuple[str, int]:
    return piece.item.system, piece.item.views


def report(
    folder: ResultFolder,
    sources: Sequence[Source],
    systems: Sequence[Named],
    views: Sequence[int],
    protocol: Protocol,
    records: Sequence[Record],
    *,
    seed: int,
) -> Result:
    """Write the tables and the page from what is known."""
    labels = [named.label for named in systems]
    answers = [record for record in records if record.item.system != TRUTH]
    floors = [record for record in records if record.item.system == TRUTH]
    unread = {record.item.subject: record.failure or "" for record in records if record.unread}
    measures = ordered(name for record in records for name in record.metrics)
    summary = summarise(
        answers,
        labels,
        views,
        measures,
        floors=floors,
        unread=tuple(unread.items()),
        leading=[measure.name for measure in leading(measures)],
        asked=(len(sources) - len(unread)) * len(labels) * len(views),
        seed=seed,
    )
    notes = {record.item.subject: record.notes for record in floors}
    facts = [
        f"{len(sources)} object{'s' * (len(sources) != 1)}, protocol {protocol.name}, seed {seed}.",
        *_about_truths(notes),
    ]
    facts += [protocol.note] if protocol.note else []
    names = tuple(source.name for source in sources)
    shown = page(Page(summary, tuple(answers), tuple(facts), folder, names, notes))
    files = {
        "summary.md": as_markdown(summary, facts),
        REPORT: shown,
        "summary.csv": summary_csv(summary),
        "pairs.csv": pairs_csv(summary),
        "objects.csv": objects_csv(answers, summary.measures),
    }
    first = measures[:1]
    curves = curves_of(summary, first[0]) if first and len(summary.views) > 1 else ()
    if curves:
        title = f"{first[0].label} {arrow(first[0])} against the number of views, protocol {protocol.name}"
        files["curves.svg"] = as_file(curves, first[0], title)
    for name, text in files.items():
        write_whole(folder.folder / name, text.encode())
    return Result(summary, tuple(facts), tuple(folder.folder / name for name in files))


def _about_truths(notes: Mapping[str, Sequence[str]]) -> list[str]:
    """How many true objects have which fault, told by the words before the colon."""
    kinds = Counter(kind for of in notes.values() for kind in {note.partition(":")[0] for note in of})
    if not kinds:
        return []
    said = ", ".join(f"{count} {kind}" for kind, count in kinds.most_common())
    return [f"Of {len(notes)} true objects: {said}."]
