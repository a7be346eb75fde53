"""Files of a stage's folder: written whole or not at all, hashed, compared, and a full disk named for what it is."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypedDict

from trialign.errors import DataError, StageError, TrialignError
from trialign.lock import is_lock


class FileRecord(TypedDict):
    """A file of a stage, as its manifest has it."""

    bytes: int
    sha256: str


class SourceRecord(FileRecord):
    """A file from outside that a stage read, as its manifest has it."""

    path: str
    mtime_ns: int


_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def write_atomically(path: Path, text: str) -> None:
    """Write `text` so that `path` holds either its old content or all of the new one, power cut included."""
    aside = path.with_name(path.name + ".partial")
    with aside.open("w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    aside.replace(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def make_folder(folder: Path) -> None:
    """Make a folder and those above it.

    Raises:
        StageError: it cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as cause:
        raise StageError(
            f"{folder} cannot be made: {cause}",
            rule="a run directory is a writable folder",
            remedy="choose another run=DIR, or fix its permissions",
        ) from cause


def bytes_of(path: Path) -> bytes | None:
    """Return the content of a file, None if there is no file."""
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        return path.read_bytes()
    return None


def size_of(path: Path) -> int | None:
    """Return the size of a file in bytes, None if there is no file."""
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        return path.stat().st_size
    return None


def sha256_of(path: Path) -> str:
    """Return the sha256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest_of(value: Any) -> str:
    """Return the sha256 of a value's JSON, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def describe_file(path: Path) -> SourceRecord:
    """Return a file's path, size, time and hash, as a manifest records a source."""
    status = path.stat()
    return {"path": str(path), "bytes": status.st_size, "mtime_ns": status.st_mtime_ns, "sha256": sha256_of(path)}


def is_same_file(path: Path, before: SourceRecord) -> bool:
    """Return whether a file has the content that `describe_file` found.

    Raises:
        DataError: the file does not exist.
    """
    if not path.exists():
        raise DataError(
            f"{path} does not exist", rule="the files a finished stage was made from stay readable", remedy="restore it"
        )
    status = path.stat()
    # Same size and time: not read again. A log of a terabyte must not be hashed to find that nothing happened.
    if (status.st_size, status.st_mtime_ns) == (before["bytes"], before["mtime_ns"]):
        return True
    return bool(status.st_size == before["bytes"] and sha256_of(path) == before["sha256"])


def open_to_the_umask(folder: Path) -> None:
    """Give every file the mode that the umask allows: safetensors writes owner-only files, and runs are shared."""
    umask = os.umask(0)
    os.umask(umask)
    for path in folder.rglob("*"):
        if path.is_file() and not is_lock(path):  # others' looks at the lock come and go
            path.chmod(0o666 & ~umask)


def disk_is_full(cause: Exception) -> bool:
    """Return whether a write failed because the disk is full, for any library: some drop the error number."""
    if getattr(cause, "errno", None) in _NO_ROOM:
        return True
    return any(words in str(cause) for words in ("No space left", "File too large", "Disk quota exceeded")) or (
        isinstance(cause, OSError) and re.search(r"\d+ requested and \d+ written", str(cause)) is not None
    )


@contextmanager
def full_disk_reported(folder: Path) -> Iterator[None]:
    """Convert any library's error about a full disk in the block to a StageError.

    Raises:
        StageError: the block ended because the disk is full.
    """
    try:
        yield
    except TrialignError:
        raise
    except Exception as cause:
        if not disk_is_full(cause):
            raise
        raise StageError(
            f"the disk is full, or a limit of size reached, while writing below {folder}: {str(cause).splitlines()[0]}",
            rule="a stage has room for what it writes",
            remedy="free some space and run the same command again; finished stages are skipped",
        ) from cause
