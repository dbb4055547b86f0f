"""Records of an evaluation -> who is better, by how much, and how sure that is; as Markdown and CSV.

Intervals hold the true mean in 95 of 100 cases: percentiles of the bootstrap over the objects. Differences are paired, object by object,
over the objects that both systems answered. What failed is counted in every row and named below.
"""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch

from mvsam3d.evaluation.metrics import paired_difference
from mvsam3d.evaluation.records import Record

FLOOR = "the truth itself"
FEWEST_FOR_INTERVAL = 5  # objects; of fewer a bootstrap says nothing
FEW = 10  # objects: below, intervals are too narrow


@dataclass(frozen=True)
class Measure:
    """How a metric is to be read."""

    name: str
    label: str
    better: Literal["high", "low"]
    digits: int = 3


SECONDS = Measure("seconds", "s", "low", 1)


@dataclass(frozen=True)
class Interval:
    """A mean over objects, and where the true one is; None: too few objects to tell."""

    mean: float
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Cell:
    """A metric of one system with one number of views."""

    value: Interval
    objects: int


@dataclass(frozen=True)
class Pair:
    """How much better one answer is than another, over the objects that both have; positive is better, whatever the metric."""

    system: str
    views: int
    baseline: str
    baseline_views: int
    metric: str
    gain: Interval
    objects: int
    wins: int
    losses: int

    @property
    def sure(self) -> bool:
        """Whether the interval leaves out zero."""
        low, high = self.gain.low, self.gain.high
        return low is not None and high is not None and (low > 0 or high < 0)


Key = tuple[str, int, str]  # system, views, metric


@dataclass(frozen=True)
class Summary:
    """All that the records say together."""

    systems: tuple[str, ...]  # as they were asked for; the first is compared with the others
    views: tuple[int, ...]
    measures: tuple[Measure, ...]  # the first one decides who is better
    leading: tuple[Measure, ...]  # those of them that say most
    cells: Mapping[Key, Cell]
    pairs: tuple[Pair, ...]  # the first system against each other, by views and measures
    leaders: tuple[Pair, ...]  # for each number of views the best system against the next, by the first measure
    gains: tuple[Pair, ...]  # each system with the most views against itself with the fewest, by the first measure
    floor: Mapping[str, Cell]  # of the truth against itself, by metric
    failures: tuple[Record, ...]
    missing: Mapping[tuple[str, int, str, str], int]  # (system, views, metric, reason) -> answers
    unread: tuple[tuple[str, str], ...]  # true objects that could not be used, and why
    asked: int  # answers
    pending: int = 0  # answers that are not there yet


def summarise(
    records: Sequence[Record],
    systems: Sequence[str],
    views: Sequence[int],
    measures: Sequence[Measure],
    *,
    floors: Sequence[Record] = (),
    unread: Sequence[tuple[str, str]] = (),
    leading: Sequence[str] | None = None,
    asked: int | None = None,
    seed: int = 0,
) -> Summary:
    """Bring records together.

    Args:
        records: of all items that are done, in any order.
        systems: labels, in the order of the tables.
        views: numbers of views, likewise.
        measures: metrics, likewise; what none of the records has is left out.
        floors: of the truth against itself, one for each object.
        unread: objects left out, with reasons.
        leading: names of the metrics that say most; None: all.
        asked: answers that were asked for; those that there are no records of are pending.
        seed: of the bootstrap.
    """
    by = {(r.item.system, r.item.views, r.item.subject): r for r in sorted(records, key=lambda r: r.item)}
    known = {name for record in (*records, *floors) for name in record.metrics}
    timed = any(record.seconds is not None for record in records)
    shown = (*(m for m in measures if m.name in known), *((SECONDS,) if timed else ()))
    values: dict[Key, dict[str, float]] = {}
    for (system, count, subject), record in by.items():
        if record.failure is None:
            for name, value in (*record.metrics.items(), ("seconds", record.seconds)):
                if value is not None:
                    values.setdefault((system, count, name), {})[subject] = value
    cells = {key: Cell(_interval(list(found.values()), seed), len(found)) for key, found in values.items()}
    ranked = [m for m in shown if m is not SECONDS]
    pairs = [
        pair
        for count in views
        for measure in ranked
        for other in systems[1:]
        if (pair := _pair(values, (systems[0], count), (other, count), measure, seed))
    ]
    leaders, gains = [], []
    if ranked:
        leaders = [pair for count in views if (pair := _leader(values, systems, count, ranked[0], seed))]
        few, many = min(views), max(views)
        gains = [
            pair
            for system in systems
            if few < many and (pair := _pair(values, (system, many), (system, few), ranked[0], seed))
        ]
    of_truth = {
        m.name: Cell(_interval(found, seed), len(found))
        for m in ranked
        if (found := [record.metrics[m.name] for record in floors if m.name in record.metrics])
    }
    return Summary(
        tuple(systems),
        tuple(views),
        shown,
        tuple(m for m in shown if leading is None or m.name in leading or m is SECONDS),
        cells,
        tuple(pairs),
        tuple(leaders),
        tuple(gains),
        of_truth,
        tuple(record for record in by.values() if record.failure is not None and not record.unread),
        Counter(
            (record.item.system, record.item.views, name, reason)
            for record in by.values()
            for name, reason in record.missing.items()
        ),
        tuple(unread),
        len(records) if asked is None else asked,
        0 if asked is None else max(asked - len(by), 0),
    )


