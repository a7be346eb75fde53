"""Events: Ibis checks and numbers them, cuts them to a k-core and partitions them by user; then buckets are read.

A user's bucket is the beginning of md5(user). Buckets in order, and users inside a bucket by the rest of that hash,
make one global order that has nothing to do with where a user came from: any block of it is a fair sample. Users are
hashed once each, not once per event: from the first join on, an event is a few integers.

The folder of partitioned events holds

    users/bucket=b0/...     number, user, code     numbers follow the hash order; the code is the bucket's place
    events/bucket=b0/...    user (number), item (index), order, fine and tie where the source has them
    items.npy               the catalogue's rows that stayed
"""

from __future__ import annotations

import glob
import logging
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import ibis
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from trialign.config.data import DataConfig
from trialign.data.core import core_of
from trialign.data.faults import without_faults
from trialign.data.repeats import without_repeats
from trialign.data.source import RawData
from trialign.data.tables import INTEGERS, DuckTables
from trialign.data.ties import find_ties, hash_keys, shuffle_ties
from trialign.errors import DataError
from trialign.types import Counts

logger = logging.getLogger(__name__)

_PIECE_EVENTS = 1 << 20
"""Events read at a time; one user's are never parted."""
_FINER = ("fine", "tie")
"""Columns that decide between events of equal `order`, the first of them first; a source may have none."""


@dataclass(frozen=True)
class Histories:
    """The whole histories of some users, in hash order; user u owns events `starts[u] : starts[u] + lengths[u]`.

    Attributes:
        users: U user keys.
        starts: int64 [U].
        lengths: int64 [U], at least 1.
        items: int32 [E], item indices, oldest first within a user.
        times: int64 [E], what they were ordered by.
        tied: bool [E], whether nothing but a hash puts the event behind the one before it; see `ties`.
    """

    users: pa.StringArray
    starts: NDArray[np.int64]
    lengths: NDArray[np.int64]
    items: pa.Int32Array
    times: pa.Int64Array
    tied: NDArray[np.bool_]


def partition_by_user(
    raw: RawData, catalogue: pa.Table, folder: Path, settings: DataConfig, *, tables: DuckTables
) -> Counts:
    """Write the events as Parquet partitioned by user bucket, users and items as integers.

    Args:
        raw: a source with events.
        catalogue: `item` (index) and `key`.
        folder: where they go; see the module's docstring.
        settings: which events are refused or left out, the cores, and the number of buckets.
        tables: where they are computed, once the log was read by the engine it is bound to.

    Returns:
        Counts: `bad_events`, `events_dropped`, `events_repeated`, and where a core is asked for what it removed.

    Raises:
        DataError: no event at all (or none left), too many bad ones, one of an unknown item, a repeated one that is
            refused, or a core that is empty or not reached.
    """
    assert raw.events is not None
    steps = folder / "steps"
    steps.mkdir(parents=True)
    finer = [name for name in _FINER if name in raw.events.columns]
    events, bad_events = without_faults(
        _read_log(raw.events, finer, steps / "log.parquet", tables),
        raw.unreadable,
        tables,
        has_clock=raw.has_clock,
        max_share=settings.max_bad_events,
    )
    counts: Counts = {"bad_events": bad_events}
    items = _number_items(events, catalogue, steps, tables)
    counts["events_dropped"] = _check_items(items, tables, settings.missing_items)
    users = _number_users(events, folder / "users", steps, tables, settings.buckets)
    # Only integers go through the search for repeats, the k-core rounds and the sort.
    known = items.filter(items.index.notnull())
    numbered = (
        events.join(users, events.user == users.user)
        .join(known, events.item == known.key)
        .select("order", *finer, "code", user=users.number, item=known.index)
    )
    numbered, repeats = without_repeats(
        numbered,
        int(tables.execute(known.num_events.sum())),
        steps / "numbered.parquet",
        tables,
        has_clock=raw.has_clock,
        policy=settings.repeated_events,
    )
    core, rounds = core_of(numbered, steps / "core", settings, tables=tables)
    left = _keep_items(core, catalogue.num_rows, folder, tables, only_chosen=settings.min_item_interactions > 0)
    left = left.join(_code_buckets(folder / "users"), "code").drop("code")
    tables.to_parquet(left, folder / "events", partition_by="bucket", **INTEGERS)
    shutil.rmtree(steps)
    counts |= repeats
    if settings.min_user_interactions or settings.min_item_interactions:
        counts |= {f"{what}_below_core": sum(r[what] for r in rounds) for what in ("users", "items", "events")}
        counts["core_rounds"] = rounds
    return counts


