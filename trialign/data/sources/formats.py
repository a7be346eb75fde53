"""Files of rows as lazy Ibis tables: Parquet, CSV and TSV, JSON lines, RecBole's `.inter` and `.item`.

Text formats arrive as text, whatever their values look like: which of them is a number is decided by what a column is
for, not by a glance at its first rows.
"""

from __future__ import annotations

import csv
import glob
import gzip
import io
import re
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import duckdb
import ibis
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from trialign.data.sources.damage import check_line_ends, unreadable
from trialign.data.sources.endings import format_of, is_packed, open_bytes
from trialign.data.sources.evidence import Value, refuse
from trialign.data.sources.places import typed
from trialign.errors import ConfigError, DataError
from trialign.foreign import parse_json

_CHUNK = 1 << 20
_UNPACKING = (gzip.BadGzipFile, zlib.error, EOFError)
_DEEPEST = 100
"""Levels of one JSON line: its readers go down by a call per level, and where DuckDB gives up the process ends."""
_STRING = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"', re.DOTALL)
_STEPS = np.zeros(256, np.int8)
_STEPS[list(b"[{")], _STEPS[list(b"]}")] = 1, -1


@dataclass(frozen=True)
class Part:
    """Files with the same columns.

    Attributes:
        table: their rows; RecBole's types (`user_id:token`) are not part of a column's name.
        paths: the files.
    """

    table: ibis.Table
    paths: list[Path]


@dataclass(frozen=True)
class Dialect:
    """How CSV and TSV files separate and quote the values of a row.

    Attributes:
        delimiter: one character between two values.
        quotes: whether quotes around a value are no part of it; a quoted value may hold delimiters and line ends.
        setting: the setting that names the delimiter; "" where the file's ending does.

    Raises:
        ConfigError: the delimiter is not one character, or one that means something else in a CSV file.
    """

    delimiter: str = ","
    quotes: bool = True
    setting: str = "delimiter"

    def __post_init__(self) -> None:
        if len(self.delimiter) != 1 or self.delimiter in '"\r\n':
            raise ConfigError(
                f"data.{self.setting}={self.delimiter!r}",
                rule="one character, neither a quote nor the end of a line",
                remedy=f"set e.g. {typed(self.setting, ';')}, or name the file .tsv where it is a tab",
            )


def read_rows(paths: Sequence[Path], chosen: str | None, dialect: Dialect) -> list[Part]:
    """Return the rows of files that may differ in format, columns and the order of columns.

    Args:
        paths: the files.
        chosen: their format; None: by suffix.
        dialect: of CSV and TSV files.

    Raises:
        DataError: a file cannot be read as what it claims to be.
    """
    formats = {path: format_of(path, chosen) for path in paths}
    parts: list[Part] = []
    for name in dict.fromkeys(formats.values()):
        members = [path for path in paths if formats[path] == name]
        for path in filter(is_packed, members):
            with readable([path]):
                _read_to_end(path)
        with readable(members):
            parts.extend(_READERS[name](members, dialect))
    return parts


@contextmanager
def readable(paths: Sequence[Path]) -> Iterator[None]:
    """Convert errors of DuckDB or Arrow in the block to a DataError that names the file.

    Raises:
        DataError: they refused it.
    """
    try:
        yield
    except (duckdb.OutOfMemoryException, duckdb.IOException) as cause:
        if "gzip" not in str(cause).lower():
            raise  # a fault of the machine, not of the file
        raise unreadable(paths, cause) from cause
    except duckdb.InvalidInputException as cause:
        _name_line(paths, str(cause))
        raise unreadable(paths, cause) from cause
    except (duckdb.Error, pa.ArrowException, UnicodeDecodeError, *_UNPACKING, csv.Error) as cause:
        raise unreadable(paths, cause) from cause


