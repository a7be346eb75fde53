"""The exact stream next to webdataset and a bare read of the same blocks; and how soon it continues where it was.

    python -m benchmarks.stream --json benchmarks/results/stream.json

All ways turn the same generated histories (2 to 50 items, most of them short) into micro-batches of 8 packed rows of
256 positions, in one process without loader workers, encoded, packed and collated by the same functions. They differ in
how a history gets there:

    ours          `LaneDataModule`, checksums verified, every batch marked as trained on, so that it can be resumed
    webdataset    its tar reader and two lines of Arrow; then a sample per history, its shuffle buffer, `map(encode)`
                  and its batches, as its pipelines are written; or the same, encoded a batch at a time by our
                  `encode_many`; or whole blocks by `encode_many` in the order of the files
    bare          pread of one block after the other and Arrow; no checksum, no order, no state

Figures are medians of processor time: all files are in the page cache, and one thread does everything.

Resuming is measured on an index of 10^6 shards whose names and places all lead to one real shard: what it takes to
compare the index's checksum, and from the state of a checkpoint to the first micro-batch, at random positions.
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Iterable, Iterator
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
import webdataset
from numpy.typing import NDArray

from benchmarks.record import Row, alone, arguments, compare, paired_seconds, record
from trialign.config.train import StreamConfig
from trialign.generate.encodings.tokens import TokensRows
from trialign.generate.task import NO_TEXTS, Window
from trialign.generate.template import Template
from trialign.generate.tokenizer import TextTokenizer
from trialign.semid.tokens import TokenSpace
from trialign.stream import rows as packed
from trialign.stream.blocks import TRAIN, Record, Records, arrays_of, decode_block, lists_of
from trialign.stream.lanes import LaneSource, MicroBatches
from trialign.stream.module import LaneDataModule
from trialign.stream.shards import FORMAT, INDEX, INDEX_DTYPE, NAMES, BlockStore, ShardWriter, fingerprint_of

NUM_HISTORIES, RECORDS_PER_BLOCK, BLOCKS_PER_SHARD = 524_288, 1024, 64
NUM_ITEMS, LEVELS, CODES = 50_000, 3, 256
SEQ_LEN, WINDOW, MICRO_BATCH_SIZE = 256, 256, 8
SHUFFLE_BUFFER = 1000
NUM_SHARDS, NUM_POSITIONS = 10**6, 200
TASK = "history_to_item"

Sample = tuple[NDArray[np.int32], int]
"""Items of a history, and the first of them that is a target."""


def write_shards(folder: Path) -> BlockStore:
    """Write histories whose lengths follow a Pareto tail, 7 items in the mean, cut at 50."""
    tail = np.random.default_rng(1).pareto(1.5, NUM_HISTORIES)
    return write_histories(folder, np.minimum(50, 2 + 4 * tail).astype(np.int64))


def write_histories(folder: Path, lengths: NDArray[np.int64]) -> BlockStore:
    """Write histories of these lengths, of random items."""
    draws = np.random.default_rng(0)
    starts = np.cumsum(lengths) - lengths
    columns = [
        pa.array([f"user-{user:09d}" for user in range(len(lengths))]),
        lists_of(pa.array(draws.integers(NUM_ITEMS, size=lengths.sum()), pa.int32()), starts, lengths),
        lists_of(pa.array(draws.integers(10**9, size=lengths.sum()), pa.int64()), starts, lengths),
        pa.array(np.zeros(len(lengths)), pa.int32()),
    ]
    with ShardWriter(folder, records_per_block=RECORDS_PER_BLOCK, blocks_per_shard=BLOCKS_PER_SHARD) as writer:
        writer.write(pa.RecordBatch.from_arrays(columns, schema=TRAIN))
    return BlockStore(folder)


def template() -> Template:
    """Return the encoder of all ways: an item is three tokens."""
    tokenizer = TextTokenizer.train(["a title"], vocab_size=300)
    codes_NL = np.random.default_rng(0).integers(CODES, size=(NUM_ITEMS, LEVELS))
    return Template(tokenizer, TokensRows(codes_NL, TokenSpace(tokenizer.size, LEVELS, CODES)), [TASK], 32)


def encode_all(encoder: Template, records: Any, count: int) -> packed.Examples:
    """Return the examples of all of `count` records."""
    return encoder.encode_many(NO_TEXTS, 0, records, np.arange(count), np.zeros(count))


def stream_of(store: BlockStore, encoder: Template, lanes: int) -> LaneDataModule:
    """Return the product's stream over the train histories."""
    return LaneDataModule(
        [LaneSource(TASK, store)],
        partial(encoder.encode_many, NO_TEXTS),
        StreamConfig(global_batch_size=lanes, seq_len=SEQ_LEN, packing_buffer=WINDOW),
        seed=0,
        micro_batch_size=MICRO_BATCH_SIZE,
    )


