"""Charts of an evaluation as SVG text, to stand in a page: means with their intervals, and means against views."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape

from mvsam3d.evaluation.tables import Interval, Measure, arrow, spread

COLOURS = (
    "#0b63b5",
    "#d1570f",
    "#12805c",
    "#a63d92",
    "#8a6d00",
    "#5a5f6b",
    "#b3261e",
    "#2d8fa5",
)  # of systems, in their order
ROW, LABEL, NUMBERS = 26, 200, 178  # pixels
WIDTH = 580
Length = int | float
ASIDE = 7.0  # pixels between the whiskers of two systems
LEGEND_COLUMNS = 2
STYLE = (  # of a chart that stands alone
    "text{font:13px sans-serif;fill:#1c2128}.title{font-size:15px;font-weight:600}.tick{font-size:12px;fill:#59636e;text-anchor:middle}"
    ".left{font-size:12px;fill:#59636e;text-anchor:end}.grid{stroke:#e3e6ea}.thin{stroke-width:2;opacity:.45}"
)
CHARACTERS = 28  # of a label before it is cut


@dataclass(frozen=True)
class Bar:
    """A line of an interval chart."""

    label: str
    colour: str
    value: Interval


@dataclass(frozen=True)
class Curve:
    """A line of a chart against views."""

    label: str
    colour: str
    points: tuple[tuple[int, Interval], ...]


def colour_of(place: int) -> str:
    """Of the system at a place in the order of the tables."""
    return COLOURS[place % len(COLOURS)]


def intervals(
    bars: Sequence[Bar],
    measure: Measure,
    *,
    zero: bool = False,
    floor: float | None = None,
    beside: Sequence[Bar] = (),
) -> str:
    """Dots with whiskers, a row each, numbers at the right.

    Args:
        zero: the values are differences: zero is always shown, with a line.
        floor: a line for what the truth has against itself.
        beside: of charts that are to have the same axis.
    """
    low, high = _extent([bar.value for bar in (*bars, *beside)], include=[0.0] if zero else [])
    if floor is not None:
        low, high = min(low, floor), max(high, floor)
    ticks = _ticks(low, high)
    low, high = min(low, ticks[0]), max(high, ticks[-1])
    left, right = LABEL, WIDTH - NUMBERS

    def x(value: float) -> float:
        return left + (value - low) / (high - low) * (right - left)

    height = ROW * len(bars)
    parts = [_line(x(t), 0, x(t), height, "grid") + _text(x(t), height + 16, f"{t:g}", "tick") for t in ticks]
    if zero:
        parts.append(_line(x(0.0), 0, x(0.0), height, "zero"))
    if floor is not None:
        parts.append(_line(x(floor), 0, x(floor), height, "floor") + _text(x(floor), -4, "the truth itself", "tick"))
    for i, bar in enumerate(bars):
        y = ROW * (i + 0.5)
        parts.append(_text(left - 10, y + 4, _cut(bar.label), "name", title=bar.label))
        if bar.value.low is not None and bar.value.high is not None:
            parts.append(_line(x(bar.value.low), y, x(bar.value.high), y, "whisker", bar.colour))
        parts.append(f'<circle cx="{x(bar.value.mean):.1f}" cy="{y:.1f}" r="5.5" fill="{bar.colour}"/>')
        parts.append(_text(right + 12, y + 4, spread(bar.value, measure, signed=zero), "value"))
    return _svg(parts, WIDTH, height + 24, top=16 if floor is not None else 2, name=measure.label)


def against_views(curves: Sequence[Curve], measure: Measure, *, width: int = 360, height: int = 220) -> str:
    """A line for each system over the number of views, intervals as whiskers side by side; the axis of views is logarithmic."""
    values = [value for curve in curves for _, value in curve.points]
    low, high = _extent(values)
    ticks = _ticks(low, high, most=5)
    low, high = min(low, ticks[0]), max(high, ticks[-1])
    counts = sorted({count for curve in curves for count, _ in curve.points})
    left, right, bottom = 46, width - 12, height - 30

    def x(count: int) -> float:
        if len(counts) == 1:
            return (left + right) / 2
        return left + 22 + math.log(count / counts[0]) / math.log(counts[-1] / counts[0]) * (right - left - 44)

    def y(value: float) -> float:
        return bottom - (value - low) / (high - low) * (bottom - 8)

    parts = [_line(left, y(t), right, y(t), "grid") + _text(left - 6, y(t) + 4, f"{t:g}", "left") for t in ticks]
    parts += [_text(x(count), bottom + 18, str(count), "tick") for count in counts]
    for i, curve in enumerate(curves):
        aside = ASIDE * (i - (len(curves) - 1) / 2)  # so that whiskers can be told apart
        for count, value in curve.points:
            if value.low is not None and value.high is not None:
                parts.append(
                    _line(x(count) + aside, y(value.low), x(count) + aside, y(value.high), "thin", curve.colour)
                )
        places = " ".join(f"{x(c) + aside:.1f},{y(v.mean):.1f}" for c, v in curve.points)
        parts.append(f'<polyline points="{places}" fill="none" stroke="{curve.colour}" stroke-width="2.2"/>')
        for count, value in curve.points:
            title = f"<title>{escape(f'{curve.label}, {count} views: {spread(value, measure)}')}</title>"
            place = f'cx="{x(count) + aside:.1f}" cy="{y(value.mean):.1f}"'
            parts.append(f'<circle {place} r="4" fill="{curve.colour}">{title}</circle>')
    return _svg(parts, width, height, top=0, name=f"{measure.label} {arrow(measure)}")


def as_file(curves: Sequence[Curve], measure: Measure, title: str) -> str:
    """The chart against views as an SVG file of its own, with title and legend."""
    width, height, head = 640, 360, 40
    rows = math.ceil(len(curves) / LEGEND_COLUMNS)
    chart = against_views(curves, measure, width=width, height=height)
    places = [
        (16 + i % LEGEND_COLUMNS * (width / LEGEND_COLUMNS), 22.0 * (i // LEGEND_COLUMNS)) for i in range(len(curves))
    ]
    legend = "".join(
        f'<circle cx="{x:.0f}" cy="{y - 4:.0f}" r="5" fill="{curve.colour}"/>' + _text(x + 12, y, curve.label, "key")
        for (x, y), curve in zip(places, curves, strict=True)
    )
    inner = chart.replace("<svg ", f'<svg y="{head}" ', 1)
    foot = head + height + 22
    size = f'width="{width}" height="{foot + 22 * rows - 8}"'
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} viewBox="0 0 {width} {foot + 22 * rows - 8}">'
        f"<style>{STYLE}</style>"
        f'<rect width="100%" height="100%" fill="#ffffff"/>{_text(16, 24, title, "title")}{inner}'
        f'<g transform="translate(0 {foot})">{legend}</g></svg>\n'
    )


def _extent(values: Iterable[Interval], include: Sequence[float] = ()) -> tuple[float, float]:
    ends = [end for v in values for end in (v.mean, v.low, v.high) if end is not None]
    ends += include
    low, high = min(ends), max(ends)
    room = (high - low) * 0.06 or abs(high) * 0.1 or 0.1
    return low - room, high + room


def _ticks(low: float, high: float, most: int = 6) -> list[float]:
    """Round numbers inside an extent, two at the least."""
    raw = (high - low) / most
    unit = 10.0 ** math.floor(math.log10(raw))
    for step in (unit, 2 * unit, 5 * unit, 10 * unit):
        first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
        if last - first + 1 <= most:
            break
    if last <= first:
        return [low, high]
    return [round(i * step, 12) for i in range(first, last + 1)]


def _svg(parts: Sequence[str], width: int, height: int, *, top: int, name: str) -> str:
    box = f"0 {-top} {width} {height + top}"
    head = f'<svg viewBox="{box}" width="{width}" height="{height + top}" role="img" aria-label="{escape(name, quote=True)}">'
    return head + "".join(parts) + "</svg>"


def _line(x1: Length, y1: Length, x2: Length, y2: Length, kind: str, colour: str | None = None) -> str:
    stroke = f' stroke="{colour}"' if colour else ""
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" class="{kind}"{stroke}/>'


def _text(x: Length, y: Length, text: str, kind: str, *, title: str | None = None) -> str:
    more = f"<title>{escape(title)}</title>" if title and title != text else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" class="{kind}">{escape(text)}{more}</text>'


def _cut(label: str) -> str:
    return label if len(label) <= CHARACTERS else label[: CHARACTERS - 1] + "…"
