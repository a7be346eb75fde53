from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from trialign.config.data import InterJsonConfig
from trialign.data.sources import InterJson
from trialign.data.sources.evidence import items_table
from trialign.errors import DataError

ITEMS = {"1": {"title": "one"}, "2": {"title": "two"}, "x": {}}
Write = Callable[..., InterJson]


def test_events_are_in_the_order_of_the_lists(inter_json: Write, tmp_path: Path) -> None:
    raw = inter_json({"b": [2, 1, 2], "a": [], "c": ["x"]}, ITEMS).load(tmp_path)
    events = raw.events.to_pyarrow()
    assert events.column_names == ["user", "item", "order"]
    assert sorted(events.to_pylist(), key=lambda event: (event["user"], event["order"])) == [
        {"user": "b", "item": "2", "order": 0},
        {"user": "b", "item": "1", "order": 1},
        {"user": "b", "item": "2", "order": 2},
        {"user": "c", "item": "x", "order": 0},
    ]
    assert not raw.has_clock
    assert raw.images is None


def test_a_user_with_an_empty_list_is_mentioned(
    inter_json: Write, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        inter_json({"b": [1], "a": []}, ITEMS).load(tmp_path)
    assert "1 users with an empty list" in caplog.text


@pytest.mark.parametrize(
    ("found", "categories"),
    [
        ("Beauty, Makeup,Nails", ["Beauty", "Makeup", "Nails"]),
        (["Beauty", "Make, up"], ["Beauty", "Make, up"]),
        ([["Beauty", "Makeup"], ["Beauty", "Hair"]], ["Beauty", "Makeup", "Hair"]),
        ("", []),
        (None, []),
        ([], []),
    ],
)
def test_categories_of_every_shape(inter_json: Write, tmp_path: Path, found: object, categories: list[str]) -> None:
    raw = inter_json({"u": [1]}, {"1": {"title": None, "categories": found, "price": 3}}).load(tmp_path)
    assert raw.items.to_pylist() == [
        {"item": "1", "title": "", "description": "", "brand": "", "categories": categories}
    ]


def test_sources_are_the_two_files(inter_json: Write, tmp_path: Path) -> None:
    assert inter_json({}, {}).sources() == {"interactions": tmp_path / "inter.json", "items": tmp_path / "item.json"}


@pytest.mark.parametrize("name", ["inter.json", "item.json"])
def test_a_missing_file_is_named(inter_json: Write, tmp_path: Path, name: str) -> None:
    source = inter_json({}, {})
    (tmp_path / name).unlink()
    with pytest.raises(DataError, match=rf"{name} does not exist\n.*\n.*TRIALIGN_DATA"):
        source.sources()


def test_a_root_that_is_not_set_is_asked_for() -> None:
    with pytest.raises(DataError, match=r"data\.root is not set\n.*\n.*TRIALIGN_DATA"):
        InterJson(InterJsonConfig(root=None, interactions="a", items="b"))


@pytest.mark.parametrize(
    ("interactions", "items", "message"),
    [
        ("{", ITEMS, "inter.json is not JSON: .*line 1"),
        ({"u": [1]}, '{"1": ', "item.json is not JSON"),
        ('{"u": ' + "[" * 100_000, ITEMS, "inter.json is not JSON: .*nested too deeply"),
        ({"u": [1]}, '{"1": ' + "[" * 100_000, "item.json is not JSON: .*nested too deeply"),
        ("[[1, 2]]", ITEMS, "inter.json holds a list"),
        ({"u": "1 2"}, ITEMS, "user 'u' holds \"1 2\"\n.*a list of item ids"),
        ({"u": [1, 2.5]}, ITEMS, "user 'u' holds 2.5\n.*strings or integers"),
        ({"u": [True]}, ITEMS, "user 'u' holds true"),
        ({"u": [None]}, ITEMS, "user 'u' holds null"),
        ({"u": [[1]]}, ITEMS, r"user 'u' holds \[1\]"),
        ({"u": [1]}, {"1": "one"}, "item '1' holds \"one\""),
        ({"u": [1]}, {"1": {"title": {"en": 7}}}, "title of item '1' holds {.*\n.*text, a number"),
        ({"u": [1]}, {"1": {"brand": ["a"]}}, "brand of item '1' holds"),
        ({"u": [1]}, {"1": {"categories": {"a": 7}}}, "categories of item '1' holds {"),
        ({"u": [1]}, {"1": {"categories": [{"a": 7}]}}, "categories of item '1' holds {"),
        ({"u": [1]}, {"1": {"categories": [["a", {}]]}}, "categories of item '1' holds {"),
        ('{"u": [1], "v": [1], "u": [2]}', ITEMS, r"inter.json has 1 duplicate key\(s\), e.g. 'u'"),
        ({"u": [1]}, '{"1": {}, "2": {}, "1": {}}', r"item.json has 1 duplicate key\(s\), e.g. '1'"),
        ({"u": [1]}, '{"1": {"title": "a", "title": "b"}}', "duplicate key"),
        ('{"\\ud800": [1]}', ITEMS, "inter.json holds text that is not Unicode"),
        ({"u": [1]}, '{"1": {"title": "\\ud800"}}', "item.json holds text that is not Unicode: .*surrogates"),
    ],
)
def test_files_of_another_shape_are_refused(
    inter_json: Write, tmp_path: Path, interactions: object, items: object, message: str
) -> None:
    with pytest.raises(DataError, match=message):
        inter_json(interactions, items).load(tmp_path)


def test_categories_are_read_and_refused_however_deeply_they_are_nested(tmp_path: Path) -> None:
    """Red: a call per level, on top of those of whoever asked."""
    good: list[Any] = ["a", "b"]
    bad: list[Any] = [{}]
    for _ in range(5_000):
        good, bad = [good], [bad]
    assert items_table([{"item": "1", "categories": good}], tmp_path)["categories"].to_pylist() == [["a", "b"]]
    with pytest.raises(DataError, match="title of item '1' holds values nested too deeply to be shown"):
        items_table([{"item": "1", "title": bad}], tmp_path)


def test_a_file_that_is_not_utf8_is_refused(inter_json: Write, tmp_path: Path) -> None:
    source = inter_json({"u": [1]}, ITEMS)
    (tmp_path / "item.json").write_bytes(b'{"1": {"title": "caf\xe9"}}')
    with pytest.raises(DataError, match=r"item\.json is not JSON"):
        source.load(tmp_path)
