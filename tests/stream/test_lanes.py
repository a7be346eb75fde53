from __future__ import annotations

import os
import signal
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch.utils.data import DataLoader

from tests.stream.single import one_by_one
from trialign.config.train import StreamConfig
from trialign.errors import ConfigError, DataError
from trialign.stream.blocks import Record
from trialign.stream.lanes import LaneSource, LaneStream, MicroBatches, load_rows
from trialign.stream.order import lane_range
from trialign.stream.rows import Row, RowBatch, TokenizedExample
from trialign.stream.shards import BlockStore

SOURCE = 1_000_000
"""Token of record i of source s, in `history_store`: s * SOURCE + i, as often as its history is long."""

Stores = Callable[..., BlockStore]


def encode(source: int, record: Record) -> TokenizedExample:
    tokens = record["items"].astype(np.int64) + source * SOURCE
    return TokenizedExample(tokens, np.arange(len(tokens)) > 0, task=source)


def stream(sources: list[LaneSource], **changes: Any) -> LaneStream:
    sizes: dict[str, Any] = {"global_batch_size": 6, "seq_len": 24, "packing_buffer": 16, "damaged": "stop"}
    sizes |= {name: changes.pop(name) for name in sizes if name in changes}
    return LaneStream(
        sources, one_by_one(changes.pop("encode", encode)), StreamConfig(**sizes), **{"seed": 3} | changes
    )


def examples_of(row: Row) -> list[int]:
    """Return the token that stands for each example of a row, in order."""
    starts = np.flatnonzero((row.segments > 0) & (row.positions == 0))
    return row.tokens[starts].tolist()


def lane_of(lane: int, sources: list[LaneSource], **changes: Any) -> Iterator[Row]:
    """Return the rows of one lane: those of a rank that owns no other."""
    return iter(stream(sources, rank=lane, world_size=changes.get("global_batch_size", 6), **changes))  # type: ignore[arg-type]


