"""What an evaluation keeps of each answer, and the folder that holds it: one JSON for each object, system and number of views.

run.json                                 what was begun here: a later call with other options is refused
objects/OBJECT/SYSTEM.vN.json            a Record, written last and whole: what has one is done
objects/OBJECT/SYSTEM.vN.jpg             the answer, and where it is wrong
objects/OBJECT/truth.jpg, inputs.vN.jpg  the true object, the photos that were given
summary.md, summary.csv, pairs.csv, objects.csv, curves.svg, report.html
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from mvsam3d.errors import BadFile, InvalidOption
from mvsam3d.io.runs import Json, write_whole

log = logging.getLogger(__name__)

RUN, OBJECTS, REPORT = "run.json", "objects", "report.html"
LONGEST_SLUG = 80
LARGEST_RECORD = 1 << 20  # bytes; ours have two thousand
LONGEST_REASON = 2000
SHOWN = 5  # differences of options that are named


@dataclass(frozen=True, order=True)
class Item:
    """One answer to be had."""

    subject: str
    system: str
    views: int


@dataclass(frozen=True)
class Record:
    """What became of it."""

    item: Item
    failure: str | None = None
    """Why there is no answer, or none that can be judged; None: there is one."""
    unread: bool = False
    """The failure is the true object's, which cannot be read, and no system's."""
    metrics: dict[str, float] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)
    """Metrics that could not be had, and why."""
    rule: str | None = None
    """By which the answer was laid over the truth."""
    residual: float | None = None
    """What that left over."""
    seconds: float | None = None
    """That the system took, without rendering and judging."""
    notes: tuple[str, ...] = ()
    """What the system says of its answer; of the truth's own record, what is wrong with the true object."""


_RECORD = TypeAdapter(Record)


def finite(record: Record) -> Record:
    """The record with metrics that are no numbers among the missing ones, as JSON cannot hold them."""
    wrong = {name: f"it is {value}" for name, value in record.metrics.items() if not math.isfinite(value)}
    known = {name: float(value) for name, value in record.metrics.items() if name not in wrong}
    residual = record.residual if record.residual is not None and math.isfinite(record.residual) else None
    return Record(**{**vars(record), "metrics": known, "missing": {**record.missing, **wrong}, "residual": residual})


def slug(name: str) -> str:
    """A file name for any name: itself where it is a plain one, else made plain and told apart by a hash."""
    plain = re.sub(r"[^A-Za-z0-9_-]+", "_", name)[:LONGEST_SLUG]
    if plain == name:
        return name
    return f"{plain.strip('_')}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"


@dataclass(frozen=True)
class ResultFolder:
    """Where an evaluation keeps what it has."""

    folder: Path

    def begin(self, options: Mapping[str, Json]) -> None:
        """Say what is done here, or check that the same is.

        Raises: InvalidOption: the folder was begun with other options, or holds something else; BadFile: `run.json` is broken.
        """
        path = self.folder / RUN
        if path.is_file():
            begun = _json(path)
            different = [
                f"{key} was {_brief(was)} and is {_brief(now)}" for key, was, now in differences(begun, options)
            ]
            if different:
                more = f"; and {len(different) - SHOWN} more" if len(different) > SHOWN else ""
                raise InvalidOption(
                    f"{self.folder} was begun with other options: {'; '.join(different[:SHOWN])}{more}. "
                    "Give the same to go on, or another --out"
                )
            return
        if self.folder.exists() and (not self.folder.is_dir() or any(self.folder.iterdir())):
            raise InvalidOption(f"{self.folder} is not empty and holds no evaluation (no {RUN}): give another --out")
        self.folder.mkdir(parents=True, exist_ok=True)
        write_whole(path, (json.dumps(options, indent=1, ensure_ascii=False) + "\n").encode())

    def options(self) -> dict[str, Any]:
        """What was begun here. Raises: BadFile."""
        return _json(self.folder / RUN)

    def path(self, item: Item, ending: str) -> Path:
        """The item's file."""
        return self.of_subject(item.subject, f"{slug(item.system)}.v{item.views}{ending}")

    def of_subject(self, subject: str, name: str) -> Path:
        """A file that belongs to an object; its folder is made."""
        folder = self.folder / OBJECTS / slug(subject)
        folder.mkdir(parents=True, exist_ok=True)
        return folder / name

    def write(self, record: Record) -> None:
        """Keep a record, whole or not at all."""
        content = json.dumps(asdict(finite(record)), indent=1, ensure_ascii=False, allow_nan=False) + "\n"
        write_whole(self.path(record.item, ".json"), content.encode())

    def read(self, item: Item) -> Record | None:
        """What became of an item; None if nothing is known, which a record that cannot be read counts as (with a warning)."""
        path = self.path(item, ".json")
        if not path.is_file():
            return None
        try:
            if path.stat().st_size > LARGEST_RECORD:
                raise BadFile(f"{path} has more than {LARGEST_RECORD:,} bytes")
            record = _RECORD.validate_json(path.read_bytes())
        except (ValidationError, BadFile, OSError) as problem:
            log.warning("%s is no record of an evaluation and is made again (%s)", path, str(problem).splitlines()[0])
            return None
        if record.item != item:
            log.warning("%s is the record of another item and is made again", path)
            return None
        return record


def differences(begun: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[tuple[str, Any, Any]]:
    """Keys at which two sets of options differ, with both values; those of nested options with dots between."""
    for key in dict.fromkeys((*begun, *now)):
        was, wanted = begun.get(key), json.loads(json.dumps(now.get(key)))
        if isinstance(was, Mapping) and isinstance(wanted, Mapping):
            yield from ((f"{key}.{inner}", *values) for inner, *values in differences(was, wanted))
        elif was != wanted:
            yield key, was, wanted


def _brief(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 160 else text[:160] + "..."


def _json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as problem:
        raise BadFile(f"{path} cannot be read ({problem}): give another --out") from problem
    if not isinstance(content, dict):
        raise BadFile(f"{path} is no description of an evaluation: give another --out")
    return content
