"""Faulty events: without user, item or order, or with an impossible time. A small share may be dropped."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from functools import reduce
from operator import or_

import ibis

from trialign.data.clock import EARLY, between_times, check_unit_of_times, impossible_times
from trialign.data.source import Unreadable
from trialign.data.tables import DuckTables, first_rows
from trialign.errors import DataError

logger = logging.getLogger(__name__)

_LACKING = "every event has a user, an item and an order, and a tie where data.columns.tie names one"
_TIMES = "a time lies in the past, after 1970"


def without_faults(
    events: ibis.Table, unreadable: Mapping[str, Unreadable], tables: DuckTables, *, has_clock: bool, max_share: float
) -> tuple[ibis.Table, dict[str, int]]:
    """Return the events without faults.

    Args:
        events: `user`, `item`, `order` and maybe `tie`; an empty key is null.
        unreadable: as in `RawData`.
        tables: where they are computed.
        has_clock: `order` is a time.
        max_share: of all events that may be left out.

    Returns:
        The events, and how many were left out, by what is wrong with them.

    Raises:
        DataError: no event at all, or none that can be; more bad ones than `max_share`; times of another unit.
    """
    lacking = {name: events[name].isnull() for name in ("user", "item", "order", "tie") if name in events.columns}
    faults = lacking | (impossible_times(events.order) if has_clock else {})
    also = {"between": between_times(events.order).sum(), "latest": events.order.max()} if has_clock else {}
    found = events.aggregate(all=events.count(), **also, **{name: fault.sum() for name, fault in faults.items()})
    counts = {name: count or 0 for name, count in tables.to_pyarrow(found).to_pylist()[0].items()}
    if not counts["all"]:
        raise DataError(
            "the log holds no event", rule="at least one event", remedy="name the right file of interactions"
        )
    if has_clock:
        check_unit_of_times(events, counts, tables)
        if counts["between"]:
            counts[EARLY] = 0
    faults = {name: fault for name, fault in faults.items() if counts[name]}
    if not faults:
        return events, {}
    bad = reduce(or_, faults.values())
    num_bad = int(tables.execute(bad.sum()))
    told = [_told(name, events, fault, counts, unreadable, tables) for name, fault in faults.items()]
    if num_bad > max_share * counts["all"]:
        rules = [found.rule for name, found in unreadable.items() if name in faults]
        rules += [_LACKING] * any(name in lacking for name in faults if name not in unreadable)
        rules += [_TIMES] * any(name not in lacking for name in faults)
        raise DataError(
            "; ".join(told),
            rule=f"{'; '.join(rules)}; at most data.max_bad_events={max_share} of all events are left out",
            remedy="repair or remove them, or name another column or data.time_unit" + _way_out(num_bad, counts["all"]),
        )
    logger.warning("%d bad events of %d are left out: %s", num_bad, counts["all"], "; ".join(told))
    return events.filter(~bad), {name: counts[name] for name in faults}


def _told(
    name: str,
    events: ibis.Table,
    fault: ibis.ir.BooleanValue,
    counts: Mapping[str, int],
    unreadable: Mapping[str, Unreadable],
    tables: DuckTables,
) -> str:
    """Describe the events with one kind of fault, with an example."""
    found = unreadable.get(name)
    told = [] if found is None else [f"{found.count} of {counts['all']} rows hold {found.example}"]
    absent = counts[name] - (found.count if found else 0)
    if absent:
        what = f"events have no {name}" if name in events.columns else f"times {name}"
        # Absent and unreadable values are both null by now, so an example could be either.
        shown = "" if found else f", e.g. {first_rows(events, fault, tables)}"
        told.append(f"{absent} of {counts['all']} {what}{shown}")
    return "; ".join(told)


def _way_out(num_bad: int, num_events: int) -> str:
    if num_bad == num_events:
        return ""
    scale = 10.0 ** (1 - math.floor(math.log10(num_bad / num_events)))
    share = math.ceil(num_bad / num_events * scale) / scale
    return f"; or lose these {num_bad} events: data.max_bad_events={share:g}"
