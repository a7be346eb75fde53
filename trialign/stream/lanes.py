"""Lanes: an endless stream of packed rows that is exact under interruption and under another number of ranks.

A global batch is one row of each of V lanes, for the whole of a run. Lane v owns a fixed part of every epoch of every
source, and its rows are a function of (v, start, row) alone: `start` is the example of the lane's own sequence that a
window begins with, `row` a row of that window. Rank r of W serves the lanes v with v mod W = r, worker i of w the i-th,
(i+w)-th, ... of those. So neither ranks nor workers can change what a global batch holds, and a lane's state is two
numbers.
"""

from __future__ import annotations

import ctypes
import signal
import sys
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from math import isfinite
from typing import NamedTuple

import numpy as np
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from trialign.config.train import StreamConfig
from trialign.errors import ConfigError, DataError, TrialignError
from trialign.runtime.seeding import derive
from trialign.stream.blocks import Records
from trialign.stream.order import Draws, Indices, Interleaving, Permutation, Run, SourceOrder, lane_range
from trialign.stream.rows import Examples, Row, RowBatch, fill_rows, pack_window, stack_rows
from trialign.stream.shards import BlockStore, DamagedBlockError

Encode = Callable[[int, Records, Indices, Draws], Examples]
"""(source index, a block, records of it, a number in 0..1 for each) to as many examples.

The numbers are all the chance there is, another for each record and epoch (`SourceOrder.draws`). Were an example to
depend on more, no resume would be exact.
"""

State = Mapping[int, tuple[int, int]]
"""(start of a window, row) that each lane continues with; a lane that is absent starts at (0, 0)."""

_PR_SET_PDEATHSIG = 1


@dataclass(frozen=True)
class LaneSource:
    """The finite list of examples of one task: one per record of its blocks.

    Attributes:
        name: another name, another order of the records.
        store: the blocks.
        weight: mean number of passes over the source per epoch of the mixture; 1 for all sources is
            the mixture in proportion to their sizes.
    """

    name: str
    store: BlockStore
    weight: float = 1.0

    @property
    def examples_per_epoch(self) -> float:
        """How many examples the source contributes to an epoch of the mixture."""
        return self.weight * self.store.num_records


@dataclass
class _Window:
    """One window of a lane: its examples, packed.

    Attributes:
        num_taken: how many of the examples it keeps; the next window begins with those that it gives back.
        examples: in the order of the lane.
        rows: of each row the indices of its examples, in the order the rows are served.
        records: where a sample log is kept, for each example (source, epoch, key).
        skipped: (source, block) of the damaged blocks it met.
    """

    num_taken: int
    examples: Examples
    rows: list[list[int]]
    records: list[tuple[int, int, str | int]]
    skipped: list[tuple[int, int]]


@dataclass
class _Reading:
    """The examples of a lane's window before packing, source by source."""

    parts: list[Examples] = field(default_factory=list)
    records: list[tuple[int, int, str | int]] = field(default_factory=list)
    skipped: list[tuple[int, int]] = field(default_factory=list)


class _Opened(NamedTuple):
    """The part of an epoch that a lane reads: its run, the block (None: damaged) and a random number per record."""

    run: Run
    records: Records | None
    draws: Draws