def _interval(values: Sequence[float], seed: int) -> Interval:
    mean = _mean(values)
    if len(values) < FEWEST_FOR_INTERVAL:
        return Interval(mean, None, None)
    column = torch.tensor(values, dtype=torch.float64)
    found = paired_difference(column, torch.zeros_like(column), torch.Generator().manual_seed(seed))
    return Interval(found.mean, found.low, found.high)


def _pair(
    values: Mapping[Key, Mapping[str, float]],
    first: tuple[str, int],
    second: tuple[str, int],
    measure: Measure,
    seed: int,
) -> Pair | None:
    """None: they have no object in common."""
    own, other = values.get((*first, measure.name), {}), values.get((*second, measure.name), {})
    common = [subject for subject in own if subject in other]
    if not common:
        return None
    sign = 1.0 if measure.better == "high" else -1.0
    gains = [sign * (own[subject] - other[subject]) for subject in common]
    wins, losses = sum(gain > 0 for gain in gains), sum(gain < 0 for gain in gains)
    return Pair(*first, *second, measure.name, _interval(gains, seed), len(common), wins, losses)


def _leader(
    values: Mapping[Key, Mapping[str, float]], systems: Sequence[str], views: int, measure: Measure, seed: int
) -> Pair | None:
    """The best system against the next, ranked over the objects that all of them answered, as far as they answered any."""
    found = {
        system: values[system, views, measure.name] for system in systems if (system, views, measure.name) in values
    }
    common = set.intersection(*(set(of) for of in found.values())) if found else set()
    sign = -1 if measure.better == "high" else 1
    order = sorted(found, key=lambda system: sign * _mean([found[system][name] for name in common or found[system]]))
    if len(order) < 2:
        return None
    first, second = (order[0], views), (order[1], views)
    pair = _pair(values, first, second, measure, seed)
    if pair is not None and pair.gain.mean < 0:  # over the objects that these two have in common
        pair = _pair(values, second, first, measure, seed)
    return pair


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def best_systems(summary: Summary, views: int, measure: Measure) -> tuple[str, ...]:
    """Who has the best mean; several if they are alike to the last digit shown."""
    cells = {
        s: summary.cells[s, views, measure.name] for s in summary.systems if (s, views, measure.name) in summary.cells
    }
    means = {system: round(cell.value.mean, measure.digits) for system, cell in cells.items()}
    best = (max if measure.better == "high" else min)(means.values(), default=None)
    return tuple(system for system, mean in means.items() if mean == best)


def failed(summary: Summary, system: str, views: int) -> int:
    """Answers that a system does not have."""
    return sum((r.item.system, r.item.views) == (system, views) for r in summary.failures)


def answered(summary: Summary, system: str, views: int) -> int:
    """Objects of which a system has an answer that was judged."""
    counts = (cell.objects for (s, v, _), cell in summary.cells.items() if (s, v) == (system, views))
    return max(counts, default=0)


# Words


def verdict(pair: Pair, measure: Measure) -> str:
    """A sentence on who leads, by how much, how sure."""
    ahead, n = pair.gain.mean, pair.objects
    whom = f"{pair.baseline}" if pair.views == pair.baseline_views else f"itself with {_views(pair.baseline_views)}"
    if alike(pair, measure):
        return f"{pair.system} and {whom} are alike by {measure.label} ({n} object{'s' * (n > 1)})."
    how = "better" if ahead >= 0 else "worse"
    text = f"{pair.system} is {how} than {whom} by {number(abs(ahead), measure)} {measure.label}"
    text += f" ({counted(pair)})"
    return f"{text}; {sureness(pair)}."


def alike(pair: Pair, measure: Measure) -> bool:
    """No difference in the digits shown."""
    return abs(pair.gain.mean) < 0.5 * 10**-measure.digits and not pair.sure


