"""Files of rows as lazy Ibis tables: Parquet, CSV and TSV, JSON lines, RecBole's `.inter` and `.item`.

Text formats arrive as text, whatever their values look like: which of them is a number is decided by what a column is
for, not by a glance at its first rows.
"""

from __future__ import annotations

import csv
import gzip
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

import duckdb
import ibis
import pyarrow as pa
import pyarrow.parquet as pq

from trialign.errors import ConfigError, DataError, suggest


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
    except (duckdb.Error, pa.ArrowException, UnicodeDecodeError, gzip.BadGzipFile, EOFError, csv.Error) as cause:
        # DuckDB goes on for thirty lines: the settings it tried, and the query.
        lines = [line for line in str(cause).partition("\nPossible")[0].splitlines() if line.strip()]
        named = f"{paths[0]}" if len(paths) == 1 else f"one of {len(paths)} files, {paths[0]} the first,"
        raise DataError(
            f"{named} cannot be read: {' '.join(lines[:3])}",
            rule="a file is whole, UTF-8, and of the format that its suffix or data.format says",
            remedy="repair it, or set data.format or data.delimiter",
        ) from cause


def _parquet(paths: Sequence[Path], delimiter: str) -> list[Part]:  # noqa: ARG001
    schemas = {path: pq.read_schema(path) for path in paths}
    kinds = {path: str(dict(zip(schema.names, schema.types, strict=True))) for path, schema in schemas.items()}
    return [Part(ibis.read_parquet(members), members) for members in _alike(kinds)]


def _csv(paths: Sequence[Path], delimiter: str) -> list[Part]:
    headers = {path: _header(path, delimiter) for path in paths}
    parts = []
    for members in _alike({path: "\n".join(header) for path, header in headers.items()}):
        names = headers[members[0]]
        # With every column named nothing is left to sniff, and a fault is told as a fault.
        table = ibis.read_csv(
            members,
            columns=dict.fromkeys(names, "VARCHAR"),
            auto_detect=False,
            header=True,
            delim=delimiter,
            quote='"',
            escape='"',
        )
        parts.append(Part(table, members))
    return parts


def _tsv(paths: Sequence[Path], delimiter: str) -> list[Part]:  # noqa: ARG001
    return _csv(paths, "\t")


def _recbole(paths: Sequence[Path], delimiter: str) -> list[Part]:
    parts = _tsv(paths, delimiter)
    return [Part(part.table.rename(lambda name: name.partition(":")[0]), part.paths) for part in parts]


def _json_lines(paths: Sequence[Path], delimiter: str) -> list[Part]:  # noqa: ARG001
    # A first glance for the names, and for which of them hold lists; the values stay text.
    seen = ibis.read_json(paths, format="newline_delimited", union_by_name=True).schema()
    kinds = {name: "VARCHAR[]" if kind.is_array() else "VARCHAR" for name, kind in seen.items()}
    table = ibis.read_json(paths, format="newline_delimited", columns=kinds)
    return [Part(table, list(paths))]


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
    groups: dict[str, list[Path]] = {}
    for path, kind in kinds.items():
        groups.setdefault(kind, []).append(path)
    return list(groups.values())


def _header(path: Path, delimiter: str) -> list[str]:
    with _open_text(path) as file:
        header = next(csv.reader(file, delimiter=delimiter), [])
    if not any(header) or len(set(header)) < len(header):
        raise DataError(
            f"{path} begins with {', '.join(header)[:80] or 'nothing'}",
            rule="the first line names the columns, each once",
            remedy="add or mend that line",
        )
    return header


def _open_text(path: Path) -> TextIO:
    if path.suffix == ".gz":
        return gzip.open(path, "rt", encoding="utf-8-sig", newline="")  # type: ignore[return-value]
    return path.open(encoding="utf-8-sig", newline="")
