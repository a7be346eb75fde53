"""The stream of rows as Lightning drives it: loaders, and the state that makes a resumed run the uninterrupted one."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import trialign.runtime.torchvision_fault  # noqa: F401  (before lightning)

# isort: split
import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback
from torch.utils.data import DataLoader

from trialign.data.lanes import Encode, LaneSource, LaneStream, MicroBatches
from trialign.data.order import accumulation, fitting_workers
from trialign.data.rows import Row, RowBatch
from trialign.errors import ConfigError, TrialignError
from trialign.runtime.collectives import all_gather_objects, rank, world_size

logger = logging.getLogger(__name__)


class LaneDataModule(pl.LightningDataModule):
    """Serves micro-batches of packed rows, for ever; training ends by steps.

    Its state is the (window, row) of every lane after the last batch *trained on*, not the last one loaded: add
    `TrainedRows` to the Trainer's callbacks.

    Args:
        sources: what is interleaved.
        encode: (source index, record) to tokens.
        num_lanes: V, rows per global batch.
        row_tokens: T, positions per row.
        window: examples that a lane packs at a time.
        seed: decides the order of everything.
        micro_rows: rows per forward pass and rank.
        workers: loader processes per rank; lowered, with a warning, to what shares a rank's lanes evenly.
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
        micro_rows: int,
        workers: int = 0,
    ) -> None:
        super().__init__()
        self._sources = list(sources)
        self._encode = encode
        self._num_lanes = num_lanes
        self._row_tokens = row_tokens
        self._window = window
        self._seed = seed
        self._micro_rows = micro_rows
        self._workers = workers
        self._state = dict.fromkeys(range(num_lanes), (0, 0))

    def steps(self, epochs: float) -> int:
        """Return the optimizer steps of that many passes over the mixture; an estimate, see `LaneStream`."""
        return max(1, round(epochs * self._stream(0, 1).rows_per_epoch() / self._num_lanes))

    def train_dataloader(self) -> MicroBatches:
        """Return this rank's micro-batches, from where its lanes stand.

        Raises:
            ConfigError: the lanes cannot be divided over ranks and micro-batches.
        """
        accumulate = accumulation(self._num_lanes, world_size(), self._micro_rows)
        assert self.trainer is None or self.trainer.accumulate_grad_batches == accumulate, (
            "accumulate by `accumulation`"
        )
        rows_per_step = self._num_lanes // world_size()
        workers = fitting_workers(self._workers, rows_per_step)
        if workers != self._workers:
            logger.warning(
                "stream.workers=%d lowered to %d, which divides a rank's %d lanes",
                self._workers,
                workers,
                rows_per_step,
            )
        loader: DataLoader[Row | TrialignError] = DataLoader(
            self._stream(rank(), world_size()),
            batch_size=None,
            num_workers=workers,
            prefetch_factor=2 * rows_per_step // workers if workers else None,  # two steps ahead
        )
        return MicroBatches(loader, rows_per_step=rows_per_step, micro_rows=self._micro_rows)

    def mark(self, batch: RowBatch) -> None:
        """Record that the rows of `batch` were trained on."""
        after = zip(batch.windows_R.tolist(), batch.rows_R.tolist(), strict=True)
        self._state.update(zip(batch.lanes_R.tolist(), after, strict=True))

    def state_dict(self) -> dict[str, Any]:
        """Return the state of all lanes of all ranks: one object, equal on every rank. A collective."""
        mine = {lane: self._state[lane] for lane in range(rank(), self._num_lanes, world_size())}
        lanes = {lane: state for part in all_gather_objects(mine) for lane, state in part.items()}
        return {"stream": self._identity(), "lanes": [list(lanes[lane]) for lane in range(self._num_lanes)]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on where a checkpoint stood, on any number of ranks.

        Raises:
            ConfigError: the checkpoint belongs to another stream.
        """
        then, now = state_dict["stream"], self._identity()
        changes = [f"{name} {then.get(name)} -> {value}" for name, value in now.items() if then.get(name) != value]
        if changes:
            raise ConfigError(
                "the checkpoint was taken from another stream: " + "; ".join(changes),
                rule="a stream keeps its lanes, rows, window, seed and sources for the whole of a run",
                remedy="undo the change, or start a new run",
            )
        self._state = {lane: (window, row) for lane, (window, row) in enumerate(state_dict["lanes"])}

    def _stream(self, rank: int, world_size: int) -> LaneStream:
        return LaneStream(
            self._sources,
            self._encode,
            num_lanes=self._num_lanes,
            row_tokens=self._row_tokens,
            window=self._window,
            seed=self._seed,
            rank=rank,
            world_size=world_size,
            state=self._state,
        )

    def _identity(self) -> dict[str, Any]:
        return {
            "lanes": self._num_lanes,
            "row_tokens": self._row_tokens,
            "window": self._window,
            "seed": self._seed,
            "sources": [
                [source.name, source.store.num_records, source.store.records_per_block, source.weight]
                for source in self._sources
            ],
        }


class TrainedRows(Callback):
    """Marks each batch as trained on.

    A callback, because callbacks run before a checkpoint is taken, and the hooks of a LightningModule after it.
    """

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,  # noqa: ARG002
        outputs: Any,  # noqa: ARG002
        batch: RowBatch,
        batch_idx: int,  # noqa: ARG002
    ) -> None:
        """Tell the datamodule."""
        trainer.datamodule.mark(batch)  # type: ignore[attr-defined]  # set by Trainer.fit
