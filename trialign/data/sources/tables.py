"""Events in tables of any common format, next to a catalogue."""

from __future__ import annotations

from functools import reduce
from pathlib import Path

import ibis
from typing_extensions import override

from trialign.config.data import TablesConfig
from trialign.data.source import RawData, Source, Unreadable
from trialign.data.sources.catalogue_files import CatalogueFiles
from trialign.data.sources.columns import (
    as_key,
    as_time,
    as_whole,
    find_unreadable,
    require_columns,
    tell_lost_nanoseconds,
    tell_mixed,
    text_of,
)
from trialign.data.sources.formats import Dialect, Part, read_rows
from trialign.data.sources.places import below, find, listed, roles
from trialign.errors import ConfigError

_RULES = {
    "user": "a user is named by text or an integer",
    "item": "an item is named by text or an integer",
    "time": "a time is in data.time_unit: s, ms, us, ns (numbers since 1970) or iso (2024-05-01T12:00:00)",
    "rank": "a rank is a whole number; smaller is earlier",
    "tie": "ties are decided by whole numbers; smaller is earlier",
}


class Tables(Source):
    """Events with a time or a rank, in Parquet, CSV, TSV, JSON lines or RecBole's `.inter`, and a catalogue.

    Rows are read lazily; one pass over them is made here, to count what cannot be read.

    A column of timestamps or dates needs no `time_unit`. What is finer than a second decides among events of one
    second, before a column of ties does.

    Args:
        settings: the group `data`.

    Raises:
        ConfigError: neither time nor rank is named, or both; a name does not exist.
        DataError: `root` is not set.
    """

    def __init__(self, settings: TablesConfig) -> None:
        columns = settings.columns
        if bool(columns.time) == bool(columns.rank):
            raise ConfigError(
                "both data.columns.time and data.columns.rank are set" if columns.time else "the events have no order",
                rule="events are ordered by a time, or else by a rank within the user's list",
                remedy="set one of data.columns.time=COLUMN and data.columns.rank=COLUMN",
            )
        self._root = below(settings.root)
        self._events = listed(settings.events, "events")
        self._format = settings.format
        named = {
            "user": columns.user,
            "item": columns.item,
            "time": columns.time,
            "rank": columns.rank,
            "tie": columns.tie,
        }
        self._columns = {role: name for role, name in named.items() if name}
        self._clock = "time" if columns.time else "rank"
        self._time_unit = settings.time_unit
        self._dialect = Dialect(settings.delimiter, settings.quotes)
        self._catalogue = CatalogueFiles(settings)

    def sources(self) -> dict[str, Path]:
        """Return every file, by role, checked to exist."""
        return roles(self._root, "events", find(self._root, self._events, "events")) | self._catalogue.sources()

    @override
    def load(self, folder: Path) -> RawData:
        """Read the catalogue, and the events lazily; `folder` is not used."""
        items, images = self._catalogue.load()
        events, unreadable = self._read_events()
        has_clock = self._clock == "time"
        return RawData(items=items, images=images, events=events, unreadable=unreadable, has_clock=has_clock)

    def _read_events(self) -> tuple[ibis.Table, dict[str, Unreadable]]:
        paths = find(self._root, self._events, "events")
        parts = read_rows(paths, self._format, self._dialect)
        rows = reduce(ibis.Table.union, map(self._typed, parts))
        tell_mixed(parts, [self._columns["user"], self._columns["item"]])
        names = [name for name in _RULES if name in rows.columns]
        rules = {name: _RULES[name] for name in names}
        unreadable, num_fine = find_unreadable(rows, paths, rules, (rows.fine != 0).sum())
        finer = [name for name, found in {"fine": num_fine, "tie": "tie" in names}.items() if found]
        events = rows.select("user", "item", *finer, order=rows[self._clock])
        return events, {"order" if name == self._clock else name: found for name, found in unreadable.items()}

    def _typed(self, part: Part) -> ibis.Table:
        """Return the columns of some files by role, as found and converted."""
        require_columns(part.paths[0], "data.columns", list(self._columns.items()), part.table.columns)
        found = {role: part.table[name] for role, name in self._columns.items()}
        typed: dict[str, ibis.Value] = {f"raw_{role}": text_of(column) for role, column in found.items()}
        typed |= {role: as_key(found[role], part.paths) for role in ("user", "item")}
        if self._clock == "time":
            tell_lost_nanoseconds(part, self._columns["time"])
            typed["time"], typed["fine"] = as_time(found["time"], self._time_unit, part.paths)
        else:
            typed |= {"rank": as_whole(found["rank"], part.paths), "fine": ibis.literal(0, "int64")}
        if "tie" in found:
            typed["tie"] = as_whole(found["tie"], part.paths)
        return part.table.select(**typed)
