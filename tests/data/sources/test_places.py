"""Folders, patterns and names of files: what of them is read, and with which columns."""

from __future__ import annotations

import gzip
import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from trialign.config.compose import compose
from trialign.config.data import InterJsonConfig
from trialign.data.sources import InterJson, Tables
from trialign.errors import DataError

Make = Callable[..., Tables]


def _write(path: Path, **columns: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), path)


def _events(source: Tables, folder: Path) -> list[tuple[Any, ...]]:
    events = source.load(folder).events
    assert events is not None
    return sorted(tuple(row.values()) for row in events.to_pyarrow().to_pylist())


@pytest.mark.parametrize("root", [".", "seed=3"])
@pytest.mark.parametrize("suffix", ["parquet", "csv", "jsonl"])
def test_a_folder_of_partitions_is_read_with_the_columns_that_its_folders_name(
    tables: Make, tmp_path: Path, suffix: str, root: str
) -> None:
    rows = {"2025-12-01": ("u", "a"), "2026-01-01": ("v", "b")}
    for day, (user, item) in rows.items():
        folder = tmp_path / root / "events" / f"day={day}"
        if suffix == "parquet":
            _write(folder / "part-0.parquet", user=[user], item=[item])
        else:
            folder.mkdir(parents=True)
            text = f"user,item\n{user},{item}\n" if suffix == "csv" else f'{{"user": "{user}", "item": "{item}"}}\n'
            (folder / f"part-0.{suffix}").write_text(text)
    # What Spark and pandas leave next to the rows.
    (tmp_path / root / "events" / "_SUCCESS").touch()
    (tmp_path / root / "events" / ".part-0.crc").touch()
    events = str(Path(root) / "events")
    source = tables(events, columns={"time": "day"}, time_unit="iso")
    assert _events(source, tmp_path) == [("u", "a", 1764547200), ("v", "b", 1767225600)]
    assert sum(role.startswith("events/") for role in source.sources()) == 2
    assert _events(tables(f"{events}/**/*.{suffix}", columns={"time": "day"}, time_unit="iso"), tmp_path)


@pytest.mark.parametrize("suffix", ["parquet", "csv", "jsonl"])
def test_a_folders_name_replaces_no_column_of_the_file_and_no_zero_of_a_key(
    tables: Make, tmp_path: Path, suffix: str
) -> None:
    # As `data.root=runs/user=7` has it: DuckDB would read 7 for every user.
    folder = tmp_path / "user=7"
    if suffix == "parquet":
        _write(folder / "e.parquet", user=["u"], item=["a"], time=[1])
    else:
        folder.mkdir()
        text = "user,item,time\nu,a,1\n" if suffix == "csv" else '{"user": "u", "item": "a", "time": 1}\n'
        (folder / f"e.{suffix}").write_text(text)
    assert _events(tables(f"user=7/e.{suffix}"), tmp_path) == [("u", "a", 1)]
    for key in ("007", "7"):
        _write(tmp_path / "keys" / f"user={key}" / "e.parquet", item=["a"], time=[1])
    assert _events(tables("keys"), tmp_path) == [("007", "a", 1), ("7", "a", 1)]


def test_packed_and_plain_files_of_one_format_are_one_kind(tables: Make, tmp_path: Path) -> None:
    (tmp_path / "log" / "old").mkdir(parents=True)
    (tmp_path / "log" / "new.csv").write_text("user,item,time\nu,a,1\n")
    (tmp_path / "log" / "old" / "1.csv.gz").write_bytes(gzip.compress(b"user,item,time\nu,b,2\n"))
    assert _events(tables("log"), tmp_path) == [("u", "a", 1), ("u", "b", 2)]


def test_a_folder_of_several_kinds_names_patterns_that_a_shell_and_the_config_take(
    tables: Make, tmp_path: Path
) -> None:
    for month in ("2025-12", "2026-01"):
        _write(tmp_path / "my [new] log" / f"month={month}" / "e.parquet", user=["u"], item=["a"], time=[1])
    (tmp_path / "my [new] log" / "README.md").touch()
    with pytest.raises(DataError, match=r"several kinds: 2 \.parquet, 1 \.md\n") as refused:
        tables("my [new] log").sources()
    for named, count in zip(re.findall(r"'[^']*'", refused.value.remedy), (2, 1), strict=True):
        [override] = shlex.split(named)
        typed = compose("prepare", ["run=runs/x", "data=tables", "data.items=items.csv", override])
        assert len(tables(typed.data.events).sources()) == count + 1


def test_folders_that_cannot_be_read_as_one_are_refused(tables: Make, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="empty holds no file"):
        tables("empty").sources()
    _write(tmp_path / "delta" / "e.parquet", user=["u"], item=["a"], time=[1])
    (tmp_path / "delta" / "_delta_log").mkdir()
    with pytest.raises(DataError, match="delta is a table with a journal, _delta_log\n"):
        tables("delta").sources()


def test_a_folder_in_place_of_the_one_file_of_a_pair_is_refused(tmp_path: Path) -> None:
    for name in ("a.json", "b.json"):
        (tmp_path / name).write_text("{}")
    with pytest.raises(DataError, match=r"data\.interactions=\. names 2 files\n.*\n.*a\.json"):
        InterJson(InterJsonConfig(root=str(tmp_path), interactions=".", items="a.json")).sources()


@pytest.mark.parametrize("suffix", ["parquet", "csv", "jsonl"])
def test_a_file_whose_name_reads_as_a_pattern_is_itself(tables: Make, tmp_path: Path, suffix: str) -> None:
    for name, user in (("day[1]", "right"), ("day1", "wrong")):
        if suffix == "parquet":
            _write(tmp_path / f"{name}.parquet", user=[user], item=["a"], time=[1])
        elif suffix == "csv":
            (tmp_path / f"{name}.csv").write_text(f"user,item,time\n{user},a,1\n")
        else:
            (tmp_path / f"{name}.jsonl").write_text(f'{{"user": "{user}", "item": "a", "time": 1}}\n')
    assert _events(tables(f"day[1].{suffix}"), tmp_path) == [("right", "a", 1)]
