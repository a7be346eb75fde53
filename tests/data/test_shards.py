from __future__ import annotations

import json
import pickle
import tarfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import fsspec
import numpy as np
import pyarrow as pa
import pytest
import webdataset

from trialign.data.blocks import EVALUATION, ITEM, Records, lists_of
from trialign.data.shards import INDEX, BlockStore, ShardWriter
from trialign.errors import DataError


def _batch(num_records: int, seed: int = 0) -> pa.RecordBatch:
    chance = np.random.default_rng(seed)
    lists = [chance.integers(0, 1000, chance.integers(0, 8)).tolist() for _ in range(num_records)]
    columns = [[f"u{i}" for i in range(num_records)], lists, lists, [[i] for i in range(num_records)]]
    arrays = [pa.array(column, field.type) for column, field in zip(columns, EVALUATION, strict=True)]
    return pa.RecordBatch.from_arrays(arrays, schema=EVALUATION)


def _write(folder: Path, batches: Iterable[pa.RecordBatch], records_per_block: int = 10) -> BlockStore:
    with ShardWriter(folder, records_per_block=records_per_block, blocks_per_shard=3) as writer:
        for batch in batches:
            writer.write(batch)
    return BlockStore(folder)


@pytest.mark.parametrize("num_records", [0, 1, 9, 10, 11, 59, 60, 61])
def test_what_was_written_is_read_back_bit_for_bit(tmp_path: Path, num_records: int) -> None:
    batch = _batch(num_records)
    store = _write(tmp_path, [batch])
    assert (store.num_records, store.num_blocks) == (num_records, -(-num_records // 10))
    if num_records:
        assert pa.Table.from_batches(store.read(block) for block in range(store.num_blocks)).equals(
            pa.Table.from_batches([batch])
        )


def test_blocks_are_of_equal_size_however_the_records_arrive(tmp_path: Path) -> None:
    batch = _batch(47)
    pieces = [batch.slice(0, 3), batch.slice(3, 0), batch.slice(3, 30), batch.slice(33, 14)]
    whole, apart = _write(tmp_path / "whole", [batch]), _write(tmp_path / "apart", pieces)
    assert apart.index["records"].tolist() == [10, 10, 10, 10, 7]
    for name in sorted(path.name for path in (tmp_path / "whole").iterdir()):
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "apart" / name).read_bytes()
    assert np.array_equal(whole.index, apart.index)


def test_the_index_says_where_each_block_lies(tmp_path: Path) -> None:
    store = _write(tmp_path, [_batch(47)])
    assert store.index["shard"].tolist() == [0, 0, 0, 1, 1]
    assert isinstance(store.index, np.memmap)
    for block, entry in enumerate(store.index):
        with tarfile.open(tmp_path / f"shards-{entry['shard']:06d}.tar") as tar:
            member = tar.getmember(f"{block:08d}.arrow")
        assert (member.offset_data, member.size) == (entry["offset"], entry["length"])
        assert entry["items"] == sum(map(len, store.read(block)["items"].to_pylist()))


def test_every_shard_is_closed_by_the_end_mark_of_tar(tmp_path: Path) -> None:
    _write(tmp_path, [_batch(47)])
    contents = [path.read_bytes() for path in tmp_path.glob("*.tar")]
    assert len(contents) == 2
    assert all(content.endswith(bytes(1024)) and len(content) % 512 == 0 for content in contents)


def test_webdataset_opens_the_shards_and_two_lines_decode_them(tmp_path: Path) -> None:
    batch = _batch(47)
    _write(tmp_path, [batch])
    paths = [str(path) for path in sorted(tmp_path.glob("*.tar"))]
    tables = []
    for sample in webdataset.WebDataset(paths, shardshuffle=False):
        table = pa.ipc.open_stream(sample["arrow"]).read_all()
        tables.append(table)
    assert pa.concat_tables(tables).equals(pa.Table.from_batches([batch]))


def test_a_damaged_byte_is_noticed_wherever_it_lies(tmp_path: Path) -> None:
    store = _write(tmp_path, [_batch(30)])
    shard = tmp_path / "shards-000000.tar"
    sound = shard.read_bytes()
    start, length = int(store.index["offset"][1]), int(store.index["length"][1])
    for place in (start, start + length // 2, start + length - 1):
        shard.write_bytes(sound[:place] + bytes([sound[place] ^ 1]) + sound[place + 1 :])
        with pytest.raises(DataError, match=r"block 1 in .*shards-000000\.tar has other bytes.*crc32c"):
            store.read(1)
        assert store.read(0).num_rows == 10


def test_a_truncated_shard_is_refused(tmp_path: Path) -> None:
    store = _write(tmp_path, [_batch(30)])
    shard = tmp_path / "shards-000000.tar"
    shard.write_bytes(shard.read_bytes()[: int(store.index["offset"][2]) + 5])
    assert store.read(1).num_rows == 10
    with pytest.raises(DataError, match=r"block 2 .* ends after 5 of its"):
        store.read(2)


@pytest.mark.parametrize("name", ["shards.json", INDEX, "shards-000000.tar"])
def test_a_missing_file_is_named(tmp_path: Path, name: str) -> None:
    _write(tmp_path, [_batch(30)])
    (tmp_path / name).unlink()
    with pytest.raises(DataError, match=f"{name} does not exist"):
        BlockStore(tmp_path).read(0)


def test_another_format_is_refused(tmp_path: Path) -> None:
    _write(tmp_path, [_batch(3)])
    names = json.loads((tmp_path / "shards.json").read_text())
    (tmp_path / "shards.json").write_text(json.dumps(names | {"format": 99}))
    with pytest.raises(DataError, match="format 99"):
        BlockStore(tmp_path)


def test_a_writer_that_fails_leaves_no_index(tmp_path: Path) -> None:
    def batches() -> Iterator[pa.RecordBatch]:
        yield _batch(30)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        _write(tmp_path, batches())
    with pytest.raises(DataError, match="does not exist"):
        BlockStore(tmp_path)


def test_a_store_travels_between_processes(tmp_path: Path) -> None:
    store = _write(tmp_path, [_batch(30)])
    assert pickle.loads(pickle.dumps(store)).read(2).equals(store.read(2))


def test_shards_are_read_from_any_file_system_that_fsspec_knows(tmp_path: Path) -> None:
    store = _write(tmp_path, [_batch(47)])
    memory = fsspec.filesystem("memory")
    memory.put(str(tmp_path), "/elsewhere", recursive=True)
    try:
        remote = BlockStore("memory://elsewhere")
        assert all(remote.read(block).equals(store.read(block)) for block in range(store.num_blocks))
    finally:
        memory.rm("/elsewhere", recursive=True)


def test_records_of_a_block(history_store: Callable[..., BlockStore]) -> None:
    store = history_store(25, 10)
    records = Records(store.read(2))
    plain = store.read(2).to_pylist()
    assert len(records) == 5
    for index, expected in enumerate(plain):
        assert {
            **records[index],
            "items": records[index]["items"].tolist(),
            "times": records[index]["times"].tolist(),
        } == (expected)
    assert records[0]["items"].dtype == np.int32


def test_records_of_the_item_table_are_plain_text() -> None:
    item = {"item": 3, "title": "a", "description": "", "brand": "b", "categories": ["c", "d"]}
    assert Records(pa.RecordBatch.from_pylist([item], schema=ITEM))[0] == item


def test_slices_may_overlap_and_be_empty() -> None:
    values = pa.array(range(10), pa.int32())
    lists = lists_of(values, np.array([2, 0, 5, 3]), np.array([3, 0, 1, 4]))
    assert lists.to_pylist() == [[2, 3, 4], [], [5], [3, 4, 5, 6]]
    assert lists_of(values, np.array([], np.int64), np.array([], np.int64)).to_pylist() == []