def read_buckets(folder: Path, keys: pa.ChunkedArray, tables: DuckTables) -> Iterator[Histories]:
    """Yield all histories in hash order, about a million events at a time.

    Args:
        folder: where `partition_by_user` wrote.
        keys: of the items that stayed; hashes of them order what has one user and time.
        tables: where buckets are sorted.
    """
    item_hashes_N = None
    for bucket in sorted((folder / "events").glob("bucket=*")):
        names = pq.read_table(folder / "users" / bucket.name, partitioning=None).sort_by("number")
        numbers = names["number"].to_numpy()
        for piece in _pieces(bucket, tables):
            columns = {name: piece[name].combine_chunks() for name in piece.column_names}
            items = columns.pop("item")
            order = {name: column.to_numpy() for name, column in columns.items()}
            found = order["user"]
            starts = np.concatenate([[0], np.flatnonzero(np.diff(found)) + 1])
            lengths = np.diff(starts, append=len(found))
            users = names["user"].take(pa.array(np.searchsorted(numbers, found[starts]))).combine_chunks()
            tied_E = find_ties(list(order.values()))
            if tied_E.any():
                if item_hashes_N is None:
                    item_hashes_N = hash_keys(keys, tables)
                user_hashes = np.repeat(hash_keys(users, tables), lengths)
                items = pa.array(shuffle_ties(items.to_numpy(), tied_E, order["order"], user_hashes, item_hashes_N))
            yield Histories(users, starts, lengths, items, columns["order"], tied_E)


def kept_items(folder: Path) -> NDArray[np.int64]:
    """Return the catalogue's rows that were kept, in order; an event's item is an index into this list."""
    kept: NDArray[np.int64] = np.load(folder / "items.npy")
    return kept


def num_events(folder: Path) -> int:
    """Return how many events were kept."""
    return sum(pq.read_metadata(path).num_rows for path in (folder / "events").glob("*/*.parquet"))


def times_of(folder: Path, tables: DuckTables) -> ibis.Table:
    """Return the column `order` of all kept events."""
    return tables.read_back(folder / "events", partitioned=True).select("order")


def num_digits(buckets: int) -> int:
    """Return how many leading hex digits of a hash name one of so many buckets."""
    digits = (buckets.bit_length() - 1) // 4
    assert buckets == 16**digits, buckets
    return digits


def _read_log(log: ibis.Table, finer: Sequence[str], path: Path, tables: DuckTables) -> ibis.Table:
    """Return the log's columns, read once: a log of text is slow to parse, and may number its rows as it is read."""
    keys = {name: log[name].nullif("") for name in ("user", "item")}
    columns = log.select(**keys, order=log.order.cast("int64"), **{name: log[name] for name in finer})
    columns.get_backend().to_parquet(columns, path)
    return tables.read_back(path)


def _number_items(events: ibis.Table, catalogue: pa.Table, steps: Path, tables: DuckTables) -> ibis.Table:
    """Return how often each item occurs, and its index in the catalogue, null for an unknown item."""
    counted = events.group_by(item=events.item).aggregate(num_events=events.count())
    entries = ibis.memtable(catalogue.select(["item", "key"]).rename_columns(["index", "key"]))
    joined = counted.left_join(entries, counted.item == entries.key)
    tables.to_parquet(joined.select("num_events", "index", key=counted.item), steps / "items.parquet")
    return tables.read_back(steps / "items.parquet")


