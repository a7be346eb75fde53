"""Lanes: an endless stream of packed rows that is exact under interruption and under another number of ranks.

A global batch is one row of each of V lanes, for the whole of a run. Lane v owns a fixed part of every epoch of every
source, and its rows are a function of (v, window, row) alone. Rank r of W serves the lanes v with v mod W = r, worker i
of w the i-th, (i+w)-th, ... of those. So neither ranks nor workers can change what a global batch holds, and a lane's
state is two numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import isfinite

import numpy as np
from torch.utils.data import IterableDataset, get_worker_info

from trialign.data.blocks import Record, Records
from trialign.data.order import Indices, Interleaving, Permutation, SourceOrder, lane_range
from trialign.data.rows import Row, RowBatch, TokenizedExample, fill_row, pack, stack_rows
from trialign.data.shards import BlockStore
from trialign.errors import ConfigError, DataError, TrialignError
from trialign.runtime.seeding import derive

Encode = Callable[[int, Record], TokenizedExample]
"""(source index, record) to tokens. It must depend on nothing else, or resuming is not exact."""

State = Mapping[int, tuple[int, int]]
"""(window, row) that each lane goes on with; a lane that is absent starts at (0, 0)."""


@dataclass(frozen=True)
class LaneSource:
    """The finite list of examples of one task: one per record of its blocks.

    Attributes:
        name: another name, another order of the records.
        store: the blocks.
        weight: how many times per epoch of the mixture the source is gone through, in the mean; 1 for all sources is
            the mixture in proportion to their sizes.
    """

    name: str
    store: BlockStore
    weight: float = 1.0

    @property
    def examples_per_epoch(self) -> float:
        """How many examples the source contributes to an epoch of the mixture."""
        return self.weight * self.store.num_records


class LaneStream(IterableDataset[Row | TrialignError]):
    """The rows of one rank's lanes, one per lane and round, without end.

    In a worker process an error meant for the user is yielded rather than raised: torch would hand on its text alone.

    Memory: one decoded block per lane and source (a block of 1,024 histories is about 0.2 MB) and one window of encoded
    examples per lane, divided over the workers.

    Args:
        sources: what is interleaved.
        encode: turns a record into an example.
        num_lanes: V.
        row_tokens: T, positions per row.
        window: examples that a lane encodes and packs at a time.
        seed: decides the order of everything.
        rank: r.
        world_size: W; divides V.
        state: where each lane goes on.

    Raises:
        ConfigError: V exceeds a source's examples or is no multiple of W, or a weight is no positive number.
    """

    def __init__(
        self,
        sources: Sequence[LaneSource],
        encode: Encode,
        *,
        num_lanes: int,
        row_tokens: int,
        window: int,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
        state: State | None = None,
    ) -> None:
        super().__init__()
        _check(sources, num_lanes, window)
        assert num_lanes % world_size == 0, (num_lanes, world_size)
        self.sources = list(sources)
        self.num_lanes = num_lanes
        self.lanes = list(range(rank, num_lanes, world_size))
        self._encode = encode
        self._row_tokens = row_tokens
        self._window = window
        self._seed = seed
        self._state = dict(state or {})
        self._interleaving = Interleaving([source.examples_per_epoch for source in sources])
        self._orders = [
            SourceOrder(source.name, source.store.num_records, source.store.records_per_block, seed)
            for source in sources
        ]
        self._opened: dict[tuple[int, int], tuple[int, Records]] = {}  # (lane, source) -> its current block

    def __iter__(self) -> Iterator[Row | TrialignError]:
        worker = get_worker_info()
        first, step = (0, 1) if worker is None else (worker.id, worker.num_workers)
        assert len(self.lanes) % step == 0, "workers must divide the lanes of a rank"
        lanes = [self._rows(lane) for lane in self.lanes[first::step]]
        try:
            while True:
                for rows in lanes:
                    yield next(rows)
        except TrialignError as error:
            if worker is None:
                raise
            yield error

    def rows_per_epoch(self, num_windows: int = 16) -> float:
        """Estimate the rows of one epoch of the mixture, by packing the first window of some lanes.

        An estimate: packing depends on which lengths meet in a window. Blocks are fair samples, so a few windows do.
        """
        lanes = sorted({lane * self.num_lanes // num_windows for lane in range(num_windows)})
        num_rows = sum(len(self._packed(lane, 0)) for lane in lanes) / len(lanes)
        return num_rows * sum(source.examples_per_epoch for source in self.sources) / self._window

    def _rows(self, lane: int) -> Iterator[Row]:
        window, row = self._state.get(lane, (0, 0))
        num_idle = 0
        while True:
            rows = self._packed(lane, window)
            num_idle = 0 if rows else num_idle + self._window
            self._refuse_idleness(lane, num_idle)
            for number in range(row, len(rows)):
                after = (window, number + 1) if number + 1 < len(rows) else (window + 1, 0)
                yield fill_row(rows[number], self._row_tokens, lane=lane, window=after[0], row=after[1])
            window, row = window + 1, 0

    def _packed(self, lane: int, window: int) -> list[list[TokenizedExample]]:
        """Return the rows of one window of a lane, in order."""
        examples = self._examples(lane, np.arange(window * self._window, (window + 1) * self._window))
        rows = pack([len(example.tokens) for example in examples], self._row_tokens)
        if not rows:
            return []
        # Packing puts the longest examples into the first rows; nothing may learn from that order.
        order = Permutation(len(rows), derive(self._seed, "rows", lane, window))(np.arange(len(rows)))
        return [[examples[example] for example in rows[row]] for row in order]

    def _examples(self, lane: int, k: Indices) -> list[TokenizedExample]:
        sources, indices = self._interleaving.locate(k)
        examples: dict[int, TokenizedExample] = {}
        for source in range(len(self.sources)):
            places = np.flatnonzero(sources == source)
            for place, record in zip(places, self._records(lane, source, indices[places]), strict=True):
                examples[int(place)] = self._encode(source, record)
        return [examples[place] for place in range(len(k))]

    def _records(self, lane: int, source: int, indices: Indices) -> Iterator[Record]:
        """Yield the records of a lane's own sequence over a source; `indices` ascend."""
        start, stop = lane_range(lane, self.num_lanes, self._orders[source].num_records)
        epochs, offsets = np.divmod(indices, stop - start)
        for epoch in np.unique(epochs):
            blocks, records = self._orders[source].locate(int(epoch), start + offsets[epochs == epoch])
            for block, record in zip(blocks, records, strict=True):
                yield self._open(lane, source, int(block))[int(record)]

    def _open(self, lane: int, source: int, block: int) -> Records:
        opened = self._opened.get((lane, source))
        if opened is None or opened[0] != block:
            opened = (block, Records(self.sources[source].store.read(block)))
            self._opened[lane, source] = opened
        return opened[1]

    def _refuse_idleness(self, lane: int, num_idle: int) -> None:
        """Refuse a lane that has gone through all it owns and found nothing: it would search for ever."""
        per_epoch = sum(source.examples_per_epoch for source in self.sources)
        longest = max(
            -(-source.store.num_records // self.num_lanes) * per_epoch / source.examples_per_epoch
            for source in self.sources
        )
        if num_idle > 2 * longest + self._window:
            raise DataError(
                f"lane {lane} of {self.num_lanes} found no token to learn from in {num_idle} examples",
                rule="every lane owns examples that a task can be made of",
                remedy="lower stream.lanes, or leave out the tasks that the data cannot serve",
            )


class MicroBatches:
    """Collates the rows of one rank into micro-batches, an optimizer step at a time.

    A whole step is assembled before its first micro-batch is yielded, because each of them must carry the number of
    target tokens of the step. Rows are collated here, in the main process: the loader's round robin over its workers
    restores the order of the lanes whether or not the workers divide the accumulation.

    Args:
        rows: the loader, yielding single rows.
        rows_per_step: rows of this rank per optimizer step, V / W.
        micro_rows: rows per micro-batch; divides `rows_per_step`.
    """

    def __init__(self, rows: Iterable[Row | TrialignError], *, rows_per_step: int, micro_rows: int) -> None:
        assert rows_per_step % micro_rows == 0, (rows_per_step, micro_rows)
        self._rows = rows
        self._rows_per_step = rows_per_step
        self._micro_rows = micro_rows

    def __iter__(self) -> Iterator[RowBatch]:
        step: list[Row] = []
        for row in self._rows:
            if isinstance(row, TrialignError):
                raise row
            step.append(row)
            if len(step) == self._rows_per_step:
                yield from self._split(step)
                step = []

    def _split(self, step: Sequence[Row]) -> Iterator[RowBatch]:
        step_targets = sum(int(row.targets.sum()) for row in step)
        for start in range(0, len(step), self._micro_rows):
            rows = step[start : start + self._micro_rows]
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
            f"stream.lanes={num_lanes}, but task '{smallest.name}' has {smallest.store.num_records} examples",
            rule="every lane owns at least one example of every task",
            remedy=f"set stream.lanes={smallest.store.num_records} or fewer"
            if smallest.store.num_records
            else f"leave '{smallest.name}' out of train.tasks, or bring data for it",
        )
