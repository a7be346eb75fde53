"""Random numbers of training as a function of the step, so that checkpoints need no generator states."""

from __future__ import annotations

from typing import Any

from typing_extensions import override

from trialign.runtime.callbacks import place_in_step
from trialign.runtime.collectives import rank
from trialign.runtime.lightning import Callback, pl
from trialign.runtime.seeding import seed_global


class StepSeeds(Callback):
    """Reseeds dropout for every micro-batch, from the seed of the run, the micro-batch's number and the rank.

    A run that continues from a checkpoint then drops what the uninterrupted one would have dropped.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed

    @override
    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Seed torch's default generators."""
        seed_global(self.seed, "dropout", trainer.global_step, place_in_step(trainer, batch_idx), rank())
