from __future__ import annotations

import gzip
import json
import logging
import os
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from trialign.config.data import DataConfig
from trialign.data.prepare import prepare
from trialign.data.sources import Tables
from trialign.data.sources.formats import json_lines
from trialign.errors import ConfigError, DataError

Make = Callable[..., Tables]
EVENTS = [("u", "a", 30), ("u", "b", 20), ("7", "c", 10), ("7", "a", 10)]
RECORDS = [{"user": user, "item": item, "time": time} for user, item, time in EVENTS]


def _write_csv(path: Path, delimiter: str = ",", header: str = "user,item,time") -> None:
    lines = [header.replace(",", delimiter), *(delimiter.join(map(str, event)) for event in EVENTS)]
    path.write_text("\n".join(lines) + "\n")


def _write_json_lines(path: Path) -> None:
    # A number among texts, as a log written by two programs has it.
    records = [record | {"user": 7 if record["user"] == "7" else record["user"]} for record in RECORDS]
    path.write_text("\n".join(map(json.dumps, records)) + "\n")


WRITERS: dict[str, Callable[[Path], Any]] = {
    "events.csv": _write_csv,
    "events.tsv": lambda path: _write_csv(path, "\t"),
    "events.inter": lambda path: _write_csv(path, "\t", "user:token,item:token,time:float"),
    "events.jsonl": _write_json_lines,
    "events.parquet": lambda path: pq.write_table(pa.Table.from_pylist(RECORDS), path),
    "events.csv.gz": lambda path: path.write_bytes(gzip.compress(b"user,item,time\nu,a,30\nu,b,20\n7,c,10\n7,a,10\n")),
}


def _events(source: Tables, folder: Path) -> list[tuple[Any, ...]]:
    events = source.load(folder).events
    assert events is not None
    return sorted(tuple(row.values()) for row in events.to_pyarrow().to_pylist())


@pytest.mark.parametrize("name", WRITERS)
def test_every_format_reads_the_same_events(tables: Make, tmp_path: Path, name: str) -> None:
    WRITERS[name](tmp_path / name)
    source = tables(name)
    assert _events(source, tmp_path) == sorted(EVENTS)
    assert source.load(tmp_path).has_clock
    assert source.sources() == {"events": tmp_path / name, "items": tmp_path / "items.csv"}


@pytest.mark.parametrize("name", ["events.csv", "events.jsonl", "events.parquet"])
def test_a_format_can_be_chosen_where_the_suffix_says_nothing(tables: Make, tmp_path: Path, name: str) -> None:
    WRITERS[name](tmp_path / "log.txt")
    with pytest.raises(DataError, match=r"log\.txt ends in \.txt, which is not read\n.*\.csv.*\n.*data\.format"):
        tables("log.txt").load(tmp_path)
    chosen = name.removeprefix("events.")
    assert _events(tables("log.txt", format=chosen), tmp_path) == sorted(EVENTS)


def test_files_may_differ_in_format_and_in_the_order_of_their_columns(tables: Make, tmp_path: Path) -> None:
    (tmp_path / "log").mkdir()
    (tmp_path / "log" / "1.csv").write_text("user,item,time\nu,a,1\n")
    (tmp_path / "log" / "2.csv").write_text("time,junk,item,user\n2,x,b,u\n")
    pq.write_table(pa.table({"user": [7], "item": ["c"], "time": [3.0]}), tmp_path / "log" / "3.parquet")
    source = tables("log/*")
    assert _events(source, tmp_path) == [("7", "c", 3), ("u", "a", 1), ("u", "b", 2)]
    assert [role for role in source.sources() if role != "items"] == [
        "events/log/1.csv",
        "events/log/2.csv",
        "events/log/3.parquet",
    ]
    assert _events(tables(["log/3.parquet", "log/1.csv"]), tmp_path) == [("7", "c", 3), ("u", "a", 1)]


