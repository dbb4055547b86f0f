"""Summary, records and pictures of an evaluation -> one HTML file that needs nothing else.

From top to bottom: who leads, by how much and how sure; what failed; charts; tables; then the objects, the worst first.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path

from mvsam3d.evaluation.charts import Bar, Curve, against_views, colour_of, intervals
from mvsam3d.evaluation.page_parts import SCRIPT, STYLE
from mvsam3d.evaluation.records import Item, Record, ResultFolder
from mvsam3d.evaluation.tables import (
    FEW,
    FLOOR,
    SECONDS,
    Measure,
    Pair,
    Summary,
    alike,
    answered,
    arrow,
    best_systems,
    counted,
    failed,
    number,
    spread,
    sureness,
)
from mvsam3d.evaluation.tiles import ABSENT, SCALE, SIDE, WORST

FIRST_SHOWN = 10
MOST_CARDS = 150  # with pictures: about 10 MB
MOST_CHARTS = 6
LARGEST_PICTURE = 4 << 20  # bytes


@dataclass(frozen=True)
class Page:
    """All that a page shows."""

    summary: Summary
    records: tuple[Record, ...]
    facts: tuple[str, ...]
    folder: ResultFolder
    subjects: tuple[str, ...]
    """Names of the true objects."""
    notes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """What is wrong with them."""


def page(what: Page) -> str:
    """The HTML."""
    summary = what.summary
    body = [
        f"<header><h1>Evaluation</h1><p class=facts>{' '.join(escape(fact) for fact in what.facts)}</p></header>",
        _verdicts(summary),
        _problems(summary),
        _charts(summary),
        _tables(summary),
        _gallery(what),
    ]
    policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'"
    head = (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>Evaluation</title>'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        f'<meta name="viewport" content="width=device-width, initial-scale=1"><style>{STYLE}</style></head>'
    )
    return (
        head
        + "<body><main>"
        + "\n".join(part for part in body if part)
        + f"</main><script>{SCRIPT}</script></body></html>\n"
    )


# Who leads


def _verdicts(summary: Summary) -> str:
    if not summary.measures or summary.measures[0] is SECONDS:
        return "<section class=verdicts><p>No answer could be judged.</p></section>"
    decisive = summary.measures[0]
    led = {pair.views: pair for pair in summary.leaders}
    cards = [
        _verdict(summary, led[views], decisive) if views in led else _alone(summary, views, decisive)
        for views in summary.views
    ]
    rows = [f"<li><b>{escape(p.system)}</b> {escape(_gained(p, decisive))} {_badge(p)}</li>" for p in summary.gains]
    more = f"<div class=gains><h3>What more views bring</h3><ul>{''.join(rows)}</ul></div>" if rows else ""
    return f"<section class=verdicts>{''.join(cards)}</section>{more}"


def _verdict(summary: Summary, pair: Pair, measure: Measure) -> str:
    if alike(pair, measure):
        return _alike(summary, pair.views, measure)
    value = spread(summary.cells[pair.system, pair.views, measure.name].value, measure)
    colour = colour_of(summary.systems.index(pair.system))
    return (
        f'<article style="border-color:{colour}"><h2>{_views(pair.views)}</h2>'
        f'<p class=winner style="color:{colour}">{escape(pair.system)}</p>'
        f"<p class=lead>leads by {escape(measure.label)} with {escape(value)}</p>"
        f"<p>{escape(number(abs(pair.gain.mean), measure))} ahead of <b>{escape(pair.baseline)}</b>"
        f"{_gain_interval(pair, measure)}; {escape(counted(pair))}.</p>{_badge(pair)}</article>"
    )


def _alike(summary: Summary, views: int, measure: Measure) -> str:
    there = best_systems(summary, views, measure)
    cell = summary.cells[there[0], views, measure.name]
    names = ", ".join(f"<b>{escape(system)}</b>" for system in there)
    return (
        f"<article><h2>{_views(views)}</h2><p class=winner>no winner</p>"
        f"<p class=lead>{escape(measure.label)} {escape(spread(cell.value, measure))}</p><p>{names} are alike.</p></article>"
    )


def _alone(summary: Summary, views: int, measure: Measure) -> str:
    there = best_systems(summary, views, measure)
    if not there:
        return f"<article><h2>{_views(views)}</h2><p>No answer.</p></article>"
    cell = summary.cells[there[0], views, measure.name]
    text = f"{measure.label} {spread(cell.value, measure)} over {cell.objects} objects"
    return f"<article><h2>{_views(views)}</h2><p class=winner>{escape(there[0])}</p><p class=lead>{escape(text)}</p></article>"


def _gain_interval(pair: Pair, measure: Measure) -> str:
    if pair.gain.low is None or pair.gain.high is None:
        return ""
    return f" [{number(pair.gain.low, measure)}, {number(pair.gain.high, measure)}]"


def _gained(pair: Pair, measure: Measure) -> str:
    gain = spread(pair.gain, measure, signed=True)
    return f"{_views(pair.views)} against {_views(pair.baseline_views)}: {gain} {measure.label}, {counted(pair)}"


def _badge(pair: Pair) -> str:
    kind = "few" if pair.objects < FEW else "sure" if pair.sure else "open"
    return f"<span class='badge {kind}'>{escape(sureness(pair))}</span>"


def _views(count: int) -> str:
    return f"{count} view{'s' * (count > 1)}"


# What failed


def _problems(summary: Summary) -> str:
    parts = []
    if summary.pending:
        parts.append(f"<p><b>{summary.pending} of {summary.asked} answers are not there yet.</b></p>")
    if summary.failures:
        rows = [[r.item.subject, r.item.system, str(r.item.views), r.failure or ""] for r in summary.failures]
        title = f"{len(rows)} of {summary.asked} answers failed; means are over the others"
        parts.append(_details(title, _table(["object", "system", "views", "why"], rows), opened=len(rows) <= 5))
    if summary.unread:
        title = f"Left out, as they cannot be used: {len(summary.unread)} true objects"
        parts.append(_details(title, _table(["object", "why"], [list(row) for row in summary.unread]), opened=True))
    return f"<section class=problems>{''.join(parts)}</section>" if parts else ""


def _details(title: str, content: str, *, opened: bool = False) -> str:
    return f"<details{' open' * opened}><summary>{escape(title)}</summary>{content}</details>"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Of text."""
    return _raw_table([escape(name) for name in head], ([escape(cell) for cell in row] for row in rows))


