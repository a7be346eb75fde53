"""The generator under Lightning: which loss, which optimizer, what is logged. No formula lives here."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

import trialign.runtime.torchvision_fault  # noqa: F401  (before lightning)

# isort: split
import pytorch_lightning as pl

from trialign.data.rows import RowBatch
from trialign.generate.loss import autoregressive_loss, scaled_loss, step_totals
from trialign.generate.metrics import TaskMeter
from trialign.generate.model import Generator
from trialign.runtime.collectives import world_size
from trialign.runtime.optim import adamw, cosine_with_warmup


class GeneratorModule(pl.LightningModule):
    """Trains a generator by automatic optimisation.

    Args:
        generator: what is trained.
        tasks: names of the tasks, in the order of their numbers in the rows.
        num_steps: optimizer steps, for the schedule.
        learning_rate: the peak.
        weight_decay: AdamW, not on tables and vectors.
        betas: AdamW.
        warmup: share of the steps.
    """

    def __init__(
        self,
        generator: Generator,
        *,
        tasks: Sequence[str],
        num_steps: int,
        learning_rate: float,
        weight_decay: float,
        betas: Sequence[float],
        warmup: float,
    ) -> None:
        super().__init__()
        self.generator = generator
        self.num_tasks = len(tasks)
        self.num_steps = num_steps
        self.learning_rate = learning_rate
        self.weight_decay = weight_decay
        self.betas = betas
        self.warmup = warmup
        self._meter = TaskMeter(tasks)
        self._num_targets = torch.zeros((), dtype=torch.int64)
        self.asked = False  # set by `Preemption`: this rank is to make room
        self.make_room = False  # some rank is, so all do after this step

    def training_step(self, batch: RowBatch) -> torch.Tensor:
        """Return this micro-batch's share of the step's loss."""
        if batch.first_of_step:
            self._num_targets, self.make_room = step_totals(batch.step_targets, self.asked, self.device)
        groups = self.generator(batch.tokens_RT, batch.positions_RT, batch.targets_RT, batch.tasks_RT)
        sums = autoregressive_loss(groups, self.num_tasks)
        self._meter.add(sums)
        accumulation = self.trainer.accumulate_grad_batches
        return scaled_loss(sums.total, self._num_targets, world_size=world_size(), accumulation=accumulation)

    def on_train_batch_end(self, _outputs: Any, _batch: RowBatch, batch_idx: int) -> None:
        """Log the means over the steps since the last log line."""
        stepped = (batch_idx + 1) % self.trainer.accumulate_grad_batches == 0
        log_every: int = self.trainer.log_every_n_steps  # type: ignore[attr-defined]  # set by its constructor
        if stepped and self.global_step % log_every == 0:
            values = self._meter.flush()
            self.log("loss", values.pop("loss"), prog_bar=True)
            self.log_dict(values | {"learning_rate": self.optimizers().param_groups[0]["lr"]})  # type: ignore[union-attr]

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add what the next log line has to say of the steps so far."""
        checkpoint["meter"] = self._meter.total()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Read it back."""
        self._meter.restore(checkpoint["meter"])

    def configure_optimizers(self) -> Any:
        """AdamW, linear warm-up, cosine to zero, stepped with the optimizer."""
        optimizer = adamw(
            self.generator, learning_rate=self.learning_rate, weight_decay=self.weight_decay, betas=self.betas
        )
        schedule = cosine_with_warmup(optimizer, num_steps=self.num_steps, warmup=self.warmup)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}
