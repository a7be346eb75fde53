"""Shards: blocks as members of plain tar files, and next to them an index that finds any block with one read.

A folder of shards holds

    shards-000000.tar ...   one member `<block>.arrow` per block: an Arrow IPC stream of one record batch
    shards.json             {"format", "records_per_block", "shards": [file name, ...], "index_crc32c", "users_crc32c"}
    users.npy               where records are in the order of users: `user_hash` of each block's first record
    index.npy               one row per block: shard, offset, length, records, items, crc32c; written last

Every block has exactly `records_per_block` records, only the last is shorter. Nothing but `index.npy` is needed to
read at random; `users.npy` finds the block or two that hold a user. Any WebDataset reader opens the shards in order;
two lines decode them:

    for sample in webdataset.WebDataset(paths, shardshuffle=False):
        table = pyarrow.ipc.open_stream(sample["arrow"]).read_all()
"""

from __future__ import annotations

import io
import json
import tarfile
from bisect import bisect_left, bisect_right
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any, NotRequired, TypedDict

import google_crc32c
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from trialign.errors import DataError
from trialign.foreign import parse_json
from trialign.stream.blocks import decode_block, encode_block, user_hash
from trialign.stream.storage import LocalFolder, open_folder

FORMAT = 2
INDEX = "index.npy"
USERS = "users.npy"
NAMES = "shards.json"
INDEX_DTYPE = np.dtype(
    [("shard", "u4"), ("offset", "u8"), ("length", "u4"), ("records", "u4"), ("items", "u8"), ("crc32c", "u4")]
)
_TAR_UNIT = tarfile.BLOCKSIZE
_ROWS_AT_ONCE = 1 << 16


class TarWriter:
    """Writes plain ustar members: one header of 512 bytes each, no clock and no owner, so equal content is equal bytes.

    Args:
        path: the file to write.
    """

    def __init__(self, path: Path) -> None:
        self._file = path.open("wb")

    def add(self, name: str, data: bytes) -> int:
        """Append a member and return the offset of its content."""
        header = tarfile.TarInfo(name)
        header.size = len(data)
        self._file.write(header.tobuf(tarfile.USTAR_FORMAT))
        offset = self._file.tell()
        self._file.write(data)
        self._file.write(bytes(-len(data) % _TAR_UNIT))
        return offset

    def close(self) -> None:
        """Write the end mark."""
        self._file.write(bytes(2 * _TAR_UNIT))
        self._file.close()


class _Names(TypedDict):
    """The content of `shards.json`."""

    format: int
    records_per_block: int
    shards: list[str]
    index_crc32c: int
    users_crc32c: NotRequired[int]


