"""The stage `prepare`: a source becomes a dataset.

items.parquet                 the catalogue, one row per item index
items/                        the same without pictures, in blocks
images/images-000000.tar      pictures
train/ validation/ test/      histories in blocks
oracle/<split>.parquet        each user's ceiling, where the world is known
oracle/items.parquet          what every item is, likewise
raw/                          what a generated world wrote

While it works, partitioned/ holds the log in user buckets: an attempt that is killed hands it on to the next.
"""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from trialign.data.catalogue import index_catalogue, reindexed, write_catalogue
from trialign.data.clock import times_of_shares
from trialign.data.events import Histories, kept_items, num_events, partition_by_user, read_buckets, times_of
from trialign.data.examples import ExampleWriter, read_examples, spread_examples
from trialign.data.histories import EventWriter, SplitWriters, cutter
from trialign.data.images import write_images
from trialign.data.markup import html_read
from trialign.data.oracle import OracleWriter, write_truth
from trialign.data.source import Oracle, RawData, Source
from trialign.data.splits import Cuts
from trialign.data.tables import bounded_tables, check_engine, started_spark
from trialign.errors import ConfigError
from trialign.files import write_atomically
from trialign.progress import Progress, tracked
from trialign.types import EvaluationSplit

logger = logging.getLogger(__name__)

PARTITIONED = "partitioned"
"""The folder that an unfinished attempt hands on."""


def prepare(
    source: Source,
    folder: Path,
    *,
    split: str,
    min_eval_events: int,
    max_history: int,
    block_records: int,
    shard_blocks: int,
    images_per_shard: int,
    buckets: int,
    missing_items: str,
    last_n: int = 10,
    cut_times: Sequence[int] | None = None,
    cut_shares: Sequence[float] = (0.8, 0.9),
    min_user_interactions: int = 0,
    min_item_interactions: int = 0,
    core_rounds: int = 100,
    repeated_events: str = "drop",
    max_bad_events: float = 0.001,
    memory: str = "2GB",
    threads: int | None = None,
    engine: str = "duckdb",
    broken_images: str = "refuse",
    max_pixels: int = 50_000_000,
    read_html: bool = False,
) -> dict[str, Any]:
    """Write the dataset of `source` into `folder`.

    Args:
        source: where catalogue and events, or ready examples, come from.
        folder: an existing directory; what a killed attempt left in its folder `PARTITIONED` is used.
        split: which events are held out: `data.split`.
        min_eval_events: users with fewer are not evaluated.
        max_history: items of a window.
        block_records: records per block.
        shard_blocks: blocks per shard.
        images_per_shard: pictures per image shard.
        buckets: user buckets, a power of 16.
        missing_items: `refuse` or `drop` events of items without a catalogue entry.
        last_n: targets per user of the split `last_n`.
        cut_times: the two times of the split `temporal`; None to take `cut_shares`.
        cut_shares: the shares of all events that come before these times.
        min_user_interactions: events that a user needs to stay in the data; 0 keeps all.
        min_item_interactions: events that an item needs to stay in the data and in the catalogue; 0 keeps all.
        core_rounds: the most rounds of removing users and items.
        repeated_events: `drop`, `keep` or `refuse` events of one user, item and time.
        max_bad_events: the share of events that may be left out because they cannot be; more are refused.
        memory: limit of the tables; the rest spills to disk.
        threads: of the tables; None for one per core.
        engine: `duckdb`, or `spark`, which then checks, numbers, cores and spreads the log to the same buckets.
        broken_images: `refuse` or `drop` pictures that cannot be used.
        max_pixels: of a picture.
        read_html: whether texts of the catalogue are read as HTML; else a warning says how many hold some.

    Returns:
        Counts for the manifest.

    Raises:
        ConfigError: a setting does not suit the source.
        DataError: the source cannot be used as it is, or the disk is full.
    """
    check_engine(engine)
    with bounded_tables(folder / "spill", memory=memory, threads=threads) as tables:
        raw = source.load(folder / "raw")
        _check_source(raw, split, cored=bool(min_user_interactions or min_item_interactions))
        items, num_html = _read_html(raw.items, read_html)
        catalogue = index_catalogue(items)
        spread = _Spread(folder / PARTITIONED, source)
        # Pictures may be the larger part of the work: what can be refused without them is refused first.
        if not spread.finished:
            common: dict[str, Any] = {"buckets": buckets, "missing_items": missing_items}
            cores: dict[str, Any] = {
                "min_user_interactions": min_user_interactions,
                "min_item_interactions": min_item_interactions,
                "core_rounds": core_rounds,
            }
            cores |= {"repeated_events": repeated_events, "max_bad_events": max_bad_events}
            limits: dict[str, Any] = {"memory": memory, "threads": threads}
            with nullcontext(tables) if engine == "duckdb" else started_spark(folder / "spill-spark", **limits) as at:
                spread.finish(_spread(raw, catalogue, spread.begin(), common | {"tables": at}, cores))
        counts = spread.counts() | num_html
        sizes = {"block_records": block_records, "shard_blocks": shard_blocks}
        pictures = {"images_per_shard": images_per_shard, "broken_images": broken_images, "max_pixels": max_pixels}
        counts |= _write_items(raw, catalogue, spread.kept, folder, pictures, **sizes)
        splits = SplitWriters(folder, max_history=max_history, **sizes)
        if raw.examples is not None:
            counts |= _write_examples(spread.folder, splits, catalogue)
        else:
            if split == "temporal":
                cut_times = cut_times or times_of_shares(times_of(spread.folder, tables), cut_shares, tables)
                counts["cut_times"] = list(cut_times)
            cut = cutter(split, min_eval_events=min_eval_events, last=last_n, cut_times=cut_times)
            keys = catalogue["key"].take(pa.array(spread.kept))
            histories = read_buckets(spread.folder, keys, tables)
            with Progress("events written", num_events(spread.folder)) as progress:
                counts |= _write_events(histories, splits, cut, raw.oracle, keys.to_pylist(), folder, progress)
            _tell_ties(counts)
    if counts["users_not_evaluated"] == counts["users"]:
        logger.warning("none of %d users has test targets", counts["users"])
    shutil.rmtree(spread.folder)
    return counts


