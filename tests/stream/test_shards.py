from __future__ import annotations

import json
import pickle
import shutil
import tarfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import fsspec
import google_crc32c
import numpy as np
import pyarrow as pa
import pytest
import webdataset

from trialign.errors import ConfigError, DataError
from trialign.stream.blocks import EVALUATION, ITEM, Records, lists_of, user_hash
from trialign.stream.shards import INDEX, INDEX_DTYPE, USERS, BlockStore, DamagedBlockError, ShardWriter, fingerprint_of


def _batch(num_records: int, seed: int = 0) -> pa.RecordBatch:
    chance = np.random.default_rng(seed)
    lists = [chance.integers(0, 1000, chance.integers(0, 8)).tolist() for _ in range(num_records)]
    columns = [[f"u{i}" for i in range(num_records)], lists, lists, [[i] for i in range(num_records)], lists]
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


def test_a_shard_cut_in_half_is_named_with_the_first_block_it_lacks(tmp_path: Path) -> None:
    store = _write(tmp_path, [_batch(30)])
    shard = tmp_path / "shards-000000.tar"
    half = shard.stat().st_size // 2
    shard.write_bytes(shard.read_bytes()[:half])
    ends = (store.index["offset"] + store.index["length"]).tolist()
    lost = [block for block in range(store.num_blocks) if ends[block] > half]
    assert 0 < len(lost) < store.num_blocks
    for block in lost:
        with pytest.raises(DamagedBlockError, match=rf"block {block} in .*shards-000000\.tar ends after"):
            store.read(block)


