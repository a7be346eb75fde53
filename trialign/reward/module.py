"""LightningModule of the reward model: loss and optimizer. Formulas are in other modules."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch.utils.data import DataLoader

from trialign.config.reward import RewardConfig
from trialign.reward.labels import Labels
from trialign.reward.loss import balanced_loss
from trialign.reward.model import Pairs, Reader, RewardModel
from trialign.runtime.lightning import pl
from trialign.runtime.optim import adamw, cosine_with_warmup
from trialign.runtime.seeding import derive

Batch = tuple[Pairs, torch.Tensor]


class RewardModule(pl.LightningModule):
    """Trains a reward model.

    Args:
        model: what is trained.
        settings: learning rate and weight decay.
        share: of good pairs.
        num_steps: of the whole training.
    """

    def __init__(self, model: RewardModel, settings: RewardConfig, *, share: float, num_steps: int) -> None:
        super().__init__()
        self.model = model
        self.share, self.num_steps = share, num_steps
        self._settings = settings

    def training_step(self, batch: Batch) -> torch.Tensor:
        """Return the mean loss of a batch."""
        pairs, good_B = batch
        loss = balanced_loss(self.model(pairs), good_B, self.share) / len(good_B)
        self.log("loss", loss, prog_bar=True)
        return loss

    def configure_optimizers(self) -> Any:
        """Return AdamW, and a schedule with linear warm-up and a cosine to zero."""
        settings = self._settings
        optimizer = adamw(self.model, learning_rate=settings.learning_rate, weight_decay=settings.weight_decay)
        schedule = cosine_with_warmup(optimizer, num_steps=self.num_steps, warmup=0.1)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def pair_loader(reader: Reader, labels: Labels, texts: Sequence[str], batch_size: int, seed: int) -> DataLoader[Batch]:
    """Return batches of shuffled pairs; the last, smaller one of an epoch is left out unless it is the only one."""

    def collate(rows: list[int]) -> Batch:
        items = [texts[labels.items_M[row]] for row in rows]
        return reader([labels.interests[row] for row in rows], items), torch.from_numpy(labels.good_M[rows])

    rows: Any = list(range(len(labels.interests)))
    order = torch.Generator().manual_seed(derive(seed, "reward order"))
    return DataLoader(
        rows,
        batch_size=batch_size,
        shuffle=True,
        generator=order,
        collate_fn=collate,
        drop_last=len(rows) > batch_size,
    )
