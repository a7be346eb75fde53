"""The catalogue: which items exist, in which order, and their texts.

An item's index is its row. Keys that are all numbers are ordered as numbers, others as text, so the index does not
depend on the order in which a file happens to list them.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from trialign.config.data import DataConfig
from trialign.errors import DataError
from trialign.stream.blocks import ITEM
from trialign.stream.shards import ShardWriter


def index_catalogue(items: pa.Table) -> pa.Table:
    """Return the catalogue in index order.

    Args:
        items: `item`, `title`, `description`, `brand`, `categories` and perhaps `caption`, as `RawData.items`.

    Returns:
        Columns `item` int32 (the index), `key`, `title`, `description`, `brand`, `categories` and `caption` if it came
        with one, nulls as "" or [].

    Raises:
        DataError: no item at all, an item without a key, or two with the same key.
    """
    keys: list[str | None] = items["item"].to_pylist()
    if not keys:
        raise DataError(
            "the catalogue is empty", rule="at least one item", remedy="name the right file of items (data.items)"
        )
    if not all(keys):
        raise DataError(
            f"{sum(not key for key in keys)} items have no key",
            rule="every item has a key",
            remedy="remove or name them",
        )
    twice = [str(key) for key, count in Counter(keys).items() if count > 1]
    if twice:
        raise DataError(
            f"{len(twice)} item keys are in the catalogue more than once, e.g. {', '.join(twice[:3])}",
            rule="one row per item",
            remedy="remove the duplicates",
        )
    order = _order([str(key) for key in keys])
    sorted_items = items.take(pa.array(order, pa.int64()))
    texts = {
        name: pc.fill_null(sorted_items[name], "")
        for name in ("title", "description", "brand", "caption")
        if name in sorted_items.column_names
    }
    categories = [[part for part in parts or [] if part] for parts in sorted_items["categories"].to_pylist()]
    columns = {
        "item": pa.array(np.arange(len(order), dtype=np.int32)),
        "key": sorted_items["item"],
        **texts,
        "categories": pa.array(categories, pa.list_(pa.string())),
    }
    return pa.table(columns).combine_chunks()


def reindexed(catalogue: pa.Table, kept: NDArray[np.int64]) -> pa.Table:
    """Return the rows `kept` of a catalogue, with new indices."""
    rows = catalogue.take(pa.array(kept)).combine_chunks()
    return rows.set_column(0, "item", pa.array(np.arange(len(kept), dtype=np.int32)))


def write_catalogue(catalogue: pa.Table, has_image_N: NDArray[np.bool_], folder: Path, settings: DataConfig) -> None:
    """Write the item table twice: `items.parquet` for reading it whole, `items/` in blocks for the stream."""
    pq.write_table(catalogue.append_column("has_image", pa.array(has_image_N)), folder / "items.parquet")
    size, most = settings.block_records, settings.shard_blocks
    with ShardWriter(folder / "items", records_per_block=size, blocks_per_shard=most) as writer:
        for batch in catalogue.select(ITEM.names).cast(ITEM).to_batches():
            writer.write(batch)


def _order(keys: list[str]) -> list[int]:
    numeric = all(key.isascii() and key.isdigit() for key in keys)
    if numeric:
        return sorted(range(len(keys)), key=lambda row: (int(keys[row]), keys[row]))
    return sorted(range(len(keys)), key=keys.__getitem__)
