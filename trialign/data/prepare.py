"""The stage `prepare`: a source becomes a dataset.

items.parquet                 the catalogue, one row per item index
items/                        the same without pictures, in blocks
images/images-000000.tar      pictures
train/ validation/ test/      histories in blocks
oracle/<split>.parquet        each user's ceiling, where the world is known
raw/                          what a generated world wrote
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import get_args

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from trialign.data.blocks import EVALUATION, TRAIN, lists_of
from trialign.data.catalogue import index_catalogue, write_catalogue
from trialign.data.events import Histories, read_buckets, write_events
from trialign.data.images import write_images
from trialign.data.oracle import OracleWriter
from trialign.data.shards import ShardWriter
from trialign.data.source import Source
from trialign.data.splits import SPLITS, Cuts, windows
from trialign.errors import ConfigError, suggest
from trialign.types import EvaluationSplit, Split

_POLICIES = ("refuse", "drop")


def prepare(
    source: Source,
    folder: Path,
    *,
    split: str,
    min_events: int,
    max_history: int,
    block_records: int,
    shard_blocks: int,
    images_per_shard: int,
    buckets: int,
    missing_items: str,
) -> dict[str, int]:
    """Write the dataset of `source` into `folder`.

    Args:
        source: where catalogue and events come from.
        folder: an existing directory.
        split: which events are held out; a name in `SPLITS`.
        min_events: users with fewer are trained on, not evaluated.
        max_history: items of a window.
        block_records: records per block.
        shard_blocks: blocks per shard.
        images_per_shard: pictures per image shard.
        buckets: user buckets, a power of 16; one is held in memory at a time.
        missing_items: `refuse` or `drop` events of items without a catalogue entry.

    Returns:
        Counts for the manifest.

    Raises:
        ConfigError: the split or the policy is unknown.
        DataError: the source cannot be used as it is.
    """
    _check(split, missing_items)
    raw = source.load(folder / "raw")
    catalogue = index_catalogue(raw.items)
    keys: list[str] = catalogue["key"].to_pylist()
    # Pictures may be the larger part of the work: what can be refused without them is refused first.
    events = folder / "events"
    num_dropped = write_events(raw.events, catalogue, events, buckets=buckets, missing_items=missing_items)
    pictures = iter(()) if raw.images is None else raw.images()
    item_of = {key: item for item, key in enumerate(keys)}
    has_image_N = write_images(pictures, item_of, folder / "images", images_per_shard=images_per_shard)
    write_catalogue(catalogue, has_image_N, folder, block_records=block_records, shard_blocks=shard_blocks)

    with ExitStack() as stack:
        writers = {
            name: stack.enter_context(
                ShardWriter(folder / name, records_per_block=block_records, blocks_per_shard=shard_blocks)
            )
            for name in get_args(Split)
        }
        oracles = {name: OracleWriter(raw.oracle, keys) for name in get_args(EvaluationSplit) if raw.oracle is not None}
        histories = _HistoryWriter(writers, oracles, len(keys), split, min_events, max_history)
        for bucket in read_buckets(events):
            histories.write(bucket)
    for name, oracle in oracles.items():
        oracle.write(folder / "oracle" / f"{name}.parquet")
    shutil.rmtree(events)
    return histories.counts() | {
        "events_dropped": num_dropped,
        "items": len(keys),
        "items_without_title": _num_empty(catalogue["title"]),
        "items_without_description": _num_empty(catalogue["description"]),
        "images": int(has_image_N.sum()),
    }


class _HistoryWriter:
    """Writes one bucket of histories after the other into the shards of the three splits, and counts."""

    def __init__(
        self,
        writers: Mapping[Split, ShardWriter],
        oracles: Mapping[EvaluationSplit, OracleWriter],
        num_items: int,
        split: str,
        min_events: int,
        max_history: int,
    ) -> None:
        self._writers = writers
        self._oracles = oracles
        self._cut = SPLITS[split]
        self._min_events = min_events
        self._max_history = max_history
        self._num_users = self._num_events = self._num_windows = self._num_not_evaluated = 0
        self._chosen_N = np.zeros(num_items, np.bool_)

    def write(self, histories: Histories) -> None:
        cuts = self._cut(histories.lengths, self._min_events)
        self._write_train(histories, cuts)
        self._write_evaluation("validation", histories, cuts.validation, cuts.test)
        self._write_evaluation("test", histories, cuts.test, histories.lengths)
        self._num_users += len(histories.lengths)
        self._num_events += len(histories.items)
        self._num_not_evaluated += int((cuts.test == histories.lengths).sum())
        self._chosen_N[histories.items.to_numpy()] = True

    def counts(self) -> dict[str, int]:
        return {
            "users": self._num_users,
            "users_not_evaluated": self._num_not_evaluated,
            "events": self._num_events,
            "windows": self._num_windows,
            "items_without_events": int((~self._chosen_N).sum()),
        }

    def _write_train(self, histories: Histories, cuts: Cuts) -> None:
        cut = windows(cuts.validation, self._max_history)
        starts = histories.starts[cut.histories] + cut.starts
        columns = [
            histories.users.take(pa.array(cut.histories)),
            lists_of(histories.items, starts, cut.lengths),
            lists_of(histories.times, starts, cut.lengths),
            pa.array(cut.first_target),
        ]
        self._num_windows += len(starts)
        self._writers["train"].write(pa.RecordBatch.from_arrays(columns, schema=TRAIN))

    def _write_evaluation(
        self, name: EvaluationSplit, histories: Histories, begin: NDArray[np.int64], end: NDArray[np.int64]
    ) -> None:
        """Write users with targets `begin : end`; the history is what stands before."""
        chosen = np.flatnonzero(end > begin)
        users, starts, ends = histories.users.take(pa.array(chosen)), histories.starts[chosen], begin[chosen]
        lengths = np.minimum(ends, self._max_history)
        columns = [
            users,
            lists_of(histories.items, starts + ends - lengths, lengths),
            lists_of(histories.times, starts + ends - lengths, lengths),
            lists_of(histories.items, starts + ends, end[chosen] - ends),
        ]
        self._writers[name].write(pa.RecordBatch.from_arrays(columns, schema=EVALUATION))
        if name in self._oracles:
            items = histories.items.to_numpy()
            for user, start, length in zip(users.to_pylist(), starts, ends, strict=True):
                self._oracles[name].add(user, items[start : start + length])


def _num_empty(texts: pa.ChunkedArray) -> int:
    return int(pc.sum(pc.equal(texts, "")).as_py())


def _check(split: str, missing_items: str) -> None:
    if split not in SPLITS:
        raise ConfigError(f"data.split={split}", rule="a split that exists", remedy=suggest(split, SPLITS))
    if missing_items not in _POLICIES:
        raise ConfigError(
            f"data.missing_items={missing_items}", rule="a policy that exists", remedy=suggest(missing_items, _POLICIES)
        )
