"""The Lightning datamodule of the stream: loaders, and state that makes a resumed run equal an uninterrupted one."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from typing_extensions import override

from trialign.config.train import StreamConfig
from trialign.errors import ConfigError
from trialign.foreign import Json
from trialign.runtime.collectives import all_gather_objects, rank, world_size
from trialign.runtime.lightning import Callback, pl
from trialign.stream.lanes import Encode, LaneSource, LaneStream, MicroBatches, load_rows
from trialign.stream.order import accumulation, fitting_workers
from trialign.stream.rows import RowBatch
from trialign.stream.sample_log import SampleLine, SampleLog, sample_log_lines
from trialign.stream.shards import DamagedBlockError

logger = logging.getLogger(__name__)


class LaneDataModule(pl.LightningDataModule):
    """Serves micro-batches of packed rows without end; training ends after its steps.

    Its state is the (start of a window, row) of every lane after the last batch *trained on*, not the last one loaded:
    add `TrainedRows` to the Trainer's callbacks.

    Args:
        sources: what is interleaved.
        encode: records to examples.
        settings: lanes, rows and loaders. Workers are lowered, with a warning, to what shares a rank's lanes evenly.
        seed: decides the order of everything.
        micro_batch_size: rows per forward pass and rank.
        sample_log: folder of the log of which records were trained on at which step; None writes nothing.
        skip: numbers of global batches, from 1, that are read and not trained on.
    """

    def __init__(
        self,
        sources: Sequence[LaneSource],
        encode: Encode,
        settings: StreamConfig,
        *,
        seed: int,
        micro_batch_size: int,
        sample_log: Path | None = None,
        skip: Collection[int] = (),
    ) -> None:
        super().__init__()
        self._sources = list(sources)
        self._encode = encode
        self._settings, self._num_lanes = settings, settings.global_batch_size
        self._seed = seed
        self._micro_batch_size = micro_batch_size
        self._sample_log_folder = sample_log
        self._sample_log: SampleLog | None = None
        self._skip = frozenset(skip)
        self._step = 0
        self._read = 0  # global batches read: those of `_step`, and the skipped ones between them
        self._state = dict.fromkeys(range(settings.global_batch_size), (0, 0))
        self._before, self._read_before = self._state, 0  # where the current step began
        self._skipped: set[tuple[str, int]] = set()  # (folder of shards, block)

    def steps(self, epochs: float) -> int:
        """Return the optimizer steps of that many passes over the mixture; an estimate, see `LaneStream`."""
        return max(1, round(epochs * self._stream(0, 1).rows_per_epoch() / self._num_lanes))

    def train_dataloader(self) -> MicroBatches:
        """Return this rank's micro-batches, from the current state of its lanes on.

        Raises:
            ConfigError: the lanes cannot be divided over ranks and micro-batches.
        """
        accumulate = accumulation(self._num_lanes, world_size(), self._micro_batch_size)
        assert self.trainer is None or self.trainer.accumulate_grad_batches == accumulate, (
            "accumulate by `accumulation`"
        )
        rows_per_step = self._num_lanes // world_size()
        workers = fitting_workers(self._settings.workers, rows_per_step)
        if workers != self._settings.workers:
            logger.warning(
                "stream.workers=%d lowered to %d, which divides a rank's %d lanes",
                self._settings.workers,
                workers,
                rows_per_step,
            )
        loader = load_rows(self._stream(rank(), world_size()), workers=workers, prefetch=self._settings.prefetch)
        return MicroBatches(
            loader,
            rows_per_step=rows_per_step,
            micro_batch_size=self._micro_batch_size,
            read=self._read,
            skip=self._skip,
        )

    def begin_step(self) -> None:
        """Remember where a step begins, for `records_of`."""
        self._before, self._read_before = dict(self._state), self._read

    @property
    def batch_under_way(self) -> int:
        """The number of the global batch that is trained on, from 1."""
        number = self._read_before + 1
        while number in self._skip:
            number += 1
        return number

    def mark(self, batch: RowBatch) -> None:
        """Record that the rows of `batch` were trained on."""
        if batch.first_of_step:
            self._step += 1
            self._read = self.batch_under_way
        after = zip(batch.starts_R.tolist(), batch.rows_R.tolist(), strict=True)
        self._state.update(zip(batch.lanes_R.tolist(), after, strict=True))
        self._report(batch.skipped)
        if self._sample_log_folder is not None:
            self._write_sample_log(self._sample_log_folder, batch)

    def state_dict(self) -> dict[str, Json]:
        """Return the state of all lanes of all ranks: one object, equal on every rank. A collective."""
        if self._sample_log is not None:
            self._sample_log.sync()
        mine = {lane: self._state[lane] for lane in range(rank(), self._num_lanes, world_size())}
        lanes = {lane: state for part in all_gather_objects(mine) for lane, state in part.items()}
        return {
            "stream": self._identity(),
            "step": self._step,
            "read": self._read,
            "lanes": [list(lanes[lane]) for lane in range(self._num_lanes)],
            "skipped": [list(block) for block in sorted(self._all_skipped())],
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue where a checkpoint was, on any number of ranks.

        Raises:
            ConfigError: the checkpoint belongs to another stream.
        """
        then, now = state_dict["stream"], self._identity()
        changes = [f"{name} {then.get(name)} -> {value}" for name, value in now.items() if then.get(name) != value]
        if changes:
            raise ConfigError(
                "the checkpoint was taken from another stream: " + "; ".join(changes),
                rule="a stream keeps batch size, sequence length, packing buffer, seed and sources for a whole run",
                remedy="undo the change, or start a new run",
            )
        self._step, self._read = state_dict["step"], state_dict["read"]
        self._state = {lane: (start, row) for lane, (start, row) in enumerate(state_dict["lanes"])}
        self._skipped = {(folder, block) for folder, block in state_dict["skipped"]}

    @override
    def teardown(self, stage: str) -> None:
        """Close the sample log."""
        if self._sample_log is not None:
            self._sample_log.close()
            self._sample_log = None

    def damage(self) -> dict[str, int]:
        """Return how many damaged blocks all ranks skipped, and their records, since training began. A collective.

        Empty where damage stops the training.
        """
        if self._settings.damaged == "stop":
            return {}
        skipped = self._all_skipped()
        stores = {source.store.folder: source.store for source in self._sources}
        records = sum(int(stores[folder].index[block]["records"]) for folder, block in skipped)
        return {"blocks_skipped": len(skipped), "records_skipped": records}

    def records_of(self, batches: Sequence[RowBatch]) -> list[SampleLine]:
        """Return which records micro-batches of the step under way hold: per lane and task, `users` or `items`.

        It makes the rows again, with the keys of their records: normal training does not pay for the keys.
        """
        wanted = {lane for batch in batches for lane in batch.lanes_R.tolist()}
        stream = self._stream(rank(), world_size(), state=self._before, sample_log=True)
        passed = (self.batch_under_way - self._read_before - 1) * len(stream.lanes)
        rows = islice(stream.rows(), passed, passed + len(stream.lanes))
        names = [source.name for source in self._sources]
        return [line for row in rows if row.lane in wanted for line in sample_log_lines(names, row.lane, row.records)]

    def _write_sample_log(self, folder: Path, batch: RowBatch) -> None:
        if self._sample_log is None:
            names = [source.name for source in self._sources]
            self._sample_log = SampleLog(folder, names, rank=rank(), world_size=world_size(), step=self._step - 1)
        for lane, records in zip(batch.lanes_R.tolist(), batch.records, strict=True):
            self._sample_log.write(self._step, lane, records)

    def _report(self, skipped: Iterable[tuple[int, int]]) -> None:
        """Warn of each damaged block once."""
        for source, block in skipped:
            store = self._sources[source].store
            if (store.folder, block) in self._skipped:
                continue
            self._skipped.add((store.folder, block))
            try:
                store.read(block)
                fault = f"block {block} of {store.folder} could not be read for a while"
            except DamagedBlockError as error:
                fault = error.value
            logger.warning("skipped %d records: %s", store.index[block]["records"], fault)

    def _all_skipped(self) -> set[tuple[str, int]]:
        return set().union(*all_gather_objects(self._skipped))

    def _stream(
        self, rank: int, world_size: int, *, state: dict[int, tuple[int, int]] | None = None, sample_log: bool = False
    ) -> LaneStream:
        return LaneStream(
            self._sources,
            self._encode,
            self._settings,
            seed=self._seed,
            rank=rank,
            world_size=world_size,
            state=self._state if state is None else state,
            sample_log=sample_log or self._sample_log_folder is not None,
        )

    def _identity(self) -> dict[str, Json]:
        return {
            "global_batch_size": self._num_lanes,
            "seq_len": self._settings.seq_len,
            "packing_buffer": self._settings.packing_buffer,
            "seed": self._seed,
            "sources": [
                [
                    source.name,
                    source.store.num_records,
                    source.store.records_per_block,
                    source.weight,
                    f"{source.store.fingerprint:08x}",
                ]
                for source in self._sources
            ],
        }


class TrainedRows(Callback):
    """Marks each batch as trained on.

    A callback, because callbacks run before a checkpoint is taken, and the hooks of a LightningModule after it.
    """

    @override
    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: RowBatch, batch_idx: int
    ) -> None:
        """Tell the datamodule where a step begins."""
        if batch.first_of_step:
            trainer.datamodule.begin_step()  # type: ignore[attr-defined]  # set by Trainer.fit

    @override
    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: RowBatch, batch_idx: int
    ) -> None:
        """Tell the datamodule that the batch was trained on."""
        trainer.datamodule.mark(batch)  # type: ignore[attr-defined]  # set by Trainer.fit