def global_batches(sources: list[LaneSource], steps: int, world_size: int, workers: int = 0, **changes: Any) -> Any:
    """Return, for each step, every lane's tokens, gathered over simulated ranks."""
    lanes, micro_batch_size = changes.get("global_batch_size", 6), changes.pop("micro_batch_size", 1)
    batches: list[dict[int, list[int]]] = [{} for _ in range(steps)]
    for rank in range(world_size):
        loader = DataLoader(
            stream(sources, rank=rank, world_size=world_size, **changes), batch_size=None, num_workers=workers
        )
        micro = MicroBatches(loader, rows_per_step=lanes // world_size, micro_batch_size=micro_batch_size)
        per_step = lanes // world_size // micro_batch_size
        for number, batch in enumerate(islice(micro, steps * per_step)):
            for lane, tokens in zip(batch.lanes_R.tolist(), batch.tokens_RT.tolist(), strict=True):
                assert lane not in batches[number // per_step]
                batches[number // per_step][lane] = tokens
    return batches


@pytest.mark.parametrize(("num_records", "size", "num_lanes"), [(50, 7, 6), (64, 8, 8), (23, 100, 23), (41, 1, 3)])
def test_an_epoch_of_all_lanes_holds_every_record_once(
    history_store: Stores, num_records: int, size: int, num_lanes: int
) -> None:
    source = LaneSource("train", history_store(num_records, size))
    for epoch in range(3):
        seen: list[int] = []
        for lane in range(num_lanes):
            start, stop = lane_range(lane, num_lanes, num_records)
            # A window of one: the rows are the order itself.
            rows = lane_of(lane, [source], global_batch_size=num_lanes, packing_buffer=1)
            mine = islice(rows, epoch * (stop - start), (epoch + 1) * (stop - start))
            seen += [example for row in mine for example in examples_of(row)]
        assert sorted(seen) == list(range(num_records))


def test_packing_moves_examples_only_inside_their_window(history_store: Stores) -> None:
    sources = [LaneSource("a", history_store(50, 7)), LaneSource("b", history_store(31, 10), weight=2.0)]
    one_by_one = list(islice(lane_of(2, sources, packing_buffer=1), 160))
    packed: dict[int, list[int]] = {}
    start = 0
    for row in lane_of(2, sources, packing_buffer=16):
        packed.setdefault(start, []).extend(examples_of(row))
        start = row.start
        if len(packed) == 10 and start not in packed:
            break
    sizes = [stop - start for start, stop in pairwise([*packed, start])]
    assert max(sizes) == 16
    assert 8 <= min(sizes) < 16  # some gave examples back
    for (start, found), size in zip(packed.items(), sizes, strict=True):
        expected = [example for row in one_by_one[start : start + size] for example in examples_of(row)]
        assert Counter(found) == Counter(expected)


def test_sources_are_drawn_by_size_times_weight(history_store: Stores) -> None:
    sources = [LaneSource("a", history_store(60, 7)), LaneSource("b", history_store(30, 10), weight=3.0)]
    rows = islice(stream(sources, packing_buffer=1), 600)
    drawn = Counter(example // SOURCE for row in rows for example in examples_of(row))
    assert drawn[0] == pytest.approx(240, abs=6)
    assert drawn[1] == pytest.approx(360, abs=6)


def test_two_tasks_on_one_store_go_through_it_in_different_orders(history_store: Stores) -> None:
    store = history_store(60, 7)
    rows = stream([LaneSource("a", store), LaneSource("b", store)], global_batch_size=1, packing_buffer=1)
    examples = [example for row in islice(rows, 120) for example in examples_of(row)]
    first, second = ([e % SOURCE for e in examples if e // SOURCE == source] for source in (0, 1))
    assert sorted(first) == sorted(second) == list(range(60))
    assert first != second


@pytest.mark.parametrize(
    ("world_size", "micro_batch_size", "workers"), [(2, 1, 0), (3, 2, 0), (6, 1, 0), (1, 6, 2), (2, 3, 3)]
)
def test_global_batches_are_equal_for_any_ranks_and_workers(
    history_store: Stores, world_size: int, micro_batch_size: int, workers: int
) -> None:
    sources = [LaneSource("a", history_store(50, 7)), LaneSource("b", history_store(31, 10), weight=0.5)]
    alone = global_batches(sources, 12, 1)
    assert all(sorted(batch) == list(range(6)) for batch in alone)
    assert global_batches(sources, 12, world_size, workers, micro_batch_size=micro_batch_size) == alone


def test_micro_batches_follow_the_order_of_the_lanes_with_workers(history_store: Stores) -> None:
    sources = [LaneSource("a", history_store(50, 7))]
    for workers in (0, 3):
        loader = DataLoader(stream(sources), batch_size=None, num_workers=workers)
        micro = MicroBatches(loader, rows_per_step=6, micro_batch_size=2)
        assert [batch.lanes_R.tolist() for batch in islice(micro, 6)] == [[0, 1], [2, 3], [4, 5]] * 2


def test_a_stream_resumed_at_any_step_is_the_uninterrupted_one(history_store: Stores) -> None:
    sources = [LaneSource("a", history_store(50, 7)), LaneSource("b", history_store(31, 10), weight=0.5)]
    steps = 18
    whole = global_batches(sources, steps, 1)
    rows = list(islice(stream(sources), 6 * steps))
    for step in range(steps):
        state = {row.lane: (row.start, row.row) for row in rows[: 6 * step]}
        for world_size in (1, 3):
            resumed = global_batches(sources, min(3, steps - step), world_size, state=state)
            assert resumed == whole[step : step + 3]
    assert any(row.start > 32 for row in rows)


def test_the_state_never_points_behind_a_window(history_store: Stores) -> None:
    rows = list(islice(lane_of(0, [LaneSource("a", history_store(50, 7))]), 40))
    for (start, row), after in pairwise([(0, 0), *((row.start, row.row) for row in rows)]):
        assert after == (start, row + 1) or (after[1] == 0 and start < after[0] <= start + 16)
    assert {row.row for row in rows} > {0, 1}


def test_rows_of_a_window_are_not_in_the_order_of_packing(history_store: Stores) -> None:
    # Packing opens rows with the longest examples; the first rows of windows must not hold longer ones than the last.
    sources = [LaneSource("a", history_store(400, 50, longest=20))]
    firsts: list[int] = []
    lasts: list[int] = []
    window: list[int] = []
    for row in islice(lane_of(0, sources, global_batch_size=1, packing_buffer=64), 900):
        window.append(int(np.bincount(row.segments)[1:].max()))
        if row.row == 0:
            firsts.append(window[0])
            lasts.append(window[-1])
            window = []
    assert len(firsts) > 20
    assert abs(np.mean(firsts) - np.mean(lasts)) < 3


def test_every_window_of_every_lane_has_an_order_of_its_rows_of_its_own(history_store: Stores) -> None:
    """Examples of one length: packing fills rows in the order of the lane, so what is served is the shuffle alone."""

    def alike(source: int, record: Record) -> TokenizedExample:
        return TokenizedExample(np.repeat(record["items"][:1].astype(np.int64), 6), np.ones(6, np.bool_), 0)

    sources = [LaneSource("a", history_store(500, 50))]
    served = {}
    for lane in (0, 1):
        changes: dict[str, Any] = {"global_batch_size": 2, "encode": alike}
        in_order = [examples_of(row)[0] for row in islice(lane_of(lane, sources, packing_buffer=1, **changes), 160)]
        rows = [examples_of(row) for row in islice(lane_of(lane, sources, packing_buffer=16, **changes), 40)]
        firsts = [in_order[4 * number] for number in range(40)]
        windows = [[firsts[4 * w : 4 * w + 4].index(row[0]) for row in rows[4 * w : 4 * w + 4]] for w in range(10)]
        assert all(sorted(window) == [0, 1, 2, 3] for window in windows)
        served[lane] = windows
    assert len({tuple(window) for window in served[0]}) >= 5
    assert served[0] != served[1]


def test_step_targets_count_the_rank_and_mark_the_first_micro_batch(history_store: Stores) -> None:
    rows = stream([LaneSource("a", history_store(50, 7))], rank=1, world_size=2)
    batches: list[RowBatch] = list(islice(MicroBatches(rows, rows_per_step=3, micro_batch_size=1), 9))
    assert [batch.first_of_step for batch in batches] == [True, False, False] * 3
    for step in range(3):
        of_step = batches[3 * step : 3 * step + 3]
        total = sum(int(batch.targets_RT.sum()) for batch in of_step)
        assert total > 0
        assert [batch.step_targets for batch in of_step] == [total] * 3


def test_empty_examples_take_no_room(history_store: Stores) -> None:
    def even_only(source: int, record: Record) -> TokenizedExample:
        example = encode(source, record)
        return example if example.tokens[0] % 2 == 0 else TokenizedExample(example.tokens[:0], example.targets[:0], 0)

    rows = list(islice(stream([LaneSource("a", history_store(50, 7))], encode=even_only, packing_buffer=2), 300))
    assert {example for row in rows for example in examples_of(row)} == set(range(0, 50, 2))


def test_a_lane_without_anything_to_learn_from_is_refused_instead_of_searching_for_ever(history_store: Stores) -> None:
    def nothing(source: int, record: Record) -> TokenizedExample:
        return TokenizedExample(np.zeros(0, np.int64), np.zeros(0, np.bool_), 0)

    with pytest.raises(DataError, match="lane 0 of 6 found no token"):
        next(iter(stream([LaneSource("a", history_store(50, 7))], encode=nothing)))


def test_more_lanes_than_examples_are_refused(history_store: Stores) -> None:
    sources = [LaneSource("a", history_store(50, 7)), LaneSource("titles", history_store(5, 7))]
    with pytest.raises(ConfigError, match=r"task 'titles' has 5 examples\n.*\n.*stream\.global_batch_size=5 or fewer"):
        stream(sources)
    assert len(list(islice(stream(sources, global_batch_size=5), 10))) == 10


def test_an_empty_source_is_refused(history_store: Stores) -> None:
    with pytest.raises(ConfigError, match=r"has 0 examples\n.*\n.*leave 'a' out"):
        stream([LaneSource("a", history_store(0, 7))])


@pytest.mark.parametrize("weight", [0.0, -1.0, float("nan"), float("inf")])
def test_weights_are_positive_numbers(history_store: Stores, weight: float) -> None:
    with pytest.raises(ConfigError, match="weight of task 'a' is"):
        stream([LaneSource("a", history_store(50, 7), weight)])


def test_rows_per_epoch_are_estimated_well(history_store: Stores) -> None:
    source = LaneSource("a", history_store(600, 50))
    rows = stream([source], packing_buffer=50)
    num_examples = sum(len(examples_of(row)) for row in islice(rows, 600))
    assert rows.rows_per_epoch() == pytest.approx(600 / num_examples * 600, rel=0.1)
    twice = stream([LaneSource("a", source.store, weight=2.0)], packing_buffer=50)
    assert twice.rows_per_epoch() == pytest.approx(2 * rows.rows_per_epoch()), "an epoch goes through it twice"


@pytest.mark.parametrize("workers", [0, 2])
def test_a_damaged_shard_stops_training_with_its_own_error(history_store: Stores, workers: int) -> None:
    store = history_store(50, 7)
    for shard in Path(store.folder).glob("*.tar"):
        shard.write_bytes(bytes(shard.stat().st_size))
    loader = DataLoader(stream([LaneSource("a", store)]), batch_size=None, num_workers=workers)
    with pytest.raises(DataError, match="crc32c"):
        next(iter(MicroBatches(loader, rows_per_step=6, micro_batch_size=6)))


def damage(store: BlockStore, block: int) -> None:
    entry = store.index[block]
    path = Path(store.folder) / f"shards-{entry['shard']:06d}.tar"
    with path.open("rb+") as shard:
        shard.seek(int(entry["offset"]) + int(entry["length"]) // 2)
        byte = shard.read(1)[0]
        shard.seek(-1, 1)
        shard.write(bytes([byte ^ 1]))


def test_a_skipped_block_takes_its_own_records_and_nothing_else(history_store: Stores) -> None:
    store = history_store(50, 7)
    settings: dict[str, Any] = {"packing_buffer": 1, "global_batch_size": 1, "seq_len": 9}
    sound = list(islice(stream([LaneSource("a", store)], **settings), 150))
    damage(store, 2)
    lost = set(range(14, 21))
    rows = list(islice(stream([LaneSource("a", store)], damaged="skip", **settings), 150 - 3 * len(lost) + 1))
    expected = [row.tokens.tolist() for row in sound if not set(examples_of(row)) & lost]
    assert [row.tokens.tolist() for row in rows[:-1]] == expected
    # Three epochs met it, in seven windows of one record each; the row after a gap tells of it.
    assert [block for row in rows for block in row.skipped] == [(0, 2)] * 3 * 7


@pytest.mark.parametrize(("world_size", "workers"), [(2, 0), (6, 0), (1, 3)])
def test_a_skipped_block_is_missing_alike_on_all_ranks_and_after_resuming(
    history_store: Stores, world_size: int, workers: int
) -> None:
    sources = [LaneSource("a", history_store(50, 7)), LaneSource("b", history_store(31, 10), weight=0.5)]
    damage(sources[0].store, 3)
    whole = global_batches(sources, 12, 1, damaged="skip")
    assert global_batches(sources, 12, world_size, workers, damaged="skip") == whole
    state = {row.lane: (row.start, row.row) for row in islice(stream(sources, damaged="skip"), 6 * 5)}
    assert global_batches(sources, 7, world_size, workers, damaged="skip", state=state) == whole[5:]


def test_nothing_but_damage_is_refused_even_if_damage_is_skipped(history_store: Stores) -> None:
    store = history_store(50, 7)
    for block in range(store.num_blocks):
        damage(store, block)
    with pytest.raises(DataError, match="lane 0 of 6 found no token"):
        next(iter(stream([LaneSource("a", store)], damaged="skip")))


def test_with_a_sample_log_rows_say_which_records_of_which_epoch_they_hold(history_store: Stores) -> None:
    sources = [LaneSource("a", history_store(50, 7)), LaneSource("b", history_store(31, 10))]
    rows = list(islice(stream(sources, sample_log=True), 120))
    for row in rows:
        assert [source * SOURCE + int(key) for source, _, key in row.records] == examples_of(row)
    found = Counter((source, epoch, key) for row in rows for source, epoch, key in row.records)
    assert set(found.values()) == {1}
    assert sum((source, epoch) == (0, 0) for source, epoch, _ in found) == 50
    assert all(row.records == () for row in islice(stream(sources), 30))


def test_workers_leave_the_warnings_of_the_batch_system_alone(history_store: Stores) -> None:
    loader = load_rows(stream([LaneSource("a", history_store(50, 7))]), workers=2, prefetch=1)
    rows = iter(loader)
    for _ in range(2):
        next(rows)  # one of each worker: both are up
    for worker in rows._workers:  # type: ignore[attr-defined]  # torch's
        os.kill(worker.pid, signal.SIGUSR1)
        os.kill(worker.pid, signal.SIGUSR2)
    assert len(list(islice(rows, 60))) == 60
