"""What a trillion events ask of the bookkeeping: an index of a million shards, read by 4,096 ranks, simulated.

    python -m benchmarks.scale --json benchmarks/results/scale.json

The index is that of `benchmarks.stream`: a million names and 64 million places that all lead to one real shard. Order,
index and stream are the product's own. Every block's place in an epoch is computed, for all ranks, and counted: each
block once. Figures are seconds of one thread.
"""

from __future__ import annotations

import json
import os
import statistics
import tempfile
import time
from functools import partial
from itertools import islice
from pathlib import Path

import numpy as np
import torch

from benchmarks.prepare import resident_bytes
from benchmarks.record import Row, alone, arguments, record
from benchmarks.stream import (
    NUM_SHARDS,
    SEQ_LEN,
    TASK,
    WINDOW,
    exhaust,
    template,
    write_histories,
    write_index,
    write_shards,
)
from trialign.config.train import StreamConfig
from trialign.generate.task import NO_TEXTS
from trialign.generate.template import Template
from trialign.runtime.seeding import derive
from trialign.stream.lanes import LaneSource, LaneStream
from trialign.stream.order import Permutation, SourceOrder, lane_range
from trialign.stream.shards import INDEX_DTYPE, BlockStore

RANKS, LANES = 4096, 8192
NUM_POSITIONS, NUM_RANKS_WALKED = 100, 8
WINDOW_ITEMS, LONG_ROW = 50, 1024


def windows_of(folder: Path, encoder: Template) -> list[Row]:
    """Return what full windows take on disk and in the index, and how fast one thread makes rows of them."""
    store = write_histories(folder, np.full(64 * 1024, WINDOW_ITEMS))
    size = sum(path.stat().st_size for path in folder.glob("*.tar"))
    stream = LaneStream(
        [LaneSource(TASK, store)],
        partial(encoder.encode_many, NO_TEXTS),
        StreamConfig(global_batch_size=8, seq_len=LONG_ROW, packing_buffer=WINDOW),
        seed=0,
    )
    rows = stream.rows()
    exhaust(islice(rows, 800))
    taken = []
    for _ in range(7):
        begin = time.process_time()
        used = sum(int((row.segments > 0).sum()) for row in islice(rows, 800))
        taken.append((time.process_time() - begin) / used)
    what = f"windows of {WINDOW_ITEMS} items, user keys of 14 bytes"
    return [
        alone("scale.window", f"{what}, tar included", size / store.num_records, "bytes"),
        alone("scale.index", "one block", INDEX_DTYPE.itemsize, "bytes"),
        alone("scale.tokens", f"{what}, rows of {LONG_ROW}", 1 / statistics.median(taken), "tokens/s"),
    ]


def opening(folder: Path) -> list[Row]:
    """Return what it takes to open the index, in seconds and memory."""
    before = resident_bytes(os.getpid())
    begin = time.process_time()
    store = BlockStore(folder)
    taken = time.process_time() - begin
    own = resident_bytes(os.getpid()) - before - store.index.nbytes
    what = f"{NUM_SHARDS:,} shards, {store.num_blocks:,} blocks"
    return [
        alone("scale.open", what, taken, "s"),
        alone(
            "scale.mapped", f"{what}: the index, mapped and shared by all processes", store.index.nbytes / 2**30, "GiB"
        ),
        alone("scale.names", f"{what}: what each process holds of its own", own / 2**20, "MiB"),
    ]


def first_rows(store: BlockStore, encoder: Template) -> list[Row]:
    """Return the seconds from a checkpoint's state to the first row of each lane, for random ranks and places."""
    draws = np.random.default_rng(0)
    taken = []
    for rank in draws.choice(RANKS, NUM_POSITIONS, replace=False).tolist():
        lanes = range(rank, LANES, RANKS)
        starts = draws.integers(store.num_records // LANES * 3, size=len(lanes)).tolist()
        begin = time.process_time()
        stream = LaneStream(
            [LaneSource(TASK, store)],
            partial(encoder.encode_many, NO_TEXTS),
            StreamConfig(global_batch_size=LANES, seq_len=SEQ_LEN, packing_buffer=WINDOW),
            seed=0,
            rank=rank,
            world_size=RANKS,
            state={lane: (start, 0) for lane, start in zip(lanes, starts, strict=True)},
        )
        rows = stream.rows()
        found = [next(rows).lane for _ in lanes]
        taken.append(time.process_time() - begin)
        assert found == list(lanes)
    setting = f"rank of {RANKS:,}, {LANES // RANKS} lanes, {NUM_POSITIONS} ranks and positions"
    return [
        alone("scale.resume", f"{setting}, median", statistics.median(taken), "s"),
        alone("scale.resume", f"{setting}, slowest", max(taken), "s"),
    ]


def whole_epoch(store: BlockStore) -> list[Row]:
    """Compute the place of every block in an epoch, rank by rank, and count; and walk some ranks run by run."""
    order = SourceOrder(TASK, store.num_records, store.records_per_block, seed=0)
    size = store.records_per_block
    blocks_in_order = Permutation(store.num_blocks, derive(order.seed, "blocks", order.name, 0))
    seen = np.zeros(store.num_blocks, np.uint8)
    begin = time.process_time()
    for rank in range(RANKS):
        for lane in range(rank, LANES, RANKS):
            start, stop = lane_range(lane, LANES, store.num_records)
            # A block on the border of two lanes is read by both; it is counted where it begins.
            seen[blocks_in_order(np.arange(-(-start // size), -(-stop // size)))] += 1
    counted = time.process_time() - begin
    assert (seen == 1).all(), "a block left out, or given twice"
    runs = records = 0
    begin = time.process_time()
    for rank in np.random.default_rng(1).choice(RANKS, NUM_RANKS_WALKED, replace=False).tolist():
        for lane in range(rank, LANES, RANKS):
            start, stop = lane_range(lane, LANES, store.num_records)
            while start < stop:
                run = order.run(0, start, stop)
                start, runs, records = run.stop, runs + 1, records + len(run.records)
    walked = time.process_time() - begin
    share = records / store.num_records
    return [
        alone("scale.epoch", f"all {store.num_blocks:,} blocks placed once, {RANKS:,} ranks", counted, "s"),
        alone(
            "scale.run",
            f"{runs:,} runs of {NUM_RANKS_WALKED} ranks, {share:.2%} of an epoch",
            walked / runs * 1e6,
            "us",
        ),
    ]


def state_size() -> Row:
    """Return the bytes of a checkpoint's state of all lanes."""
    lanes = [[10**9, 30]] * LANES
    return alone("scale.state", f"{LANES:,} lanes, as JSON", len(json.dumps(lanes)) / 1024, "KiB")


def main() -> None:
    """Measure and record."""
    parser = arguments(__doc__ or "")
    parser.add_argument("--folder", type=Path, help="where 2.2 GB of shards and index are put for a while")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    encoder = template()
    with tempfile.TemporaryDirectory(dir=asked.folder) as scratch:
        shards, million = Path(scratch) / "shards", Path(scratch) / "million"
        write_index(million, shards, write_shards(shards))
        rows = [*windows_of(Path(scratch) / "windows", encoder), *opening(million)]
        store = BlockStore(million)
        rows += [*first_rows(store, encoder), *whole_epoch(store), state_size()]
    record(rows, asked.json)


if __name__ == "__main__":
    main()
