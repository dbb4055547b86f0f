import re
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mvsam3d.evaluation.charts import LABEL, NUMBERS, WIDTH, Bar, Curve, _ticks, against_views, as_file, intervals
from mvsam3d.evaluation.tables import Interval, Measure

IOU = Measure("iou", "IoU", "high")
BARS = [Bar("ours", "#111111", Interval(0.5, 0.4, 0.6)), Bar("<hull>", "#222222", Interval(0.7, None, None))]


def dots(svg: str) -> list[tuple[float, float]]:
    return [(float(x), float(y)) for x, y in re.findall(r'<circle cx="([-\d.]+)" cy="([-\d.]+)"', svg)]


def whiskers(svg: str) -> list[tuple[float, float]]:
    return [
        (float(a), float(b))
        for a, b in re.findall(r'x1="([\d.]+)" y1="[\d.]+" x2="([\d.]+)" y2="[\d.]+" class="whisker"', svg)
    ]


@given(st.floats(-1e6, 1e6), st.floats(1e-6, 1e6))
def test_ticks_are_few_round_and_inside(low: float, room: float) -> None:  # law
    high = low + room
    if not low + room / 100 > low:
        return
    ticks = _ticks(low, high)
    assert 2 <= len(ticks) <= 8
    slack = 1e-6 * (abs(low) + room)
    assert all(low - slack <= tick <= high + slack for tick in ticks)
    assert ticks == sorted(set(ticks))


def test_dots_lie_where_their_values_do() -> None:
    """Closed form: a linear axis, so the middle of an interval is at the middle of its whisker."""
    svg = intervals(BARS, IOU)
    (ours, hull), ((left, right),) = dots(svg), whiskers(svg)
    assert ours[0] == pytest.approx((left + right) / 2, abs=0.11)
    assert hull[0] - ours[0] == pytest.approx(right - left, abs=0.2)  # 0.2 apart, and 0.2 long
    assert ours[1] < hull[1]
    assert LABEL <= left < right <= WIDTH - NUMBERS
    assert "0.500 [0.400, 0.600]" in svg
    assert "&lt;hull&gt;" in svg
    assert "<hull>" not in svg


def test_charts_beside_each_other_have_one_axis() -> None:
    far = Bar("far", "#333333", Interval(0.1, 0.0, 0.2))
    alone, beside = intervals(BARS, IOU), intervals(BARS, IOU, beside=[far])
    other = intervals([far], IOU, beside=BARS)
    (left, right), (left_far, right_far) = whiskers(beside)[0], whiskers(other)[0]
    assert right - left == pytest.approx(right_far - left_far, abs=0.2)
    assert right - left < 0.6 * (whiskers(alone)[0][1] - whiskers(alone)[0][0])


def test_zero_and_the_truth_are_shown() -> None:
    svg = intervals([Bar("a", "#111111", Interval(0.2, 0.1, 0.3))], IOU, zero=True)
    assert 'class="zero"' in svg
    assert "+0.200 [+0.100, +0.300]" in svg
    assert "the truth itself" in intervals(BARS, IOU, floor=0.97)
    assert "the truth itself" not in intervals(BARS, IOU)


@pytest.mark.parametrize("value", [Interval(0.0, None, None), Interval(0.5, 0.5, 0.5), Interval(-3.0, None, None)])
def test_a_single_value_has_an_axis(value: Interval) -> None:
    assert len(dots(intervals([Bar("a", "#111111", value)], IOU))) == 1
    assert len(dots(against_views([Curve("a", "#111111", ((4, value),))], IOU))) == 1


def test_views_are_spread_by_their_logarithm() -> None:
    points = tuple((count, Interval(0.1 * i, None, None)) for i, count in enumerate((1, 2, 4)))
    (one, two, four) = dots(against_views([Curve("a", "#111111", points)], IOU))
    assert two[0] - one[0] == pytest.approx(four[0] - two[0], abs=0.2)
    assert one[1] > two[1] > four[1]  # higher values stand higher
    assert one[1] - two[1] == pytest.approx(two[1] - four[1], abs=0.2)


def test_a_chart_as_a_file_is_whole_xml_with_a_legend_below_the_curves() -> None:
    """It names each system once, next to a dot of its colour, and nothing of the legend lies on the chart or outside the picture."""
    curves = [
        Curve(f"<{i}>", f"#00000{i}", ((1, Interval(0.1 * i, None, None)), (4, Interval(0.2, 0.1, 0.3))))
        for i in range(3)
    ]
    text = as_file(curves, IOU, "IoU & views")
    root = ElementTree.fromstring(text)
    names = {node.text: node for node in root.iter("{http://www.w3.org/2000/svg}text") if node.get("class") == "key"}
    assert list(names) == ["<0>", "<1>", "<2>"]
    group = root.find("{http://www.w3.org/2000/svg}g")
    chart = root.find("{http://www.w3.org/2000/svg}svg")
    assert group is not None
    assert chart is not None
    start = float(re.findall(r"[\d.]+", group.get("transform", ""))[1])
    assert start >= float(chart.get("y", "")) + float(chart.get("height", "")), "below the chart"
    for node, dot in zip(names.values(), group.iter("{http://www.w3.org/2000/svg}circle"), strict=True):
        assert dot.get("fill") == f"#00000{node.text[1]}" if node.text else False
        assert float(dot.get("cy", "")) == float(node.get("y", "")) - 4
        assert start + float(node.get("y", "")) < float(root.get("height", ""))
    assert "IoU &amp; views" in text
