"""Pictures from outside: files of a folder, members of tar files. Nothing is unpacked to disk, nothing unpickled.

A picture belongs to the item whose `image`, or else whose key, is its name without folder and suffix. WebDataset shards
are tar files like any other; what is next to the pictures in them (`.json`, `.cls`, even `.pkl`) is not opened.
"""

from __future__ import annotations

import logging
import tarfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path, PurePosixPath

from trialign.errors import DataError

logger = logging.getLogger(__name__)

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp"})
_File = tuple[str, int, Callable[[], bytes]]
"""A picture's name, its size, and what reads it."""

MAX_BYTES = 2**28
"""Of an encoded picture: a tar may claim any size for a member."""


def stem_of(name: str) -> str:
    """Return a picture's name without folder and suffix."""
    path = PurePosixPath(name)
    return path.stem if path.suffix.lower() in SUFFIXES else path.name


def picture_files(places: Sequence[Path]) -> list[Path]:
    """Return the files that pictures are read from: the pictures of a folder, at any depth, or the tar file itself.

    Raises:
        DataError: a place is neither folder nor tar file.
    """
    found: list[Path] = []
    for place in places:
        if place.is_dir():
            found.extend(
                sorted(path for path in place.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())
            )
        elif place.suffix == ".tar":
            found.append(place)
        else:
            raise DataError(
                f"data.images names {place}",
                rule="pictures come from folders and from uncompressed .tar files",
                remedy="unpack it, or pack it again with `tar cf`",
            )
    return found


def read_pictures(places: Sequence[Path], owners: Mapping[str, Sequence[str]]) -> Iterator[tuple[str, bytes]]:
    """Yield (item key, encoded picture) for every picture of an item; count and log the pictures that are skipped.

    Args:
        places: folders and tar files.
        owners: item keys by name of picture.

    Raises:
        DataError: a tar file is damaged, a picture is larger than `MAX_BYTES`, or none has an owner.
    """
    passed: dict[str, list[str]] = {}
    missing = set(owners)
    for place in places:
        files = _members(place, passed) if place.suffix == ".tar" else _folder(place)
        for name, size, read in files:
            stem = stem_of(name)
            if stem not in owners:
                passed.setdefault("pictures belong to no item", []).append(name)
                continue
            if size > MAX_BYTES:
                raise DataError(
                    f"{name} in {place} holds {size} bytes",
                    rule=f"an encoded picture has at most {MAX_BYTES} bytes",
                    remedy="make it smaller, or remove it",
                )
            missing.discard(stem)
            picture = read()
            for key in owners[stem]:
                yield key, picture
    if len(missing) == len(owners):
        foreign = passed.get("pictures belong to no item", [])
        raise DataError(
            f"none of {len(foreign)} pictures belongs to an item, e.g. {', '.join(foreign[:3])}; "
            f"looked for {', '.join(sorted(missing)[:3])}"
            if foreign
            else "there is no picture in data.images",
            rule="a picture is called as its item's key or image, and ends in " + ", ".join(sorted(SUFFIXES)),
            remedy="rename them, name data.item_columns.image, or set data.images=null",
        )
    passed["names of pictures were found nowhere"] = sorted(missing)
    for what, names in passed.items():
        if names:
            logger.warning("%d %s, e.g. %s", len(names), what, ", ".join(names[:3]))


def _folder(place: Path) -> Iterator[_File]:
    for path in picture_files([place]):
        yield path.name, path.stat().st_size, path.read_bytes


def _members(place: Path, passed: dict[str, list[str]]) -> Iterator[_File]:
    """Yield the pictures of a tar file; only plain members count, whatever path they claim."""
    links = passed.setdefault("members of tars are links, devices or sparse and were left alone", [])
    others = passed.setdefault("members of tars are no pictures and were not opened", [])
    with _whole(place), place.open("rb") as file, tarfile.open(fileobj=file, mode="r:") as tar:
        while (member := tar.next()) is not None:
            tar.members.clear()  # type: ignore[attr-defined]  # tarfile keeps every header it has met
            name = PurePosixPath(member.name)
            if member.isdir():
                continue
            if not member.isreg() or member.issparse():
                links.append(str(name))
            elif name.suffix.lower() not in SUFFIXES:
                others.append(str(name))
            else:
                yield name.name, member.size, partial(_content, tar, member, place)
        # tarfile takes any invalid header for the end of the file; only zeros mark the end.
        file.seek(tar.offset)
        if file.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
            raise tarfile.ReadError("it breaks off, or continues with something else")


def _content(tar: tarfile.TarFile, member: tarfile.TarInfo, place: Path) -> bytes:
    with _whole(place):
        content = tar.extractfile(member)
        assert content is not None
        return content.read()


@contextmanager
def _whole(place: Path) -> Iterator[None]:
    try:
        yield
    except tarfile.TarError as cause:
        raise DataError(
            f"{place} is damaged: {cause}", rule="a tar file is whole, end mark included", remedy="fetch it again"
        ) from cause
