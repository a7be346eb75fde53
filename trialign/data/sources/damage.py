"""Explain why DuckDB or Arrow refuses a file, in our own words if the cause is known."""

from __future__ import annotations

import io
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path

from trialign.data.sources.endings import is_packed, open_bytes
from trialign.errors import DataError

_SHOWN = 300
"""Characters of a foreign message: some quote the whole line."""
_ANEW = "copy it again, or write it anew"
_KNOWN = {
    "ended before the end-of-stream": ("it breaks off, gzip's end is missing", _ANEW),
    "CRC check failed": ("it is damaged, what is unpacked is not what was packed", _ANEW),
    "Error -3 while decompressing": ("it is damaged and cannot be unpacked", _ANEW),
    "Not a gzipped file": ("it is not packed by gzip, or something is behind what is", _ANEW),
    "not a GZIP stream": ("zeros are behind what is packed", "pack it again: |cat"),
    "Parquet magic bytes not found": ("it breaks off, or is no Parquet: Parquet's end is missing", _ANEW),
    "Parquet file size is": ("it breaks off, or is no Parquet: it is too short", _ANEW),
    "codec can't decode": ("", "write it as UTF-8; from the letters of Windows: |iconv -f CP1252 -t UTF-8"),
    "unterminated quote": ("", "where quotes are text, set data.quotes=false; else fix the line"),
}
"""What DuckDB, Arrow or Python say: what it means ("": as they put it), and the remedy; behind a bar a program that
fixes the file."""
_ENDS = {"\n": "LF", "\r\n": "CR LF", "\r": "CR"}


def unreadable(paths: Sequence[Path], cause: Exception) -> DataError:
    """Return the error for files that DuckDB, Arrow or Python cannot read; it names one file where possible."""
    # DuckDB's message has thirty more lines: the settings it tried, and the query.
    text = str(cause).partition("\nPossible")[0].partition("\nLINE 1:")[0]
    told = " ".join([line.strip()[:_SHOWN] for line in text.splitlines() if line.strip()][:3])
    named = f"{paths[0]}" if len(paths) == 1 else f"one of {len(paths)} files, {paths[0]} the first,"
    otherwise = ("", "repair it, or set data.format, data.delimiter or data.quotes")
    means, remedy = next((words for sign, words in _KNOWN.items() if sign in text), otherwise)
    words, through, command = remedy.partition("|")
    return DataError(
        f"{named} cannot be read: {means or told}",
        rule="a file is whole, UTF-8, and of the format that its ending or data.format says",
        remedy=words + (_rewritten(paths[0], command) if through else ""),
    )


def check_line_ends(path: Path) -> None:
    """Refuse a file with mixed line endings: DuckDB expects the ending of the first line everywhere.

    Raises:
        DataError: they do not; the first that ends otherwise is named.
    """
    for quotes in (True, False):
        usual = None
        for number, end in _line_ends(path, quotes):
            usual = usual or end
            if end != usual:
                change = r"tr '\r' '\n'" if "\r" in (end, usual) else r"tr -d '\r'"
                raise DataError(
                    f"line {number} of {path} ends in {_ENDS[end]}, those before it in {_ENDS[usual]}",
                    rule="all lines of a file end alike",
                    remedy=f"write it anew, and name that: {_rewritten(path, change)}",
                )


def _line_ends(path: Path, quotes: bool) -> Iterator[tuple[int, str]]:
    """Yield the number and the end of every line; with `quotes`, of those that end outside of quotes."""
    inside = False
    with io.TextIOWrapper(open_bytes(path), encoding="latin-1", newline="") as file:
        for number, line in enumerate(file, start=1):
            inside ^= quotes and line.count('"') % 2 == 1
            end = line[len(line.rstrip("\r\n")) :]
            if end and not inside:
                yield number, end[-2:]


def _rewritten(path: Path, command: str) -> str:
    """Return the shell command that rewrites a file, through a given command, into a new file next to it."""
    old, new = shlex.quote(str(path)), shlex.quote(str(path.with_name(f"new-{path.name}")))
    return f"gzip -dc {old} | {command} | gzip > {new}" if is_packed(path) else f"{command} < {old} > {new}"
