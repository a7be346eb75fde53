"""Report the optimizer steps of a training as its progress."""

from __future__ import annotations

from typing_extensions import override

from trialign.progress import Progress
from trialign.runtime.callbacks import StepCallback, logs_at
from trialign.runtime.lightning import pl


class TrainingPace(StepCallback):
    """Counts optimizer steps; those of earlier attempts do not count for the rate."""

    def __init__(self) -> None:
        self._progress: Progress | None = None

    @override
    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start the count."""
        self._progress = Progress("steps", int(trainer.estimated_stepping_batches))
        self._progress.__enter__()
        self._progress.add(trainer.global_step, reused=True)

    @override
    def on_step_end(self, trainer: pl.Trainer, module: pl.LightningModule, step: int) -> None:
        """Count the step; read metrics only when training logs, because reading them waits for the device."""
        assert self._progress is not None
        if logs_at(trainer, step):
            self._progress.note = ", ".join(
                f"{name} {value:.4g}" for name, value in trainer.progress_bar_metrics.items()
            )
        self._progress.reach(step)

    @override
    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Report the duration."""
        self._end(None)

    @override
    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Report how many steps were taken; later work of this process does not count as part of the training."""
        self._end(exception)

    def _end(self, cause: BaseException | None) -> None:
        if self._progress is not None:
            self._progress.__exit__(None if cause is None else type(cause), cause, None)
            self._progress = None