def _name_line(paths: Sequence[Path], told: str) -> None:
    """Raise the error for the faulty line of a file, if DuckDB names no line or, for truncated JSON, the next one."""
    for path in paths:
        if "JSON" in told:
            for _ in json_lines(path):
                pass
        if "state machine" in told:
            check_line_ends(path)


def json_lines(path: Path) -> Iterator[dict[str, Value]]:
    """Yield the objects of a file of JSON lines; empty lines are skipped.

    Raises:
        DataError: a line is no JSON object; it is named.
    """
    with readable([path]), open_bytes(path) as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            _require_shallow(line, number, path)
            try:
                record = parse_json(line.decode())
            except ValueError as cause:
                raise DataError(
                    f"line {number} of {path} is not JSON: {cause}",
                    rule="every line holds one JSON object, in UTF-8",
                    remedy="repair the file",
                ) from cause
            if not isinstance(record, dict):
                refuse(path, f"line {number}", record, "every line holds one JSON object")
            yield record


def _require_shallow(line: bytes, number: int, path: Path) -> None:
    """Refuse a line whose values are nested too deeply for the parsers that read it.

    Raises:
        DataError: they are.
    """
    if len(line) <= _DEEPEST or line.count(b"[") + line.count(b"{") <= _DEEPEST:
        return
    steps = _STEPS[np.frombuffer(_STRING.sub(b"", line), np.uint8)]
    if (levels := int(steps.cumsum(dtype=np.int64).max(initial=0))) > _DEEPEST:
        raise DataError(
            f"line {number} of {path} holds values nested {levels:,} levels deep",
            rule=f"a line of JSON is nested {_DEEPEST} levels deep at most",
            remedy="repair the line, or leave it out",
        )


def _read_to_end(path: Path) -> None:
    """Decompress a file once, to find a truncated one: DuckDB would read it as if it ended there."""
    with open_bytes(path) as file:
        while file.read(_CHUNK):
            pass


def _parquet(paths: Sequence[Path], _dialect: Dialect) -> list[Part]:
    schemas = {}
    for path in paths:
        with readable([path]):
            schemas[path] = pq.read_schema(path)
    kinds = {path: str(dict(zip(schema.names, schema.types, strict=True))) for path, schema in schemas.items()}
    return [
        Part(ibis.read_parquet(_escaped(members), **_hive(members, schemas[members[0]].names)), members)
        for members in _alike(kinds)
    ]


def _csv(paths: Sequence[Path], dialect: Dialect) -> list[Part]:
    """Read a CSV file; without `quotes`, a quote is an ordinary character and every line end ends a row."""
    headers = {path: _header(path, dialect) for path in paths}
    quote = '"' if dialect.quotes else ""
    parts = []
    for members in _alike({path: "\n".join(header) for path, header in headers.items()}):
        names = headers[members[0]]
        # With every column named DuckDB sniffs nothing, and reports a malformed row as an error.
        table = ibis.read_csv(
            _escaped(members),
            columns=dict.fromkeys(names, "VARCHAR"),
            auto_detect=False,
            header=True,
            delim=dialect.delimiter,
            quote=quote,
            escape=quote,
            **_packing(members),
            **_hive(members, names),
        )
        parts.append(Part(table, members))
    return parts


def _tsv(paths: Sequence[Path], dialect: Dialect) -> list[Part]:
    return _csv(paths, replace(dialect, delimiter="\t", setting=""))


def _recbole(paths: Sequence[Path], _dialect: Dialect) -> list[Part]:
    # RecBole splits its lines at tabs and knows no quotes.
    parts = _csv(paths, Dialect("\t", quotes=False, setting=""))
    return [Part(part.table.rename(lambda name: name.partition(":")[0]), part.paths) for part in parts]


def _json_lines(paths: Sequence[Path], _dialect: Dialect) -> list[Part]:
    return [_json_part(members) for members in _alike(dict.fromkeys(paths, ""))]


