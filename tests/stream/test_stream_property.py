"""The exact, elastic stream as one property, over random layouts, kills, and numbers of ranks and workers.

Whatever the layout (sources, records per block, sizes, weights, lanes, window), and however often a run is killed and
continues from the state last saved on other numbers of ranks and workers: every step's global batch is, byte for byte,
that of one uninterrupted process without workers, and every record of every source occurs exactly once per epoch.

Seen to fail under each of these changes:

1. resume a row late: `row += row > 0` after the state is read in `LaneStream._rows`;
2. a lane's bound off by one: `(lane + 1) * num_records // num_lanes - (lane > 0)` as the end in `lane_range`;
3. a worker takes neighbouring lanes: `self.lanes[worker * n : worker * n + n]`, n for each, in `LaneStream.rows`;
4. what follows the short block is not shifted: `start` instead of `start + missing * after` in `SourceOrder.run`;
5. a window that gives examples back continues behind them: `start + self._window` in `LaneStream._rows`;
6. chance comes from a generator that runs on: `np.random.random(len(chosen))` for `draws` in `LaneStream._read`.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from hashlib import sha256
from itertools import islice
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from trialign.config.train import StreamConfig
from trialign.errors import TrialignError
from trialign.stream.blocks import Records
from trialign.stream.lanes import LaneSource, LaneStream, MicroBatches, load_rows
from trialign.stream.order import Draws, Indices, fitting_workers
from trialign.stream.rows import Examples, Row, RowBatch
from trialign.stream.shards import BlockStore

NUM_LAYOUTS = 1_000
NUM_CHUNKS = 20
NUM_KILLS = 20
MOST_PROCESSES = 8
MOST_RANKS = 8
MOST_WORKERS = 4

fork = multiprocessing.get_context("fork")

State = dict[int, tuple[int, int]]
"""(start of a window, row) of every lane."""

Key = tuple[int, int, str | int]
"""(source, epoch, key of the record)."""


def encode(source: int, records: Records, chosen: Indices, draws: Draws) -> Examples:
    """Write the items of a history and what chance gave it, in a range of tokens of each source's own."""
    items, lengths = records.lists("items", chosen)
    chance = np.repeat((draws * 2**32).astype(np.int64), lengths)
    return Examples(
        tokens=items + np.int64(1 + source * 1_000) + chance * 10_000,
        targets=np.ones(len(items), np.bool_),
        starts=np.cumsum(lengths) - lengths,
        lengths=lengths,
        tasks=np.full(len(lengths), source),
    )


@dataclass(frozen=True)
class Layout:
    """A stream but for its ranks."""

    sources: list[LaneSource]
    num_lanes: int
    seq_len: int
    window: int
    seed: int

    @classmethod
    def draw(cls, chance: np.random.Generator, history_store: Callable[..., BlockStore]) -> Layout:
        num_lanes = int(chance.choice([1, 2, 3, 4, 5, 6, 7, 8, 12, 16]))
        sources = []
        for number in range(chance.choice([1, 2, 3], p=[0.5, 0.35, 0.15])):
            num_records = int(num_lanes + chance.integers(0, 16))
            size = int(chance.choice([1, 4, 9, 16, 100], p=[0.04, 0.24, 0.24, 0.24, 0.24]))
            store = history_store(num_records, size)
            sources.append(LaneSource(f"task {number}", store, float(chance.choice([0.7, 1.0, 1.5]))))
        seq_len, window = int(chance.integers(9, 50)), int(chance.integers(2, 24))
        return cls(sources, num_lanes, seq_len, window, seed=int(chance.integers(1_000)))

    def stream(self, rank: int, world_size: int, state: State) -> LaneStream:
        return LaneStream(
            self.sources,
            encode,
            StreamConfig(global_batch_size=self.num_lanes, seq_len=self.seq_len, packing_buffer=self.window),
            seed=self.seed,
            rank=rank,
            world_size=world_size,
            state=state,
            sample_log=True,
        )


