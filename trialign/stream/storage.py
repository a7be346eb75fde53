"""Storage of shards: a local folder, or any address that fsspec reads ranges from."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import fsspec
from fsspec.core import split_protocol

from trialign.errors import ConfigError


class Folder(Protocol):
    """A folder of files that are read and never written.

    It holds no open file, so that it can be pickled and shared by processes. A missing file is a `FileNotFoundError`.
    """

    def read(self, name: str, start: int = 0, length: int | None = None) -> bytes:
        """Return `length` bytes of a file from `start` on, fewer where it ends before; without it, all of them."""
        ...


class LocalFolder:
    """A folder of this machine's file systems.

    Args:
        path: the folder.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def read(self, name: str, start: int = 0, length: int | None = None) -> bytes:
        """Return a part of a file, see `Folder`."""
        with (self.path / name).open("rb") as file:
            file.seek(start)
            return file.read(-1 if length is None else length)


class RemoteFolder:
    """A folder at an address such as s3://bucket/folder.

    Args:
        address: with its protocol, which fsspec knows.

    Raises:
        ConfigError: fsspec does not know the protocol.
    """

    def __init__(self, address: str) -> None:
        self._address = address.rstrip("/")
        try:
            fsspec.get_filesystem_class(split_protocol(address)[0])
        except (ValueError, ImportError) as cause:
            raise ConfigError(
                f"{address} cannot be opened: {cause}",
                rule="shards are read from a local folder or an address that fsspec can read ranges from",
                remedy="install the package that fsspec names, or copy the shards to a local folder",
            ) from cause

    def read(self, name: str, start: int = 0, length: int | None = None) -> bytes:
        """Return a part of a file, see `Folder`."""
        # Looked up at each call: fsspec keeps one file system per process, which is what makes forked workers safe.
        files, root = fsspec.core.url_to_fs(self._address)
        data: bytes = files.cat_file(f"{root}/{name}", start=start, end=None if length is None else start + length)
        return data


def open_folder(address: Path | str) -> Folder:
    """Return the folder at a local path, a file:// address, or another address of fsspec's.

    Raises:
        ConfigError: fsspec does not know the protocol.
    """
    if isinstance(address, Path):
        return LocalFolder(address)
    protocol, path = split_protocol(address)
    return LocalFolder(Path(path)) if protocol in (None, "file", "local") else RemoteFolder(address)
