"""Files whose ending is not read: the remedy that is named leads to one that is."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import shutil
import subprocess
import zipfile
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyarrow import feather, orc

from trialign.data.sources import Tables
from trialign.errors import DataError

Make = Callable[..., Tables]
ROWS = b"user,item,time\nu,a,1\n"
TABLE = pa.table({"user": ["u"], "item": ["a"], "time": [1]})


def _parquet() -> bytes:
    pq.write_table(TABLE, made := io.BytesIO())
    return made.getvalue()


def _zip(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("e.csv", ROWS)


FILES: dict[str, tuple[Callable[[Path], object], str, str]] = {
    "e.csv.bz2": (lambda path: path.write_bytes(bz2.compress(ROWS)), "bunzip2", "e.csv"),
    "e.csv.xz": (lambda path: path.write_bytes(lzma.compress(ROWS)), "unxz", "e.csv"),
    "e.zip": (_zip, "", "e.csv"),
    "e.parquet.gz": (lambda path: path.write_bytes(gzip.compress(_parquet())), "gunzip", "e.parquet"),
    "e.feather": (lambda path: feather.write_feather(TABLE, path), "", "e.parquet"),
    "e.orc": (lambda path: orc.write_table(TABLE, path), "", "e.parquet"),
}


@pytest.mark.parametrize("name", FILES)
def test_what_is_not_read_names_a_command_that_leads_to_what_is(
    tables: Make, tmp_path: Path, skip_for: Callable[[str, str], None], name: str
) -> None:
    write, program, made = FILES[name]
    if program and not shutil.which(program):
        skip_for("unpackers", f"{program} is not installed")
    folder = tmp_path / "my log"
    folder.mkdir()
    write(folder / name)
    with pytest.raises(DataError, match=r"is not read\n.*\.csv, .*\.parquet.*\n") as refused:
        tables(f"my log/{name}").load(tmp_path)
    subprocess.run(refused.value.remedy.partition(": ")[2], shell=True, check=True, timeout=60)
    if name != "e.zip":
        assert made in refused.value.remedy
    events = tables(f"my log/{made}").load(tmp_path).events
    assert events is not None
    assert events.to_pyarrow().to_pylist() == [{"user": "u", "item": "a", "order": 1}]


def test_a_chosen_format_does_not_read_what_is_packed_otherwise(tables: Make, tmp_path: Path) -> None:
    (tmp_path / "e.csv.bz2").write_bytes(bz2.compress(ROWS))
    with pytest.raises(DataError, match=r"ends in \.bz2, which is not read\n.*\n.*bunzip2"):
        tables("e.csv.bz2", format="csv").load(tmp_path)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("e.xlsx", r"ends in \.xlsx.*\n.*\n.*sheet as CSV"),
        ("e.json", r"ends in \.json.*\n.*\n.*data\.format=jsonl.*data=interjson"),
        ("e.txt", r"ends in \.txt.*\n.*\n.*rename it"),
        ("e", r"e has no ending\n.*\n.*data\.format=csv"),
    ],
)
def test_other_endings_say_what_to_do(tables: Make, tmp_path: Path, name: str, message: str) -> None:
    (tmp_path / name).write_bytes(ROWS)
    with pytest.raises(DataError, match=message):
        tables(name).load(tmp_path)


def test_endings_in_upper_case_and_packed_json_are_read(tables: Make, tmp_path: Path) -> None:
    (tmp_path / "E.CSV.GZ").write_bytes(gzip.compress(ROWS))
    (tmp_path / "i.json.gz").write_bytes(gzip.compress(json.dumps({"a": {"title": "A"}}).encode()))
    raw = tables("E.CSV.GZ", items="i.json.gz").load(tmp_path)
    assert raw.items["title"].to_pylist() == ["A"]
    assert raw.events is not None
    assert raw.events.count().to_pyarrow().as_py() == 1
