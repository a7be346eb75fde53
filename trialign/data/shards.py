"""Shards: blocks as members of plain tar files, and beside them an index that finds any block with one read.

A folder of shards holds

    shards-000000.tar ...   one member `<block>.arrow` per block: an Arrow IPC stream of one record batch
    shards.json             {"format", "records_per_block", "shards": [file name, ...]}
    index.npy               one row per block: shard, offset, length, records, items, crc32c; written last

Every block has exactly `records_per_block` records, only the last is shorter. Nothing but this index is needed to read
at random. Any WebDataset reader opens the shards in order; two lines decode them:

    for sample in webdataset.WebDataset(paths, shardshuffle=False):
        table = pyarrow.ipc.open_stream(sample["arrow"]).read_all()
"""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path
from types import TracebackType
from typing import Any

import fsspec
import google_crc32c
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from trialign.data.blocks import decode_block, encode_block
from trialign.errors import DataError

FORMAT = 1
INDEX = "index.npy"
NAMES = "shards.json"
INDEX_DTYPE = np.dtype(
    [("shard", "u4"), ("offset", "u8"), ("length", "u4"), ("records", "u4"), ("items", "u8"), ("crc32c", "u4")]
)
_TAR_UNIT = tarfile.BLOCKSIZE


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


class ShardWriter:
    """Cuts a stream of record batches into blocks of equal size and writes them into shards.

    A context manager: the index is written when the block ends without an exception, last of all.

    Args:
        folder: where the shards go; made if missing.
        records_per_block: records of every block but the last.
        blocks_per_shard: blocks per tar file.
    """

    def __init__(self, folder: Path, *, records_per_block: int, blocks_per_shard: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._records_per_block = records_per_block
        self._blocks_per_shard = blocks_per_shard
        self._pending: list[pa.RecordBatch] = []
        self._num_pending = 0
        self._index: list[tuple[int, int, int, int, int, int]] = []
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
            names = {"format": FORMAT, "records_per_block": self._records_per_block, "shards": self._shards}
            (self._folder / NAMES).write_text(json.dumps(names, indent=1) + "\n")
            np.save(self._folder / INDEX, np.array(self._index, dtype=INDEX_DTYPE))

    def _write_block(self, batch: pa.RecordBatch) -> None:
        block = len(self._index)
        if block % self._blocks_per_shard == 0:
            self._start_shard()
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


class BlockStore:
    """Random access to the blocks of one folder of shards.

    It holds the memory-mapped index and no open file, so it can be shared by processes and pickled.

    Args:
        folder: a local path, or any address that fsspec reads ranges from.

    Raises:
        DataError: the folder holds no finished shards.
    """

    def __init__(self, folder: Path | str) -> None:
        self.folder = str(folder)
        names = json.loads(self._fetch(NAMES))
        if names.get("format") != FORMAT:
            raise DataError(
                f"{self.folder}/{NAMES} has format {names.get('format')}",
                rule=f"shards of format {FORMAT}",
                remedy="prepare the data again with this version of trialign",
            )
        self.records_per_block: int = names["records_per_block"]
        self._shards: list[str] = names["shards"]
        self._index = self._load_index()
        self.num_blocks = len(self._index)
        self.num_records = int(self._index["records"].sum())

    @property
    def index(self) -> NDArray[Any]:
        """The index, one row per block, of dtype `INDEX_DTYPE`."""
        return self._index

    def read(self, block: int) -> pa.RecordBatch:
        """Return a block, its checksum verified.

        Raises:
            DataError: the shard is missing, shorter than the index says, or has other bytes.
        """
        entry = self._index[block]
        shard, offset, length = self._shards[entry["shard"]], int(entry["offset"]), int(entry["length"])
        data = self._fetch(shard, offset, offset + length)
        if len(data) < length:
            self._refuse(shard, block, f"ends after {len(data)} of its {length} bytes")
        if google_crc32c.value(data) != entry["crc32c"]:
            self._refuse(shard, block, "has other bytes than were written (crc32c differs)")
        return decode_block(data)

    def _fetch(self, name: str, start: int | None = None, end: int | None = None) -> bytes:
        # Looked up at each call: fsspec keeps one file system per process, which is what makes forked workers safe.
        files, root = fsspec.core.url_to_fs(self.folder)
        try:
            data: bytes = files.cat_file(f"{root}/{name}", start=start, end=end)
        except FileNotFoundError as cause:
            raise DataError(
                f"{self.folder}/{name} does not exist",
                rule=f"a folder of shards holds {NAMES}, {INDEX} and every shard that {NAMES} names",
                remedy="finish `trialign prepare` for that run, or restore the file",
            ) from cause
        return data

    def _load_index(self) -> NDArray[Any]:
        path = Path(self.folder) / INDEX
        index = np.load(path, mmap_mode="r") if path.exists() else np.load(io.BytesIO(self._fetch(INDEX)))
        assert index.dtype == INDEX_DTYPE, index.dtype
        return index  # type: ignore[no-any-return]

    def _refuse(self, shard: str, block: int, fault: str) -> None:
        raise DataError(
            f"block {block} in {self.folder}/{shard} {fault}",
            rule="a shard is never changed after it was written",
            remedy="restore the file, or prepare the data again with rebuild=true",
        )


def _num_items(batch: pa.RecordBatch) -> int:
    if "items" not in batch.schema.names:
        return int(batch.num_rows)
    return len(batch.column("items").flatten())
