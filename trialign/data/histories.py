"""Writes histories cut into windows for training, users with their targets for evaluation, and users as of now."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import get_args

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from trialign.config.data import DataConfig
from trialign.data.events import Histories
from trialign.data.oracle import OracleWriter
from trialign.data.splits import Cuts, Lengths, last_n, temporal, windows
from trialign.data.ties import in_ties
from trialign.stream.blocks import EVALUATION, TRAIN, USER, lists_of, spans
from trialign.stream.shards import ShardWriter
from trialign.types import EvaluationSplit, Items, Split

_RECORDS = 1 << 14
"""Records assembled at a time: overlapping windows repeat what a history holds once."""


class SplitWriters:
    """The shards of train, validation, test and users; a context manager.

    Args:
        folder: the stage's.
        settings: items of a window, records per block, blocks per shard.
    """

    def __init__(self, folder: Path, settings: DataConfig) -> None:
        self._max_history = settings.max_history
        sizes = {"records_per_block": settings.block_records, "blocks_per_shard": settings.shard_blocks}
        self._shards = {name: ShardWriter(folder / name, **sizes, by_user=True) for name in (*get_args(Split), "users")}
        self._stack = ExitStack()
        self.num_windows = self.num_targets = self.num_repeats = 0

    def __enter__(self) -> SplitWriters:
        for shards in self._shards.values():
            self._stack.enter_context(shards)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.__exit__(kind, error, trace)

    def train(self, histories: Histories, ends: Lengths, first_target: Lengths) -> None:
        """Write the windows of each history's events before `ends`; targets start at its position `first_target`.

        `num_targets` counts the targets, `num_repeats` those whose user had chosen them before in the same history.
        """
        users = np.flatnonzero(ends)
        cut = windows(ends[users], self._max_history)
        owners = users[cut.histories]
        starts = histories.starts[owners] + cut.starts
        firsts = np.clip(first_target[owners] - cut.starts, cut.first_target, cut.lengths).astype(np.int32)
        for part in _parts(np.arange(len(starts))):
            columns = [
                histories.users.take(pa.array(owners[part])),
                lists_of(histories.items, starts[part], cut.lengths[part]),
                lists_of(histories.times, starts[part], cut.lengths[part]),
                pa.array(firsts[part]),
            ]
            self._shards["train"].write(pa.RecordBatch.from_arrays(columns, schema=TRAIN))
        self.num_windows += len(starts)
        is_target = _between(histories, np.maximum(first_target, 1), ends)
        self.num_targets += int(is_target.sum())
        self.num_repeats += int((is_target & ~_first_choices(histories)).sum())

    def counts(self) -> dict[str, int]:
        """Return what was written so far."""
        return {
            "windows": self.num_windows,
            "train_targets": self.num_targets,
            "train_targets_repeated": self.num_repeats,
        }

    def evaluation(self, name: EvaluationSplit, histories: Histories, begin: Lengths, end: Lengths) -> None:
        """Write each user with targets `begin : end`, the last window of what is before, and what is older."""
        for part in _parts(np.flatnonzero(end > begin)):
            user, items, times, older = self._window(histories, part, begin[part], begin[part])
            targets = lists_of(histories.items, histories.starts[part] + begin[part], (end - begin)[part])
            columns = [user, items, times, targets, older]
            self._shards[name].write(pa.RecordBatch.from_arrays(columns, schema=EVALUATION))

    def users(self, histories: Histories, most: Lengths) -> None:
        """Write each user with the last window of all that was chosen, and what is older.

        Args:
            histories: all that each user chose.
            most: int64 [U], how many of the last of it a window may hold.
        """
        for part in _parts(np.arange(len(histories.lengths))):
            columns = self._window(histories, part, histories.lengths[part], most[part])
            self._shards["users"].write(pa.RecordBatch.from_arrays(columns, schema=USER))

    def _window(self, histories: Histories, rows: Lengths, ends: Lengths, most: Lengths) -> list[pa.Array]:
        """Return user, items and times of the window before `ends`, and the distinct older items, of some histories."""
        lengths = np.minimum(most, self._max_history)
        starts = histories.starts[rows] + ends - lengths
        return [
            histories.users.take(pa.array(rows)),
            lists_of(histories.items, starts, lengths),
            lists_of(histories.times, starts, lengths),
            _older(histories.items.to_numpy(), starts, lengths, ends - lengths),
        ]


def cutter(settings: DataConfig, cut_times: Sequence[int] | None) -> Callable[[Histories], Cuts]:
    """Return the function that cuts histories of events into train, validation and test.

    Args:
        settings: the split, and who is evaluated.
        cut_times: the two times of `temporal`; None for another split.
    """
    min_eval_events = settings.min_eval_events
    if cut_times is not None:
        first, second = cut_times

        def at_times(histories: Histories) -> Cuts:
            before = [_num_before(histories, time) for time in (first, second)]
            return temporal(before[0], before[1], histories.lengths, min_eval_events)

        return at_times
    n = settings.last_n if settings.split == "last_n" else 1
    return lambda histories: last_n(histories.lengths, n, min_eval_events)


class EventWriter:
    """Cuts batches of histories into the splits, writes them, and counts.

    Args:
        splits: where they go.
        oracles: writers of the best possible metrics of evaluated users, by split.
        num_items: items of the catalogue.
        cut: divides histories; see `cutter`.
    """

    def __init__(
        self,
        splits: SplitWriters,
        oracles: Mapping[EvaluationSplit, OracleWriter],
        num_items: int,
        cut: Callable[[Histories], Cuts],
    ) -> None:
        self._splits = splits
        self._oracles = oracles
        self._cut = cut
        self._counts = dict.fromkeys(
            (
                "users",
                "users_not_trained",
                "users_not_evaluated",
                "users_cut_in_ties",
                "events",
                "events_in_ties",
                "events_unused",
            ),
            0,
        )
        self._chosen_N = np.zeros(num_items, np.bool_)

    def write(self, histories: Histories) -> None:
        """Write some users' histories into all splits."""
        cuts = self._cut(histories)
        self._splits.train(histories, cuts.train, np.zeros_like(cuts.train))
        self._splits.users(histories, histories.lengths)
        used = cuts.train.copy()
        for name, targets in cuts.held.items():
            self._splits.evaluation(name, histories, targets.begin, targets.end)
            used += targets.end - targets.begin
            if name in self._oracles:
                self._ask(self._oracles[name], histories, targets.begin, targets.end)
        tested = cuts.held["test"]
        self._counts["users"] += len(histories.lengths)
        self._counts["users_not_trained"] += int((cuts.train == 0).sum())
        self._counts["users_not_evaluated"] += int((tested.begin == tested.end).sum())
        self._counts["users_cut_in_ties"] += int(_cut_in_ties(histories, cuts).sum())
        self._counts["events"] += len(histories.items)
        self._counts["events_in_ties"] += int(in_ties(histories.tied).sum())
        self._counts["events_unused"] += int((histories.lengths - used).sum())
        self._chosen_N[histories.items.to_numpy()] = True

    def counts(self) -> dict[str, int]:
        """Return what was written so far."""
        return self._counts | {
            **self._splits.counts(),
            "items_without_events": int((~self._chosen_N).sum()),
        }

    def _ask(self, oracle: OracleWriter, histories: Histories, begin: Lengths, end: Lengths) -> None:
        items = histories.items.to_numpy()
        for row in np.flatnonzero(end > begin):
            start = histories.starts[row]
            oracle.add(histories.users[row].as_py(), items[start : start + begin[row]])


