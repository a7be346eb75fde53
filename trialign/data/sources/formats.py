"""Files of rows as lazy Ibis tables: Parquet, CSV and TSV, JSON lines, RecBole's `.inter` and `.item`.

Text formats arrive as text, whatever their values look like: which of them is a number is decided by what a column is
for, not by a glance at its first rows.
"""

from __future__ import annotations

import csv
import glob
import gzip
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

import duckdb
import ibis
import pyarrow as pa
import pyarrow.parquet as pq

from trialign.data.sources.evidence import refuse
from trialign.errors import ConfigError, DataError, suggest

_SHOWN = 300
"""Characters of a foreign message: some quote the whole line."""
_CHUNK = 1 << 20


@dataclass(frozen=True)
class Part:
    """Files with the same columns.

    Attributes:
        table: their rows; RecBole's types (`user_id:token`) are not part of a column's name.
        paths: the files.
    """

    table: ibis.Table
    paths: list[Path]


def check_format(chosen: str | None) -> None:
    """Refuse a format that does not exist.

    Raises:
        ConfigError: it does not.
    """
    if chosen is not None and chosen not in _READERS:
        raise ConfigError(f"data.format={chosen}", rule="a known format", remedy=suggest(chosen, _READERS))


def check_delimiter(delimiter: str) -> None:
    """Refuse a delimiter that cannot stand between two values.

    Raises:
        ConfigError: it is not one character, or one that means something else in a CSV file.
    """
    if len(delimiter) != 1 or delimiter in '"\r\n':
        raise ConfigError(
            f"data.delimiter={delimiter!r}",
            rule="one character, neither a quote nor the end of a line",
            remedy="set e.g. 'data.delimiter=\";\"', or name the file .tsv where it is a tab",
        )


def format_of(path: Path, chosen: str | None = None) -> str:
    """Return the format of a file: the one chosen, else what its suffix says (a `.gz` behind it is no part of it).

    Raises:
        DataError: the suffix is unknown.
    """
    if chosen is not None:
        return chosen
    name = path.name.removesuffix(".gz")
    found = _SUFFIXES.get(Path(name).suffix.lower())
    if found is None:
        raise DataError(
            f"{path} has no known suffix",
            rule="a file's suffix tells its format: " + ", ".join(sorted(_SUFFIXES)),
            remedy="rename it, or set data.format (files of events only)",
        )
    return found


def read_rows(paths: Sequence[Path], chosen: str | None, delimiter: str) -> list[Part]:
    """Return the rows of files that may differ in format, columns and the order of columns.

    Args:
        paths: the files.
        chosen: their format; None: by suffix.
        delimiter: one character, of CSV files.

    Raises:
        DataError: a file cannot be read as what it claims to be.
    """
    formats = {path: format_of(path, chosen) for path in paths}
    parts: list[Part] = []
    for name in dict.fromkeys(formats.values()):
        members = [path for path in paths if formats[path] == name]
        with readable(members):
            for path in members:
                if path.suffix == ".gz":
                    _read_to_end(path)
            parts.extend(_READERS[name](members, delimiter))
    return parts


@contextmanager
def readable(paths: Sequence[Path]) -> Iterator[None]:
    """Turn what DuckDB or Arrow say of a file into a sentence.

    Raises:
        DataError: they refused it.
    """
    try:
        yield
    except (duckdb.OutOfMemoryException, duckdb.IOException):
        raise  # of the machine, not of the file
    except duckdb.InvalidInputException as cause:
        if "JSON" in str(cause):
            # DuckDB counts a line too many where one breaks off.
            for path in paths:
                for _ in json_lines(path):
                    pass
        raise _unreadable(paths, cause) from cause
    except (duckdb.Error, pa.ArrowException, UnicodeDecodeError, gzip.BadGzipFile, EOFError, csv.Error) as cause:
        raise _unreadable(paths, cause) from cause


