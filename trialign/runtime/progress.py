"""How far a training is, where others can see it: the watchdog of a batch job, `trialign status`."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import trialign.runtime.torchvision_fault  # noqa: F401  (before lightning)

# isort: split
import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback

from trialign.runtime.ranks import PROGRESS


class Progress(Callback):
    """Writes down the steps taken, at most once a second, on the first rank.

    Args:
        folder: of the stage; the file goes when its checkpoints go.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / PROGRESS
        self._written = 0.0

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,  # noqa: ARG002
        outputs: Any,  # noqa: ARG002
        batch: Any,  # noqa: ARG002
        batch_idx: int,  # noqa: ARG002
    ) -> None:
        """Write, where the last time is a second ago."""
        if trainer.is_global_zero and time.monotonic() - self._written > 1.0:
            self._path.parent.mkdir(exist_ok=True)
            self._path.write_text(f"{trainer.global_step}\n")
            self._written = time.monotonic()