class _Trap:
    """Leaves a mark when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.mark,)


def test_a_pickle_hidden_in_a_shard_is_named_and_never_loaded(tmp_path: Path) -> None:
    folder = tmp_path / "shards"
    store = _write(folder, [_batch(10)])
    shard, entry = folder / "shards-000000.tar", store.index[0]
    trap = pickle.dumps(_Trap(tmp_path / "loaded")).ljust(int(entry["length"]), b"\0")
    content = bytearray(shard.read_bytes())
    content[int(entry["offset"]) : int(entry["offset"]) + len(trap)] = trap
    shard.write_bytes(content)
    with pytest.raises(DamagedBlockError, match="crc32c"):
        store.read(0)
    # Whoever hides it may have fixed the checksums, too.
    index = np.array(store.index)
    index["crc32c"] = google_crc32c.value(trap)
    _forge(folder, index)
    with pytest.raises(DamagedBlockError, match=r"block 0 in .*shards-000000\.tar is no Arrow stream"):
        BlockStore(folder).read(0)
    assert not (tmp_path / "loaded").exists()


def test_an_index_that_is_a_pickle_is_never_loaded(tmp_path: Path) -> None:
    folder = tmp_path / "shards"
    _write(folder, [_batch(10)])
    np.save(folder / INDEX, np.array([_Trap(tmp_path / "loaded")]), allow_pickle=True)
    with pytest.raises(DataError, match=r"index\.npy cannot be read"):
        BlockStore(folder)
    assert not (tmp_path / "loaded").exists()


def test_a_block_whose_offsets_leave_its_values_is_refused(tmp_path: Path) -> None:
    store = _write(tmp_path, [_batch(10)])
    shard, entry = tmp_path / "shards-000000.tar", store.index[0]
    start = int(entry["offset"])
    content = bytearray(shard.read_bytes())
    offsets = np.asarray(store.read(0)["items"].offsets).tobytes()
    place = content.index(offsets, start)
    content[place + len(offsets) - 4 : place + len(offsets)] = np.int32(10**6).tobytes()
    shard.write_bytes(content)
    index = np.array(store.index)
    index["crc32c"] = google_crc32c.value(bytes(content[start : start + int(entry["length"])]))
    _forge(tmp_path, index)
    with pytest.raises(DamagedBlockError, match="is no Arrow stream"):
        BlockStore(tmp_path).read(0)


def _forge(folder: Path, index: np.ndarray) -> None:
    np.save(folder / INDEX, index)
    names = json.loads((folder / "shards.json").read_text())
    (folder / "shards.json").write_text(json.dumps(names | {"index_crc32c": fingerprint_of(index)}))


def test_an_index_of_another_dataset_is_refused(tmp_path: Path) -> None:
    _write(tmp_path / "a", [_batch(30, seed=0)])
    _write(tmp_path / "b", [_batch(30, seed=1)])
    shutil.copy(tmp_path / "b" / INDEX, tmp_path / "a" / INDEX)
    with pytest.raises(DataError, match=r"a/index\.npy is not the index of these shards: its crc32c is"):
        BlockStore(tmp_path / "a")


def _write_by_user(folder: Path, seed: int) -> BlockStore:
    batch = _batch(30, seed)
    order = sorted(range(30), key=lambda row: user_hash(batch["user"][row].as_py()))
    with ShardWriter(folder, records_per_block=10, blocks_per_shard=3, by_user=True) as writer:
        writer.write(batch.take(order))
    return BlockStore(folder)


def test_an_index_of_users_that_is_gone_or_of_another_dataset_is_refused(tmp_path: Path) -> None:
    store = _write_by_user(tmp_path / "a", seed=0)
    assert [row for block in store.blocks_of("u7") for row in store.read(block)["user"].to_pylist()].count("u7") == 1
    with ShardWriter(tmp_path / "b", records_per_block=1, blocks_per_shard=3, by_user=True) as writer:
        writer.write(_batch(1))
    shutil.copy(tmp_path / "b" / USERS, tmp_path / "a" / USERS)
    with pytest.raises(DataError, match=r"a/users\.npy is not the index of these shards"):
        BlockStore(tmp_path / "a").blocks_of("u7")
    (tmp_path / "a" / USERS).unlink()
    with pytest.raises(DataError, match=r"users\.npy does not exist"):
        BlockStore(tmp_path / "a").blocks_of("u7")


def test_users_are_found_on_other_file_systems_too(tmp_path: Path) -> None:
    store = _write_by_user(tmp_path, seed=0)
    fsspec.filesystem("memory").put(str(tmp_path), "/users", recursive=True)
    remote = BlockStore("memory://users")
    assert [remote.blocks_of(f"u{number}") for number in range(40)] == [
        store.blocks_of(f"u{number}") for number in range(40)
    ]


@pytest.mark.parametrize("content", [b"", b"no numpy file", b"\x93NUMPY\x01\x00v\x00"])
def test_an_index_that_cannot_be_read_is_named(tmp_path: Path, content: bytes) -> None:
    _write(tmp_path, [_batch(30)])
    (tmp_path / INDEX).write_bytes(content)
    with pytest.raises(DataError, match=r"index\.npy cannot be read"):
        BlockStore(tmp_path)


def test_an_index_of_other_columns_is_named(tmp_path: Path) -> None:
    _write(tmp_path, [_batch(30)])
    np.save(tmp_path / INDEX, np.zeros(3))
    with pytest.raises(DataError, match=r"index\.npy cannot be read: it holds float64"):
        BlockStore(tmp_path)


@pytest.mark.parametrize("content", ["[1]", "{", ""])
def test_names_that_cannot_be_read_are_named(tmp_path: Path, content: str) -> None:
    _write(tmp_path, [_batch(3)])
    (tmp_path / "shards.json").write_text(content)
    with pytest.raises(DataError, match=r"shards\.json cannot be read"):
        BlockStore(tmp_path)


def test_counting_records_needs_the_last_row_of_the_index_only(tmp_path: Path) -> None:
    store = _write(tmp_path, [_batch(47)])
    index = np.zeros(10**6, INDEX_DTYPE)
    index["records"][-1] = 3
    _forge(tmp_path, index)
    assert BlockStore(tmp_path).num_records == (10**6 - 1) * store.records_per_block + 3


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


def test_a_file_address_is_a_local_folder(tmp_path: Path) -> None:
    store = _write(tmp_path, [_batch(47)])
    same = BlockStore(f"file://{tmp_path}")
    assert same.read(3).equals(store.read(3))
    assert isinstance(same.index, np.memmap)


@pytest.mark.parametrize("address", ["pipe:cat shards", "pipe://cat", "nowhere://bucket/folder"])
def test_addresses_that_nobody_reads_ranges_from_are_refused(address: str) -> None:
    with pytest.raises((ConfigError, DataError), match=r"cannot be opened|does not exist"):
        BlockStore(address)


def test_damage_is_named_on_other_file_systems_too(tmp_path: Path) -> None:
    _write(tmp_path, [_batch(30)])
    memory = fsspec.filesystem("memory")
    memory.put(str(tmp_path), "/damaged", recursive=True)
    try:
        remote = BlockStore("memory://damaged")
        sound = memory.cat_file("/damaged/shards-000000.tar")
        memory.pipe_file("/damaged/shards-000000.tar", sound[: len(sound) // 2])
        with pytest.raises(DamagedBlockError, match=r"block 2 in memory://damaged/shards-000000\.tar ends after"):
            remote.read(2)
        memory.rm("/damaged/shards-000000.tar")
        with pytest.raises(DamagedBlockError, match=r"is gone: shards-000000\.tar does not exist"):
            remote.read(0)
    finally:
        memory.rm("/damaged", recursive=True)


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


def test_a_fingerprint_is_of_all_rows_of_an_index_however_many() -> None:
    users = np.arange(140_000, dtype=np.uint64)
    assert fingerprint_of(users) == google_crc32c.value(users.tobytes())
