"""Ready examples with a given split: checked, partitioned by user bucket, and written to the splits they name.

Rows of one user that continue each other (a b -> c, then a b c -> d) are one history of which two positions are
targets, so that training reads it once and learns each target once.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import NamedTuple, get_args

import ibis
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from trialign.config.data import DataConfig
from trialign.data.events import Histories, num_digits
from trialign.data.histories import SplitWriters
from trialign.data.splits import Lengths
from trialign.data.tables import DuckTables, first_rows
from trialign.errors import DataError
from trialign.types import Counts, EvaluationSplit, Split

logger = logging.getLogger(__name__)


class Example(NamedTuple):
    """One ready example.

    Attributes:
        hash: md5 of the user.
        user: its key.
        split: where it belongs.
        items: indices of what the user had chosen, oldest first.
        target: indices of what came next.
    """

    hash: str
    user: str
    split: Split
    items: tuple[int, ...]
    target: tuple[int, ...]


def spread_examples(
    examples: ibis.Table, catalogue: pa.Table, folder: Path, settings: DataConfig, *, tables: DuckTables
) -> Counts:
    """Write the examples as Parquet partitioned by user bucket.

    Args:
        examples: `user`, `items`, `target`, `split`, as `RawData.examples`.
        catalogue: `item` (index) and `key`.
        folder: where they go.
        settings: the number of buckets, and whether examples with items that have no catalogue entry are refused;
            else `read_examples` drops these items.
        tables: where they are computed.

    Returns:
        The count `history_items_dropped`; `ExampleWriter` counts the rest.

    Raises:
        DataError: no example at all; one without user, history or target, with an unknown split, or of an unknown
            item; a train example with more than one target; or histories that hold no known item at all.
    """
    folder.mkdir(parents=True)
    columns = examples.select("user", "split", "items", "target")
    columns.get_backend().to_parquet(columns, folder / "log.parquet")
    examples = tables.read_back(folder / "log.parquet")
    _check(examples, tables)
    counts = _check_items(examples, catalogue, tables, settings.missing_items)
    hashed = examples.mutate(hash=examples.user.hexdigest("md5"))
    spread = hashed.mutate(bucket=ibis.literal("b") + hashed.hash.left(num_digits(settings.buckets)))
    tables.to_parquet(spread, folder / "examples", partition_by="bucket")
    (folder / "log.parquet").unlink()
    np.save(folder / "items.npy", np.arange(catalogue.num_rows))
    return counts


def read_examples(folder: Path, catalogue: pa.Table) -> Iterator[list[Example]]:
    """Yield the examples of each bucket in hash order, items as indices; unknown items are left out of them."""
    keys = catalogue["key"].combine_chunks()
    for bucket in sorted((folder / "examples").glob("bucket=*")):
        found = pq.read_table(bucket, partitioning=None)
        lists = {name: _indices(found[name].combine_chunks(), keys) for name in ("items", "target")}
        columns = [found[name].to_pylist() for name in ("hash", "user", "split")]
        examples = map(Example._make, zip(*columns, lists["items"], lists["target"], strict=True))
        yield sorted(examples, key=_place)


class ExampleWriter:
    """Writes one bucket of examples after the other into the splits they name, and counts.

    Args:
        splits: where they go.
        num_items: items of the catalogue.
    """

    def __init__(self, splits: SplitWriters, num_items: int) -> None:
        self._splits = splits
        self._users = self._not_trained = self._not_evaluated = 0
        self._repeated = self._dropped = 0
        self._examples: dict[Split, int] = dict.fromkeys(get_args(Split), 0)
        self._chosen_N = np.zeros(num_items, np.bool_)

    def write(self, examples: list[Example]) -> None:
        """Write the sorted examples of some users."""
        usable = [example for example in examples if example.target]
        self._dropped += len(examples) - len(usable)
        rows: dict[Split, list[Example]] = {name: [] for name in get_args(Split)}
        latest: list[tuple[str, tuple[int, ...], int]] = []
        for user, examples_of_user in groupby(usable, key=lambda example: example.user):
            own = list(examples_of_user)
            found = {example.split for example in own}
            for example in own:
                rows[example.split].append(example)
            latest.append((user, *_all_chosen(own)))
            self._chosen_N[list(latest[-1][1])] = True
            self._users += 1
            self._not_trained += "train" not in found
            self._not_evaluated += "test" not in found
        histories, first_target = self._merged(rows["train"])
        self._splits.train(histories, histories.lengths, first_target)
        for name in get_args(EvaluationSplit):
            held = _histories([e.user for e in rows[name]], [e.items + e.target for e in rows[name]])
            begin = np.array([len(example.items) for example in rows[name]], np.int64)
            self._splits.evaluation(name, held, begin, held.lengths)
        lengths = np.array([length for _, _, length in latest], np.int64)
        chosen = _histories([user for user, _, _ in latest], [items for _, items, _ in latest], lengths)
        self._splits.users(chosen, lengths)
        for name, own_rows in rows.items():
            self._examples[name] += len(own_rows)

    def counts(self) -> Counts:
        """Return what was written so far."""
        return {
            "users": self._users,
            "users_not_trained": self._not_trained,
            "users_not_evaluated": self._not_evaluated,
            "examples": {str(split): number for split, number in self._examples.items()},
            "examples_dropped": self._dropped,
            "examples_repeated": self._repeated,
            **self._splits.counts(),
            "items_without_events": int((~self._chosen_N).sum()),
        }

    def _merged(self, examples: list[Example]) -> tuple[Histories, Lengths]:
        """Join train examples that continue each other; return the histories and where their targets start."""
        users: list[str] = []
        sequences: list[tuple[int, ...]] = []
        firsts: list[int] = []
        for example in examples:
            sequence = example.items + example.target
            before = sequences[-1] if users and users[-1] == example.user else None
            if before == sequence:
                self._repeated += 1
            elif before == example.items:
                sequences[-1] = sequence
            else:
                users.append(example.user)
                sequences.append(sequence)
                firsts.append(len(example.items))
        return _histories(users, sequences), np.array(firsts, np.int64)


def _place(example: Example) -> tuple[str, str, tuple[int, ...], int, str]:
    # By the whole sequence: an example is right after the one that it continues.
    return example.hash, example.user, example.items + example.target, len(example.items), example.split


def _all_chosen(examples: list[Example]) -> tuple[tuple[int, ...], int]:
    """Return every item that a user's examples name, and how many at the end are the newest example's, in its order.

    The newest is one for testing, else for validation, and of those the longest. Lists may be cut at the source:
    items that only other examples hold were chosen too.
    """
    oldest_first = get_args(Split)
    newest = max(examples, key=lambda example: (oldest_first.index(example.split), len(example.items + example.target)))
    last = newest.items + newest.target
    others = {item for example in examples for item in example.items + example.target}.difference(last)
    return (*sorted(others), *last), len(last)


def _histories(users: list[str], sequences: list[tuple[int, ...]], ordered: Lengths | None = None) -> Histories:
    """Return sequences as histories whose times are positions, 0 at the first of the last `ordered` items."""
    lengths = np.array([len(sequence) for sequence in sequences], np.int64)
    starts = np.cumsum(lengths) - lengths
    firsts = starts if ordered is None else starts + lengths - ordered
    items = [item for sequence in sequences for item in sequence]
    return Histories(
        users=pa.array(users, pa.string()),
        starts=starts,
        lengths=lengths,
        items=pa.array(items, pa.int32()),
        times=pa.array(np.arange(len(items)) - np.repeat(firsts, lengths), pa.int64()),
        tied=np.zeros(len(items), np.bool_),
    )


def _indices(lists: pa.ListArray, keys: pa.StringArray) -> list[tuple[int, ...]]:
    places = pc.index_in(lists.flatten(), value_set=keys).to_pylist()
    ends = np.cumsum(pc.list_value_length(lists).to_numpy()).tolist()
    pieces = (places[begin:end] for begin, end in zip([0, *ends], ends, strict=False))
    return [tuple(place for place in piece if place is not None) for piece in pieces]


def _check(examples: ibis.Table, tables: DuckTables) -> None:
    target, train = examples.target, examples.split == "train"
    faults = {
        "have no user": examples.user.isnull() | (examples.user == ""),
        "have no history": examples["items"].isnull(),
        "have no target": target.isnull() | (target.length() == 0),
        f"name no split among {', '.join(get_args(Split))}": examples.split.isnull()
        | examples.split.notin(get_args(Split)),
        "are for training and have more than one target": train & (target.length() > 1),
    }
    sums = [fault.sum().name(what) for what, fault in faults.items()]
    found = examples.aggregate([examples.count().name("all"), *sums])
    counts = tables.to_pyarrow(found).to_pylist()[0]
    if not counts["all"]:
        raise DataError("there is no example", rule="at least one example", remedy="name the right files")
    for what, fault in faults.items():
        if counts[what]:
            raise DataError(
                f"{counts[what]} of {counts['all']} examples {what}, e.g. {first_rows(examples, fault, tables)}",
                rule="an example has a user, a history, a target and a split; one for training has one target",
                remedy="remove or repair them",
            )


def _check_items(examples: ibis.Table, catalogue: pa.Table, tables: DuckTables, missing_items: str) -> Counts:
    """Refuse examples of unknown items, or warn of them and return how many are in histories."""
    keys = ibis.memtable(catalogue.select(["key"]))
    roles = {"history": examples["items"], "target": examples.target}
    lists = [examples.select(key=column.unnest(), role=ibis.literal(role)) for role, column in roles.items()]
    counted = ibis.union(*lists).group_by("key", "role").aggregate(num=ibis._.count())
    missing = tables.to_pyarrow(counted.anti_join(keys, "key").order_by("key", "role"))
    lost = {role: pc.sum(missing.filter(pc.equal(missing["role"], role))["num"]).as_py() or 0 for role in roles}
    if not missing.num_rows:
        return {"history_items_dropped": 0}
    named = dict.fromkeys(missing["key"].to_pylist())
    told = (
        f"{len(named)} items of the examples are not in the catalogue, e.g. {', '.join(list(named)[:3])}; "
        f"they are in {lost['history']} places of histories and {lost['target']} of targets"
    )
    rule = "every example's items are in the catalogue"
    num_places = tables.execute(examples["items"].length().sum())
    if lost["history"] == num_places:
        raise DataError(
            f"{told}; no history keeps any item",
            rule="at least one item of the histories is in the catalogue",
            remedy="check that examples and catalogue use the same item keys, and data.item_separator",
        )
    if missing_items == "refuse":
        raise DataError(told, rule=rule, remedy="add the items, or lose these places: data.missing_items=drop")
    logger.warning("%s; dropped, of %d places of histories", told, num_places)
    return {"history_items_dropped": lost["history"]}
