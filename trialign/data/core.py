"""The k-core of a log: users and items with too few events are removed, round after round."""

from __future__ import annotations

import logging
from pathlib import Path

import ibis
import pyarrow.compute as pc
import pyarrow.parquet as pq

from trialign.config.data import DataConfig
from trialign.data.tables import DuckTables
from trialign.errors import DataError

logger = logging.getLogger(__name__)


def core_of(
    events: ibis.Table, folder: Path, settings: DataConfig, *, tables: DuckTables
) -> tuple[ibis.Table, list[dict[str, int]]]:
    """Remove users and items with too few events, round after round, until all that are left have enough.

    Each round counts the events of users, then those of items among the users who stay, and writes who is removed:
    small tables, whatever the size of the log, which itself is only read.

    Args:
        events: `user`, `item`, integers, and other columns.
        folder: where the rounds write; made if missing.
        settings: events that a user and an item need (0 or 1 keeps all), and the rounds before giving up.
        tables: where they are computed.

    Returns:
        The rows whose user and item both stayed; and how many users, items and events left in each round, and the
        events left after it.

    Raises:
        DataError: nothing is left, or `core_rounds` did not suffice.
    """
    folder.mkdir(parents=True, exist_ok=True)
    least = {"user": settings.min_user_interactions, "item": settings.min_item_interactions}
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
                f"no event is left after {len(rounds)} rounds, data.min_user_interactions={least['user']} "
                f"data.min_item_interactions={least['item']}",
                rule="some users and items have enough events in common",
                remedy="lower data.min_user_interactions or data.min_item_interactions",
            )
        if len(rounds) == settings.core_rounds:
            raise DataError(
                f"after data.core_rounds={settings.core_rounds} rounds {num_left} events are left, the last round "
                f"removed {found['users']} users and {found['items']} items",
                rule="rounds continue until every user and item has enough events",
                remedy="raise data.core_rounds, or lower data.min_user_interactions or data.min_item_interactions",
            )
    return _without(events, gone, tables), rounds


def _without(events: ibis.Table, gone: dict[str, list[Path]], tables: DuckTables) -> ibis.Table:
    for side, paths in gone.items():
        if paths:
            events = events.anti_join(tables.read_back(paths).select(side), side)
    return events
