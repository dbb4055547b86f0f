import csv
import io
import re
from dataclasses import replace

import pytest

from mvsam3d.evaluation.records import Item, Record
from mvsam3d.evaluation.tables import (
    SECONDS,
    Measure,
    Summary,
    as_markdown,
    best_systems,
    objects_csv,
    pairs_csv,
    spread,
    summarise,
    summary_csv,
    sureness,
    verdict,
)

IOU, CHAMFER = Measure("iou", "IoU", "high"), Measure("chamfer", "Chamfer", "low", 4)
TOLD = "the photos are dark"


def record(subject: str, system: str, views: int, iou: float | None, chamfer: float = 0.1) -> Record:
    """None: it failed."""
    item = Item(subject, system, views)
    if iou is None:
        return Record(item, failure=TOLD)
    return Record(item, metrics={"iou": iou, "chamfer": chamfer}, missing={"lpips": "no weights"}, seconds=2.0)


def table(rows: dict[str, list[float | None]], views: int = 4) -> list[Record]:
    """IoU of each system on the objects 0, 1, ..."""
    return [record(str(i), system, views, value) for system, values in rows.items() for i, value in enumerate(values)]


def summary(records: list[Record], systems: tuple[str, ...] = ("ours", "hull"), **more: object) -> Summary:
    views = sorted({record.item.views for record in records})
    return summarise(records, systems, views, (IOU, CHAMFER, Measure("psnr", "PSNR", "high")), **more)  # type: ignore[arg-type]


def test_means_pairs_and_wins() -> None:  # closed form
    found = summary(table({"ours": [0.5, 0.7, 0.9], "hull": [0.4, 0.8, 0.6]}))
    assert found.cells["ours", 4, "iou"].value.mean == pytest.approx(0.7)
    assert found.cells["hull", 4, "iou"].objects == 3
    assert [m.name for m in found.measures] == ["iou", "chamfer", "seconds"]  # nothing knows a PSNR
    (pair, chamfer) = found.pairs
    assert (pair.system, pair.baseline, pair.wins, pair.losses, pair.objects) == ("ours", "hull", 2, 1, 3)
    assert pair.gain.mean == pytest.approx((0.1 - 0.1 + 0.3) / 3)
    assert (chamfer.gain.mean, chamfer.wins, chamfer.losses) == (0, 0, 0)
    assert found.missing == {("ours", 4, "lpips", "no weights"): 3, ("hull", 4, "lpips", "no weights"): 3}


def test_a_gain_is_better_whichever_way_the_metric_points() -> None:
    records = [record(str(i), "ours", 1, 0.5, 0.01) for i in range(5)] + [
        record(str(i), "hull", 1, 0.5, 0.03) for i in range(5)
    ]
    found = summary(records)
    pair = next(pair for pair in found.pairs if pair.metric == "chamfer")
    assert pair.gain.mean == pytest.approx(0.02)
    assert (pair.gain.low, pair.gain.high) == (pytest.approx(0.02), pytest.approx(0.02))  # all alike
    assert pair.sure
    assert best_systems(found, 1, CHAMFER) == ("ours",)
    assert best_systems(found, 1, IOU) == ("ours", "hull")


def test_intervals_say_how_sure_a_difference_is() -> None:
    noise = [0.02, -0.01, 0.03, 0.0, -0.02, 0.01, 0.025, -0.015, 0.005, -0.005, 0.015, -0.025]
    base = [0.3 + 0.05 * i for i in range(12)]  # objects differ far more than systems do
    clear = summary(table({"ours": [b + 0.05 + n for b, n in zip(base, noise)], "hull": base})).pairs[0]
    open_ = summary(table({"ours": [b + 0.001 + n for b, n in zip(base, noise)], "hull": base})).pairs[0]
    assert clear.sure
    assert not open_.sure
    assert "leaves out zero" in sureness(clear)
    assert "not decided" in sureness(open_)
    few = summary(table({"ours": [0.9, 0.9], "hull": [0.1, 0.1]})).pairs[0]
    assert few.gain.low is None
    assert not few.sure
    assert sureness(few) == "2 objects: too few to tell"
    assert "only 5 objects" in sureness(summary(table({"ours": [0.9] * 5, "hull": [0.1] * 5})).pairs[0])


def test_failures_are_counted_and_named_and_never_a_number() -> None:
    records = table({"ours": [0.5, None, 0.9], "hull": [0.4, 0.8, None]})
    found = summary(records, asked=8)
    assert found.cells["ours", 4, "iou"].objects == 2
    assert found.pairs[0].objects == 1  # the only object that both answered
    assert [(r.item.subject, r.item.system) for r in found.failures] == [("1", "ours"), ("2", "hull")]
    assert found.pending == 2
    text = as_markdown(found)
    assert "2 of 8 answers are not there yet" in text
    assert "Failures: 2 of 8 answers failed" in text
    assert text.count(TOLD) == 2
    row = next(line for line in text.splitlines() if line.startswith("| ours"))
    assert [cell.strip() for cell in row.split("|")[2:4]] == ["2", "1"]