def _json_part(paths: list[Path]) -> Part:
    for path in paths:
        with readable([path]), open_bytes(path) as file:
            for number, line in enumerate(file, start=1):
                _require_shallow(line, number, path)
    # A first pass for the names, and for which of them hold lists; the values stay as they are.
    seen = ibis.read_json(
        _escaped(paths),
        format="newline_delimited",
        union_by_name=True,
        sample_size=-1,
        hive_partitioning=False,
        **_packing(paths),
    ).schema()
    if list(seen) == ["json"]:
        for path in paths:
            if not sum(1 for _ in json_lines(path)):
                raise DataError(
                    f"{path} holds no line", rule="every line holds one JSON object", remedy="name the right file"
                )
    kinds = {name: "VARCHAR[]" if kind.is_array() else "JSON" for name, kind in seen.items()}
    table = ibis.read_json(
        _escaped(paths), format="newline_delimited", columns=kinds, **_hive(paths, seen.names), **_packing(paths)
    )
    return Part(table, paths)


_READERS: dict[str, Callable[[Sequence[Path], Dialect], list[Part]]] = {
    "parquet": _parquet,
    "csv": _csv,
    "tsv": _tsv,
    "jsonl": _json_lines,
    "recbole": _recbole,
}


def _alike(kinds: dict[Path, str]) -> list[list[Path]]:
    """Group files that have the same `kind` and whose folders name the same columns."""
    groups: dict[tuple[str, ...], list[Path]] = {}
    for path, kind in kinds.items():
        groups.setdefault((kind, *_folder_columns(path)), []).append(path)
    return list(groups.values())


def _folder_columns(path: Path) -> list[str]:
    """Return the columns that folders name, as Hive and Spark write them: `month` of events/month=2025-12/."""
    return [part.partition("=")[0] for part in path.parts[:-1] if "=" in part[1:]]


def _hive(paths: Sequence[Path], names: Sequence[str]) -> dict[str, bool]:
    """Return DuckDB's options for columns that folders name; off if a file has such a column: DuckDB would drop it."""
    known = {name.lower() for name in names}
    added = {name.lower() for name in _folder_columns(paths[0])}
    if not added or known & added:
        return {"hive_partitioning": False}
    return {"hive_partitioning": True, "hive_types_autocast": False}


def _packing(paths: Sequence[Path]) -> dict[str, str]:
    # DuckDB finds .gz by itself, but not .GZ.
    return {"compression": "gzip"} if all(map(is_packed, paths)) else {}


def _escaped(paths: Sequence[Path]) -> list[str]:
    # DuckDB reads a name as a pattern: day[1].csv would match day1.csv.
    return [glob.escape(str(path)) for path in paths]


def _header(path: Path, dialect: Dialect) -> list[str]:
    with io.TextIOWrapper(open_bytes(path), encoding="utf-8-sig", newline="") as file:
        quote = '"' if dialect.quotes else None
        header = next(csv.reader(file, delimiter=dialect.delimiter, quotechar=quote), [])
    named = [name.lower() for name in header if name]
    if not named or len(set(named)) < len(named):
        raise DataError(
            f"{path} begins with {', '.join(header)[:80] or 'nothing'}",
            rule="the first line names the columns, each once, whether upper or lower case",
            remedy="add or fix that line",
        )
    other = next((mark for mark in ";\t|," if len(header) == 1 and mark in header[0]), None)
    if other:
        ending = ".tsv" if other == "\t" else "" if dialect.setting else ".csv"
        raise DataError(
            f"the first line of {path} names one column, {header[0][:80]!r}",
            rule=f"{dialect.delimiter!r} is between values: "
            + (f"data.{dialect.setting}" if dialect.setting else "so the file's ending says"),
            remedy=f"give the file the ending {ending}" if ending else f"set {typed(dialect.setting, other)}",
        )
    # Pandas writes its index under no name, and a comma at every line's end makes such a column too.
    return [name or f"(column {place})" for place, name in enumerate(header, start=1)]
