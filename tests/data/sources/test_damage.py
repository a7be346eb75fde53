"""Damaged files: what is said of them, and that the remedy named leads to a file that is read."""

from __future__ import annotations

import gzip
import io
import subprocess
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from trialign.data.sources import Tables
from trialign.errors import DataError

Make = Callable[..., Tables]
LINES = ["user,item,time", "u,a,1", "u,b,2", "v,c,3"]


def _rows(source: Tables, folder: Path) -> int:
    events = source.load(folder).events
    assert events is not None
    return int(events.count().to_pyarrow().as_py())


def _packed() -> bytes:
    rows = "".join(f"u{n * 7919 % 5003},a,{n * 104_729 % 100_003}\n" for n in range(5000))
    return gzip.compress(("user,item,time\n" + rows).encode(), mtime=0)


def _parquet() -> bytes:
    pq.write_table(pa.table({"user": ["u"], "item": ["a"], "time": [1]}), made := io.BytesIO())
    return made.getvalue()


@pytest.mark.parametrize(
    ("name", "damage", "message"),
    [
        ("e.csv.gz", lambda: _packed()[:-20], "it breaks off, gzip's end is missing"),
        ("e.csv.gz", lambda: _packed()[:-8] + bytes(8), "it is damaged, what is unpacked is not what was packed"),
        (
            "e.csv.gz",
            lambda: _packed()[:3000] + b"\xff" * 20 + _packed()[3020:],
            "it is damaged and cannot be unpacked",
        ),
        ("e.csv.gz", lambda: _packed() + b"more", "something is behind what is"),
        ("e.csv.gz", lambda: b"user,item,time\n", "it is not packed by gzip"),
        ("e.parquet", lambda: _parquet()[:-20], "it breaks off, or is no Parquet"),
        ("e.parquet", bytes, "it breaks off, or is no Parquet: it is too short"),
    ],
    ids=["cut", "sum", "middle", "behind", "plain", "parquet", "empty"],
)
def test_damage_is_said_in_words_of_our_own(
    tables: Make, tmp_path: Path, name: str, damage: Callable[[], bytes], message: str
) -> None:
    (tmp_path / name).write_bytes(damage())
    with pytest.raises(DataError, match=rf"{name} cannot be read: .*{message}") as refused:
        tables(name).load(tmp_path)
    assert len(str(refused.value).splitlines()) == 3
    # As a catalogue it is said too.
    (tmp_path / "events.csv").write_text("user,item,time\nu,a,1\n")
    with pytest.raises(DataError, match=message):
        tables(items=name).load(tmp_path)


def test_zeros_behind_what_is_packed_are_said_and_go_by_the_command_named(tables: Make, tmp_path: Path) -> None:
    (tmp_path / "e.csv.gz").write_bytes(_packed() + bytes(512))
    with pytest.raises(DataError, match="zeros are behind") as refused:
        tables("e.csv.gz").load(tmp_path)
    subprocess.run(refused.value.remedy.partition(": ")[2], shell=True, check=True, timeout=60)
    assert _rows(tables("new-e.csv.gz"), tmp_path) == 5000


@pytest.mark.parametrize(
    ("ends", "line", "message"),
    [
        (["\r\n", "\r\n", "\r\n", "\n"], 4, "ends in LF, those before it in CR LF"),
        (["\n", "\n", "\r\n", "\n"], 3, "ends in CR LF, those before it in LF"),
        (["\n", "\r", "\n", "\n"], 2, "ends in CR, those before it in LF"),
    ],
)
@pytest.mark.parametrize("name", ["e.csv", "e.csv.gz"])
def test_lines_that_end_otherwise_are_named_with_the_command_that_mends_them(
    tables: Make, tmp_path: Path, name: str, ends: list[str], line: int, message: str
) -> None:
    # A quoted value may hold any end, and its lines are counted as an editor counts them.
    lines = [LINES[0], 'u,"a\na",1', *LINES[2:]]
    content = "".join(part + end for part, end in zip(lines, ends, strict=True)).encode()
    (tmp_path / name).write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    with pytest.raises(DataError, match=rf"line {line + 1} of .*{name} {message}") as refused:
        tables(name).load(tmp_path)
    subprocess.run(refused.value.remedy.partition(": ")[2], shell=True, check=True, timeout=60)
    assert _rows(tables(f"new-{name}"), tmp_path) == 3