class LaneStream(IterableDataset[Row | TrialignError]):
    """The endless rows of one rank's lanes, one row per lane and round.

    In a worker process an error meant for the user is yielded rather than raised: torch would pass on only its text.

    Memory: one decoded block per lane and source (a block of 1,024 histories is about 0.2 MB) and one window of packed
    rows per lane, divided over the workers.

    Args:
        sources: what is interleaved.
        encode: turns records into examples.
        settings: `global_batch_size` is V, `seq_len` T, `packing_buffer` the window: how many examples a lane encodes
            and packs at a time; it gives back the last of them where keeping all would leave a row too empty, see
            `pack_window`. Records of a damaged block that is skipped are examples without tokens.
        seed: decides the order of everything.
        rank: r.
        world_size: W; divides V.
        state: where each lane continues.
        sample_log: whether rows say which records they hold.

    Raises:
        ConfigError: V exceeds a source's examples, or a weight is not positive.
    """

    def __init__(
        self,
        sources: Sequence[LaneSource],
        encode: Encode,
        settings: StreamConfig,
        *,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
        state: State | None = None,
        sample_log: bool = False,
    ) -> None:
        super().__init__()
        num_lanes = settings.global_batch_size
        _check(sources, num_lanes, settings.packing_buffer)
        assert num_lanes % world_size == 0, (num_lanes, world_size)
        self.sources = list(sources)
        self.num_lanes = num_lanes
        self.lanes = list(range(rank, num_lanes, world_size))
        self._encode = encode
        self._seq_len = settings.seq_len
        self._window = settings.packing_buffer
        self._seed = seed
        self._state = dict(state or {})
        self._damaged = settings.damaged
        self._sample_log = sample_log
        self._interleaving = Interleaving([source.examples_per_epoch for source in sources])
        self._orders = [
            SourceOrder(source.name, source.store.num_records, source.store.records_per_block, seed)
            for source in sources
        ]
        self._opened: dict[tuple[int, int], _Opened] = {}  # by lane and source

    def __iter__(self) -> Iterator[Row | TrialignError]:
        worker = get_worker_info()
        if worker is None:
            yield from self.rows()
            return
        try:
            yield from self.rows(worker.id, worker.num_workers)
        except TrialignError as error:
            yield error

    def rows(self, worker: int = 0, num_workers: int = 1) -> Iterator[Row]:
        """Return one worker's share of the rows: of every `num_workers`-th lane."""
        assert len(self.lanes) % num_workers == 0, "workers must divide the lanes of a rank"
        lanes = [self._rows(lane) for lane in self.lanes[worker::num_workers]]
        while True:
            for rows in lanes:
                yield next(rows)

    def rows_per_epoch(self, num_windows: int = 16) -> float:
        """Estimate the rows of one epoch of the mixture, by packing the first window of some lanes.

        An estimate: packing depends on which lengths meet in a window. Blocks are fair samples, so a few windows do.
        """
        lanes = sorted({lane * self.num_lanes // num_windows for lane in range(num_windows)})
        windows = [self._packed(lane, 0) for lane in lanes]
        rows_per_example = sum(len(window.rows) for window in windows) / sum(window.num_taken for window in windows)
        return rows_per_example * sum(source.examples_per_epoch for source in self.sources)

    def _rows(self, lane: int) -> Iterator[Row]:
        start, row = self._state.get(lane, (0, 0))
        num_idle = 0
        skipped: list[tuple[int, int]] = []
        while True:
            packed = self._packed(lane, start)
            skipped += packed.skipped
            start_of_next = start + packed.num_taken
            if not packed.rows:
                num_idle += packed.num_taken
                self._refuse_idleness(lane, num_idle)
                start, row = start_of_next, 0
                continue
            num_idle = 0
            filled = fill_rows(packed.examples, packed.rows[row:], self._seq_len)
            for number, laid_out in enumerate(zip(*filled, strict=True), start=row):
                after = (start, number + 1) if number + 1 < len(packed.rows) else (start_of_next, 0)
                records = tuple(packed.records[example] for example in packed.rows[number]) if self._sample_log else ()
                tokens, targets, segments, positions, tasks = laid_out
                yield Row(tokens, targets, segments, positions, tasks, lane, *after, records, tuple(skipped))
                skipped = []
            start, row = start_of_next, 0

    def _packed(self, lane: int, start: int) -> _Window:
        """Return the window of a lane that begins with its example `start`."""
        sources, indices = self._interleaving.locate(np.arange(start, start + self._window))
        reading = _Reading()
        places: list[Indices] = []
        for source in range(len(self.sources)):
            mine = np.flatnonzero(sources == source)
            if len(mine):
                # Neighbors in a lane's own sequence over a source, whatever is between them in the mixture.
                self._read(reading, lane, source, int(indices[mine[0]]), len(mine))
                places.append(mine)
        order = np.concatenate(places)
        examples = Examples.merge(reading.parts, order)
        num_taken, rows = pack_window(examples.lengths, self._seq_len)
        if rows:
            # Packing puts the longest examples into the first rows; training must not see that order.
            shuffle = Permutation(len(rows), derive(self._seed, "rows", lane, start // self._window))
            rows = [rows[row] for row in shuffle(np.arange(len(rows))).tolist()]
        records = [reading.records[place] for place in np.argsort(order)] if self._sample_log else []
        return _Window(num_taken, examples, rows, records, reading.skipped)

    def _read(self, reading: _Reading, lane: int, source: int, index: int, num_examples: int) -> None:
        """Add the next examples of a lane's own sequence over a source, from `index` on."""
        start, stop = lane_range(lane, self.num_lanes, self._orders[source].num_records)
        while num_examples:
            epoch, offset = divmod(index, stop - start)
            run, records, draws = self._open(lane, source, epoch, start + offset, stop)
            first = start + offset - run.start
            part = slice(first, first + num_examples)
            chosen = run.records[part]
            if records is None:
                reading.parts.append(Examples.nothing(len(chosen)))
                reading.skipped.append((source, run.block))
                keys: list[str | int] = [""] * len(chosen)
            else:
                reading.parts.append(self._encode(source, records, chosen, draws[part]))
                keys = records.keys(chosen) if self._sample_log else []
            reading.records.extend((source, epoch, key) for key in keys)
            index += len(chosen)
            num_examples -= len(chosen)

    def _open(self, lane: int, source: int, epoch: int, position: int, stop: int) -> _Opened:
        """Return the block at a position of an epoch, and the lane's part of it."""
        opened = self._opened.get((lane, source))
        if opened is None or opened.run.epoch != epoch or not opened.run.start <= position < opened.run.stop:
            run = self._orders[source].run(epoch, position, stop)
            try:
                records = Records(self.sources[source].store.read(run.block))
            except DamagedBlockError:
                if self._damaged != "skip":
                    raise
                records = None
            draws = self._orders[source].draws(epoch, run.block, run.records)
            opened = self._opened[lane, source] = _Opened(run, records, draws)
        return opened

    def _refuse_idleness(self, lane: int, num_idle: int) -> None:
        """Fail if a lane has read all its examples and found no target token: it would search forever."""
        per_epoch = sum(source.examples_per_epoch for source in self.sources)
        longest = max(
            -(-source.store.num_records // self.num_lanes) * per_epoch / source.examples_per_epoch
            for source in self.sources
        )
        if num_idle > 2 * longest + self._window:
            raise DataError(
                f"lane {lane} of {self.num_lanes} found no token to learn from in {num_idle} examples",
                rule="every lane owns examples that a task can be made of",
                remedy="lower stream.global_batch_size, or leave out the tasks that the data cannot serve",
            )


def load_rows(stream: LaneStream, *, workers: int, prefetch: int) -> Iterable[Row | TrialignError]:
    """Return a loader of a stream's rows, in the order of its lanes.

    Args:
        stream: one rank's lanes.
        workers: loader processes; they divide the lanes. 0: the calling process makes the rows.
        prefetch: optimizer steps that the workers read ahead.
    """
    if workers == 0:
        return stream  # a DataLoader without workers only adds overhead to every row
    return DataLoader(
        stream,
        batch_size=None,
        num_workers=workers,
        prefetch_factor=prefetch * len(stream.lanes) // workers,
        worker_init_fn=_start_worker,
    )


def _start_worker(_worker: int) -> None:
    """Set up a worker: ignore the signals of the batch system, and end when the training process dies."""
    for warning in (signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(warning, signal.SIG_IGN)
    # After a SIGKILL of the training process, its workers would wait forever to deliver their rows.
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


class MicroBatches:
    """Collates the rows of one rank into micro-batches, an optimizer step at a time.

    A whole step is assembled before its first micro-batch is yielded, because each of them must carry the number of
    target tokens of the step. Rows are collated here, in the main process: the loader's round robin over its workers
    restores the order of the lanes whether or not the workers divide the accumulation.

    Args:
        rows: the loader, yielding single rows.
        rows_per_step: rows of this rank per optimizer step, V / W.
        micro_batch_size: rows per micro-batch; divides `rows_per_step`.
        read: global batches that were read before these.
        skip: numbers of global batches, from 1, that are read and dropped.
    """

    def __init__(
        self,
        rows: Iterable[Row | TrialignError],
        *,
        rows_per_step: int,
        micro_batch_size: int,
        read: int = 0,
        skip: Collection[int] = (),
    ) -> None:
        assert rows_per_step % micro_batch_size == 0, (rows_per_step, micro_batch_size)
        self._rows = rows
        self._rows_per_step = rows_per_step
        self._micro_batch_size = micro_batch_size
        self._read, self._skip = read, skip

    def __iter__(self) -> Iterator[RowBatch]:
        step: list[Row] = []
        number = self._read
        for row in self._rows:
            if isinstance(row, TrialignError):
                raise row
            step.append(row)
            if len(step) == self._rows_per_step:
                number += 1
                if number not in self._skip:
                    yield from self._split(step)
                step = []

    def _split(self, step: Sequence[Row]) -> Iterator[RowBatch]:
        step_targets = sum(int(np.count_nonzero(row.targets)) for row in step)
        for start in range(0, len(step), self._micro_batch_size):
            rows = step[start : start + self._micro_batch_size]
            yield stack_rows(rows, step_targets=step_targets, first_of_step=start == 0)


def _check(sources: Sequence[LaneSource], num_lanes: int, window: int) -> None:
    assert sources
    assert num_lanes >= 1, num_lanes
    assert window >= 1, window
    for source in sources:
        if not (isfinite(source.weight) and source.weight > 0):
            raise ConfigError(
                f"the weight of task '{source.name}' is {source.weight}",
                rule="weights are positive numbers",
                remedy="leave the task out of train.tasks, or give it a positive weight",
            )
    smallest = min(sources, key=lambda source: source.store.num_records)
    if num_lanes > smallest.store.num_records:
        raise ConfigError(
            f"stream.global_batch_size={num_lanes}, but task '{smallest.name}' has {smallest.store.num_records} "
            "examples",
            rule="every lane owns at least one example of every task",
            remedy=f"set stream.global_batch_size={smallest.store.num_records} or fewer"
            if smallest.store.num_records
            else f"leave '{smallest.name}' out of train.tasks, or bring data for it",
        )