def _spread(
    raw: RawData, catalogue: pa.Table, folder: Path, common: dict[str, Any], cores: dict[str, Any]
) -> dict[str, Any]:
    if raw.examples is not None:
        return spread_examples(raw.examples, catalogue, folder, **common)
    return partition_by_user(raw, catalogue, folder, **cores, **common)


class _Spread:
    """The log in user buckets, finished once its record is there and the source's files are still the same.

    Args:
        folder: where it is.
        source: what it is made from.
    """

    def __init__(self, folder: Path, source: Source) -> None:
        self.folder = folder
        self._record = folder / "finished.json"
        status = {role: (str(path), path.stat()) for role, path in source.sources().items()}
        self._origin = {role: [path, found.st_size, found.st_mtime_ns] for role, (path, found) in status.items()}
        self.finished = self._record.exists() and json.loads(self._record.read_text())["origin"] == self._origin
        if self.finished:
            logger.info("%s is finished and used as it is", folder)

    def begin(self) -> Path:
        """Clear what a broken attempt left."""
        shutil.rmtree(self.folder, ignore_errors=True)
        return self.folder

    def finish(self, counts: dict[str, Any]) -> None:
        """Write the record, last of all."""
        write_atomically(self._record, json.dumps({"origin": self._origin, "counts": counts}))

    def counts(self) -> dict[str, Any]:
        """Return what was counted when it was made."""
        counts: dict[str, Any] = json.loads(self._record.read_text())["counts"]
        return counts

    @property
    def kept(self) -> NDArray[np.int64]:
        """The rows of the source's catalogue that stayed."""
        return kept_items(self.folder)


