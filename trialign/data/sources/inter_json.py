"""The pair of JSON files of the LC-Rec and LETTER family."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path

import ibis
import numpy as np
import pyarrow as pa
from typing_extensions import override

from trialign.config.data import InterJsonConfig
from trialign.data.source import RawData, Source
from trialign.data.sources.endings import open_bytes
from trialign.data.sources.evidence import Row, Value, items_table, refuse, unicode_of
from trialign.data.sources.formats import readable
from trialign.data.sources.places import below, find, typed
from trialign.errors import DataError
from trialign.foreign import parse_json

logger = logging.getLogger(__name__)


class InterJson(Source):
    """Two JSON files, of lists of events and of items.

    `interactions` is `{user: [item, ...]}`, oldest first; the place in the list is the only clock. `items` is
    `{item: {"title", "description", "brand", "categories"}}`, where categories are a comma-joined string or a list,
    nested or not; other keys are ignored, absent ones are empty. Ids are strings or integers.

    Args:
        settings: the group `data`.
    """

    def __init__(self, settings: InterJsonConfig) -> None:
        self._root = below(settings.root)
        self._names = {"interactions": settings.interactions, "items": settings.items}

    def sources(self) -> dict[str, Path]:
        """Return the two files, checked to exist."""
        return {role: self._find(role, name) for role, name in self._names.items()}

    @override
    def load(self, folder: Path) -> RawData:
        """Read both files; `folder` is not used."""
        paths = self.sources()
        return RawData(
            events=ibis.memtable(_events(read_object(paths["interactions"]), paths["interactions"])),
            items=items_table(object_records(paths["items"]), paths["items"]),
            has_clock=False,
        )

    def _find(self, role: str, name: str) -> Path:
        paths = find(self._root, [name], role)
        if len(paths) > 1:
            raise DataError(
                f"data.{role}={name} names {len(paths)} files",
                rule="one file holds all lists, and one all items",
                remedy=f"name one, e.g. {typed(role, str(paths[0]))}",
            )
        return paths[0]


def object_records(path: Path) -> list[Row]:
    """Return the records of `{item: {field: value}}`, each with its key as `item`.

    Raises:
        DataError: the file holds something else.
    """
    records: list[Row] = []
    for item, record in read_object(path).items():
        if not isinstance(record, dict):
            refuse(path, f"item '{item}'", record, "an object with the item's fields")
        records.append({**record, "item": item})
    return records


def read_object(path: Path) -> dict[str, Value]:
    """Return the one JSON object a file holds.

    Raises:
        DataError: it holds something else, or a key twice.
    """

    def unique(pairs: list[tuple[str, Value]]) -> dict[str, Value]:
        # The JSON reader would silently keep the last of two equal keys.
        found = dict(pairs)
        if len(found) < len(pairs):
            keys = [key for key, _ in pairs]
            twice = [key for key in found if keys.count(key) > 1]
            raise DataError(
                f"{path} has {len(twice)} duplicate key(s), e.g. {', '.join(map(repr, twice[:3]))}",
                rule="a user, an item or a field is in the file once",
                remedy="remove the duplicates",
            )
        return found

    with readable([path]), open_bytes(path) as file:
        text = file.read()
    try:
        content = parse_json(text.decode(), object_pairs_hook=unique)
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


def _events(lists: Mapping[str, Value], path: Path) -> pa.Table:
    chosen: list[str] = []
    lengths = np.zeros(len(lists), np.int64)
    for place, (user, items) in enumerate(lists.items()):
        if not isinstance(items, list):
            refuse(path, f"user '{user}'", items, "a list of item ids, oldest first")
        for item in items:
            if type(item) not in (str, int):
                refuse(path, f"user '{user}'", item, "item ids that are strings or integers")
        chosen += map(str, items)
        lengths[place] = len(items)
    silent = int((lengths == 0).sum())
    if silent:
        logger.warning("%s: %d users with an empty list are left out", path, silent)
    starts = np.repeat(np.cumsum(lengths) - lengths, lengths)
    with unicode_of(path):
        users = pa.array(lists, pa.string()).take(pa.array(np.repeat(np.arange(len(lengths)), lengths)))
        items_chosen = pa.array(chosen, pa.string())
    return pa.table({"user": users, "item": items_chosen, "order": np.arange(len(starts), dtype=np.int64) - starts})
