"""LightningModule of the generator: loss, optimizer and logging. Formulas are in other modules."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from trialign.generate.backbone import decoder_layers
from trialign.generate.loss import autoregressive_loss, scaled_loss, step_totals
from trialign.generate.metrics import TaskMeter
from trialign.generate.model import Generator
from trialign.generate.validation import Validation
from trialign.runtime.callbacks import StepCallback, ends_step, logs_at
from trialign.runtime.collectives import rank, world_size
from trialign.runtime.lightning import pl
from trialign.runtime.optim import OptimizerSettings, adamw, cosine_with_warmup
from trialign.runtime.strategy import fully_shard_all, shards_parameters
from trialign.runtime.unsharded import UnshardedCopy
from trialign.stream.rows import RowBatch

logger = logging.getLogger(__name__)


class GeneratorModule(pl.LightningModule):
    """Trains a generator with automatic optimization.

    Args:
        generator: the generator to train.
        settings: of the optimizer and its schedule.
        tasks: names of the tasks, in the order of their numbers in the rows.
        num_steps: optimizer steps, for the schedule.
    """

    def __init__(
        self, generator: Generator, settings: OptimizerSettings, *, tasks: Sequence[str], num_steps: int
    ) -> None:
        super().__init__()
        self.generator = generator
        self.num_tasks = len(tasks)
        self.num_steps = num_steps
        self._settings = settings
        self._copy: UnshardedCopy[Generator] | None = None
        self._meter = TaskMeter(tasks)
        self._logged: dict[str, float] | None = None  # the last log line
        self._num_targets = torch.zeros((), dtype=torch.int64)
        self.preemption_requested = False  # set by `Preemption`: this rank was asked to save and stop
        self.preempted = False  # some rank was asked: all save and stop after this step

    @property
    def evaluated(self) -> Generator:
        """The generator to validate and to save: the trained one, or its unsharded copy.

        The copy is used if the strategy shards parameters; it has weights in `summon_full_params` and after training.
        """
        return self.generator if self._copy is None else self._copy.module

    @contextmanager
    def summon_full_params(self) -> Iterator[Generator]:
        """Give `evaluated` with its full weights; a collective if the strategy shards parameters."""
        if self._copy is not None:
            self._copy.fill(self.generator)
        yield self.evaluated
        if self._copy is not None:
            self._copy.empty()

    def configure_model(self) -> None:
        """Prepare for a sharding strategy: FSDP2 is applied here, DeepSpeed shards by itself."""
        if self._copy is None and shards_parameters(self.trainer.strategy):
            self._copy = UnshardedCopy(self.generator)
            if self.device_mesh is not None:
                layers = decoder_layers(self.generator.backbone)
                fully_shard_all(layers, self.generator, self.device_mesh, ways=["score_candidates"])

    def on_train_end(self) -> None:
        """Gather the full weights while all ranks still run."""
        if self._copy is not None:
            self._copy.fill(self.generator)

    def training_step(self, batch: RowBatch) -> torch.Tensor:
        """Return this micro-batch's share of the step's loss."""
        if batch.first_of_step:
            self._num_targets, self.preempted = step_totals(batch.step_targets, self.preemption_requested, self.device)
        groups = self.generator(batch.tokens_RT, batch.positions_RT, batch.targets_RT, batch.tasks_RT)
        sums = autoregressive_loss(groups, self.num_tasks)
        self._meter.add(sums)
        accumulation = self.trainer.accumulate_grad_batches
        return scaled_loss(sums.total, self._num_targets, world_size=world_size(), accumulation=accumulation)

    def on_train_batch_end(self, _outputs: Any, _batch: RowBatch, batch_idx: int) -> None:
        """Log the means over the steps since the last log line."""
        if ends_step(self.trainer, batch_idx) and logs_at(self.trainer, self.global_step):
            self._logged = self._meter.flush()
            values = dict(self._logged)
            self.log("loss", values.pop("loss"), prog_bar=True)
            self.log_dict(values | {"learning_rate": self.optimizers().param_groups[0]["lr"]})  # type: ignore[union-attr]

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the metrics since the last log line to the checkpoint."""
        checkpoint["meter"] = self._meter.total()
        checkpoint["logged"] = self._logged

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restore these metrics."""
        self._meter.restore(checkpoint["meter"])
        self._logged = checkpoint.get("logged")

    def figures(self) -> dict[str, float]:
        """Return the last log line, or the metrics so far if there was none; every rank must call it."""
        return self._meter.flush() if self._logged is None else self._logged

    def configure_optimizers(self) -> Any:
        """Return AdamW, and a schedule per optimizer step with linear warm-up and a cosine to zero."""
        settings = self._settings
        optimizer = adamw(
            self.generator,
            learning_rate=settings.learning_rate,
            weight_decay=settings.weight_decay,
            betas=settings.betas,
        )
        schedule = cosine_with_warmup(optimizer, num_steps=self.num_steps, warmup=settings.warmup)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


class Validate(StepCallback):
    """Validates every `every` steps, saves the best weights to a file, and stops early without improvement.

    The best is the highest NDCG@10, the earliest of equals. All ranks see the same figures, so they stop together.

    Args:
        validation: measures the generator.
        every: optimizer steps between two validations; the last step is validated too.
        patience: stop after so many validations in a row without a new best; 0 never stops.
        best: file of the best weights so far, trainable parameters only.
    """

    def __init__(self, validation: Validation, *, every: int, patience: int, best: Path) -> None:
        self._validation = validation
        self._every = every
        self._patience = patience
        self._best = best
        self.measured: list[dict[str, float]] = []  # the figures of each validation, with its step

    def on_step_end(self, trainer: pl.Trainer, module: pl.LightningModule, step: int) -> None:
        """Validate if this step is due."""
        assert isinstance(module, GeneratorModule)
        if step % self._every == 0 or step == trainer.max_steps:
            self._measure(trainer, module, step)

    def counts(self) -> dict[str, float]:
        """Return the manifest's entry: the best step, its figures, and the number of validations."""
        return {**self._kept(), "users": self._validation.num_users, "times": len(self.measured)}

    def state_dict(self) -> dict[str, list[dict[str, float]]]:
        """Return the measured figures for a checkpoint; the best weights stay in their own file."""
        return {"measured": self.measured}

    def load_state_dict(self, state_dict: dict[str, list[dict[str, float]]]) -> None:
        """Restore the measured figures."""
        self.measured = list(state_dict["measured"])

    def restore(self, module: GeneratorModule) -> None:
        """Load the best weights into the generator; their file stays until the stage is finished."""
        best = load_file(self._best)
        with torch.no_grad():
            for name, parameter in _trained(module.evaluated).items():
                parameter.copy_(best[name])

    def _measure(self, trainer: pl.Trainer, module: GeneratorModule, step: int) -> None:
        with module.summon_full_params() as generator:
            found = self._validation.measure(generator, module.device)
            self._note(trainer, found, step)
            self._keep(generator)
        module.train()
        waited = len(self.measured) - 1 - self._place()
        if self._patience and waited >= self._patience:
            logger.info("  stopped: no better NDCG@10 in %d validations", waited)
            trainer.should_stop = True

    def _note(self, trainer: pl.Trainer, found: Mapping[str, float], step: int) -> None:
        self.measured.append({"step": step, **found})
        for log in trainer.loggers:
            # Lightning numbers the current step from 0 in its own log lines, so the same number is used here.
            log.log_metrics({f"validation/{name}": value for name, value in found.items()}, step - 1)
        figures = ", ".join(f"{name} {value:.4f}" for name, value in found.items())
        logger.info("  step %d of %d, validation: %s", step, trainer.max_steps, figures)

    def _keep(self, generator: Generator) -> None:
        """Save the weights if the last validation is better than that of the saved weights.

        The saved weights may come from steps that were rewound; they stay the best until a validation surpasses them.
        """
        found = self.measured[-1]
        if rank() == 0 and found["ndcg@10"] > self._kept().get("ndcg@10", -1.0):
            self._best.parent.mkdir(exist_ok=True)
            aside = self._best.with_suffix(".partial")
            weights = {name: value.detach().contiguous() for name, value in _trained(generator).items()}
            save_file(weights, aside, {"figures": json.dumps(found)})
            aside.replace(self._best)

    def _kept(self) -> dict[str, float]:
        """Return the step and figures of the saved weights; empty if there are none."""
        if not self._best.exists():
            return {}
        with safe_open(self._best, "pt") as file:
            figures: dict[str, float] = json.loads(file.metadata()["figures"])
        return figures

    def _place(self) -> int:
        values = [found["ndcg@10"] for found in self.measured]
        return values.index(max(values))


def _trained(generator: Generator) -> dict[str, torch.nn.Parameter]:
    return {name: found for name, found in generator.named_parameters() if found.requires_grad}