class ShardWriter:
    """Cuts a stream of record batches into blocks of equal size and writes them into shards.

    A context manager: the index is written when the block ends without an exception, last of all.

    Args:
        folder: where the shards go; made if missing.
        records_per_block: records of every block but the last.
        blocks_per_shard: blocks per tar file.
        by_user: the records have a user and come in the order of `user_hash`; an index of users is written.
    """

    def __init__(self, folder: Path, *, records_per_block: int, blocks_per_shard: int, by_user: bool = False) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._by_user = by_user
        self._records_per_block = records_per_block
        self._blocks_per_shard = blocks_per_shard
        self._pending: list[pa.RecordBatch] = []
        self._num_pending = 0
        self._index: list[tuple[int, int, int, int, int, int]] = []
        self._users: list[int] = []
        self._shards: list[str] = []
        self._tar: TarWriter | None = None

    def __enter__(self) -> ShardWriter:
        return self

    def write(self, batch: pa.RecordBatch) -> None:
        """Append the records of `batch`; blocks run on across batches."""
        self._pending.append(batch)
        self._num_pending += batch.num_rows
        if self._num_pending < self._records_per_block:
            return
        records = pa.concat_batches(self._pending)
        whole = records.num_rows - records.num_rows % self._records_per_block
        for start in range(0, whole, self._records_per_block):
            self._write_block(records.slice(start, self._records_per_block))
        self._pending = [records.slice(whole)]
        self._num_pending = records.num_rows - whole

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None and self._num_pending:
            self._write_block(pa.concat_batches(self._pending))
        if self._tar is not None:
            self._tar.close()
        if kind is None:
            index = np.array(self._index, dtype=INDEX_DTYPE)
            names: _Names = {
                "format": FORMAT,
                "records_per_block": self._records_per_block,
                "shards": self._shards,
                "index_crc32c": fingerprint_of(index),
            }
            if self._by_user:
                users = np.array(self._users, dtype=np.uint64)
                names["users_crc32c"] = fingerprint_of(users)
                np.save(self._folder / USERS, users)
            (self._folder / NAMES).write_text(json.dumps(names, indent=1) + "\n")
            np.save(self._folder / INDEX, index)

    def _write_block(self, batch: pa.RecordBatch) -> None:
        block = len(self._index)
        if block % self._blocks_per_shard == 0:
            self._start_shard()
        if self._by_user:
            first = user_hash(batch.column("user")[0].as_py())
            assert not self._users or self._users[-1] <= first, "records come in the order of user_hash"
            self._users.append(first)
        assert self._tar is not None
        data = encode_block(batch)
        offset = self._tar.add(f"{block:08d}.arrow", data)
        row = (
            len(self._shards) - 1,
            offset,
            len(data),
            batch.num_rows,
            _num_items(batch),
            google_crc32c.value(data),
        )
        self._index.append(row)

    def _start_shard(self) -> None:
        if self._tar is not None:
            self._tar.close()
        self._shards.append(f"shards-{len(self._shards):06d}.tar")
        self._tar = TarWriter(self._folder / self._shards[-1])


class DamagedBlockError(DataError):
    """A block is corrupt; `stream.damaged=skip` skips it."""


