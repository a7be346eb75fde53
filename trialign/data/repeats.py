"""Repeated events of a log: equal user, item and time, including the fraction of a second and the tie column.

A second purchase has a time of its own. Where there is no time but a rank, nothing tells a repeat, and all events stay.
"""

from __future__ import annotations

import logging
from pathlib import Path

import ibis

from trialign.data.clock import times_of_day
from trialign.data.tables import INTEGERS, DuckTables
from trialign.errors import DataError

logger = logging.getLogger(__name__)

_MANY = 0.01


def without_repeats(
    events: ibis.Table, num_events: int, path: Path, tables: DuckTables, *, has_clock: bool, policy: str
) -> tuple[ibis.Table, dict[str, int]]:
    """Write events, each once if repeats are dropped, and read them back.

    Args:
        events: integers `user`, `item` and `order`, and columns that follow from them or decide between equal ones.
        num_events: how many; counting them would be the work of making them.
        path: where they go.
        tables: where they are computed.
        has_clock: `order` is a time.
        policy: `drop`, `keep` or `refuse`.

    Returns:
        The events, and the count of repeats, `events_repeated`, whether they were dropped or kept.

    Raises:
        DataError: there are some, and they are refused.
    """
    if not has_clock:
        tables.to_parquet(events, path, **INTEGERS)
        return tables.read_back(path), {"events_repeated": 0}
    dropped = policy == "drop"
    tables.to_parquet(events.distinct() if dropped else events, path, **INTEGERS)
    written = tables.read_back(path)
    num_left = int(tables.execute((written if dropped else written.distinct()).count()))
    num_repeats = num_events - num_left
    if num_repeats:
        told = f"{num_repeats} repeated events of {num_events}: the same user, item and time"
        if times_of_day(written, tables) == 1:
            told += "; times are no finer than a day, so that a repeat cannot be told from a second purchase"
        if policy == "refuse":
            raise DataError(
                told,
                rule="data.repeated_events=refuse: a user, an item and a time are in the log once",
                remedy="remove the repeats; or data.repeated_events=drop leaves one of each, keep leaves them all",
            )
        many = num_repeats > _MANY * num_events
        logger.log(logging.WARNING if many else logging.INFO, "%s; %s", told, "dropped" if dropped else "kept")
    return written, {"events_repeated": num_repeats}
