"""The k-core of a log: users and items with too few events are removed, round after round."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

import ibis
import pyarrow.compute as pc
import pyarrow.parquet as pq

from trialign.data.tables import DuckTables
from trialign.errors import DataError

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Core:
    """The k-core of a log, and the counts of every round.

    Attributes:
        events: the rows whose user and item both stayed.
        rounds: how many users, items and events left in each round, and the events left after it.
    """

    events: ibis.Table
    rounds: list[dict[str, int]]


def core_of(
    events: ibis.Table,
    folder: Path,
    *,
    tables: DuckTables,
    min_user_interactions: int,
    min_item_interactions: int,
    max_rounds: int,
) -> Core:
    """Remove users and items with too few events, round after round, until all that are left have enough.

    Each round counts the events of users, then those of items among the users who stay, and writes who is removed:
    small tables, whatever the size of the log, which itself is only read.

    Args:
        events: `user`, `item`, integers, and other columns.
        folder: where the rounds write; made if missing.
        tables: where they are computed.
        min_user_interactions: events that a user needs; 0 or 1 keeps all.
        min_item_interactions: events that an item needs; 0 or 1 keeps all.
        max_rounds: stop with an error after this many rounds that removed something.

    Raises:
        DataError: nothing is left, or `max_rounds` did not suffice.
    """
    folder.mkdir(parents=True, exist_ok=True)
    least = {"user": min_user_interactions, "item": min_item_interactions}
    gone: dict[str, list[Path]] = {side: [] for side in least}
    rounds: list[dict[str, int]] = []
    num_left = int(tables.execute(events.count()))
    while any(core > 1 for core in least.values()):
        found = {"users": 0, "items": 0, "events": 0}
        for side, core in least.items():
            left = _without(events, gone, tables)
            counted = left.group_by(side).aggregate(num_events=left.count())
            path = folder / f"{side}s-{len(rounds):04d}.parquet"
            tables.to_parquet(counted.filter(counted.num_events < core), path)
            leaving = pq.read_table(path, columns=["num_events"])["num_events"]
            if len(leaving):
                gone[side].append(path)
                found[f"{side}s"] = len(leaving)
                found["events"] += pc.sum(leaving).as_py()
        if not found["events"]:
            break
        num_left -= found["events"]
        rounds.append(found | {"left": num_left})
        logger.info("k-core, round %d: %s", len(rounds), rounds[-1])
        if not num_left:
            raise DataError(
                f"no event is left after {len(rounds)} rounds, data.min_user_interactions={min_user_interactions} "
                f"data.min_item_interactions={min_item_interactions}",
                rule="some users and items have enough events in common",
                remedy="lower data.min_user_interactions or data.min_item_interactions",
            )
        if len(rounds) == max_rounds:
            raise DataError(
                f"after data.core_rounds={max_rounds} rounds {num_left} events are left, the last round removed "
                f"{found['users']} users and {found['items']} items",
                rule="rounds continue until every user and item has enough events",
                remedy="raise data.core_rounds, or lower data.min_user_interactions or data.min_item_interactions",
            )
    return Core(_without(events, gone, tables), rounds)


def _without(events: ibis.Table, gone: dict[str, list[Path]], tables: DuckTables) -> ibis.Table:
    for side, paths in gone.items():
        if paths:
            events = events.anti_join(tables.read_back(paths).select(side), side)
    return events