def json_lines(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the objects of a file of JSON lines; empty lines are none.

    Raises:
        DataError: a line is no JSON object; it is named.
    """
    with readable([path]), gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                record = json.loads(line.decode())
            except ValueError as cause:
                raise DataError(
                    f"line {number} of {path} is not JSON: {cause}",
                    rule="every line holds one JSON object, in UTF-8",
                    remedy="repair the file",
                ) from cause
            if not isinstance(record, dict):
                refuse(path, f"line {number}", record, "every line holds one JSON object")
            yield record


def _unreadable(paths: Sequence[Path], cause: Exception) -> DataError:
    # DuckDB goes on for thirty lines: the settings it tried, and the query.
    text = str(cause).partition("\nPossible")[0].partition("\nLINE 1:")[0]
    told = " ".join([line.strip()[:_SHOWN] for line in text.splitlines() if line.strip()][:3])
    named = f"{paths[0]}" if len(paths) == 1 else f"one of {len(paths)} files, {paths[0]} the first,"
    return DataError(
        f"{named} cannot be read: {told}",
        rule="a file is whole, UTF-8, and of the format that its suffix or data.format says",
        remedy="repair it, or set data.format or data.delimiter",
    )


def _read_to_end(path: Path) -> None:
    """Unpack a file once: DuckDB takes one that is cut off for one that ends there."""
    with gzip.open(path) as file:
        while file.read(_CHUNK):
            pass


def _parquet(paths: Sequence[Path], delimiter: str) -> list[Part]:  # noqa: ARG001
    schemas = {path: pq.read_schema(path) for path in paths}
    kinds = {path: str(dict(zip(schema.names, schema.types, strict=True))) for path, schema in schemas.items()}
    return [
        Part(ibis.read_parquet(_escaped(members), **_hive(members, schemas[members[0]].names)), members)
        for members in _alike(kinds)
    ]


def _csv(paths: Sequence[Path], delimiter: str) -> list[Part]:
    return _delimited(paths, delimiter, '"')


def _delimited(paths: Sequence[Path], delimiter: str, quote: str) -> list[Part]:
    """Read lines of values; with `quote` "" a quote is a character like any other, and a line's end ends a row."""
    headers = {path: _header(path, delimiter, quote) for path in paths}
    parts = []
    for members in _alike({path: "\n".join(header) for path, header in headers.items()}):
        names = headers[members[0]]
        # With every column named nothing is left to sniff, and a fault is told as a fault.
        table = ibis.read_csv(
            _escaped(members),
            columns=dict.fromkeys(names, "VARCHAR"),
            auto_detect=False,
            header=True,
            delim=delimiter,
            quote=quote,
            escape=quote,
            **_hive(members, names),
        )
        parts.append(Part(table, members))
    return parts


def _tsv(paths: Sequence[Path], delimiter: str) -> list[Part]:  # noqa: ARG001
    return _csv(paths, "\t")


def _recbole(paths: Sequence[Path], delimiter: str) -> list[Part]:  # noqa: ARG001
    # RecBole splits its lines at tabs and knows no quotes.
    parts = _delimited(paths, "\t", "")
    return [Part(part.table.rename(lambda name: name.partition(":")[0]), part.paths) for part in parts]


def _json_lines(paths: Sequence[Path], delimiter: str) -> list[Part]:  # noqa: ARG001
    return [_json_part(members) for members in _alike(dict.fromkeys(paths, ""))]


def _json_part(paths: list[Path]) -> Part:
    # A first pass for the names, and for which of them hold lists; the values stay as they are.
    seen = ibis.read_json(
        _escaped(paths), format="newline_delimited", union_by_name=True, sample_size=-1, hive_partitioning=False
    ).schema()
    if list(seen) == ["json"]:
        for path in paths:
            if not sum(1 for _ in json_lines(path)):
                raise DataError(
                    f"{path} holds no line", rule="every line holds one JSON object", remedy="name the right file"
                )
    kinds = {name: "VARCHAR[]" if kind.is_array() else "JSON" for name, kind in seen.items()}
    table = ibis.read_json(_escaped(paths), format="newline_delimited", columns=kinds, **_hive(paths, seen.names))
    return Part(table, paths)


_READERS: dict[str, Callable[[Sequence[Path], str], list[Part]]] = {
    "parquet": _parquet,
    "csv": _csv,
    "tsv": _tsv,
    "jsonl": _json_lines,
    "recbole": _recbole,
}

_SUFFIXES = {
    ".parquet": "parquet",
    ".csv": "csv",
    ".tsv": "tsv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".inter": "recbole",
    ".item": "recbole",
}


def _alike(kinds: dict[Path, str]) -> list[list[Path]]:
    """Return the files in groups of one kind whose folders name the same columns."""
    groups: dict[tuple[str, ...], list[Path]] = {}
    for path, kind in kinds.items():
        groups.setdefault((kind, *_folder_columns(path)), []).append(path)
    return list(groups.values())


def _folder_columns(path: Path) -> list[str]:
    """Return the columns that folders name, as Hive and Spark write them: `month` of events/month=2025-12/."""
    return [part.partition("=")[0] for part in path.parts[:-1] if "=" in part[1:]]


def _hive(paths: Sequence[Path], names: Sequence[str]) -> dict[str, bool]:
    """Return whether folders add columns, as text; never where the files have one of that name: DuckDB drops theirs."""
    known = {name.lower() for name in names}
    added = {name.lower() for name in _folder_columns(paths[0])}
    if not added or known & added:
        return {"hive_partitioning": False}
    return {"hive_partitioning": True, "hive_types_autocast": False}


def _escaped(paths: Sequence[Path]) -> list[str]:
    # DuckDB takes a name for a pattern: day[1].csv would be day1.csv.
    return [glob.escape(str(path)) for path in paths]


def _header(path: Path, delimiter: str, quote: str) -> list[str]:
    with _open_text(path) as file:
        header = next(csv.reader(file, delimiter=delimiter, quotechar=quote or None), [])
    named = [name.lower() for name in header if name]
    if not named or len(set(named)) < len(named):
        raise DataError(
            f"{path} begins with {', '.join(header)[:80] or 'nothing'}",
            rule="the first line names the columns, each once, whether upper or lower case",
            remedy="add or mend that line",
        )
    # Pandas writes its index under no name, and a comma at every line's end makes such a column too.
    return [name or f"(column {place})" for place, name in enumerate(header, start=1)]


def _open_text(path: Path) -> TextIO:
    if path.suffix == ".gz":
        return gzip.open(path, "rt", encoding="utf-8-sig", newline="")  # type: ignore[return-value]
    return path.open(encoding="utf-8-sig", newline="")
