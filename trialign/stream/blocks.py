"""Blocks: about a thousand records as one Arrow record batch, the unit of writing, shuffling and reading.

Four kinds of record exist: a window of a train history, a user to evaluate, a user as of now, and an item of the
catalogue. Records of users are in the order of `user_hash`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from functools import cache, cached_property
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

Record = dict[str, Any]
"""One record by column: text as str, a list of numbers as a numpy view of its block, a list of text as a list."""

TRAIN = pa.schema(
    {
        "user": pa.string(),
        "items": pa.list_(pa.int32()),
        "times": pa.list_(pa.int64()),
        "first_target": pa.int32(),
    }
)
"""A window of a history. Positions from `first_target` on are targets; the ones before belong to an earlier window."""

EVALUATION = pa.schema(
    {
        "user": pa.string(),
        "items": pa.list_(pa.int32()),
        "times": pa.list_(pa.int64()),
        "targets": pa.list_(pa.int32()),
        "older": pa.list_(pa.int32()),
    }
)
"""The last window of what a user had chosen (items and their times), what came next, and the distinct items that were
chosen before the window and are not in it, ascending."""

USER = pa.schema(
    {
        "user": pa.string(),
        "items": pa.list_(pa.int32()),
        "times": pa.list_(pa.int64()),
        "older": pa.list_(pa.int32()),
    }
)
"""The last window of everything a user chose, held-out events included; `older` as in EVALUATION."""

ITEM = pa.schema(
    {
        "item": pa.int32(),
        "title": pa.string(),
        "description": pa.string(),
        "brand": pa.string(),
        "categories": pa.list_(pa.string()),
    }
)
"""An item's own words; its picture, if any, is in the image shards."""


def user_hash(user: str) -> int:
    """Return the first 8 bytes of md5(user), most significant first: the order of records of users."""
    return int.from_bytes(hashlib.md5(user.encode(), usedforsecurity=False).digest()[:8])


def encode_block(batch: pa.RecordBatch) -> bytes:
    """Return a record batch as the bytes of an Arrow IPC stream; equal records are equal bytes."""
    # A slice would also write the buffers around it, so equal records could have different bytes.
    batch = batch.take(pa.array(np.arange(batch.num_rows)))
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema) as stream:
        stream.write_batch(batch)
    data: bytes = sink.getvalue().to_pybytes()
    return data


def decode_block(data: bytes) -> pa.RecordBatch:
    """Return the record batch that `encode_block` wrote; its columns are views of `data`."""
    return pa.ipc.open_stream(data).read_next_batch()


def lists_of(values: pa.Array, starts: NDArray[np.int64], lengths: NDArray[np.int64]) -> pa.ListArray:
    """Return the list column whose i-th list is `values[starts[i] : starts[i] + lengths[i]]`; slices may overlap."""
    offsets = pa.array(np.concatenate([[0], np.cumsum(lengths)]), pa.int32())
    return pa.ListArray.from_arrays(offsets, values.take(pa.array(spans(starts, lengths), pa.int64())))


def spans(starts: NDArray[np.int64], lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return starts[0], starts[0] + 1, ..., then the same from starts[1] on, as many of each as `lengths` says."""
    before = np.cumsum(lengths) - lengths
    indices: NDArray[np.int64] = np.repeat(starts - before, lengths)
    indices += np.arange(len(indices))
    return indices


def arrays_of(column: pa.ListArray) -> list[NDArray[Any]]:
    """Return each list of a column of numbers as a numpy view."""
    values, offsets = _values_and_offsets(column)
    return [values[start:stop] for start, stop in pairwise(offsets)]


class Records:
    """A decoded block, record by record or many at once.

    Args:
        batch: the block. It stays in memory as long as a record of it does.
    """

    def __init__(self, batch: pa.RecordBatch) -> None:
        self._batch = batch
        # A window asks for a few records at a time, and Arrow takes longer to open a column than to read those.
        self._numbers = cache(lambda name: batch.column(name).to_numpy())
        self._lists = cache(lambda name: _values_and_offsets(batch.column(name)))

    def __len__(self) -> int:
        return int(self._batch.num_rows)

    def __getitem__(self, index: int) -> Record:
        return {name: read(index) for name, read in self._readers.items()}

    def numbers(self, name: str, chosen: NDArray[np.int64]) -> NDArray[Any]:
        """Return a column of numbers at the chosen records."""
        numbers: NDArray[Any] = self._numbers(name)[chosen]
        return numbers

    def lists(self, name: str, chosen: NDArray[np.int64]) -> tuple[NDArray[Any], NDArray[np.int64]]:
        """Return the lists of a column of numbers at the chosen records: their values side by side, their lengths."""
        values, offsets = self._lists(name)
        starts = offsets[chosen].astype(np.int64)
        lengths = offsets[chosen + 1] - starts
        return values[spans(starts, lengths)], lengths

    def keys(self, chosen: NDArray[np.int64]) -> list[str | int]:
        """Return the keys of the chosen records: users, or items of the catalogue."""
        name = "user" if "user" in self._batch.schema.names else "item"
        keys: list[str | int] = self._batch.column(name).take(pa.array(chosen)).to_pylist()
        return keys

    @cached_property
    def _readers(self) -> dict[str, Callable[[int], Any]]:
        return {name: _reader(self._batch.column(name)) for name in self._batch.schema.names}


def _reader(column: pa.Array) -> Callable[[int], Any]:
    if pa.types.is_list(column.type) and pa.types.is_primitive(column.type.value_type):
        values, offsets = _values_and_offsets(column)
        return lambda index: values[offsets[index] : offsets[index + 1]]
    return lambda index: column[index].as_py()


def _values_and_offsets(column: pa.ListArray) -> tuple[NDArray[Any], NDArray[np.int32]]:
    return column.values.to_numpy(), column.offsets.to_numpy()