def _write_items(
    raw: RawData,
    catalogue: pa.Table,
    kept: NDArray[np.int64],
    folder: Path,
    rules: dict[str, Any],
    *,
    block_records: int,
    shard_blocks: int,
) -> dict[str, int]:
    """Write pictures and item table of the rows of the catalogue that stayed."""
    stayed = reindexed(catalogue, kept)
    item_of = {key: item for item, key in enumerate(stayed["key"].to_pylist())}
    left = set(catalogue["key"].to_pylist()).difference(item_of)
    pictures = iter(()) if raw.images is None else raw.images()
    wanted = ((key, data) for key, data in pictures if key not in left)
    has_image_N, num_images = write_images(tracked(wanted, "pictures"), item_of, folder / "images", **rules)
    write_catalogue(stayed, has_image_N, folder, block_records=block_records, shard_blocks=shard_blocks)
    if raw.truth is not None:
        write_truth(raw.truth, stayed["key"], folder / "oracle" / "items.parquet")
    return {
        "items": len(item_of),
        "items_without_title": _num_empty(stayed["title"]),
        "items_without_description": _num_empty(stayed["description"]),
    } | num_images


def _write_events(
    histories: Iterator[Histories],
    splits: SplitWriters,
    cut: Callable[[Histories], Cuts],
    oracle: Oracle | None,
    keys: list[str],
    folder: Path,
    progress: Progress,
) -> dict[str, int]:
    oracles = {name: OracleWriter(oracle, keys) for name in get_args(EvaluationSplit) if oracle is not None}
    with splits:
        writer = EventWriter(splits, oracles, len(keys), cut)
        for piece in histories:
            writer.write(piece)
            progress.add(int(piece.lengths.sum()))
    for name, asked in oracles.items():
        asked.write(folder / "oracle" / f"{name}.parquet")
    return writer.counts()


def _tell_ties(counts: dict[str, Any]) -> None:
    if counts["events_in_ties"]:
        logger.warning(
            "%d of %d events share user and time with another; a hash orders them, and the cut of %d of %d users lies"
            " among them; data.columns.tie names a column that knows their order",
            *(counts[name] for name in ("events_in_ties", "events", "users_cut_in_ties", "users")),
        )


def _write_examples(spread: Path, splits: SplitWriters, catalogue: pa.Table) -> dict[str, Any]:
    with splits:
        writer = ExampleWriter(splits, catalogue.num_rows)
        for bucket in tracked(read_examples(spread, catalogue), "buckets of examples"):
            writer.write(bucket)
    return writer.counts()


def _read_html(items: pa.Table, wanted: bool) -> tuple[pa.Table, dict[str, int]]:
    """Return the catalogue, and how many items had HTML that was read."""
    shown, keys = html_read(items)
    if keys and not wanted:
        logger.warning(
            "%d of %d items have HTML in their texts, e.g. %s; it is kept as text, data.read_html=true reads it",
            len(keys),
            items.num_rows,
            ", ".join(map(str, keys[:3])),
        )
        return items, {}
    return shown, {"items_with_html": len(keys)} if keys else {}


def _num_empty(texts: pa.ChunkedArray) -> int:
    return int(pc.sum(pc.equal(texts, "")).as_py())


def _check_source(raw: RawData, split: str, *, cored: bool) -> None:
    """Refuse settings that do not suit what the source holds."""
    assert (raw.events is None) != (raw.examples is None), "exactly one of events and examples"
    if (raw.examples is not None) != (split == "given"):
        raise ConfigError(
            f"data.split={split} with " + ("events" if raw.examples is None else "ready examples"),
            rule="ready examples have their split given, events have theirs made",
            remedy=f"set data.split={'leave_one_out' if raw.examples is None else 'given'}",
        )
    if split == "temporal" and not raw.has_clock:
        raise ConfigError(
            "data.split=temporal on a source without a clock",
            rule="two global times can only cut events that carry a time; this source knows their order alone",
            remedy="set data.split=leave_one_out or last_n",
        )
    if cored and (raw.examples is not None or raw.oracle is not None):
        what = "ready examples" if raw.examples is not None else "a world whose choices are known"
        raise ConfigError(
            f"data.min_user_interactions or data.min_item_interactions with {what}",
            rule="a core is cut from a log of events",
            remedy="set data.min_user_interactions=0 data.min_item_interactions=0",
        )
