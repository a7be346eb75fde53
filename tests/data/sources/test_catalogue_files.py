from __future__ import annotations

import gzip
import json
import logging
from collections.abc import Callable
from datetime import date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from trialign.data.sources import Tables
from trialign.data.sources.pictures import stem_of
from trialign.errors import DataError

Make = Callable[..., Tables]
ITEMS: dict[str, Any] = {
    "7": {"title": "Seven", "description": "odd", "brand": "B", "categories": ["x", "y"], "caption": "a red seven"},
    "8": {"title": "Eight", "description": "even", "brand": "", "categories": [], "caption": ""},
}


@pytest.fixture(autouse=True)
def _events(tmp_path: Path) -> None:
    (tmp_path / "events.csv").write_text("user,item,time\nu,7,1\n")


def _lines(delimiter: str, header: list[str]) -> str:
    rows = [
        [key, i["title"], i["description"], i["brand"], "x,y" * bool(i["brand"]), i["caption"]]
        for key, i in ITEMS.items()
    ]
    return (
        "\n".join(delimiter.join(f'"{cell}"' if "," in cell else cell for cell in row) for row in [header, *rows])
        + "\n"
    )


NAMES = ["item", "title", "description", "brand", "categories", "caption"]
RECORDS = [{"item": int(key)} | fields for key, fields in ITEMS.items()]
WRITERS: dict[str, Callable[[Path], Any]] = {
    "i.csv": lambda path: path.write_text(_lines(",", NAMES)),
    "i.tsv": lambda path: path.write_text(_lines("\t", NAMES)),
    "i.item": lambda path: path.write_text(_lines("\t", [f"{name}:token" for name in NAMES]).replace('"', "")),
    "i.jsonl": lambda path: path.write_text("\n".join(map(json.dumps, RECORDS))),
    "i.jsonl.gz": lambda path: path.write_bytes(gzip.compress("\n".join(map(json.dumps, RECORDS)).encode())),
    "i.json": lambda path: path.write_text(json.dumps(ITEMS)),
    "i.parquet": lambda path: pq.write_table(pa.Table.from_pylist(RECORDS), path),
}


@pytest.mark.parametrize("name", WRITERS)
def test_every_format_reads_the_same_catalogue(tables: Make, tmp_path: Path, name: str) -> None:
    WRITERS[name](tmp_path / name)
    items = tables(items=name).load(tmp_path).items.to_pylist()
    assert items == [{"item": key} | fields for key, fields in ITEMS.items()]


def test_columns_are_mapped_and_texts_put_together(tables: Make, tmp_path: Path) -> None:
    records = [
        {"id": "7", "name": "Seven", "plot": "long", "gist": None},
        {"id": "8", "gist": "g", "plot": "p", "kind": "x|y|x"},
    ]
    (tmp_path / "i.jsonl").write_text("\n".join(map(json.dumps, records)))
    columns = {"item": "id", "title": "name", "description": ["gist", "plot"], "categories": "kind"}
    items = tables(items="i.jsonl", item_columns=columns, category_separator="|").load(tmp_path).items
    assert items.select(["item", "title", "description", "categories"]).to_pylist() == [
        {"item": "7", "title": "Seven", "description": "long", "categories": []},
        {"item": "8", "title": "", "description": "g\np", "categories": ["x", "y"]},
    ]


def test_what_a_catalogue_lacks_is_said(tables: Make, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "i.csv").write_text("item,brand\n7,B\n")
    with caplog.at_level(logging.WARNING):
        raw = tables(items="i.csv").load(tmp_path)
    assert "i.csv: no column for title, description, categories; empty for every item" in caplog.text
    assert raw.items.to_pylist() == [{"item": "7", "title": "", "description": "", "brand": "B", "categories": []}]
    assert raw.images is None


def test_captions_come_from_a_file_of_their_own(tables: Make, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "i.json").write_text(json.dumps({"7": {"caption": "not this"}, "8": {}}))
    texts = {"7": {"description": "[Meta] odd [Image] a red seven"}, "9": {"description": "[Image] x"}}
    (tmp_path / "c.json").write_text(json.dumps(texts))
    changes: dict[str, Any] = {"items": "i.json", "captions": "c.json", "item_columns": {"caption": "description"}}
    with caplog.at_level(logging.WARNING):
        found = tables(**changes, caption_after="[Image]").load(tmp_path)
    assert found.items["caption"].to_pylist() == ["a red seven", ""]
    assert "1 captions belong to no item of the catalogue, e.g. 9" in caplog.text
    whole = tables(**changes).load(tmp_path)
    assert whole.items["caption"].to_pylist() == ["[Meta] odd [Image] a red seven", ""]
    with pytest.raises(DataError, match=r"1 captions lacks the mark '\[Imag3\]', e\.g\. that of item '7'"):
        tables(**changes, caption_after="[Imag3]").load(tmp_path)


