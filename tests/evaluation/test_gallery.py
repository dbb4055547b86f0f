"""The page of an evaluation, as text and in a browser."""

import re
from html import unescape
from pathlib import Path

import pytest

from mvsam3d.evaluation.gallery import FIRST_SHOWN, Page, page
from mvsam3d.evaluation.records import Item, Record, ResultFolder
from mvsam3d.evaluation.tables import Measure, summarise
from mvsam3d.evaluation.tiles import jpeg, seen, truth_cameras
from tests.evaluation.truths import block
from tests.serve.test_view import chromium

IOU = Measure("iou_64", "IoU 64³", "high")
EVIL = "<script>document.title='taken'</script>\"'&"
COUNT = 14
SYSTEMS = ("ours", "hull")


def value(i: int, system: str, views: int) -> float:
    """ours is best on the last objects and hull on the first; more views help."""
    return (i if system == "ours" else COUNT - i) / 20 + 0.02 * views


def name(i: int) -> str:
    return EVIL if i == 3 else f"object {i:02d}"


@pytest.fixture
def shown(tmp_path: Path) -> str:
    folder = ResultFolder(tmp_path / "out")
    picture = jpeg(seen(block(), truth_cameras(block())))
    records = []
    for i in range(COUNT):
        folder.of_subject(name(i), "truth.jpg").write_bytes(picture)
        for system in SYSTEMS:
            for views in (1, 4):
                item = Item(name(i), system, views)
                folder.path(item, ".jpg").write_bytes(picture)
                records.append(
                    Record(item, metrics={"iou_64": value(i, system, views)}, notes=(f"note {EVIL}",), seconds=1.0)
                )
    records[3 * 4 + 1] = Record(Item(EVIL, "ours", 4), failure=f"it broke {EVIL}")
    floors = [Record(Item(name(i), "truth", 0), metrics={"iou_64": 0.97}) for i in range(COUNT)]
    summary = summarise(records, SYSTEMS, (1, 4), (IOU,), floors=floors, unread=(("broken", f"no mesh {EVIL}"),))
    names = tuple(name(i) for i in range(COUNT))
    return page(
        Page(summary, tuple(records), (f"fact {EVIL}",), folder, (*names, "broken"), {name(1): ("not closed",)})
    )


def cards(html: str) -> list[tuple[str, bool]]:
    found = re.findall(r'<article class=card data-name="([^"]*)"( hidden)?>', html)
    return [(title, bool(hidden)) for title, hidden in found]


WORST = [EVIL, *(name(i) for i in range(COUNT) if i != 3)]  # what failed is worst of all


def test_the_worst_come_first_and_the_rest_waits(shown: str) -> None:
    order = cards(shown)
    assert [unescape(title) for title, _ in order] == WORST
    assert [hidden for _, hidden in order] == [False] * FIRST_SHOWN + [True] * (COUNT - FIRST_SHOWN)


def test_nothing_in_it_is_code_or_from_elsewhere(shown: str) -> None:
    assert "<script>document" not in shown
    assert shown.count("<script") == 2  # its own, and the values
    assert not re.findall(r"(?:src|href)=(?![\"']data:)", shown)
    assert "default-src 'none'" in shown


def test_who_leads_and_what_failed_is_told(shown: str) -> None:
    text = re.sub(r"<[^>]+>", " ", re.sub(r"<(style|script).*?</\1>", "", shown, flags=re.DOTALL))
    for words in (
        "1 of 56 answers failed",
        "Left out, as they cannot be used: 1 true objects",
        "not closed",
        "What more views bring",
        "+0.060 [+0.060, +0.060] IoU 64³, better on 13 of 13 objects",
        "not decided: the interval holds zero",
    ):
        assert words in " ".join(text.split())
    assert (
        shown.index("class=verdicts")
        < shown.index("class=problems")
        < shown.index("class=charts")
        < shown.index("id=gallery")
    )


def test_a_page_without_any_answer(tmp_path: Path) -> None:
    records = [Record(Item("a", "ours", 1), failure="no")]
    html = page(Page(summarise(records, ("ours",), (1,), (IOU,)), tuple(records), (), ResultFolder(tmp_path), ("a",)))
    assert "No answer could be judged" in html
    assert "1 of 1 answers failed" in html


def test_the_page_in_a_browser(shown: str, tmp_path: Path) -> None:
    (tmp_path / "report.html").write_text(shown)
    with chromium(1300, 900) as driver:
        driver.get(f"file://{tmp_path}/report.html")
        assert driver.title == "Evaluation"
        assert driver.get_log("browser") == []

        def titles() -> list[str]:
            visible = [card for card in driver.find_elements("css selector", ".card") if card.is_displayed()]
            return [card.find_element("tag name", "h3").text for card in visible]

        def choose(box: str, option: str) -> None:
            driver.find_element("css selector", f"#{box} option[value='{option}']").click()

        assert titles() == WORST[:FIRST_SHOWN]
        choose("by", "1|1")  # hull with one view is worst where ours is best
        every = [name(i) for i in range(COUNT)]
        assert titles() == every[::-1][:FIRST_SHOWN]
        choose("order", "best")
        assert titles() == every[:FIRST_SHOWN]
        choose("by", "0|4")
        driver.find_element("id", "all").click()
        assert titles() == WORST[::-1]
        choose("order", "name")
        assert titles() == sorted(every)
        pictures = (
            "return [...document.images].filter(i => { i.loading = 'eager'; return true }).map(i => i.naturalWidth > 0)"
        )
        assert all(driver.execute_script(pictures))
        assert "leads by IoU" in driver.find_element("css selector", ".verdicts").text
        loaded = driver.execute_script("return performance.getEntriesByType('resource').map(e => e.name)")
        assert [address for address in loaded if not address.startswith("data:")] == []
        wide = driver.execute_script(
            "return document.documentElement.scrollWidth - document.documentElement.clientWidth"
        )
        assert wide == 0
