"""Table -> Markdown for people, JSON for programs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from mvsam3d.evaluation.benchmark import ClassRow, Row, Table
from mvsam3d.evaluation.metrics import Score


def as_table(table: Table) -> str:
    """The table as Markdown: every way to answer, then the classes."""
    yardsticks = (
        f"yardsticks from {table.training_objects} training objects"
        if table.training_objects
        else "no yardsticks, because there are no training shards in the data folder"
    )
    facts = (
        f"Model {table.model}: IoU at {table.resolution}^3 with its standard error, no cameras given, "
        f"{table.sampling.structure_steps} steps, guidance {table.sampling.structure_guidance:g}, "
        f"threshold {table.sampling.occupancy_threshold:g}; {yardsticks}."
    )
    parts = [facts, _markdown(ROW_HEAD, [_row(row) for row in table.rows])]
    if table.classes:
        parts.append(_markdown(CLASS_HEAD, [_class_row(row) for row in table.classes]))
    return "\n\n".join(parts)


def write_table(table: Table, path: Path) -> None:
    """The table as JSON, its fields by name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(asdict(table), indent=1, allow_nan=False) + "\n")


ROW_HEAD = ("data", "answer", "views", "solid", "surface", "objects", "s/object")
CLASS_HEAD = ("class", "objects", "solid, 1 view", "solid, 4 views", "mean shape of the class")


def _row(row: Row) -> tuple[str, ...]:
    views = "-" if row.views is None else str(row.views)
    seconds = "" if row.seconds is None else f"{row.seconds:.2f}"
    return row.data, row.method, views, _score(row.solid), _score(row.surface), str(row.objects), seconds


def _class_row(row: ClassRow) -> tuple[str, ...]:
    mean = "" if row.mean_shape is None else _score(row.mean_shape)
    return row.name, str(row.objects), _score(row.one_view), _score(row.four_views), mean


def _score(score: Score) -> str:
    return f"{score.mean:.3f}" if score.error is None else f"{score.mean:.3f} ± {score.error:.3f}"


def _markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table with its columns aligned, so that it reads as plain text too."""
    widths = [max(len(line[i]) for line in (head, *rows)) for i in range(len(head))]
    lines = [head, ["-" * width for width in widths], *rows]
    return "\n".join("| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths)) + " |" for line in lines)