def test_objects_that_cannot_be_read_are_no_system_s_failure() -> None:
    broken = replace(record("9", "ours", 4, None), unread=True)
    found = summary([*table({"ours": [0.5], "hull": [0.4]}), broken], unread=(("9", "it is | empty"),))
    assert found.failures == ()
    assert "Left out: 1 object " in as_markdown(found)
    assert r"it is \| empty" in as_markdown(found)


def test_leaders_are_ranked_over_the_objects_that_all_answered() -> None:
    # hull answered the easy objects only: its own mean is higher, though it is worse on each object
    found = summary(table({"ours": [0.2, 0.3, 0.9, 0.9], "hull": [None, None, 0.8, 0.8]}))
    (leader,) = found.leaders
    assert (leader.system, leader.baseline) == ("ours", "hull")
    assert leader.gain.mean == pytest.approx(0.1)
    # the third one's own mean is the second best, as it answered the easy objects only
    third = table({"ours": [0.2, 0.3, 0.9, 0.9], "hull": [0.1, 0.2, 0.8, 0.8], "mean": [None, None, 0.5, 0.5]})
    assert summary(third, ("ours", "hull", "mean")).leaders[0].baseline == "hull"
    text = verdict(leader, IOU)
    assert text.startswith("ours is better than hull by 0.100 IoU (better on 2 of 2 objects, worse on 0)")


def test_more_views_are_compared_by_object() -> None:
    records = table({"ours": [0.5, 0.6, 0.7]}, 1) + table({"ours": [0.6, 0.7, 0.8]}, 4) + table({"ours": [0.9] * 3}, 2)
    found = summary(records, ("ours",))
    assert found.leaders == found.pairs == ()
    (gain,) = found.gains
    assert (gain.views, gain.baseline_views, gain.wins) == (4, 1, 3)
    text = as_markdown(found)
    assert "ours is better than itself with 1 view by 0.100 IoU" in text
    head, _, row = text.split("## IoU ↑ by number of views\n\n")[1].splitlines()[:3]
    assert [cell.strip() for cell in head.strip("|").split("|")] == [
        "system",
        "1",
        "2",
        "4",
    ]  # in order, whatever was asked first
    values = [re.findall(r"0\.\d+", cell)[0] for cell in row.split("|")[2:5]]
    assert values == ["0.600", "0.900", "0.700"]


def test_the_floor_stands_below() -> None:
    floors = [Record(Item(str(i), "truth", 0), metrics={"iou": 0.9 + 0.01 * i}) for i in range(3)]
    found = summary(table({"ours": [0.5], "hull": [0.4]}), floors=floors)
    assert found.floor["iou"].value.mean == pytest.approx(0.91)
    assert "| the truth itself | 3 " in as_markdown(found)


def test_the_best_is_bold_and_times_are_not() -> None:
    text = as_markdown(summary(table({"ours": [0.5], "hull": [0.4]})))
    assert "**0.500**" in text
    assert "**0.400**" not in text
    assert "**2.0**" not in text


def test_metrics_that_do_not_lead_come_last() -> None:
    found = summary(table({"ours": [0.5], "hull": [0.4]}), leading=["iou"])
    assert found.leading == (IOU, SECONDS)
    short, whole = as_markdown(found, whole=False), as_markdown(found)
    assert "Chamfer" not in short
    assert whole.index("All metrics") < whole.index("Chamfer")


def test_numbers_have_their_digits() -> None:
    found = summary(table({"ours": [0.5] * 5, "hull": [0.5] * 5}))
    assert spread(found.cells["ours", 4, "chamfer"].value, CHAMFER) == "0.1000 [0.1000, 0.1000]"
    assert spread(found.pairs[0].gain, IOU, signed=True).startswith("+0.000")


def rows(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


def test_csv() -> None:
    records = [*table({"ours": [0.5, 0.7, 0.9], "hull": [0.4, 0.8, None]}), record("=cmd|x", "ours", 4, 0.1)]
    found = summary(records)
    (line,) = (row for row in rows(summary_csv(found)) if (row["system"], row["metric"]) == ("hull", "iou"))
    assert (float(line["mean"]), line["low"], line["objects"], line["failed"]) == (0.6, "", "2", "1")
    assert len(rows(pairs_csv(found))) == 2
    by_object = rows(objects_csv(records, found.measures))
    assert len(by_object) == 7
    assert {row["object"] for row in by_object} == {"0", "1", "2", "'=cmd|x"}  # no formula for a spreadsheet
    (failed,) = (row for row in by_object if row["failure"])
    assert (failed["system"], failed["iou"], failed["failure"]) == ("hull", "", TOLD)


def test_answers_that_are_alike_have_no_winner() -> None:
    found = summary(table({"ours": [0.5, 0.7], "hull": [0.5, 0.7]}))
    assert "are alike by IoU (2 objects)" in as_markdown(found)
    assert "better than" not in as_markdown(found)