def test_keys_of_different_types_are_read_as_text_and_told(
    tables: Make, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    pq.write_table(pa.table({"user": [7], "item": ["a"], "time": [1]}), tmp_path / "e1.parquet")
    pq.write_table(pa.table({"user": ["7"], "item": ["b"], "time": [2]}), tmp_path / "e2.parquet")
    with caplog.at_level(logging.WARNING):
        assert _events(tables("e*.parquet"), tmp_path) == [("7", "a", 1), ("7", "b", 2)]
    assert "column 'user' is int64 in e1.parquet, string in e2.parquet; read as text" in caplog.text


def test_integers_among_the_texts_of_json_lines_are_told(
    tables: Make, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    lines = ['{"user": 7, "item": "a", "time": 1}', '{"user": "7", "item": "a", "time": 2}']
    (tmp_path / "e.jsonl").write_text("\n".join([*lines, '{"user": "u", "item": "b", "time": 3}']))
    with caplog.at_level(logging.WARNING):
        assert _events(tables("e.jsonl"), tmp_path) == [("7", "a", 1), ("7", "a", 2), ("u", "b", 3)]
    assert "column 'user' is text in 2 rows of e.jsonl, no text in 1; read as text" in caplog.text
    assert "'item'" not in caplog.text


def test_a_rank_is_an_order_without_a_clock(tables: Make, tmp_path: Path) -> None:
    (tmp_path / "events.csv").write_text("who,what,place\nu,a,2\nu,b,1\n")
    source = tables(columns={"user": "who", "item": "what", "time": None, "rank": "place"})
    assert not source.load(tmp_path).has_clock
    assert _events(source, tmp_path) == [("u", "a", 2), ("u", "b", 1)]


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"time": None}, r"no order\n.*rank.*\n.*data\.columns\.time=COLUMN and data\.columns\.rank=COLUMN"),
        ({"rank": "place"}, r"both data\.columns\.time and data\.columns\.rank are set"),
    ],
)
def test_events_have_exactly_one_order(tables: Make, columns: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        tables(columns=columns)


@pytest.mark.parametrize(
    ("unit", "found", "seconds", "nanos"),
    [
        ("s", "1714000000", 1714000000, 0),
        ("s", "1714000000.25", 1714000000, 250_000_000),
        ("s", "1.714e9", 1714000000, 0),
        ("s", "-1.5", -2, 500_000_000),
        ("ms", "1714000000123", 1714000000, 123_000_000),
        ("us", "1714000000123456", 1714000000, 123_456_000),
        ("ns", "1714000000999999999", 1714000000, 999_999_999),
        ("iso", "2024-04-24", 1713916800, 0),
        ("iso", "2024-04-24T23:06:40", 1714000000, 0),
        ("iso", "2024-04-24T23:06:40.75Z", 1714000000, 750_000_000),
        ("iso", "2024-04-24T23:06:40.123456789Z", 1714000000, 123_456_789),
        ("iso", "2024-04-25 01:06:40.1234567+02:00", 1714000000, 123_456_700),
        ("iso", "2024-04-25 01:06:40+02:00", 1714000000, 0),
    ],
)
def test_times_in_every_unit(tables: Make, tmp_path: Path, unit: str, found: str, seconds: int, nanos: int) -> None:
    (tmp_path / "events.csv").write_text(f"user,item,time\nu,a,{found}\n")
    fine = (nanos,) if nanos else ()
    assert _events(tables(time_unit=unit), tmp_path) == [("u", "a", *fine, seconds)]


@pytest.mark.parametrize(
    ("time", "seconds"),
    [
        (datetime(2024, 4, 24, 23, 6, 40), 1714000000),
        (datetime(2024, 4, 24, 23, 6, 40, tzinfo=UTC), 1714000000),
        (date(2024, 4, 24), 1713916800),
        (1714000000.0, 1714000000),
    ],
)
def test_a_typed_column_tells_its_own_unit(tables: Make, tmp_path: Path, time: object, seconds: int) -> None:
    pq.write_table(pa.table({"user": ["u"], "item": ["a"], "time": [time]}), tmp_path / "events.parquet")
    assert _events(tables("events.parquet"), tmp_path) == [("u", "a", seconds)]


def test_nanoseconds_of_a_column_of_timestamps_are_read_or_counted(
    tables: Make, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    nanos = [1714000000123456789, 1714000000123456788, 1714000000123456000]
    for zone in (None, "UTC"):
        times = pa.array(nanos, pa.timestamp("ns", tz=zone))
        pq.write_table(
            pa.table({"user": ["u"] * 3, "item": ["a", "b", "c"], "time": times}), tmp_path / f"{zone}.parquet"
        )
    read = [(event[1], event[2]) for event in _events(tables("None.parquet"), tmp_path)]
    assert read == [("a", 123_456_789), ("b", 123_456_788), ("c", 123_456_000)]
    assert "microseconds" not in caplog.text
    read = [(event[1], event[2]) for event in _events(tables("UTC.parquet"), tmp_path)]
    assert read == [("a", 123_456_000), ("b", 123_456_000), ("c", 123_456_000)]
    assert "2 times of column 'time' of" in caplog.text


@pytest.mark.parametrize("events", [",", ";"])
@pytest.mark.parametrize("items", [",", ";", None])
def test_events_and_catalogue_have_a_delimiter_each(
    tables: Make, tmp_path: Path, events: str, items: str | None
) -> None:
    _write_csv(tmp_path / "events.csv", events)
    mark = items or events
    (tmp_path / "items.csv").write_text(f"item{mark}title\na{mark}A\nb{mark}B\nc{mark}C\n")
    source = tables(delimiter=events, items_delimiter=items)
    assert _events(source, tmp_path) == sorted(EVENTS)
    assert source.load(tmp_path).items["title"].to_pylist() == ["A", "B", "C"]
    wrong = {",": ";", ";": ","}[mark]
    with pytest.raises(
        DataError, match=rf"names one column, 'item{mark}title'\n.*data\.items_delimiter\n.*\"{mark}\"'"
    ):
        tables(delimiter=events, items_delimiter=wrong).load(tmp_path)


@pytest.mark.parametrize("suffix", ["tsv", "csv"])
def test_quotes_are_text_where_a_setting_says_so(tables: Make, tmp_path: Path, suffix: str) -> None:
    titles = ['"7 Inch Nails" Live', "Plain", '"Heroes', 'Low"', '"', '"whole"']
    mark = "\t" if suffix == "tsv" else ","
    lines = [f"item{mark}title", *(f"i{n}{mark}{title}" for n, title in enumerate(titles))]
    (tmp_path / f"i.{suffix}").write_text("\n".join(lines) + "\n")
    (tmp_path / f"e.{suffix}").write_text(f'user{mark}item{mark}time\n"u{mark}i0{mark}1\nv"{mark}i1{mark}2\n')
    source = tables(f"e.{suffix}", items=f"i.{suffix}", quotes=False)
    assert source.load(tmp_path).items["title"].to_pylist() == titles
    assert _events(source, tmp_path) == [('"u', "i0", 1), ('v"', "i1", 2)]
    with pytest.raises(DataError, match=r"quote.*(\n.*)*data\.quotes=false"):
        tables(f"e.{suffix}", items=f"i.{suffix}").load(tmp_path)


def test_lines_that_a_quote_swallowed_are_told(tables: Make, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "i.tsv").write_text('item\ttitle\na\t"Heroes\nb\tPlain\nc\tLow"\nd\tD\n')
    _write_csv(tmp_path / "events.csv")
    assert tables(items="i.tsv").load(tmp_path).items["item"].to_pylist() == ["a", "d"]
    assert "the title of 1 items holds lines of the file, e.g. that of item 'a'; where quotes are text" in caplog.text


def test_a_column_of_ties_is_handed_on(tables: Make, tmp_path: Path) -> None:
    (tmp_path / "events.csv").write_text("user,item,time,line\nu,a,5.5,2\nu,b,5,1\n")
    events = tables(columns={"tie": "line"}).load(tmp_path).events
    assert events is not None
    assert sorted(events.to_pyarrow()["tie"].to_pylist()) == [1, 2]


def _many(wrong: dict[int, str], unit: str) -> str:
    size = 1000 if unit == "ms" else 1
    return "user,item,time\n" + "".join(f"u{i % 97},a,{wrong.get(i, (10**9 + i) * size)}\n" for i in range(50_000))


@pytest.mark.parametrize(
    ("unit", "wrong", "message"),
    [
        ("s", {49_000: "yesterday"}, r"1 of 50000 rows hold no time .*user 'u15', item 'a', time 'yesterday'"),
        ("s", {49_000: "x", 49_900: "y"}, "2 of 50000 rows hold no time"),
        ("s", {7: "inf"}, "1 of 50000 rows hold no time"),
        ("s", {7: "nan"}, "1 of 50000 rows hold no time"),
        ("iso", {i: "2024-01-01" for i in range(50_000)} | {7: "1714000000", 8: "inf"}, "2 of 50000 rows hold no time"),
        ("ms", {7: "2024-01-01"}, r"1 of 50000 rows hold no time .*\n.*data\.time_unit"),
    ],
)
def test_text_far_down_a_column_of_times_is_counted(
    tables: Make, tmp_path: Path, settings: DataConfig, unit: str, wrong: dict[int, str], message: str
) -> None:
    (tmp_path / "events.csv").write_text(_many(wrong, unit))
    with pytest.raises(DataError, match=message):
        prepare(tables(time_unit=unit), tmp_path, replace(settings, max_bad_events=0))


@pytest.mark.parametrize(
    ("columns", "rows", "message"),
    [
        ({"time": None, "rank": "time"}, "u,a,1.5\n", "1 of 1 rows hold no rank .*whole number"),
        ({"tie": "time"}, "u,a,1000000000.5\nu,b,1000000000\n", "1 of 2 rows hold no tie"),
    ],
)
def test_ranks_and_ties_are_whole_numbers(
    tables: Make, tmp_path: Path, settings: DataConfig, columns: dict[str, Any], rows: str, message: str
) -> None:
    (tmp_path / "events.csv").write_text("user,item,time\n" + rows)
    with pytest.raises(DataError, match=message.replace(" .*", "(.|\n)*")):
        prepare(tables(columns=columns), tmp_path, settings)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            "usr,item,time\nu,a,1\n",
            r"no column 'user'\n.*data\.columns\.user.*\n.*did you mean 'usr'\? known: item, time",
        ),
        (
            "user;item;time\nu;a;1\n",
            r"names one column, 'user;item;time'\n.*data\.delimiter\n.*'data\.delimiter=\";\"'",
        ),
        ("user\titem\ttime\nu\ta\t1\n", r"names one column, .*\n.*\n.*the ending \.tsv"),
        ("user,item,time,User\nu,a,1,x\n", "begins with user, item, time, User\n.*upper or lower case"),
        ("", "begins with nothing"),
        ("user,item,user\n", "begins with user, item, user\n.*each once"),
        ("user,item,time\nu,a,1\nu,b\n", r"events\.csv cannot be read: .*Line: 3"),
        ('user,item,time\nu,"a,1\n', r"events\.csv cannot be read"),
    ],
)
def test_files_of_another_shape_are_named(tables: Make, tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "events.csv").write_text(content)
    with pytest.raises(DataError, match=message):
        tables().load(tmp_path)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("events.csv", b"user,item,time\n" + b"u,a,1\n" * 9000 + b"u,caf\xe9,1\n", "cannot be read: .*not utf-8"),
        ("events.csv.gz", gzip.compress(b"user,item,time\n" + bytes(4000))[:-20], "cannot be read"),
        (
            "events.jsonl",
            b'{"user": 1, "item": "a", "time": 1}\n{"user": 1, "it\n',
            r"line 2 of .*events\.jsonl is not JSON",
        ),
        ("events.parquet", b"PAR1 nothing of the kind", "cannot be read"),
    ],  # A compressed file holds the time of day, and workers must agree on the names of tests.
    ids=["csv", "gz", "jsonl", "parquet"],
)
def test_damaged_files_are_named(tables: Make, tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=message) as error:
        tables(name).load(tmp_path)
    assert len(str(error.value).splitlines()) == 3


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"user": [1.0], "item": ["a"], "time": [1]}, r"'user' of .* holds float64\n.*\n.*missing values"),
        ({"user": ["u"], "item": [["a"]], "time": [1]}, "'item' of .* holds array"),
        ({"user": ["u"], "item": ["a"], "time": [True]}, "'time' of .* holds boolean"),
    ],
)
def test_columns_of_a_type_that_cannot_be_right_are_named(
    tables: Make, tmp_path: Path, table: dict[str, Any], message: str
) -> None:
    pq.write_table(pa.table(table), tmp_path / "events.parquet")
    with pytest.raises(DataError, match=message):
        tables("events.parquet").load(tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"events": 7}, r"data\.events=7\n"),
        ({"item_columns": {"brand": ["a", "b"]}}, r"data\.item_columns\.brand names 2 columns"),
    ],
)
def test_settings_that_do_not_exist_are_refused_before_any_file(
    tables: Make, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        tables(**changes)


@pytest.mark.parametrize(
    ("events", "message"), [("none.csv", r"none\.csv does not exist"), ("no*.csv", r"nothing matches .*no\*\.csv")]
)
def test_files_that_are_not_there_are_named(tables: Make, events: str, message: str) -> None:
    with pytest.raises(DataError, match=message + r"\n.*data\.events.*\n.*TRIALIGN_DATA"):
        tables(events).sources()


def test_a_compressed_file_that_is_cut_off_does_not_pass_for_a_shorter_one(tables: Make, tmp_path: Path) -> None:
    rows = "".join(f"u{n * 7919 % 5003},a,{n * 104_729 % 100_003}\n" for n in range(20_000))
    whole = gzip.compress(("user,item,time\n" + rows).encode())
    (tmp_path / "events.csv.gz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=r"events\.csv\.gz cannot be read: it breaks off"):
        tables("events.csv.gz").load(tmp_path)


@pytest.mark.parametrize("wrong", ['{"id": 1}', "[1]", "1.5", "true"])
@pytest.mark.parametrize("role", ["user", "item"])
def test_keys_of_json_lines_are_text_or_integers(
    tables: Make, tmp_path: Path, settings: DataConfig, role: str, wrong: str
) -> None:
    right = '{"user": "u", "item": "a", "time": 1}\n{"user": 7, "item": "a", "time": "2"}\n'
    old = {"user": '"user": 7', "item": '"item": "b"'}[role]
    text = right + '{"user": 7, "item": "b", "time": 3}\n'
    (tmp_path / "events.jsonl").write_text(text.replace(old, f'"{role}": {wrong}'))
    with pytest.raises(DataError, match=rf"rows hold no {role} that can be read.*\n.*text or an integer"):
        prepare(tables("events.jsonl", columns={"time": None, "rank": "time"}), tmp_path, settings)


def test_a_column_may_appear_far_down_a_file_of_json_lines(tables: Make, tmp_path: Path) -> None:
    late = [json.dumps({"user": "u", "item": "a"} | ({"tie": n} if n > 30_000 else {})) for n in range(30_003)]
    (tmp_path / "events.jsonl").write_text("\n".join(late) + "\n")
    events = tables("events.jsonl", columns={"time": None, "rank": "tie"}).load(tmp_path).events
    assert events is not None
    assert events.order.max().to_pyarrow().as_py() == 30_002


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "holds no line"),
        ("\n\n", "holds no line"),
        ('[{"user": 1}]\n', "line 1 holds"),
        ('{"user": "u", "item": "a", "time": 1}\n[1]\n', "line 2 holds"),
        ('{"user": "u", "item": "a", "time": 1}\n' * 30_000 + '{"user": "u"\n', "line 30001 of .* is not JSON"),
    ],
)
def test_a_line_that_is_no_json_object_is_named(tables: Make, tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "events.jsonl").write_text(content)
    with pytest.raises(DataError, match=message):
        tables("events.jsonl").load(tmp_path)


