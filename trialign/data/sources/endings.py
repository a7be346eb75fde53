"""What the ending of a file's name says: its format, whether it is packed, and what to do where it is not read."""

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
    """Return the ending of a file's name in lower case, with the `.gz` behind it: `.csv`, `.csv.gz`."""
    name = path.name.lower()
    return Path(name.removesuffix(".gz")).suffix + ".gz" * name.endswith(".gz")


def is_packed(path: Path) -> bool:
    """Return whether a file is to be unpacked while it is read."""
    return ending_of(path).endswith(".gz")


def open_bytes(path: Path) -> IO[bytes]:
    """Open a file for reading, unpacked."""
    return gzip.open(path) if is_packed(path) else path.open("rb")  # type: ignore[return-value]


def format_of(path: Path, chosen: str | None = None) -> str:
    """Return the format of a file: the one chosen, else what its ending says (a `.gz` behind it is no part of it).

    Raises:
        DataError: the ending says none, or that it is packed by something that is not read.
    """
    ending = ending_of(path)
    found = chosen or FORMATS.get(ending.removesuffix(".gz"))
    packed_otherwise = path.suffix.lower() in _UNPACKED_BY and not is_packed(path)
    # Parquet packs its columns itself, and is read from its end.
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
