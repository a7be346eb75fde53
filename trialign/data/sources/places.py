"""Find outside files: paths, folders and patterns below `data.root`."""

from __future__ import annotations

import glob
import shlex
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from trialign.data.sources.endings import ending_of
from trialign.errors import ConfigError, DataError

_JOURNALS = ("_delta_log", ".hoodie")
"""Of Delta Lake and Hudi: their folders keep the files of older states next to those of the newest."""


def below(root: str | None) -> Path:
    """Return `data.root` as a path.

    Raises:
        DataError: it is not set.
    """
    if root is None:
        raise DataError(
            "data.root is not set",
            rule="data.root names the folder that holds the files",
            remedy="set data.root=DIR, or the environment variable TRIALIGN_DATA",
        )
    return Path(root)


def listed(value: str | Sequence[str] | None, setting: str) -> list[str]:
    """Return a setting as a list of names: it is one name, a list, or null for none.

    Raises:
        ConfigError: it is something else.
    """
    names = [] if value is None else [value] if isinstance(value, str) else value
    if not isinstance(names, list | tuple) or not all(isinstance(name, str) and name for name in names):
        raise ConfigError(
            f"data.{setting}={value!r}", rule="one name, or a list of names", remedy=f"data.{setting}=[a,b]"
        )
    return list(names)


def find(root: Path, patterns: Sequence[str], setting: str) -> list[Path]:
    """Return the files that match `patterns` below `root`, without duplicates: by pattern, then sorted.

    A folder stands for its files, at any depth; of `images` it stays a folder.

    Raises:
        DataError: a pattern names nothing, a folder with files of several kinds, or a pipe, which may never end.
    """
    if not root.is_dir():
        raise DataError(
            f"data.root={root} is no folder",
            rule="data.root names the folder that holds the files",
            remedy="set data.root=DIR, or the environment variable TRIALIGN_DATA",
        )
    found: dict[Path, None] = {}
    for pattern in patterns:
        exact = (root / pattern).exists() or not glob.has_magic(pattern)
        matches = [pattern] if exact else _matches(pattern, root)
        paths = [root / match for match in matches]
        if not paths or not all(path.exists() for path in paths):
            raise DataError(
                f"{root / pattern} does not exist" if paths else f"nothing matches {root / pattern}",
                rule=f"data.{setting} is a path or a pattern below data.root",
                remedy=f"set data.root (or TRIALIGN_DATA) and data.{setting}",
            )
        for path in paths:
            found |= dict.fromkeys(_unfolded(root, path, setting))
    return list(found)


def typed(setting: str, value: str) -> str:
    """Return `data.<setting>=value` as a user pastes it into a shell: quoted for Hydra, then for the shell."""
    return shlex.quote(f'data.{setting}="{value}"')


def _matches(pattern: str, root: Path) -> list[str]:
    # Path.glob would refuse an absolute pattern, and lists hidden files.
    return sorted(glob.glob(pattern, root_dir=root, recursive=True))  # noqa: PTH207


def _unfolded(root: Path, path: Path, setting: str) -> list[Path]:
    """Return a file as it is, and in place of a folder its files at any depth; folders of pictures stay folders."""
    if path.is_file() or (setting == "images" and path.is_dir() and path.suffix != ".tar"):
        return [path]
    if not path.is_dir() or setting == "images":
        raise DataError(
            f"{path} is {'a folder' if path.is_dir() else 'neither file nor folder'}",
            rule=f"data.{setting} names files and folders" + (" of pictures, or .tar files" if path.is_dir() else ""),
            remedy="give the folder a name that does not end in .tar" if path.is_dir() else "write it to a file first",
        )
    journal = next((name for name in _JOURNALS if (path / name).exists()), None)
    if journal:
        raise DataError(
            f"{path} is a table with a journal, {journal}",
            rule="a folder's files are its rows; there, some of them are of older states of the table",
            remedy=f"write the table's rows to Parquet files of their own and set data.{setting}",
        )
    return _one_kind(root, path, setting)


def _one_kind(root: Path, folder: Path, setting: str) -> list[Path]:
    """Return the files of a folder, sorted, at any depth; names that begin with . or _ are skipped as metadata."""
    names = _matches("**/*", folder)
    files = [folder / name for name in names if not any(part.startswith("_") for part in Path(name).parts)]
    files = [path for path in files if path.is_file()]
    endings = Counter(ending_of(path) for path in files)
    if len({ending.removesuffix(".gz") for ending in endings}) == 1:
        return files
    below_root = folder.relative_to(root) if folder.is_relative_to(root) else folder
    patterns = [f"{glob.escape(str(below_root))}/**/*{ending}" for ending, _ in endings.most_common(3)]
    held = ", ".join(f"{count} {ending or 'without an ending'}" for ending, count in endings.most_common())
    raise DataError(
        f"{folder} holds files of several kinds: {held}" if files else f"{folder} holds no file",
        rule=f"data.{setting} names files, or a folder that holds files of one kind",
        remedy="say which: " + ", or ".join(typed(setting, pattern) for pattern in patterns)
        if files
        else f"set data.{setting}",
    )


def roles(root: Path, setting: str, paths: Sequence[Path]) -> dict[str, Path]:
    """Return files by role, for a stage's manifest: the setting, and with several files the name below `root` too."""
    if len(paths) == 1:
        return {setting: paths[0]}
    return {f"{setting}/{path.relative_to(root) if path.is_relative_to(root) else path}": path for path in paths}
