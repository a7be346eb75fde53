"""Preemption and Ctrl-C: save a checkpoint after the current step, on all ranks together, and end."""

from __future__ import annotations

import os
import signal
from types import FrameType

from typing_extensions import override

from trialign.runtime.callbacks import StepCallback
from trialign.runtime.checkpoint import TrainingCheckpoints
from trialign.runtime.lightning import pl
from trialign.runtime.notice import SIGNALS, SavedError, exit_for_requeue, hear, preemption_requested, training_is_over
from trialign.runtime.ranks import launched_rank

_INTERRUPTED = b"\ninterrupted: saves after this step, then ends; Ctrl-C once more ends at once, without saving\n"


class Preemption(StepCallback):
    """Ends training after the optimizer step in which any rank was sent one of SIGNALS, or Ctrl-C.

    The handlers only set a flag. The module sends it to the other ranks with the step's token count, and this callback
    calls `exit_for_requeue`: all ranks save after the same step, and no collective runs in a signal handler.
    A second Ctrl-C ends at once. A signal in the last step has no effect: training ends and saves its outputs anyway.

    Args:
        checkpoints: where to save.
    """

    def __init__(self, checkpoints: TrainingCheckpoints) -> None:
        self.checkpoints = checkpoints
        self._interrupted = False

    @override
    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Install the handlers over Lightning's, which restores the previous ones when training ends."""
        self._process = os.getpid()
        for number in (*SIGNALS, signal.SIGINT):
            signal.signal(number, self._listen)

    def on_step_start(self, trainer: pl.Trainer, module: pl.LightningModule, step: int) -> None:
        """Tell the module whether this rank was asked to stop; if any rank was, save and end.

        Raises:
            PreemptedError: a rank was asked to stop.
            SavedError: this one was, by Ctrl-C.
        """
        asked = self._interrupted or preemption_requested()
        module.preemption_requested = asked  # type: ignore[assignment]  # an attribute of modules that know of it
        if module.preempted:
            self.checkpoints.save(trainer)
            if self._interrupted:
                raise SavedError(
                    f"interrupted, saved after step {step}",
                    rule="Ctrl-C ends a training behind a save; twice, at once",
                    remedy="the same command continues from there",
                )
            exit_for_requeue(f"saved after step {step}")

    @override
    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Defer later signals until the outputs of the training are saved."""
        training_is_over()

    def _listen(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() == self._process:
            if number == signal.SIGINT:
                self._interrupted = True
                signal.signal(signal.SIGINT, signal.SIG_DFL)
                if launched_rank() == 0:
                    os.write(2, _INTERRUPTED)  # a handler may run inside a `print`
            else:
                hear(number, frame)
        elif number == signal.SIGTERM:  # a loader's worker, which inherited the handler, is asked to end
            os._exit(128 + number)