def _raw_table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Of HTML."""
    lines = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows)
    names = "".join(f"<th>{cell}</th>" for cell in head)
    return f"<div class=wide><table><thead><tr>{names}</tr></thead><tbody>{lines}</tbody></table></div>"


# Charts and tables


def _charts(summary: Summary) -> str:
    measures = [m for m in summary.leading if m is not SECONDS]
    if not measures:
        return ""
    first, parts = summary.measures[0], []
    truth = summary.floor.get(first.name)
    bars = {
        views: [
            Bar(system, colour_of(i), summary.cells[system, views, first.name].value)
            for i, system in enumerate(summary.systems)
            if (system, views, first.name) in summary.cells
        ]
        for views in summary.views
    }
    every = [bar for some in bars.values() for bar in some]
    for views, some in bars.items():
        if some:
            drawn = intervals(some, first, floor=None if truth is None else truth.value.mean, beside=every)
            parts.append(_figure(f"{first.label} {arrow(first)}, {_views(views)}", drawn))
    pairs = [p for p in summary.pairs if p.metric == first.name]
    gains = {
        views: [
            Bar(p.baseline, colour_of(summary.systems.index(p.baseline)), p.gain) for p in pairs if p.views == views
        ]
        for views in summary.views
    }
    every = [bar for some in gains.values() for bar in some]
    for views, some in gains.items():
        if some:
            title = f"{summary.systems[0]} against each, gain in {first.label} (right of zero: better), {_views(views)}"
            parts.append(_figure(title, intervals(some, first, zero=True, beside=every)))
    told = "Dots are means over the objects; whiskers hold the true mean in 95 of 100 cases."
    html = f"<section class=charts><h2>How much, and how sure</h2><p>{told}</p><div class=curves>{''.join(parts)}</div></section>"
    if len(summary.views) > 1:
        html += _curves(summary, measures)
    return html


def _figure(title: str, drawn: str) -> str:
    return f"<figure><figcaption>{escape(title)}</figcaption>{drawn}</figure>"


def _curves(summary: Summary, measures: Sequence[Measure]) -> str:
    figures = []
    for measure in measures[:MOST_CHARTS]:
        curves = curves_of(summary, measure)
        if curves:
            figures.append(_figure(f"{measure.label} {arrow(measure)}", against_views(curves, measure)))
    return f"<section><h2>Against the number of views</h2>{_legend(summary)}<div class=curves>{''.join(figures)}</div></section>"


def curves_of(summary: Summary, measure: Measure) -> tuple[Curve, ...]:
    """A curve over the number of views for each system that has any value."""
    curves = []
    for i, system in enumerate(summary.systems):
        cells = [(v, summary.cells.get((system, v, measure.name))) for v in sorted(summary.views)]
        points = tuple((v, cell.value) for v, cell in cells if cell is not None)
        if points:
            curves.append(Curve(system, colour_of(i), points))
    return tuple(curves)


def _legend(summary: Summary) -> str:
    names = [
        f'<span><i style="background:{colour_of(i)}"></i>{escape(system)}</span>'
        for i, system in enumerate(summary.systems)
    ]
    return f"<p class=legend>{''.join(names)}</p>"


def _tables(summary: Summary) -> str:
    few = summary.leading
    parts = [f"<h3>{_views(v)}</h3>{_system_table(summary, v, few)}" for v in summary.views]
    html = f"<section><h2>Tables</h2>{''.join(parts)}"
    if len(few) < len(summary.measures):
        every = "".join(f"<h3>{_views(v)}</h3>{_system_table(summary, v, summary.measures)}" for v in summary.views)
        html += _details(f"All {len(summary.measures)} metrics", every)
    if summary.pairs:
        by_name = {m.name: m for m in summary.measures}
        rows = [
            [
                str(p.views),
                escape(p.baseline),
                escape(by_name[p.metric].label),
                escape(spread(p.gain, by_name[p.metric], signed=True)),
                f"{p.wins} : {p.losses}",
                str(p.objects),
                _badge(p),
            ]
            for p in summary.pairs
        ]
        head = ["views", "against", "metric", "gain (+ is better)", "better : worse", "objects", ""]
        html += _details(f"{summary.systems[0]} against the others, object by object", _raw_table(head, rows))
    if summary.missing:
        rows = [[s, str(v), m, str(n), why] for (s, v, m, why), n in sorted(summary.missing.items())]
        html += _details(
            "Metrics that are missing, and why", _table(["system", "views", "metric", "answers", "why"], rows)
        )
    return html + "</section>"


def _system_table(summary: Summary, views: int, measures: Sequence[Measure]) -> str:
    best = {m.name: best_systems(summary, views, m) for m in measures}
    rows = []
    for i, system in enumerate(summary.systems):
        cells = []
        for m in measures:
            cell = summary.cells.get((system, views, m.name))
            bold = m is not SECONDS and system in best[m.name]
            cells.append(
                "–" if cell is None else _number(cell.value.mean, m, bold=bold, interval=spread(cell.value, m))
            )
        lost = failed(summary, system, views)
        name = f'<i class=dot style="background:{colour_of(i)}"></i>{escape(system)}'
        rows.append([name, str(answered(summary, system, views)), f"<b class=bad>{lost}</b>" if lost else "0", *cells])
    if summary.floor:
        of_truth = [summary.floor.get(m.name) for m in measures]
        cells = [
            "–" if cell is None else _number(cell.value.mean, m, bold=False, interval=spread(cell.value, m))
            for cell, m in zip(of_truth, measures, strict=True)
        ]
        rows.append([f"<em>{FLOOR}</em>", str(max(c.objects for c in summary.floor.values())), "0", *cells])
    return _raw_table(["system", "objects", "failed", *(escape(f"{m.label} {arrow(m)}") for m in measures)], rows)


def _number(mean: float, measure: Measure, *, bold: bool, interval: str) -> str:
    text = number(mean, measure)
    text = f"<b>{text}</b>" if bold else text
    rest = interval.partition(" ")[2]
    return f"{text}<small>{escape(rest)}</small>" if rest else text


# The objects


def _gallery(what: Page) -> str:
    summary = what.summary
    if not summary.measures or summary.measures[0] is SECONDS:
        return ""
    measure, views = summary.measures[0], max(summary.views)
    by = {record.item: record for record in what.records}
    order = _worst_first(what, by, Item("", summary.systems[0], views), measure)
    cards = [_card(what, by, name, measure, hidden=i >= FIRST_SHOWN) for i, name in enumerate(order[:MOST_CARDS])]
    left = len(order) - len(cards)
    note = f"<p>{left} more objects, better than these, are in objects.csv.</p>" if left else ""
    values = {
        f"{i}|{count}": {
            name: None if record.failure else record.metrics.get(measure.name)
            for name in order[:MOST_CARDS]
            if (record := by.get(Item(name, system, count))) is not None
        }
        for i, system in enumerate(summary.systems)
        for count in summary.views
    }
    data = json.dumps({"first": FIRST_SHOWN, "high": measure.better == "high", "values": values}).replace(
        "<", "\\u003c"
    )
    choices = "".join(
        f"<option value='{i}|{count}'{' selected' * (i == 0 and count == views)}>{escape(system)}, {_views(count)}</option>"
        for count in summary.views
        for i, system in enumerate(summary.systems)
    )
    controls = (
        f"<p class=controls><label>Order by {escape(measure.label)} of <select id=by>{choices}</select></label>"
        f"<label><select id=order><option value=worst>worst {FIRST_SHOWN} first</option><option value=best>best first</option>"
        f"<option value=name>by name</option></select></label><button id=all>Show all {len(cards)}</button></p>"
    )
    return (
        f"<section id=gallery><h2>The objects, one by one</h2>{controls}{_scale()}"
        f"<div id=cards>{''.join(cards)}</div>{note}<script type='application/json' id=values>{data}</script></section>"
    )


def _worst_first(what: Page, by: Mapping[Item, Record], chosen: Item, measure: Measure) -> list[str]:
    sign = 1.0 if measure.better == "high" else -1.0
    unread = {name for name, _ in what.summary.unread}

    def place(name: str) -> tuple[bool, float, str]:
        record = by.get(Item(name, chosen.system, chosen.views))
        value = None if record is None or record.failure else record.metrics.get(measure.name)
        return value is not None, 0.0 if value is None else sign * value, name

    return sorted((name for name in what.subjects if name not in unread), key=place)


def _card(what: Page, by: Mapping[Item, Record], subject: str, measure: Measure, *, hidden: bool) -> str:
    summary = what.summary
    notes = what.notes.get(subject, ())
    truth = _image(what.folder.of_subject(subject, "truth.jpg"), "the true object from two sides")
    given = [f"<div class=row><h4>the true object</h4>{truth}</div>"]
    for views in summary.views:
        photos = _image(what.folder.of_subject(subject, f"inputs.v{views}.jpg"), f"the {_views(views)} given")
        given.append(f"<div class=row><h4>{_views(views)} given</h4>{photos}</div>")
    columns = []
    for views in summary.views:
        answers = [
            _answer(what, by.get(Item(subject, system, views)), Item(subject, system, views), i, measure)
            for i, system in enumerate(summary.systems)
        ]
        columns.append(f"<div class=column><h4 class=views>from {_views(views)}</h4>{''.join(answers)}</div>")
    said = f"<p class=notes>{escape('; '.join(notes))}</p>" if notes else ""
    head = f'<article class=card data-name="{escape(subject, quote=True)}"{" hidden" * hidden}><h3>{escape(subject)}</h3>{said}'
    return f"{head}<div class=given>{''.join(given)}</div><div class=columns>{''.join(columns)}</div></article>"


def _answer(what: Page, record: Record | None, item: Item, place: int, measure: Measure) -> str:
    name = f'<i class=dot style="background:{colour_of(place)}"></i>{escape(item.system)}'
    if record is None:
        return f"<div class=row><h4>{name}</h4><p class=bad>not done yet</p></div>"
    if record.failure is not None:
        return f"<div class=row><h4>{name}</h4><p class=bad>failed: {escape(record.failure)}</p></div>"
    shown = [m for m in what.summary.leading if m.name in record.metrics][:4]
    texts = [
        f"{'<b>' * (m is measure)}{escape(m.label)} {number(record.metrics[m.name], m)}{'</b>' * (m is measure)}"
        for m in shown
    ]
    if record.residual is not None:
        texts.append(f"aligned by {escape(record.rule or '')}")
    texts += [escape(note) for note in record.notes]
    picture = _image(what.folder.path(item, ".jpg"), f"{item.system} from two sides, and its errors")
    return f"<div class=row><h4>{name}</h4><p class=numbers>{' · '.join(texts)}</p>{picture}</div>"


def _image(path: Path, text: str) -> str:
    if not path.is_file() or path.stat().st_size > LARGEST_PICTURE:
        return f"<p class=absent>no picture of {escape(text)}</p>"
    content = base64.b64encode(path.read_bytes()).decode()
    return f'<img loading=lazy height={SIDE} alt="{escape(text, quote=True)}" src="data:image/jpeg;base64,{content}">'


def _scale() -> str:
    stops = ", ".join(f"rgb({', '.join(str(int(v)) for v in row)})" for row in SCALE)
    absent = f"rgb{ABSENT}"
    return (
        "<p class=scale>An answer from two sides, then its distance from the truth: <b>0</b>"
        f'<i class=ramp style="background:linear-gradient(to right, {stops})"></i><b>{WORST:.0%} of the longest side or more</b>'
        f'<i class=patch style="background:{absent}"></i>the truth is there, the answer is not</p>'
    )
