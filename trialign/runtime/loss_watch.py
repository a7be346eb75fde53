"""Detect NaN or infinite losses and loss spikes before the optimizer step, and record the batch."""

from __future__ import annotations

import json
import math
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

import torch
from typing_extensions import override

from trialign.errors import TrainingError, TrialignError
from trialign.files import write_atomically
from trialign.runtime.callbacks import StepCallback
from trialign.runtime.collectives import all_reduce_sum, rank, world_size
from trialign.runtime.lightning import pl

SKIPPED_BATCHES = "skipped_batches.json"
"""The file of a stage that names the global batches it was rewound for; a killed attempt hands it on."""

_WINDOW, _LEAST = 50, 10
"""Steps whose losses are remembered, and how many of them there must be to speak of a spike."""

_MOST_AVOIDED = 10
"""Batches after which it is not the batches."""


class RewoundError(TrialignError):
    """Training must restart from its last checkpoint; the exit code asks for a requeue of the job."""

    exit_code = 75


class LossWatch(StepCallback):
    """Checks the mean loss of every step, over all ranks, between its last backward pass and the optimizer step.

    All ranks see the same loss and act alike. Each rank writes `spike-STEP-RANK.json` next to the log: step, number of
    the global batch, loss, and the records that it read. The stage then ends: for good (`stop`), or, after listing
    the batch as one to skip, with the exit code that asks for a requeue (`rewind`); the next attempt
    continues from the last checkpoint and leaves that batch out.

    Args:
        folder: of the stage.
        policy: `stop` or `rewind`.
        threshold: nats per token by which a step's loss may exceed the median of the last 50; 0 looks for no spike.
    """

    def __init__(self, folder: Path, *, policy: str, threshold: float) -> None:
        self._folder, self._policy, self._threshold = folder, policy, threshold
        self._recent: deque[float] = deque(maxlen=_WINDOW)
        self._loss: torch.Tensor | float = 0.0
        self._batches: list[Any] = []

    @override
    def on_step_start(self, trainer: pl.Trainer, module: pl.LightningModule, step: int) -> None:
        """Reset the sum of losses for a new step."""
        self._loss, self._batches = 0.0, []

    def on_train_batch_start(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Remember the micro-batch."""
        super().on_train_batch_start(trainer, pl_module, batch, batch_idx)
        self._batches.append(batch)

    @override
    def on_before_backward(self, trainer: pl.Trainer, pl_module: pl.LightningModule, loss: torch.Tensor) -> None:
        """Add up the micro-batches' losses."""
        self._loss = self._loss + loss.detach()

    @override
    def on_after_backward(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Check the step's loss after its last micro-batch.

        Raises:
            TrainingError: its loss is NaN, infinite or a spike, and the policy is to stop.
            RewoundError: the same, and the policy is to rewind.
        """
        if len(self._batches) < trainer.accumulate_grad_batches:
            return
        assert isinstance(self._loss, torch.Tensor)
        loss = float(all_reduce_sum(self._loss)) / world_size()
        usual = median(self._recent) if len(self._recent) >= _LEAST else math.inf
        if not math.isfinite(loss):
            self._end(trainer, loss, "a loss is a finite number")
        if self._threshold and loss > usual + self._threshold:
            self._end(
                trainer, loss, f"a step's loss is at most {self._threshold:g} above the median of the last, {usual:.3g}"
            )
        self._recent.append(loss)

    def state_dict(self) -> dict[str, list[float]]:
        """Return the losses of the last steps."""
        return {"recent": list(self._recent)}

    def load_state_dict(self, state_dict: dict[str, list[float]]) -> None:
        """Restore the losses of the last steps."""
        self._recent.extend(state_dict["recent"])

    def _end(self, trainer: pl.Trainer, loss: float, rule: str) -> None:
        data: Any = trainer.datamodule  # type: ignore[attr-defined]  # set by Trainer.fit
        step, number = trainer.global_step + 1, data.batch_under_way
        records = data.records_of(self._batches)
        told = {"step": step, "batch": number, "loss": str(loss), "records": records}
        path = Path(str(trainer.log_dir)) / f"spike-{step:08d}-{rank():05d}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(told, indent=1) + "\n")
        keys = [str(key) for record in records for key in record.get("users", record.get("items", []))]
        value = f"the loss of step {step} is {loss:.4g}; read were {_some(keys)}: {path}"
        before = skipped_batches(self._folder)
        if self._policy == "stop" or len(before) >= _MOST_AVOIDED:
            raise TrainingError(
                value,
                rule=rule if self._policy == "stop" else f"{rule}, {_MOST_AVOIDED} batches excepted",
                remedy="lower train.learning_rate, look at those records, or set runtime.on_loss_spike=rewind",
            )
        if rank() == 0:
            write_atomically(self._folder / SKIPPED_BATCHES, json.dumps([*before, number]) + "\n")
        raise RewoundError(
            value,
            rule=rule,
            remedy=f"the same command continues from the last checkpoint and leaves batch {number} out (exit code 75)",
        )


def skipped_batches(folder: Path) -> list[int]:
    """Return the numbers of the global batches that a stage leaves out, in the order in which it met them."""
    path = folder / SKIPPED_BATCHES
    numbers: list[int] = json.loads(path.read_text()) if path.exists() else []
    return numbers


def _some(keys: Sequence[str]) -> str:
    return ", ".join(keys[:8]) + (f" and {len(keys) - 8} more" if len(keys) > 8 else "")
