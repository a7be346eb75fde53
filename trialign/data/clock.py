"""Times of events: which are impossible, and where shares of all events end."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Sequence

import ibis
import numpy as np
from ibis.backends.duckdb import Backend

from trialign.data.tables import first_rows
from trialign.errors import DataError

logger = logging.getLogger(__name__)

_DAY = 86_400
_NO_SECONDS = 100_000_000_000
"""Seconds from here on lie beyond the year 5000, milliseconds from here on behind 1973."""
_EARLY, _LATER = 100_000_000, 200_000_000
"""Milliseconds of today read as microseconds, or seconds as milliseconds, lie before the first, in March 1973."""
_BIN = 1 << 16


def check_clock(events: ibis.Table, tables: Backend) -> None:
    """Refuse times that cannot be seconds of the past, and warn where they may count from the log's own beginning.

    Raises:
        DataError: negative times, milliseconds (all of them, or some among seconds), times in the future, and times of
            the years around 1970, zeros for one, that are cut off from all others.
    """
    order = events.order
    faults = {
        "negative": order < 0,
        "milliseconds": order >= _NO_SECONDS,
        "future": order > int(time.time()) + _DAY,
        "early": order < _EARLY,
    }
    between = (order >= _EARLY) & (order < _LATER)
    counts = tables.to_pyarrow(
        events.aggregate(
            events=events.count(), between=between.sum(), **{name: fault.sum() for name, fault in faults.items()}
        )
    ).to_pylist()[0]
    if counts["early"] == counts["events"]:
        logger.warning(
            "all times lie before March 1973; right if they count from another moment than 1970,"
            " otherwise data.time_unit is wrong"
        )
    if counts["between"] or counts["early"] == counts["events"]:
        counts["early"] = 0
    what = {
        "negative": "lie before 1970",
        "milliseconds": "look like milliseconds"
        + (" among seconds" if counts["milliseconds"] < counts["events"] else ""),
        "future": "lie in the future",
        "early": "lie before March 1973, far from all others",
    }
    for name, fault in faults.items():
        if counts[name]:
            raise DataError(
                f"{counts[name]} of {counts['events']} times {what[name]}, e.g. {first_rows(events, fault, tables)}",
                rule="the order of events is a time in seconds since 1970, or a rank",
                remedy="repair them, or set data.time_unit to the unit in which the whole log counts time",
            )


def times_of_shares(events: ibis.Table, shares: Sequence[float], tables: Backend) -> list[int]:
    """Return for each share the earliest time that has at least that share of all events before it.

    Args:
        events: `order`.
        shares: between 0 and 1.
        tables: where it is computed. Two passes of counting, so nothing is sorted and nothing held.

    Raises:
        DataError: too many events of one time stand at the end: nothing comes after.
    """
    return [_time_of_share(events, share, tables) for share in shares]


def _time_of_share(events: ibis.Table, share: float, tables: Backend) -> int:
    num_events = int(tables.execute(events.count()))
    place = max(1, math.ceil(share * num_events))
    # A bin of times first, then the time in it: two short lists, however many events there are.
    bins = (events.order // _BIN).cast("int64")
    first, place = _entry_of(events.select(value=bins), place, tables)
    last, _ = _entry_of(events.filter(bins == first).select(value=events.order), place, tables)
    if last == tables.execute(events.order.max()):
        raise DataError(
            f"no event comes after the first {share:.0%} of {num_events} events: the last time is {last}",
            rule="events lie before and after each of data.cut_shares",
            remedy="lower data.cut_shares, or give data.cut_times",
        )
    return last + 1


def _entry_of(values: ibis.Table, place: int, tables: Backend) -> tuple[int, int]:
    """Return the `place`-th smallest value (from 1), and its place among its equals."""
    counted = tables.to_pyarrow(values.group_by("value").aggregate(num=values.count()).order_by("value"))
    ends = np.cumsum(counted["num"].to_numpy())
    row = int(np.searchsorted(ends, place))
    return counted["value"][row].as_py(), place - int(ends[row - 1] if row else 0)