def _between(histories: Histories, begin: Lengths, end: Lengths) -> NDArray[np.bool_]:
    """Return which events have a position of `begin` to `end` in their history, bool [events]."""
    places = np.arange(len(histories.items)) - np.repeat(histories.starts, histories.lengths)
    found: NDArray[np.bool_] = (places >= np.repeat(begin, histories.lengths)) & (
        places < np.repeat(end, histories.lengths)
    )
    return found


def _first_choices(histories: Histories) -> NDArray[np.bool_]:
    """Return which events are the first of their item in their history, bool [events]."""
    owners = np.repeat(np.arange(len(histories.lengths)), histories.lengths)
    _, firsts = np.unique((owners << 32) | histories.items.to_numpy(), return_index=True)
    found = np.zeros(len(histories.items), np.bool_)
    found[firsts] = True
    return found


def _cut_in_ties(histories: Histories, cuts: Cuts) -> NDArray[np.bool_]:
    """Return which users have events of one time on both sides of a cut: a hash chose which are held out."""
    found_U = np.zeros(len(histories.lengths), np.bool_)
    for position in (cuts.train, *(targets.begin for targets in cuts.held.values())):
        inside = position < histories.lengths
        found_U[inside] |= histories.tied[(histories.starts + position)[inside]]
    return found_U


def _num_before(histories: Histories, time: int) -> Lengths:
    earlier: NDArray[np.bool_] = histories.times.to_numpy() < time
    return np.add.reduceat(earlier.astype(np.int64), histories.starts)


def _older(items: Items, starts: Lengths, lengths: Lengths, num_before: Lengths) -> pa.ListArray:
    """Return, of each window, the distinct items among the `num_before` before it that are not in it, ascending."""
    long = np.flatnonzero(num_before)

    def owned(begins: Lengths, counts: Lengths) -> NDArray[np.int64]:
        return (np.repeat(long, counts) << 32) | items[spans(begins, counts)]

    # Sorted rather than by np.unique and np.isin, whose tables of hashes take many times as long.
    before = np.sort(owned((starts - num_before)[long], num_before[long]))
    inside = np.append(np.sort(owned(starts[long], lengths[long])), -1)
    first = np.diff(before, prepend=-1) > 0
    older = before[first & (inside[np.searchsorted(inside[:-1], before)] != before)]
    offsets = np.concatenate([[0], np.cumsum(np.bincount(older >> 32, minlength=len(starts)))])
    return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), pa.array(older & 0xFFFFFFFF, pa.int32()))


def _parts(records: Lengths) -> list[Lengths]:
    """Return the records in pieces; one, maybe empty, where there are few."""
    return [records[start : start + _RECORDS] for start in range(0, max(1, len(records)), _RECORDS)]