@pytest.mark.parametrize("levels", [200, 1_000, 100_000])
@pytest.mark.parametrize(("opens", "closes"), [("[", "]"), ('{"a": ', "}"), ("[", "")])
def test_a_line_nested_too_deeply_is_refused_before_its_readers_give_up(
    tables: Make, tmp_path: Path, levels: int, opens: str, closes: str
) -> None:
    """Red: DuckDB ends the process from some ten thousand levels on, and its types are read by calls in calls."""
    deep = opens * levels + "1" + closes * levels
    told = rf"line 2 of .* nested {levels + 1:,} levels deep\n.*100 levels deep at most"
    for name in ("events.jsonl", "events.jsonl.gz"):
        text = '{"user": "u", "item": "a", "time": 1}\n{"user": "u", "item": "b", "time": 2, "more": ' + deep + "}\n"
        (tmp_path / name).write_bytes(gzip.compress(text.encode()) if name.endswith("gz") else text.encode())
        with pytest.raises(DataError, match=told):
            tables(name).load(tmp_path)
        with pytest.raises(DataError, match=told):
            list(json_lines(tmp_path / name))


def test_brackets_side_by_side_or_in_a_text_are_no_levels(tables: Make, tmp_path: Path) -> None:
    text = json.dumps({"user": '\\"[' * 200, "item": "a", "time": 1, "more": [[{"a": [1]}]] * 200})
    (tmp_path / "events.jsonl").write_text(text)
    assert tables("events.jsonl").load(tmp_path).events.count().to_pyarrow().as_py() == 1


