import json
import logging
import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mvsam3d.errors import BadFile, InvalidOption
from mvsam3d.evaluation.records import Item, Record, ResultFolder, slug

ITEM = Item("a chair", "visual hull", 4)
RECORD = Record(
    ITEM, metrics={"iou_64": 0.5}, missing={"lpips": "no weights"}, rule="icp-24", residual=0.01, seconds=2.5
)


@given(st.lists(st.text(min_size=1), min_size=2, max_size=2, unique=True))
def test_any_name_has_a_file_name_of_its_own(names: list[str]) -> None:  # law
    for name in names:
        found = slug(name)
        assert Path(found).name == found
        assert found not in ("", ".", "..")
        assert len(found.encode()) < 200
    assert slug(names[0]) != slug(names[1])


@pytest.mark.parametrize("name", ["../../etc", "/abs", "a/b", "..", "", "a\nb", "x" * 500])
def test_hostile_names_stay_in_the_folder(name: str, tmp_path: Path) -> None:
    path = ResultFolder(tmp_path).path(Item(name, name, 1), ".json").resolve()
    assert path.is_relative_to(tmp_path)


def test_a_record_comes_back(tmp_path: Path) -> None:
    folder = ResultFolder(tmp_path)
    assert folder.read(ITEM) is None
    folder.write(RECORD)
    assert folder.read(ITEM) == RECORD
    assert folder.read(Item("a chair", "visual hull", 1)) is None
    assert not list(tmp_path.rglob("*.partial"))


def test_what_is_no_number_is_missing_by_name(tmp_path: Path) -> None:
    folder = ResultFolder(tmp_path)
    folder.write(Record(ITEM, metrics={"a": math.nan, "b": math.inf, "c": 1.0}, residual=math.nan))
    found = folder.read(ITEM)
    assert found is not None
    assert (found.metrics, found.residual) == ({"c": 1.0}, None)
    assert found.missing == {"a": "it is nan", "b": "it is inf"}


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b'{"item": 3}',
        b"\xff\xfe",
        b"x" * (2 << 20),
        b'{"item": {"subject": "b", "system": "c", "views": 1}}',
    ],
)
def test_what_is_no_record_of_the_item_is_made_again(
    content: bytes, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = ResultFolder(tmp_path)
    folder.path(ITEM, ".json").write_bytes(content)
    with caplog.at_level(logging.WARNING):
        assert folder.read(ITEM) is None
    assert "made again" in caplog.text


def test_a_folder_goes_on_with_the_same_options_only(tmp_path: Path) -> None:
    folder = ResultFolder(tmp_path / "new" / "out")
    options = {
        "seed": 1,
        "views": [1, 4],
        "systems": {"ours": {"kind": "ours", "weights": "abc"}},
        "objects": {"a": "1"},
    }
    folder.begin(options)
    folder.begin(options)
    assert folder.options() == options
    other = {**options, "seed": 2, "systems": {"ours": {"kind": "ours", "weights": "def"}, "hull": {"kind": "hull"}}}
    with pytest.raises(InvalidOption) as problem:
        folder.begin(other)
    for words in ("seed was 1 and is 2", 'systems.ours.weights was "abc" and is "def"', "systems.hull was null"):
        assert words in str(problem.value)
    assert "views" not in str(problem.value)
    with pytest.raises(InvalidOption, match=r"objects\.a was .*objects\.b5 was null.*; and 5 more\. "):
        folder.begin({**options, "objects": {f"b{i}": "1" for i in reversed(range(9))}})


def test_folders_of_others_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("all of it")
    with pytest.raises(InvalidOption, match="holds no evaluation"):
        ResultFolder(tmp_path).begin({})
    (tmp_path / "run.json").write_text("[1]")
    with pytest.raises(BadFile, match=r"run\.json"):
        ResultFolder(tmp_path).begin({})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run.json", "thesis.txt"]


def test_the_record_is_plain_json(tmp_path: Path) -> None:
    ResultFolder(tmp_path).write(RECORD)
    content = json.loads(ResultFolder(tmp_path).path(ITEM, ".json").read_text())
    assert content["item"] == {"subject": "a chair", "system": "visual hull", "views": 4}
    assert content["metrics"] == {"iou_64": 0.5}