def counted(pair: Pair) -> str:
    """On how many objects."""
    return f"better on {pair.wins} of {pair.objects} object{'s' * (pair.objects > 1)}, worse on {pair.losses}"


def sureness(pair: Pair) -> str:
    """What the interval says."""
    if pair.gain.low is None:
        return f"{pair.objects} object{'s' * (pair.objects > 1)}: too few to tell"
    few = f" (only {pair.objects} objects: take it with care)" if pair.objects < FEW else ""
    return ("the interval leaves out zero" if pair.sure else "not decided: the interval holds zero") + few


def number(value: float, measure: Measure) -> str:
    """With the metric's digits."""
    return f"{value:.{measure.digits}f}"


def spread(value: Interval, measure: Measure, *, signed: bool = False) -> str:
    """Mean and interval, as 0.712 [0.680, 0.741]."""
    sign = "+" if signed else ""
    text = f"{value.mean:{sign}.{measure.digits}f}"
    if value.low is None or value.high is None:
        return text
    return f"{text} [{value.low:{sign}.{measure.digits}f}, {value.high:{sign}.{measure.digits}f}]"


def _views(count: int) -> str:
    return f"{count} view{'s' * (count > 1)}"


# Markdown


def as_markdown(summary: Summary, facts: Sequence[str] = (), *, whole: bool = True) -> str:
    """The summary for people; `whole`: with the metrics that do not lead, too."""
    by_name = {measure.name: measure for measure in summary.measures}
    parts = ["\n".join(["# Evaluation", *(f"\n{fact}" for fact in facts)])]
    lines = [f"- {_views(p.views)}: {verdict(p, by_name[p.metric])}" for p in summary.leaders]
    lines += [f"- More views: {verdict(p, by_name[p.metric])}" for p in summary.gains]
    parts += ["\n".join(lines)] if lines else []
    if summary.pending:
        parts.append(f"**{summary.pending} of {summary.asked} answers are not there yet.**")
    if len(summary.views) > 1:
        first = summary.measures[0]
        parts += [f"## {first.label} {arrow(first)} by number of views", _views_table(summary, first)]
    for count in summary.views:
        parts += [f"## {_views(count)}", _system_table(summary, count, summary.leading)]
    pairs = [pair for pair in summary.pairs if pair.metric == summary.measures[0].name]
    if pairs:
        head = f"## {summary.systems[0]} against the others, object by object (+ is better; other metrics: pairs.csv)"
        parts += [head, _pair_table(pairs, by_name)]
    parts += _problems(summary)
    if whole and len(summary.leading) < len(summary.measures):
        for count in summary.views:
            parts += [f"## All metrics, {_views(count)}", _turned_table(summary, count)]
    return "\n\n".join(parts) + "\n"


def arrow(measure: Measure) -> str:
    """Which way is better."""
    return "↑" if measure.better == "high" else "↓"


def _system_table(summary: Summary, views: int, measures: Sequence[Measure]) -> str:
    head = ["system", "objects", "failed", *(f"{m.label} {arrow(m)}" for m in measures)]
    rows = []
    for system in summary.systems:
        lost = str(failed(summary, system, views))
        rows.append([system, str(answered(summary, system, views)), lost, *_cells(summary, system, views, measures)])
    if summary.floor:
        most = str(max(cell.objects for cell in summary.floor.values()))
        rows.append([FLOOR, most, "0", *_floor_cells(summary, measures)])
    return markdown(head, rows)


def _views_table(summary: Summary, measure: Measure) -> str:
    """A column for each number of views."""
    counts = sorted(summary.views)
    columns = [[_cells(summary, system, count, [measure])[0] for system in summary.systems] for count in counts]
    rows = [list(row) for row in zip(summary.systems, *columns, strict=True)]
    return markdown(["system", *(str(count) for count in counts)], rows)


def _turned_table(summary: Summary, views: int) -> str:
    """A row for each metric, as there are many."""
    columns = [_cells(summary, system, views, summary.measures) for system in summary.systems]
    columns += [_floor_cells(summary, summary.measures)] if summary.floor else []
    names = [f"{m.label} {arrow(m)}" for m in summary.measures]
    head = ["metric", *summary.systems, *([FLOOR] if summary.floor else [])]
    return markdown(head, [list(row) for row in zip(names, *columns, strict=True)])


def _cells(summary: Summary, system: str, views: int, measures: Sequence[Measure]) -> list[str]:
    """Means and intervals of a system, the best in bold."""
    texts = []
    for m in measures:
        cell = summary.cells.get((system, views, m.name))
        text = "–" if cell is None else spread(cell.value, m)
        best = m is not SECONDS and system in best_systems(summary, views, m)
        texts.append(f"**{text}**" if best else text)
    return texts