def test_a_column_without_a_name_is_left_alone(tables: Make, tmp_path: Path) -> None:
    (tmp_path / "events.csv").write_text(",user,item,time\n0,u,a,1\n1,u,b,2\n")
    assert _events(tables(), tmp_path) == [("u", "a", 1), ("u", "b", 2)]


def test_a_message_does_not_quote_a_line_of_megabytes(tables: Make, tmp_path: Path) -> None:
    (tmp_path / "events.csv").write_text("user,item,time\n" + "u" * 3_000_000 + ",a,1\n")
    with pytest.raises(DataError, match="cannot be read") as error:
        tables().load(tmp_path)
    assert len(str(error.value)) < 2000


@pytest.mark.parametrize("delimiter", ["::", "", '"', "\n"])
def test_a_delimiter_is_one_character(tables: Make, delimiter: str) -> None:
    with pytest.raises(ConfigError, match=r"data\.delimiter="):
        tables(delimiter=delimiter)


def test_what_is_no_file_is_named_before_it_is_opened(tables: Make, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.csv")
    with pytest.raises(DataError, match=r"pipe\.csv is neither file nor folder"):
        tables("pipe.csv").sources()
    (tmp_path / "a.tar").mkdir()
    (tmp_path / "events.csv").write_text("user,item,time\n")
    with pytest.raises(DataError, match=r"a\.tar is a folder"):
        tables(images="a.tar").sources()


@pytest.mark.parametrize("order", [("item_id", "title", '"genre'), ("item_id", '"genre', "title")])
def test_quotes_in_recbole_files_are_characters_like_any_other(
    tables: Make, tmp_path: Path, order: tuple[str, ...]
) -> None:
    titles = ['"7 Inch Nails" Live', "Plain", '"Heroes', 'Low"', '12" mix', '"', '""', '"whole"']
    rows = [{"item_id": str(n), "title": title, '"genre': "music"} for n, title in enumerate(titles)]
    lines = ["\t".join(f"{name}:token" for name in order)]
    lines += ["\t".join(row[name] for name in order) for row in rows]
    (tmp_path / "shop.item").write_text("\n".join(lines) + "\n")
    (tmp_path / "shop.inter").write_text('user:token\titem:token\ttime:float\n"u\t0\t1\nv"\t1\t2\n')
    source = tables("shop.inter", items="shop.item", item_columns={"item": "item_id"})
    items = source.load(tmp_path).items
    assert dict(zip(items["item"].to_pylist(), items["title"].to_pylist(), strict=True)) == {
        row["item_id"]: row["title"] for row in rows
    }
    assert _events(source, tmp_path) == [('"u', "0", 1), ('v"', "1", 2)]