@dataclass(frozen=True)
class Step:
    """What a global batch holds.

    Attributes:
        digest: of every tensor of every row, in the order of the lanes.
        records: what the sample log is told.
        state: of every lane after it.
    """

    digest: str
    records: tuple[Key, ...]
    state: State


def gathered(batches: Iterable[RowBatch]) -> Step:
    """Return the step that the micro-batches of all ranks make up."""
    rows: dict[int, bytes] = {}
    records: list[Key] = []
    state = {}
    for batch in batches:
        for place, lane in enumerate(batch.lanes_R.tolist()):
            assert lane not in rows
            tensors = (batch.tokens_RT, batch.targets_RT, batch.segments_RT, batch.positions_RT, batch.tasks_RT)
            rows[lane] = b"".join(tensor[place].numpy().tobytes() for tensor in tensors)
            state[lane] = (int(batch.starts_R[place]), int(batch.rows_R[place]))
            records += batch.records[place]
    return Step(sha256(b"".join(rows[lane] for lane in range(len(rows)))).hexdigest(), tuple(records), state)


def in_turn(workers: Sequence[Iterator[Row]]) -> Iterator[Row]:
    """Yield the rows of simulated workers as a DataLoader does: one of each, round after round."""
    while True:
        for rows in workers:
            yield next(rows)


def simulated(layout: Layout, rank: int, world_size: int, state: State, workers: int) -> Any:
    """Return a rank's rows; each simulated worker has a stream of its own, as a forked one has."""
    streams = [layout.stream(rank, world_size, state) for _ in range(max(1, workers))]
    return in_turn([stream.rows(worker, len(streams)) for worker, stream in enumerate(streams)])


