"""File extensions: the format, whether the file is compressed, and the remedy for formats that are not read."""

from __future__ import annotations

import gzip
import shlex
import sys
from pathlib import Path
from typing import IO

from trialign.errors import DataError

FORMATS = {
    ".parquet": "parquet",
    ".csv": "csv",
    ".tsv": "tsv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".inter": "recbole",
    ".item": "recbole",
}
_UNPACKED_BY = {
    ".bz2": "bunzip2 -k {file}",
    ".xz": "unxz -k {file}",
    ".zst": "unzstd {file}",
    ".zip": "{python} -m zipfile -e {file} {folder}",
}
_CONVERTED_BY = {".feather": "feather", ".arrow": "feather", ".orc": "orc"}
"""Modules of Arrow that read them."""


def ending_of(path: Path) -> str:
    """Return the extension of a file in lower case, including a final `.gz`: `.csv`, `.csv.gz`."""
    name = path.name.lower()
    return Path(name.removesuffix(".gz")).suffix + ".gz" * name.endswith(".gz")


def is_packed(path: Path) -> bool:
    """Return whether a file is decompressed while it is read."""
    return ending_of(path).endswith(".gz")


def open_bytes(path: Path) -> IO[bytes]:
    """Open a file for reading, decompressed."""
    return gzip.open(path) if is_packed(path) else path.open("rb")  # type: ignore[return-value]


def format_of(path: Path, chosen: str | None = None) -> str:
    """Return the format of a file: the chosen one, else that of its extension, without a final `.gz`.

    Raises:
        DataError: the extension is unknown, or names a compression that is not supported.
    """
    ending = ending_of(path)
    found = chosen or FORMATS.get(ending.removesuffix(".gz"))
    packed_otherwise = path.suffix.lower() in _UNPACKED_BY and not is_packed(path)
    # Parquet compresses its columns itself, and is read from its end.
    if found is None or packed_otherwise or (found == "parquet" and is_packed(path)):
        raise DataError(
            f"{path} ends in {ending}, which is not read" if ending else f"{path} has no ending",
            rule=f"a file's ending tells its format: {', '.join(sorted(FORMATS))}, of texts also with .gz behind it; "
            ".json of a catalogue",
            remedy=_remedy(path, ending),
        )
    return found


def _remedy(path: Path, ending: str) -> str:
    last = path.suffix.lower()
    if last in _UNPACKED_BY or ending == ".parquet.gz":
        known = {"file": shlex.quote(str(path)), "folder": shlex.quote(str(path.parent)), "python": sys.executable}
        command = _UNPACKED_BY.get(last, "gunzip -k {file}").format_map(known)
        held = "what was in it" if last == ".zip" else path.with_suffix("").name
        return f"unpack it, and name {held}: {command}"
    if last in _CONVERTED_BY:
        new = path.with_suffix(".parquet")
        program = (
            f"from pyarrow import {_CONVERTED_BY[last]} as old, parquet; import sys; "
            "parquet.write_table(old.read_table(sys.argv[1]), sys.argv[2])"
        )
        command = shlex.join([sys.executable, "-c", program, str(path), str(new)])
        return f"convert it, and name {new.name}: {command}"
    if last in (".xlsx", ".xls", ".ods"):
        return "save its sheet as CSV in UTF-8, and name that"
    if ending.removesuffix(".gz") == ".json":
        return "a log of one object per line: data.format=jsonl; of {user: [item, ...]}: data=interjson"
    return "rename it to what it is; of a log or of examples the format can also be said, e.g. data.format=csv"
