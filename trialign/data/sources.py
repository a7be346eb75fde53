"""Outside formats: one class per format, each a `Source`."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ibis
import numpy as np
import pyarrow as pa

from trialign.data.source import RawData
from trialign.errors import DataError

logger = logging.getLogger(__name__)


class InterJson:
    """The pair of JSON files of the LC-Rec and LETTER family.

    `interactions` is `{user: [item, ...]}`, oldest first; the place in the list is the only clock. `items` is
    `{item: {"title", "description", "brand", "categories"}}`, where categories are a comma-joined string or a list,
    nested or not; other keys are ignored, absent ones are empty. Ids are strings or integers.

    Args:
        root: folder that holds the files.
        interactions: file below `root`.
        items: file below `root`.
    """

    def __init__(self, *, root: Path | str | None, interactions: str, items: str) -> None:
        if root is None:
            raise DataError(
                "data.root is not set",
                rule="data.root names the folder that holds the files",
                remedy="set data.root=DIR, or the environment variable TRIALIGN_DATA",
            )
        self._paths = {"interactions": Path(root) / interactions, "items": Path(root) / items}

    def sources(self) -> dict[str, Path]:
        """Return the two files, checked to exist."""
        for role, path in self._paths.items():
            if not path.is_file():
                raise DataError(
                    f"{path} does not exist",
                    rule=f"data.{role} is a file below data.root",
                    remedy=f"set data.root (or TRIALIGN_DATA) and data.{role}",
                )
        return dict(self._paths)

    def load(self, folder: Path) -> RawData:  # noqa: ARG002
        """Read both files; `folder` is left alone."""
        paths = self.sources()
        return RawData(
            events=ibis.memtable(_read_table(paths["interactions"], _events)),
            items=_read_table(paths["items"], _items),
            images=None,
            has_clock=False,
        )


def _read_table(path: Path, convert: Callable[[dict[str, Any], Path], pa.Table]) -> pa.Table:
    try:
        return convert(_read_object(path), path)
    except UnicodeEncodeError as cause:
        # JSON can escape halves of a character, which no encoding can write.
        raise DataError(
            f"{path} holds text that is not Unicode: {cause}", rule="text is Unicode", remedy="repair the file"
        ) from cause


def _read_object(path: Path) -> dict[str, Any]:
    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        # The JSON reader would keep the last of two equal keys and say nothing.
        found = dict(pairs)
        if len(found) < len(pairs):
            keys = [key for key, _ in pairs]
            twice = [key for key in found if keys.count(key) > 1]
            raise DataError(
                f"{path} has {len(twice)} duplicate key(s), e.g. {', '.join(map(repr, twice[:3]))}",
                rule="a user, an item or a field stands in the file once",
                remedy="remove the duplicates",
            )
        return found

    try:
        content = json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=unique)
    except ValueError as cause:
        raise DataError(
            f"{path} is not JSON: {cause}", rule="a UTF-8 file holding one JSON object", remedy="repair the file"
        ) from cause
    if not isinstance(content, dict):
        raise DataError(
            f"{path} holds a {type(content).__name__}",
            rule="one JSON object with users, or items, as keys",
            remedy="convert the file",
        )
    return content


def _events(lists: dict[str, Any], path: Path) -> pa.Table:
    for user, items in lists.items():
        if not isinstance(items, list):
            _refuse(path, f"user '{user}'", items, "a list of item ids, oldest first")
        for item in items:
            if type(item) not in (str, int):
                _refuse(path, f"user '{user}'", item, "item ids that are strings or integers")
    silent = sum(not items for items in lists.values())
    if silent:
        logger.warning("%s: %d users with an empty list are left out", path, silent)
    lengths = np.array([len(items) for items in lists.values()], np.int64)
    starts = np.repeat(np.cumsum(lengths) - lengths, lengths)
    users = pa.array(lists, pa.string()).take(pa.array(np.repeat(np.arange(len(lengths)), lengths)))
    return pa.table(
        {
            "user": users,
            "item": pa.array([str(item) for items in lists.values() for item in items], pa.string()),
            "order": np.arange(len(starts), dtype=np.int64) - starts,
        }
    )


def _items(records: dict[str, Any], path: Path) -> pa.Table:
    for item, record in records.items():
        if not isinstance(record, dict):
            _refuse(path, f"item '{item}'", record, "an object with the item's fields")

    def texts(name: str) -> pa.Array:
        return pa.array([_text(record.get(name), path, item, name) for item, record in records.items()], pa.string())

    categories = [_categories(record.get("categories"), path, item) for item, record in records.items()]
    return pa.table(
        {
            "item": pa.array(records, pa.string()),
            "title": texts("title"),
            "description": texts("description"),
            "brand": texts("brand"),
            "categories": pa.array(categories, pa.list_(pa.string())),
        }
    )


def _text(value: Any, path: Path, item: str, name: str) -> str:
    if value is None:
        return ""
    if not isinstance(value, str):
        _refuse(path, f"{name} of item '{item}'", value, "text or null")
    assert isinstance(value, str)
    return value


def _categories(value: Any, path: Path, item: str) -> list[str]:
    """Flatten category paths into one list without repetitions, in order of appearance."""
    if value is None:
        return []
    if isinstance(value, str):
        parts = [part.strip() for part in value.split(",")]
        return list(dict.fromkeys(part for part in parts if part))
    if not isinstance(value, list):
        _refuse(path, f"categories of item '{item}'", value, "a comma-joined text, a list, or null")
    flat: list[str] = []
    for part in value:
        flat.extend(
            _categories(part, path, item) if isinstance(part, list) else [_text(part, path, item, "categories")]
        )
    return list(dict.fromkeys(part for part in flat if part))


def _refuse(path: Path, where: str, value: Any, rule: str) -> None:
    raise DataError(f"{path}: {where} holds {json.dumps(value)[:80]}", rule=rule, remedy="repair the file")