def _number_users(events: ibis.Table, folder: Path, steps: Path, tables: DuckTables, buckets: int) -> ibis.Table:
    """Number the users in the order of their hashes."""
    distinct = events.select("user").distinct()
    tables.to_parquet(distinct.mutate(hash=distinct.user.hexdigest("md5")), steps / "users.parquet")
    # The letter keeps the name of a bucket from being empty (16^0) or a number.
    hashed = tables.read_back(steps / "users.parquet")
    hashed = hashed.mutate(bucket=ibis.literal("b") + hashed.hash.left(num_digits(buckets)))
    # Bucket by bucket: a single machine would have to sort all users.
    sizes = tables.to_pyarrow(hashed.group_by("bucket").aggregate(size=hashed.count()).order_by("bucket"))
    before = np.cumsum(sizes["size"].to_numpy()) - sizes["size"].to_numpy()
    starts = ibis.memtable(pa.table({"bucket": sizes["bucket"], "start": before, "code": _codes(len(sizes))}))
    place = ibis.row_number().over(group_by=hashed.bucket, order_by=[hashed.hash, hashed.user])
    placed = hashed.select("user", "bucket", place=place)
    numbered = placed.join(starts, "bucket").select(
        "user", "bucket", "code", number=(ibis._.place + ibis._.start).cast("int32")
    )
    tables.to_parquet(numbered, folder, partition_by="bucket")
    return tables.read_back(folder, partitioned=True)


def _code_buckets(users: Path) -> ibis.Table:
    """Return a number for each name of a bucket."""
    names = sorted(path.name.removeprefix("bucket=") for path in users.glob("bucket=*"))
    return ibis.memtable(pa.table({"bucket": names, "code": _codes(len(names))}))


def _codes(num_buckets: int) -> pa.Int16Array:
    """Return a number for each bucket in order: as text, its name would be half the size of every event."""
    return pa.array(range(num_buckets), pa.int16())


def _keep_items(
    events: ibis.Table, num_items: int, folder: Path, tables: DuckTables, *, only_chosen: bool
) -> ibis.Table:
    kept = np.arange(num_items)
    if only_chosen:
        kept = np.sort(tables.to_pyarrow(events.select("item").distinct())["item"].to_numpy()).astype(np.int64)
        places = pa.table({"item": pa.array(kept, pa.int32()), "place": pa.array(np.arange(len(kept)), pa.int32())})
        events = events.join(ibis.memtable(places), "item").drop("item").rename(item="place")
    np.save(folder / "items.npy", kept)
    return events


def _check_items(items: ibis.Table, tables: DuckTables, missing_items: str) -> int:
    """Refuse events of unknown items, or return how many there are."""
    unknown = items.filter(items.index.isnull())
    num_unknown = int(tables.execute(unknown.num_events.sum().fill_null(0)))
    if not num_unknown:
        return 0
    num_events = int(tables.execute(items.num_events.sum()))
    missing = ", ".join(tables.to_pyarrow(unknown.order_by("key").limit(3))["key"].to_pylist())
    told = (
        f"{num_unknown} of {num_events} events name {tables.execute(unknown.count())} items that are not in the "
        f"catalogue, e.g. {missing}"
    )
    if missing_items == "refuse":
        raise DataError(
            told,
            rule="every event's item is in the catalogue",
            remedy=f"add the items, or lose these {num_unknown} events: data.missing_items=drop",
        )
    if not tables.execute(items.index.count()):
        raise DataError(
            f"none of the {num_unknown} events names an item of the catalogue",
            rule="at least one event is left after data.missing_items=drop",
            remedy="check that log and catalogue use the same item keys",
        )
    logger.warning("%s; dropped", told)
    return num_unknown


def _pieces(bucket: Path, tables: DuckTables) -> Iterator[pa.Table]:
    """Yield the sorted events of a bucket, cut between users."""
    files = sorted(bucket.glob("*.parquet"))
    columns = [name for name in ("user", "order", *_FINER, "item") if name in pq.read_schema(files[0]).names]
    order = ", ".join(f'"{name}"' for name in columns)
    # DuckDB itself rather than Ibis: a query of a small bucket takes less than its translation would.
    query = tables.con.execute(
        f"SELECT {order} FROM read_parquet(?, hive_partitioning = false) ORDER BY {order}",
        [[glob.escape(str(path)) for path in files]],
    )
    pending: list[pa.RecordBatch] = []
    num_pending = 0
    for batch in query.to_arrow_reader(_PIECE_EVENTS // 8):
        pending.append(batch)
        num_pending += batch.num_rows
        if num_pending < _PIECE_EVENTS:
            continue
        whole = pa.Table.from_batches(pending)
        # The last user may continue in the next batch.
        end = pc.index(whole["user"], whole["user"][-1]).as_py()
        if end:
            yield whole.slice(0, end)
            pending = whole.slice(end).to_batches()
            num_pending = whole.num_rows - end
    if num_pending:
        yield pa.Table.from_batches(pending)
