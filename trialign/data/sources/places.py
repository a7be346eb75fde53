"""Where outside files are: paths, folders and patterns below `data.root`."""

from __future__ import annotations

import glob
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from trialign.errors import ConfigError, DataError


def below(root: Path | str | None) -> Path:
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


def listed(value: Any, setting: str) -> list[str]:
    """Return a setting that is one name or a list of names as a list; null is no name.

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
    """Return what `patterns` name below `root`, each sorted, in the order of the patterns, nothing twice.

    Raises:
        DataError: a pattern names nothing, a folder where a file belongs, or a pipe, which may never end.
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
        # Path.glob would refuse an absolute pattern.
        matches = [pattern] if exact else sorted(glob.glob(pattern, root_dir=root, recursive=True))  # noqa: PTH207
        paths = [root / match for match in matches]
        if not paths or not all(path.exists() for path in paths):
            raise DataError(
                f"{root / pattern} does not exist" if paths else f"nothing matches {root / pattern}",
                rule=f"data.{setting} is a path or a pattern below data.root",
                remedy=f"set data.root (or TRIALIGN_DATA) and data.{setting}",
            )
        for path in paths:
            _check_kind(path, setting)
        found |= dict.fromkeys(paths)
    return list(found)


def _check_kind(path: Path, setting: str) -> None:
    folders_too = setting == "images" and path.suffix != ".tar"
    if not (path.is_file() or (folders_too and path.is_dir())):
        is_folder = path.is_dir()
        raise DataError(
            f"{path} is {'a folder' if is_folder else 'neither file nor folder'}",
            rule=f"data.{setting} names files" + (", or folders of pictures" if setting == "images" else ""),
            remedy=f"name what is in it: 'data.{setting}={path.name}/*'" if is_folder else "write it to a file first",
        )


def roles(root: Path, setting: str, paths: Sequence[Path]) -> dict[str, Path]:
    """Return files by role, for a stage's manifest: the setting, and with several files the name below `root` too."""
    if len(paths) == 1:
        return {setting: paths[0]}
    return {f"{setting}/{path.relative_to(root) if path.is_relative_to(root) else path}": path for path in paths}