def steps(
    layout: Layout,
    loader: Callable[..., Iterable[Row | TrialignError]],
    world_size: int,
    workers: int,
    micro_batch_size: int,
    state: State,
) -> Iterator[Step]:
    """Yield the global batches of a world of ranks, without end."""
    per_rank = layout.num_lanes // world_size
    ranks = [
        iter(
            MicroBatches(
                loader(layout, rank, world_size, state, fitting_workers(workers, per_rank)),
                rows_per_step=per_rank,
                micro_batch_size=micro_batch_size,
            )
        )
        for rank in range(world_size)
    ]
    while True:
        yield gathered(batch for rank in ranks for batch in islice(rank, per_rank // micro_batch_size))


def uninterrupted(layout: Layout) -> list[Step]:
    """Return the steps of one process without workers, until every source has been gone through once."""
    missing = {(number, 0): source.store.num_records for number, source in enumerate(layout.sources)}
    found = []
    for step in steps(layout, simulated, 1, 0, layout.num_lanes, {}):
        found.append(step)
        for source, epoch, _ in step.records:
            if epoch == 0:
                missing[source, 0] -= 1
        if not any(missing.values()):
            return found
        assert len(found) < 3_000
    raise AssertionError


def world(chance: np.random.Generator, num_lanes: int) -> tuple[int, int, int]:
    """Draw ranks, workers and rows per micro-batch that a number of lanes can be divided over."""
    ranks = int(chance.choice([w for w in range(1, MOST_RANKS + 1) if num_lanes % w == 0]))
    per_rank = num_lanes // ranks
    micro_batch_size = int(chance.choice([rows for rows in range(1, per_rank + 1) if per_rank % rows == 0]))
    return ranks, int(chance.integers(0, MOST_WORKERS + 1)), micro_batch_size


def killed_and_resumed(layout: Layout, chance: np.random.Generator, num_steps: int) -> list[Step]:
    """Return as many steps of a run that is killed again and again, always continuing elsewhere from the last save."""
    kept: list[Step] = []
    while len(kept) < num_steps:
        left = num_steps - len(kept)
        saved = int(chance.integers(0, left + 1))
        lost = int(chance.integers(0, 3))  # trained on after the save, and gone with the process
        state = kept[-1].state if kept else {}
        taken = list(islice(steps(layout, simulated, *world(chance, layout.num_lanes), state), saved + lost))
        kept += taken[:saved]
    return kept


def require_exact_epochs(layout: Layout, taken: Sequence[Step]) -> None:
    """Every record of every source once in each epoch that is over, at most once in one that is not."""
    found = Counter(record for step in taken for record in step.records)
    assert set(found.values()) == {1}
    for number, source in enumerate(layout.sources):
        keys = {str(record) for record in range(source.store.num_records)}
        of_source = [(epoch, key) for of, epoch, key in found if of == number]
        assert {key for epoch, key in of_source if epoch == 0} == keys
        assert {key for _, key in of_source} == keys


@pytest.mark.parametrize(
    "chunk", [0, 1, *(pytest.param(chunk, marks=pytest.mark.slow) for chunk in range(2, NUM_CHUNKS))]
)
def test_global_batches_and_epochs_are_exact_whatever_happens_to_the_run(
    history_store: Callable[..., BlockStore], chunk: int
) -> None:
    store = lru_cache(history_store)
    for case in range(chunk, NUM_LAYOUTS, NUM_CHUNKS):
        chance = np.random.default_rng(case)
        layout = Layout.draw(chance, store)
        whole = uninterrupted(layout)
        taken = killed_and_resumed(layout, chance, len(whole))
        assert [step.digest for step in taken] == [step.digest for step in whole], f"case {case}: {layout}"
        require_exact_epochs(layout, taken)


def loaded(layout: Layout, rank: int, world_size: int, state: State, workers: int) -> Iterable[Row | TrialignError]:
    """Return a rank's rows by a real loader."""
    return load_rows(layout.stream(rank, world_size, state), workers=workers, prefetch=2)


def train(layout: Layout, shape: tuple[int, int, int], checkpoint: Path, every: int, told: Connection) -> None:
    """Continue from the checkpoint for ever: tell of each step, and save at every few."""
    done, state = read(checkpoint)
    for step in steps(layout, loaded, *shape, state):
        done += 1
        told.send((done, step))
        if done % every == 0:
            aside = checkpoint.with_suffix(".tmp")
            aside.write_text(json.dumps([done, sorted(step.state.items())]))
            aside.replace(checkpoint)


def read(checkpoint: Path) -> tuple[int, State]:
    """Return the steps a checkpoint holds, and the state after them."""
    if not checkpoint.exists():
        return 0, {}
    done, state = json.loads(checkpoint.read_text())
    return done, {lane: (start, row) for lane, (start, row) in state}


@pytest.mark.parametrize("case", range(NUM_KILLS))
def test_a_process_with_real_workers_goes_on_exactly_after_kill_9(
    tmp_path: Path, history_store: Callable[..., BlockStore], case: int
) -> None:
    chance = np.random.default_rng(case)
    layout = Layout.draw(chance, history_store)
    whole = uninterrupted(layout)
    every, checkpoint = int(chance.integers(1, 4)), tmp_path / "state.json"
    taken: dict[int, Step] = {}
    num_killed = 0
    while (done := read(checkpoint)[0]) < len(whole):
        ranks, workers, micro_batch_size = world(chance, layout.num_lanes)
        shape = (ranks, min(max(1, workers), MOST_PROCESSES // ranks), micro_batch_size)
        heard, told = fork.Pipe(duplex=False)
        child = fork.Process(target=train, args=(layout, shape, checkpoint, every, told))
        child.start()
        told.close()
        last = done + every + 1 + int(chance.integers(0, len(whole)))  # by then it has saved once
        # Its workers hold the pipe, too: it ends when the last of them is gone.
        for number, step in messages(heard):
            taken[number] = step
            if number == last:
                os.kill(child.pid or 0, signal.SIGKILL)
        child.join()
        assert child.exitcode == -signal.SIGKILL
        num_killed += 1
        assert read(checkpoint)[0] >= done + every
    assert num_killed
    assert [taken[number].digest for number in range(1, len(whole) + 1)] == [step.digest for step in whole]
    require_exact_epochs(layout, [taken[number] for number in range(1, len(whole) + 1)])


def messages(heard: Connection) -> Iterator[tuple[int, Step]]:
    """Yield what a process tells until it is gone."""
    while True:
        try:
            yield heard.recv()
        except EOFError:
            return
