"""The stage `prepare`: convert a source of data into a dataset.

items.parquet                 the catalogue, one row per item index
items/                        the same without pictures, in blocks
images/images-000000.tar      pictures
train/ validation/ test/      histories in blocks
oracle/<split>.parquet        each user's ceiling, where the world is known
oracle/items.parquet          each item's true attributes, likewise
raw/                          what a generated world wrote

During the stage, partitioned/ holds the log in user buckets: the attempt after a killed one reuses it.
"""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from trialign.config.data import DataConfig
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
from trialign.data.tables import DuckTables, bounded_tables, check_engine
from trialign.errors import ConfigError
from trialign.files import write_atomically
from trialign.progress import Progress, tracked
from trialign.types import Counts, EvaluationSplit

logger = logging.getLogger(__name__)

PARTITIONED = "partitioned"
"""The folder that an unfinished attempt hands on."""


def prepare(source: Source, folder: Path, settings: DataConfig) -> Counts:
    """Write the dataset of `source` into `folder`.

    Args:
        source: where catalog and events, or ready examples, come from.
        folder: an existing directory; what a killed attempt left in its folder `PARTITIONED` is used.
        settings: how the log is checked and split, and how records and pictures are written; of the source's own
            settings nothing is read.

    Returns:
        Counts for the manifest.

    Raises:
        ConfigError: a setting does not suit the source.
        DataError: the source cannot be used as it is, or the disk is full.
    """
    check_engine(settings.engine)
    with bounded_tables(folder / "spill", memory=settings.memory, threads=settings.threads) as tables:
        raw = source.load(folder / "raw")
        _check_source(raw, settings)
        items, num_html = _read_html(raw.items, settings.read_html)
        catalogue = index_catalogue(items)
        spread = _Spread(folder / PARTITIONED, source)
        # Pictures may be the larger part of the work: what can be refused without them is refused first.
        if not spread.finished:
            with _engine(settings, folder, tables) as engine:
                spread.finish(_spread(raw, catalogue, spread.begin(), settings, engine))
        counts = spread.counts() | num_html
        counts |= _write_items(raw, catalogue, spread.kept, folder, settings)
        splits = SplitWriters(folder, settings)
        if raw.examples is not None:
            counts |= _write_examples(spread.folder, splits, catalogue)
        else:
            cut_times = _cut_times(settings, spread.folder, tables)
            if cut_times is not None:
                counts["cut_times"] = cut_times
            cut, keys = cutter(settings, cut_times), catalogue["key"].take(pa.array(spread.kept))
            histories = read_buckets(spread.folder, keys, tables)
            with Progress("events written", num_events(spread.folder)) as progress:
                counts |= _write_events(histories, splits, cut, raw.oracle, keys.to_pylist(), folder, progress)
            _tell_ties(counts)
    if counts["users_not_evaluated"] == counts["users"]:
        logger.warning("none of %d users has test targets", counts["users"])
    shutil.rmtree(spread.folder)
    return counts


def _engine(settings: DataConfig, folder: Path, tables: DuckTables) -> AbstractContextManager[Any]:
    """Return the table engine (DuckDB or Spark) that partitions the log, for the length of a block."""
    if settings.engine == "duckdb":
        return nullcontext(tables)
    from trialign.data.spark import spark_tables  # not installed everywhere

    return spark_tables(folder / "spill-spark", memory=settings.memory, threads=settings.threads)


def _spread(raw: RawData, catalogue: pa.Table, folder: Path, settings: DataConfig, engine: DuckTables) -> Counts:
    if raw.examples is None:
        return partition_by_user(raw, catalogue, folder, settings, tables=engine)
    return spread_examples(raw.examples, catalogue, folder, settings, tables=engine)


def _cut_times(settings: DataConfig, spread: Path, tables: DuckTables) -> list[int] | None:
    """Return the two times of the split `temporal`; None of any other."""
    if settings.split != "temporal":
        return None
    return list(settings.cut_times or times_of_shares(times_of(spread, tables), settings.cut_shares, tables))


class _Spread:
    """The log in user buckets; it is finished if its record exists and the source's files are unchanged.

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

    def finish(self, counts: Counts) -> None:
        """Write the record, last of all."""
        write_atomically(self._record, json.dumps({"origin": self._origin, "counts": counts}))

    def counts(self) -> Counts:
        """Return what was counted when it was made."""
        counts: Counts = json.loads(self._record.read_text())["counts"]
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
    settings: DataConfig,
) -> dict[str, int]:
    """Write pictures and item table of the rows of the catalogue that stayed."""
    stayed = reindexed(catalogue, kept)
    item_of = {key: item for item, key in enumerate(stayed["key"].to_pylist())}
    left = set(catalogue["key"].to_pylist()).difference(item_of)
    pictures = iter(()) if raw.images is None else raw.images()
    wanted = ((key, data) for key, data in pictures if key not in left)
    has_image_N, num_images = write_images(tracked(wanted, "pictures"), item_of, folder / "images", settings)
    write_catalogue(stayed, has_image_N, folder, settings)
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


def _tell_ties(counts: Counts) -> None:
    if counts["events_in_ties"]:
        logger.warning(
            "%d of %d events share user and time with another; a hash orders them, and the cut of %d of %d users lies"
            " among them; data.columns.tie names a column that knows their order",
            *(counts[name] for name in ("events_in_ties", "events", "users_cut_in_ties", "users")),
        )


def _write_examples(spread: Path, splits: SplitWriters, catalogue: pa.Table) -> Counts:
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


def _check_source(raw: RawData, settings: DataConfig) -> None:
    """Refuse settings that do not suit what the source holds."""
    assert (raw.events is None) != (raw.examples is None), "exactly one of events and examples"
    if (raw.examples is not None) != (settings.split == "given"):
        raise ConfigError(
            f"data.split={settings.split} with " + ("events" if raw.examples is None else "ready examples"),
            rule="ready examples have their split given, events have theirs made",
            remedy=f"set data.split={'leave_one_out' if raw.examples is None else 'given'}",
        )
    if settings.split == "temporal" and not raw.has_clock:
        raise ConfigError(
            "data.split=temporal on a source without a clock",
            rule="two global times can only cut events that carry a time; this source knows their order alone",
            remedy="set data.split=leave_one_out or last_n",
        )
    if (settings.min_user_interactions or settings.min_item_interactions) and (
        raw.examples is not None or raw.oracle is not None
    ):
        what = "ready examples" if raw.examples is not None else "a world whose choices are known"
        raise ConfigError(
            f"data.min_user_interactions or data.min_item_interactions with {what}",
            rule="a core is cut from a log of events",
            remedy="set data.min_user_interactions=0 data.min_item_interactions=0",
        )