def _floor_cells(summary: Summary, measures: Sequence[Measure]) -> list[str]:
    found = [(summary.floor.get(m.name), m) for m in measures]
    return ["–" if cell is None else spread(cell.value, m) for cell, m in found]


def _pair_table(pairs: Sequence[Pair], by_name: Mapping[str, Measure]) -> str:
    rows = [
        [
            str(p.views),
            p.baseline,
            by_name[p.metric].label,
            spread(p.gain, by_name[p.metric], signed=True),
            f"{p.wins}:{p.losses}",
            str(p.objects),
            "yes" if p.sure else "no",
        ]
        for p in pairs
    ]
    return markdown(["views", "against", "metric", "gain", "better:worse", "objects", "interval leaves out zero"], rows)


def _problems(summary: Summary) -> list[str]:
    parts = []
    if summary.failures:
        rows = [[r.item.subject, r.item.system, str(r.item.views), one_line(r.failure or "")] for r in summary.failures]
        count = f"{len(rows)} of {summary.asked} answers failed"
        parts += [f"## Failures: {count}", markdown(["object", "system", "views", "why"], rows)]
    if summary.unread:
        rows = [[name, one_line(why)] for name, why in summary.unread]
        parts += [
            f"## Left out: {len(rows)} object{'s' * (len(rows) > 1)} that cannot be used",
            markdown(["object", "why"], rows),
        ]
    if summary.missing:
        found = [[s, str(v), m, str(n), one_line(why)] for (s, v, m, why), n in sorted(summary.missing.items())]
        parts += ["## Metrics that are missing", markdown(["system", "views", "metric", "answers", "why"], found)]
    return parts


def one_line(text: str) -> str:
    """As fits a table's cell."""
    return " ".join(text.split()).replace("|", "\\|")


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table with its columns aligned, so that it reads as plain text too."""
    widths = [max(len(line[i]) for line in (head, *rows)) for i in range(len(head))]
    lines = [head, ["-" * width for width in widths], *rows]
    return "\n".join("| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths)) + " |" for line in lines)


# CSV

Entry = str | int | float | None
UNSAFE = ("=", "+", "-", "@", "\t", "\r")  # a spreadsheet would take what begins so for a formula


def summary_csv(summary: Summary) -> str:
    """A row for each system, number of views and metric."""
    rows = [
        [
            system,
            views,
            m.name,
            cell.value.mean,
            cell.value.low,
            cell.value.high,
            cell.objects,
            failed(summary, system, views),
        ]
        for views in summary.views
        for system in summary.systems
        for m in summary.measures
        if (cell := summary.cells.get((system, views, m.name)))
    ]
    rows += [
        [FLOOR, None, name, cell.value.mean, cell.value.low, cell.value.high, cell.objects, 0]
        for name, cell in summary.floor.items()
    ]
    return _csv(["system", "views", "metric", "mean", "low", "high", "objects", "failed"], rows)


def pairs_csv(summary: Summary) -> str:
    """A row for each comparison."""
    head = [
        "system",
        "views",
        "baseline",
        "baseline_views",
        "metric",
        "gain",
        "low",
        "high",
        "objects",
        "wins",
        "losses",
    ]
    rows: list[list[Entry]] = []
    for p in (*summary.pairs, *summary.gains):
        gain: list[Entry] = [p.gain.mean, p.gain.low, p.gain.high, p.objects, p.wins, p.losses]
        rows.append([p.system, p.views, p.baseline, p.baseline_views, p.metric, *gain])
    return _csv(head, rows)


def objects_csv(records: Sequence[Record], measures: Sequence[Measure]) -> str:
    """A row for each answer."""
    names = [m.name for m in measures if m is not SECONDS]
    rows: list[list[Entry]] = []
    for r in sorted(records, key=lambda r: r.item):
        found: list[Entry] = [r.metrics.get(name) for name in names]
        rest: list[Entry] = [r.seconds, r.rule, r.residual, "; ".join(r.notes), r.failure]
        rows.append([r.item.subject, r.item.system, r.item.views, *found, *rest])
    return _csv(["object", "system", "views", *names, "seconds", "alignment", "residual", "notes", "failure"], rows)


def _csv(head: Sequence[str], rows: Iterable[Sequence[Entry]]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(head)
    writer.writerows([_cell(value) for value in row] for row in rows)
    return text.getvalue()


def _cell(value: Entry) -> str:
    if value is None:
        return ""
    if isinstance(value, str):
        return "'" + value if value.startswith(UNSAFE) else value
    return f"{value:.6g}" if isinstance(value, float) else str(value)
