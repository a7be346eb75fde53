"""Times of events: find impossible ones, and the times that split all events by shares."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence

import ibis
import numpy as np

from trialign.data.tables import DuckTables, first_rows
from trialign.errors import DataError

_DAY = 86_400
_NO_SECONDS = 100_000_000_000
"""Seconds from here on lie beyond the year 5000, milliseconds from here on behind 1973."""
_EARLY, _LATER = 100_000_000, 200_000_000
"""Milliseconds of today read as microseconds, or seconds as milliseconds, lie before the first, in March 1973."""
_FINER = {"milliseconds": 10**3, "microseconds": 10**6, "nanoseconds": 10**9}
EARLY = "lie before March 1973, far from all others"
"""What `impossible_times` calls times that are impossible only where `between_times` has none."""
_BIN = 1 << 16


def impossible_times(order: ibis.ir.IntegerColumn) -> dict[str, ibis.ir.BooleanValue]:
    """Return the masks of times that are impossible, by the fault in words; a time has at most one fault."""
    return {
        "lie before 1970": order < 0,
        "look like milliseconds among seconds": order >= _NO_SECONDS,
        "lie in the future": (order > int(time.time()) + _DAY) & (order < _NO_SECONDS),
        EARLY: (order >= 0) & (order < _EARLY),
    }


def between_times(order: ibis.ir.IntegerColumn) -> ibis.ir.BooleanValue:
    """Return the mask of times soon after March 1973: a log that holds some may hold earlier ones too."""
    return (order >= _EARLY) & (order < _LATER)


def check_unit_of_times(events: ibis.Table, counts: Mapping[str, int], tables: DuckTables) -> None:
    """Refuse a log in which every time is impossible.

    Args:
        events: `order`.
        counts: of events (`all`), of those without `order`, of each of `impossible_times`; and the `latest` time.
        tables: where the events are.

    Raises:
        DataError: no time can be; most likely the unit is another one.
    """
    faults = impossible_times(events.order)
    num_times = counts["all"] - counts["order"]
    if not num_times or sum(counts[name] for name in faults) < num_times:
        return
    units = [name for name, size in _FINER.items() if _LATER <= counts["latest"] // size <= time.time() + _DAY]
    told = f"look like {units[0]} read as seconds" if units else "are none of the years 1973 to today"
    if counts[EARLY] == num_times:
        told = "lie before March 1973, as seconds do that are read as milliseconds"
    raise DataError(
        f"{num_times} of {counts['all']} times {told}, e.g. {first_rows(events, events.order.notnull(), tables)}",
        rule="times count from 1970, in data.time_unit",
        remedy="set data.time_unit to the unit of the log: s, ms, us or ns; times that count from another moment are an"
        " order and no clock: data.columns.time=null data.columns.rank=COLUMN",
    )


def times_of_day(events: ibis.Table, tables: DuckTables) -> int:
    """Return how many different times of day the events have: one if the log records only dates."""
    fine = [events.fine] if "fine" in events.columns else []
    times = events.select(events.order % _DAY, *fine).distinct()
    return int(tables.execute(times.count()))


def times_of_shares(events: ibis.Table, shares: Sequence[float], tables: DuckTables) -> list[int]:
    """Return for each share the earliest time that has at least that share of all events before it.

    Args:
        events: `order`.
        shares: between 0 and 1.
        tables: where it is computed. Two passes of counting, so nothing is sorted and nothing held.

    Raises:
        DataError: too many events of one time are at the end: nothing comes after.
    """
    num_events, latest = int(tables.execute(events.count())), tables.execute(events.order.max())
    bins = (events.order // _BIN).cast("int64")
    times = []
    for share in shares:
        place = max(1, math.ceil(share * num_events))
        # First the bin of the time, then the time in it: two short lists for any number of events.
        first, place = _entry_of(events.select(value=bins), place, tables)
        last, _ = _entry_of(events.filter(bins == first).select(value=events.order), place, tables)
        if last == latest:
            raise DataError(
                f"no event comes after the first {share:.0%} of {num_events} events: the last time is {last}",
                rule="events lie before and after each of data.cut_shares",
                remedy="lower data.cut_shares, or give data.cut_times",
            )
        times.append(last + 1)
    return times


def _entry_of(values: ibis.Table, place: int, tables: DuckTables) -> tuple[int, int]:
    """Return the `place`-th smallest value (from 1), and its place among its equals."""
    counted = tables.to_pyarrow(values.group_by("value").aggregate(num=values.count()).order_by("value"))
    ends = np.cumsum(counted["num"].to_numpy())
    row = int(np.searchsorted(ends, place))
    return counted["value"][row].as_py(), place - int(ends[row - 1] if row else 0)