class BlockStore:
    """Random access to the blocks of one folder of shards.

    It holds the memory-mapped index and no open file, so it can be shared by processes and pickled. Opening reads the
    index once, to compare its checksum.

    Args:
        folder: a local path, or any address that fsspec reads ranges from.

    Raises:
        DataError: the folder holds no finished shards, or an index that belongs to others.
    """

    def __init__(self, folder: Path | str) -> None:
        self.folder = str(folder)
        self._storage = open_folder(folder)
        names = self._load_names()
        self.records_per_block: int = names["records_per_block"]
        self._shards: list[str] = names["shards"]
        self._index = self._load(INDEX, INDEX_DTYPE)
        self.fingerprint = self._check(INDEX, self._index, names.get("index_crc32c"))
        self._users_crc32c: int | None = names.get("users_crc32c")
        self.num_blocks = len(self._index)
        # All blocks but the last are full.
        full = max(0, self.num_blocks - 1) * self.records_per_block
        self.num_records: int = full + (int(self._index[-1]["records"]) if self.num_blocks else 0)

    @property
    def index(self) -> NDArray[Any]:
        """The index, one row per block, of dtype `INDEX_DTYPE`."""
        return self._index

    def blocks_of(self, user: str) -> range:
        """Return the blocks that may hold records of a user: of a store with one record per user two at most.

        Raises:
            DataError: the index of users is not there, or belongs to other shards.
        """
        firsts, wanted = self._first_users, user_hash(user)
        # A block that begins with the user may not be the first that holds one of its records.
        return range(max(0, bisect_left(firsts, wanted) - 1), bisect_right(firsts, wanted))

    @cached_property
    def _first_users(self) -> NDArray[np.uint64]:
        firsts = self._load(USERS, np.dtype(np.uint64))
        self._check(USERS, firsts, self._users_crc32c)
        return firsts

    def read(self, block: int) -> pa.RecordBatch:
        """Return a block, its checksum verified.

        Raises:
            DamagedBlockError: the shard is missing, shorter than the index says, or has other bytes; or the bytes that
                were written are no Arrow stream.
        """
        entry = self._index[block]
        shard, offset, length = self._shards[entry["shard"]], int(entry["offset"]), int(entry["length"])
        try:
            data = self._storage.read(shard, offset, length)
        except FileNotFoundError:
            raise self._damage(shard, block, f"is gone: {shard} does not exist") from None
        if len(data) < length:
            raise self._damage(shard, block, f"ends after {len(data)} of its {length} bytes")
        found, written = google_crc32c.value(data), int(entry["crc32c"])
        if found != written:
            raise self._damage(
                shard, block, f"has other bytes than were written (crc32c {found:08x}, not {written:08x})"
            )
        try:
            batch = decode_block(data)
            batch.validate(full=True)
        except (pa.ArrowException, OSError, StopIteration) as cause:
            raise self._damage(shard, block, f"is no Arrow stream ({cause})") from cause
        if batch.num_rows != entry["records"]:
            raise self._damage(shard, block, f"has {batch.num_rows} records, not {entry['records']}")
        return batch

    def _load_names(self) -> _Names:
        try:
            names: _Names = parse_json(self._fetch(NAMES))
            found = names.get("format")
        except (ValueError, AttributeError) as cause:
            raise self._unreadable(NAMES, str(cause)) from cause
        if found != FORMAT:
            raise DataError(
                f"{self.folder}/{NAMES} has format {found}",
                rule=f"shards of format {FORMAT}",
                remedy="prepare the data again with this version of trialign: `trialign prepare` with rebuild=true",
            )
        return names

    def _load(self, name: str, dtype: np.dtype[Any]) -> NDArray[Any]:
        """Return an index, memory-mapped where the folder is local."""
        try:
            if isinstance(self._storage, LocalFolder):
                index = np.load(self._storage.path / name, mmap_mode="r")
            else:
                index = np.load(io.BytesIO(self._fetch(name)))
        except FileNotFoundError:
            raise self._missing(name) from None
        except (ValueError, OSError, EOFError) as cause:  # numpy refuses a pickle by ValueError
            raise self._unreadable(name, str(cause)) from cause
        if index.dtype != dtype or index.ndim != 1:
            raise self._unreadable(name, f"it holds {index.dtype} {list(index.shape)}")
        return index  # type: ignore[no-any-return]

    def _check(self, name: str, index: NDArray[Any], written: int | None) -> int:
        """Return the crc32c of an index; refuse it if `NAMES` records another one."""
        found = fingerprint_of(index)
        if found != written:
            raise DataError(
                f"{self.folder}/{name} is not the index of these shards: its crc32c is {found:08x}, "
                f"{NAMES} names {'none' if written is None else f'{written:08x}'}",
                rule="an index belongs to the shards it was written with",
                remedy=f"restore {name} and {NAMES} together, or prepare the data again",
            )
        return found

    def _fetch(self, name: str) -> bytes:
        try:
            return self._storage.read(name)
        except FileNotFoundError:
            raise self._missing(name) from None

    def _missing(self, name: str) -> DataError:
        return DataError(
            f"{self.folder}/{name} does not exist",
            rule=f"a folder of shards holds {NAMES}, {INDEX} and every shard that {NAMES} names",
            remedy="finish `trialign prepare` for that run, or restore the file",
        )

    def _unreadable(self, name: str, fault: str) -> DataError:
        return DataError(
            f"{self.folder}/{name} cannot be read: {fault}",
            rule=f"{NAMES} and {INDEX} are written by `trialign prepare` and never changed",
            remedy="restore the file, or prepare the data again with rebuild=true",
        )

    def _damage(self, shard: str, block: int, fault: str) -> DamagedBlockError:
        return DamagedBlockError(
            f"block {block} in {self.folder}/{shard} {fault}",
            rule="a shard is never changed after it was written",
            remedy="restore the file, prepare the data again with rebuild=true, or train without the block: "
            "stream.damaged=skip",
        )


def fingerprint_of(index: NDArray[Any]) -> int:
    """Return the crc32c of an index: every block's place, length and checksum are in it."""
    fingerprint = 0
    for start in range(0, len(index), _ROWS_AT_ONCE):
        fingerprint = google_crc32c.extend(fingerprint, index[start : start + _ROWS_AT_ONCE].tobytes())
    return fingerprint


def _num_items(batch: pa.RecordBatch) -> int:
    if "items" not in batch.schema.names:
        return int(batch.num_rows)
    return len(batch.column("items").flatten())