@pytest.mark.parametrize(
    ("name", "content", "columns", "message"),
    [
        ("i.csv", "id,title\n7,S\n", {}, r"no column 'item'.*\n.*data\.item_columns\.item.*\n.*known: id, title"),
        ("i.csv", "item,titel\n7,S\n", {"title": "title"}, "no column 'title'\n.*\n.*did you mean 'titel'"),
        ("i.jsonl", '{"item": 7}\n{"item": 8', {}, "line 2 of .* is not JSON"),
        ("i.jsonl", "7\n", {}, "line 1 holds 7\n.*one JSON object"),
        ("i.jsonl", '{"item": 7.5}\n', {}, "an item's key holds 7.5"),
        ("i.jsonl", '{"item": 7, "title": {"en": "S"}}\n', {}, r"title of item '7' holds .*\n.*text, a number"),
        ("i.jsonl", '{"item": 7, "categories": {"x": 1}}\n', {}, r"categories of item '7' holds"),
        ("i.jsonl", '{"item": 7, "title": "\\ud800"}\n', {}, "text that is not Unicode"),
        ("i.json", '{"7": []}', {}, r"item '7' holds \[\]"),
    ],
)
def test_catalogues_of_another_shape_are_refused(
    tables: Make, tmp_path: Path, name: str, content: str, columns: dict[str, Any], message: str
) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(DataError, match=message):
        tables(items=name, item_columns=columns).load(tmp_path)


def test_a_second_caption_of_an_item_is_refused(tables: Make, tmp_path: Path) -> None:
    (tmp_path / "c.csv").write_text("item,caption\na,one\na,two\n")
    with pytest.raises(DataError, match="another caption of item 'a' holds \"two\""):
        tables(captions="c.csv").load(tmp_path)


PRICES = {
    "decimal": (pa.array([Decimal("9.99"), Decimal("10.00"), None], pa.decimal128(10, 2)), ["9.99", "10.00", ""]),
    "tiny": (pa.array([Decimal("0.0000000001"), None, None], pa.decimal128(38, 10)), ["0.0000000001", "", ""]),
    "float": (pa.array([9.99, 10.0, float("nan")]), ["9.99", "10", ""]),
    "float of 32 bits": (pa.array([9.99, 10.0, None], pa.float32()), ["9.99", "10", ""]),
    "integer": (pa.array([3, -1, None]), ["3", "-1", ""]),
    "boolean": (pa.array([True, False, None]), ["true", "false", ""]),
    "day": (pa.array([date(2025, 12, 1), None, None]), ["2025-12-01", "", ""]),
    "moment": (pa.array([datetime(2025, 12, 1, 8, 30), None, None]), ["2025-12-01 08:30:00", "", ""]),
    "nanoseconds": (pa.array([10**18 + 1, None, None], pa.timestamp("ns")), ["2001-09-09 01:46:40.000000001", "", ""]),
}


@pytest.mark.parametrize("kind", PRICES)
def test_numbers_and_dates_are_read_as_the_text_that_a_person_sees(tables: Make, tmp_path: Path, kind: str) -> None:
    values, texts = PRICES[kind]
    pq.write_table(pa.table({"item": ["7", "8", "9"], "text": ["t"] * 3, "price": values}), tmp_path / "i.parquet")
    columns = {"description": ["text", "price"], "title": "price", "categories": "price"}
    items = tables(items="i.parquet", item_columns=columns).load(tmp_path).items
    assert items["title"].to_pylist() == texts
    assert items["description"].to_pylist() == [f"t\n{text}".strip() for text in texts]
    assert items["categories"].to_pylist() == [[text] if text else [] for text in texts]


def test_numbers_of_json_lines_are_texts_too(tables: Make, tmp_path: Path) -> None:
    (tmp_path / "i.jsonl").write_text('{"item": 7, "title": 300, "brand": 9.9, "categories": [1, 2.0], "x": true}')
    items = tables(items="i.jsonl", item_columns={"description": "x"}).load(tmp_path).items.to_pylist()
    assert items == [{"item": "7", "title": "300", "description": "true", "brand": "9.9", "categories": ["1", "2"]}]


def test_keys_may_be_decimals_without_a_fraction(tables: Make, tmp_path: Path) -> None:
    keys = pa.array([Decimal(7)], pa.decimal128(38, 0))
    pq.write_table(pa.table({"item": keys, "title": ["S"]}), tmp_path / "i.parquet")
    pq.write_table(pa.table({"user": keys, "item": keys, "time": [1]}), tmp_path / "e.parquet")
    raw = tables("e.parquet", items="i.parquet").load(tmp_path)
    assert raw.items["item"].to_pylist() == ["7"]
    assert raw.events is not None
    assert raw.events.to_pyarrow().to_pylist() == [{"user": "7", "item": "7", "order": 1}]
    pq.write_table(pa.table({"item": pa.array([Decimal("7.5")], pa.decimal128(38, 1))}), tmp_path / "i.parquet")
    with pytest.raises(DataError, match=r"an item's key holds .7\.5"):
        tables("e.parquet", items="i.parquet").load(tmp_path)


def test_a_missing_number_of_another_library_is_no_text(tables: Make, tmp_path: Path) -> None:
    pq.write_table(pa.table({"item": ["a"], "title": [float("nan")]}), tmp_path / "i.parquet")
    assert tables(items="i.parquet").load(tmp_path).items["title"].to_pylist() == [""]


@pytest.mark.parametrize(
    ("name", "stem"),
    [
        ("7.jpg", "7"),
        ("a/b/7.JPEG", "7"),
        ("../../etc/7.png", "7"),
        ("7", "7"),
        ("v1.5", "v1.5"),
        ("v1.5.webp", "v1.5"),
    ],
)
def test_a_picture_is_named_without_folder_and_suffix(name: str, stem: str) -> None:
    assert stem_of(name) == stem