def read_ours(store: BlockStore, encoder: Template, lanes: int, batches: int) -> Iterator[packed.RowBatch]:
    """Yield that many micro-batches, each marked as a training marks it."""
    stream = stream_of(store, encoder, lanes)
    for batch in islice(stream.train_dataloader(), batches):
        stream.mark(batch)
        yield batch


def batches_of(windows: Iterable[packed.Examples]) -> Iterator[packed.RowBatch]:
    """Yield micro-batches of windows of examples, as `LaneStream` and `MicroBatches` make them but without a state."""

    def rows() -> Iterator[packed.Row]:
        for window in windows:
            laid_out = packed.fill_rows(window, packed.pack(window.lengths, SEQ_LEN), SEQ_LEN)
            for row in zip(*laid_out, strict=True):
                yield packed.Row(*row, lane=0, start=0, row=0)

    yield from MicroBatches(rows(), rows_per_step=MICRO_BATCH_SIZE, micro_batch_size=MICRO_BATCH_SIZE)


class Collected:
    """Histories that were picked one by one, as far as the task asks a block of them."""

    def __init__(self, samples: list[Sample]) -> None:
        self._items = [items for items, _ in samples]
        self._first_targets = np.array([first_target for _, first_target in samples])

    def lists(self, _: str, chosen: NDArray[np.int64]) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
        """Return the items of all, side by side, and their lengths."""
        assert len(chosen) == len(self._items)
        return np.concatenate(self._items), np.array([len(items) for items in self._items])

    def numbers(self, _: str, chosen: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the first target of all."""
        assert len(chosen) == len(self._items)
        return self._first_targets


def records_of(blocks: Iterable[dict[str, bytes]]) -> Iterator[Record]:
    """Yield the histories of blocks."""
    for block in blocks:
        records = Records(pa.ipc.open_stream(block["arrow"]).read_next_batch())
        yield from map(records.__getitem__, range(len(records)))


def samples_of(blocks: Iterable[dict[str, bytes]]) -> Iterator[Sample]:
    """Yield of the histories of blocks what the task reads: the items, views of the block, and the first target."""
    for block in blocks:
        batch = pa.ipc.open_stream(block["arrow"]).read_next_batch()
        yield from zip(arrays_of(batch["items"]), batch["first_target"].to_pylist(), strict=True)


def read_webdataset(shards: list[str], encoder: Template) -> Iterator[packed.RowBatch]:
    """Yield micro-batches of one pass by webdataset, histories shuffled in its buffer and encoded one by one."""
    pipeline = webdataset.WebDataset(shards, shardshuffle=len(shards), seed=0).compose(records_of)
    windows = pipeline.shuffle(SHUFFLE_BUFFER).map(lambda found: Window(found["items"], found["first_target"]))
    encoded = windows.map(lambda window: encoder.encode(0, window))
    yield from batches_of(encoded.batched(WINDOW, collation_fn=packed.Examples.of))


def read_webdataset_vectors(shards: list[str], encoder: Template) -> Iterator[packed.RowBatch]:
    """Yield micro-batches of one pass by webdataset, histories shuffled in its buffer and encoded many at a time."""

    def collated(samples: list[Sample]) -> packed.Examples:
        return encode_all(encoder, Collected(samples), len(samples))

    pipeline = webdataset.WebDataset(shards, shardshuffle=len(shards), seed=0).compose(samples_of)
    yield from batches_of(pipeline.shuffle(SHUFFLE_BUFFER).batched(WINDOW, collation_fn=collated))


def read_webdataset_blocks(shards: list[str], encoder: Template) -> Iterator[packed.RowBatch]:
    """Yield micro-batches of one pass by webdataset, a block at a time in the order of the files."""

    def windows() -> Iterator[packed.Examples]:
        for block in webdataset.WebDataset(shards, shardshuffle=False):
            records = Records(pa.ipc.open_stream(block["arrow"]).read_next_batch())
            yield encode_all(encoder, records, len(records))

    yield from batches_of(windows())


def read_bare(folder: Path, names: list[str], index: NDArray[np.void], encoder: Template) -> Iterator[packed.RowBatch]:
    """Yield micro-batches of one pass over the blocks by pread, in the order of the files."""
    yield from batches_of(encode_all(encoder, records, len(records)) for records in bare_blocks(folder, names, index))


def bare_blocks(folder: Path, names: list[str], index: NDArray[np.void]) -> Iterator[Records]:
    """Yield the decoded blocks in the order of the files."""
    files = [os.open(folder / name, os.O_RDONLY) for name in names]
    try:
        for shard, offset, length in zip(
            *(index[name].tolist() for name in ("shard", "offset", "length")), strict=True
        ):
            yield Records(decode_block(os.pread(files[shard], length, offset)))
    finally:
        for file in files:
            os.close(file)


def exhaust(batches: Iterable[object]) -> None:
    """Read everything."""
    for _ in batches:
        pass


def histories(store: BlockStore, encoder: Template, lanes: int, repeats: int) -> list[Row]:
    """Return our rate next to the peers'; they take turns."""
    folder, shards = Path(store.folder), sorted(str(path) for path in Path(store.folder).glob("*.tar"))
    names, index = [Path(shard).name for shard in shards], np.array(store.index)
    batches = round(stream_of(store, encoder, lanes).steps(1) * lanes / MICRO_BATCH_SIZE)
    # Examples of a row are numbered from 1, so its largest number is how many it holds.
    ours = sum(int(b.segments_RT.amax(1).sum()) for b in read_ours(store, encoder, lanes, batches))
    peers = {
        "webdataset": lambda: read_webdataset(shards, encoder),
        "webdataset, encode_many": lambda: read_webdataset_vectors(shards, encoder),
        "webdataset, encode_many, file order": lambda: read_webdataset_blocks(shards, encoder),
        "bare pread + Arrow, collated": lambda: read_bare(folder, names, index, encoder),
        "bare pread + Arrow, not collated": lambda: bare_blocks(folder, names, index),
    }
    calls = [lambda: read_ours(store, encoder, lanes, batches), *peers.values()]
    seconds, *theirs = paired_seconds(
        *(lambda call=call: exhaust(call()) for call in calls), repeats=repeats, clock=time.process_time
    )
    setting = f"{NUM_HISTORIES:,} histories, {lanes} lanes"
    return [
        compare("stream.histories", setting, ours / seconds, peer, NUM_HISTORIES / taken, "histories/s")
        for peer, taken in zip(peers, theirs, strict=True)
    ]


def write_index(folder: Path, shards: Path, store: BlockStore) -> None:
    """Write an index of a million shards; wherever it leads, there lies the first shard of `store`."""
    folder.mkdir()
    name = f"shards-{0:06d}.tar"
    shutil.copy(shards / name, folder / name)
    index = np.empty(NUM_SHARDS * BLOCKS_PER_SHARD, INDEX_DTYPE)
    index.reshape(NUM_SHARDS, BLOCKS_PER_SHARD)[:] = store.index[:BLOCKS_PER_SHARD]
    index["shard"] = np.repeat(np.arange(NUM_SHARDS, dtype=np.uint32), BLOCKS_PER_SHARD)
    np.save(folder / INDEX, index)
    names = {"format": FORMAT, "records_per_block": RECORDS_PER_BLOCK, "shards": [name] * NUM_SHARDS}
    (folder / NAMES).write_text(json.dumps(names | {"index_crc32c": fingerprint_of(index)}))


def resume(folder: Path, encoder: Template, lanes: int, repeats: int) -> list[Row]:
    """Return the seconds of opening a million shards, and from a checkpoint's state to the first micro-batch there."""
    (opening,) = paired_seconds(partial(BlockStore, folder), repeats=repeats, clock=time.process_time)
    store = BlockStore(folder)
    state = stream_of(store, encoder, lanes).state_dict()
    per_lane = store.num_records // lanes
    draws = np.random.default_rng(0)
    # Anywhere in ten epochs; and the last windows of the first.
    positions = [draws.integers(10 * per_lane, size=lanes) for _ in range(NUM_POSITIONS)]
    positions += [np.full(lanes, per_lane - back) for back in (1, WINDOW // 2, WINDOW)]
    taken = []
    for starts in positions:
        state["lanes"] = [[int(start), 0] for start in starts]
        begin = time.process_time()
        stream = stream_of(store, encoder, lanes)
        stream.load_state_dict(state)
        next(iter(stream.train_dataloader()))
        taken.append(time.process_time() - begin)
    what = f"{NUM_SHARDS:,} shards, {store.num_blocks:,} blocks, {store.num_records:,} histories"
    reached = f"{what}; {lanes} lanes, {len(positions)} positions"
    return [
        alone("stream.open", what, opening, "s"),
        alone("stream.resume", f"{reached}, median", statistics.median(taken), "s"),
        alone("stream.resume", f"{reached}, slowest", max(taken), "s"),
        alone("stream.resume", f"{reached}, slowest, index opened anew", opening + max(taken), "s"),
    ]


def main() -> None:
    """Measure and record."""
    parser = arguments(__doc__ or "")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--folder", type=Path, help="where 2.3 GB of shards and index are put for a while")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    encoder = template()
    with tempfile.TemporaryDirectory(dir=asked.folder) as scratch:
        shards, million = Path(scratch) / "shards", Path(scratch) / "million"
        store = write_shards(shards)
        rows = [row for lanes in (8, 64) for row in histories(store, encoder, lanes, asked.repeats)]
        write_index(million, shards, store)
        rows += resume(million, encoder, 8, asked.repeats)
    record(rows, asked.json)


if __name__ == "__main__":
    main()
