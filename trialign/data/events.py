"""Events: checked, joined with the catalogue and spread over user buckets by Ibis; then one bucket at a time in Arrow.

A user's bucket is the beginning of md5(user). Buckets in order, and users inside a bucket by the rest of that hash,
make one global order that has nothing to do with where a user came from: any block of it is a fair sample.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import ibis
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from trialign.errors import DataError

_ORDER = ("hash", "user", "order", "item")


@dataclass(frozen=True)
class Histories:
    """The whole histories of some users, in hash order; user u owns events `starts[u] : starts[u] + lengths[u]`.

    Attributes:
        users: U user keys.
        starts: int64 [U].
        lengths: int64 [U], at least 1.
        items: int32 [E], item indices, oldest first within a user.
        times: int64 [E], what they were ordered by.
    """

    users: pa.StringArray
    starts: NDArray[np.int64]
    lengths: NDArray[np.int64]
    items: pa.Int32Array
    times: pa.Int64Array


def write_events(events: ibis.Table, catalogue: pa.Table, folder: Path, *, buckets: int, missing_items: str) -> int:
    """Write the events as Parquet partitioned by user bucket, items as indices.

    Args:
        events: `user`, `item`, `order`, as `RawData.events`.
        catalogue: `item` (index) and `key`.
        folder: where the Parquet goes.
        buckets: a power of 16.
        missing_items: `refuse` events of items without a catalogue entry, or `drop` them.

    Returns:
        How many events were dropped.

    Raises:
        DataError: no event at all (or none left), an event without user, item or order, or of an unknown item.
    """
    entries = ibis.memtable(catalogue.select(["item", "key"]))
    joined = events.left_join(entries, events.item == entries.key).select(
        user=events.user, order=events.order, key=events.item, item=entries.item
    )
    num_dropped = _check(joined, missing_items)
    num_digits = (buckets.bit_length() - 1) // 4
    assert buckets == 16**num_digits, buckets
    known = joined.filter(joined.item.notnull()).drop("key")
    hashed = known.mutate(hash=known.user.hexdigest("md5"))
    # The letter keeps the name of a bucket from being empty (16^0) or a number.
    spread = hashed.mutate(bucket=ibis.literal("b") + hashed.hash.left(num_digits))
    spread.to_parquet(folder, partition_by="bucket")
    return num_dropped


def read_buckets(folder: Path) -> Iterator[Histories]:
    """Yield the histories of each bucket, buckets in hash order."""
    for bucket in sorted(folder.glob("bucket=*")):
        yield _cut_at_users(pq.read_table(bucket, partitioning=None))


def _check(joined: ibis.Table, missing_items: str) -> int:
    unknown = joined.item.isnull()
    found = joined.aggregate(
        events=joined.count(),
        users=(joined.user.isnull() | (joined.user == "")).sum(),
        items=(joined.key.isnull() | (joined.key == "")).sum(),
        orders=joined.order.isnull().sum(),
        unknown=unknown.sum(),
    )
    counts = found.to_pyarrow().to_pylist()[0]
    if not counts["events"]:
        raise DataError(
            "the log holds no event", rule="at least one event", remedy="name the right file of interactions"
        )
    for column in ("users", "items", "orders"):
        if counts[column]:
            raise DataError(
                f"{counts[column]} of {counts['events']} events have no {column[:-1]}",
                rule="every event has a user, an item and an order",
                remedy="remove or repair them",
            )
    if not counts["unknown"]:
        return 0
    if missing_items == "refuse":
        named = joined.filter(unknown).select("key").distinct().order_by("key")
        examples = ", ".join(named.limit(3).to_pyarrow()["key"].to_pylist())
        num_items = named.count().to_pyarrow().as_py()
        raise DataError(
            f"{counts['unknown']} events name {num_items} items that are not in the catalogue, e.g. {examples}",
            rule="every event's item stands in the catalogue",
            remedy="add the items, or set data.missing_items=drop",
        )
    if counts["unknown"] == counts["events"]:
        raise DataError(
            f"none of the {counts['events']} events names an item of the catalogue",
            rule="at least one event is left after data.missing_items=drop",
            remedy="check that log and catalogue use the same item keys",
        )
    return int(counts["unknown"])


def _cut_at_users(bucket: pa.Table) -> Histories:
    ordered = bucket.sort_by([(name, "ascending") for name in _ORDER]).combine_chunks()
    users = ordered["user"].chunk(0)
    changes = pc.not_equal(users[1:], users[:-1]).to_numpy(zero_copy_only=False)
    starts = np.concatenate([[0], np.flatnonzero(changes) + 1])
    return Histories(
        users=users.take(pa.array(starts)),
        starts=starts,
        lengths=np.diff(starts, append=len(users)),
        items=ordered["item"].chunk(0),
        times=ordered["order"].chunk(0),
    )
