"""Contrastive training of a CLIP."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from typing_extensions import override

from trialign.config.enrich import ClipConfig
from trialign.enrich.clip.loss import info_nce
from trialign.runtime.collectives import rank, world_size
from trialign.runtime.lightning import pl
from trialign.runtime.optim import adamw, cosine_with_warmup
from trialign.runtime.seeding import torch_generator

Batch = tuple[Tensor, Tensor]
"""Pixels and tokens."""

_LARGEST_SCALE = 100.0  # largest scale of cosines, as in the paper: above it training becomes unstable


class PairBatches:
    """Picture-text pairs in memory, shuffled each epoch, each with one of its texts; ranks split each batch.

    Args:
        pixels: pictures [M, 3, H, W] in half precision.
        tokens: all texts [A, T]; those of one picture are together.
        first_text_M: where the texts of each picture begin.
        num_texts_M: how many it has, at least one.
        batch_size: pairs per step, over all ranks; an incomplete last batch of an epoch is dropped.
        seed: of the order and of the choice of texts.
    """

    def __init__(
        self, pixels: Tensor, tokens: Tensor, first_text_M: Tensor, num_texts_M: Tensor, batch_size: int, seed: int
    ) -> None:
        self.pixels, self.tokens = pixels, tokens
        self.first_text_M, self.num_texts_M = first_text_M, num_texts_M
        self.batch_size = min(batch_size, len(pixels)) // world_size() * world_size()
        self._generator = torch_generator(seed, "enrich", "clip", "order")

    def __len__(self) -> int:
        """Number of batches per epoch."""
        return len(self.pixels) // self.batch_size

    def __iter__(self) -> Iterator[Batch]:
        order_M = torch.randperm(len(self.pixels), generator=self._generator)
        chance_M = torch.rand(len(self.pixels), generator=self._generator)
        texts_M = self.first_text_M + (chance_M * self.num_texts_M).long()
        local = self.batch_size // world_size()
        for pairs in order_M[: len(self) * self.batch_size].split(self.batch_size):
            mine = pairs[rank() * local : (rank() + 1) * local]
            yield self.pixels[mine].float(), self.tokens[texts_M[mine]]


class ClipModule(pl.LightningModule):
    """Trains both towers and the temperature.

    Args:
        model: an open_clip model; called with pixels and tokens it returns two unit vectors and the scale of cosines.
        batches: the pairs.
        settings: the schedule; linear warm-up over a tenth of the steps, then cosine to zero.
    """

    def __init__(self, model: nn.Module, batches: PairBatches, settings: ClipConfig) -> None:
        super().__init__()
        self.model, self.batches, self.settings = model, batches, settings

    def train_dataloader(self) -> PairBatches:
        """Return the pairs."""
        return self.batches

    @override
    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Return the mean loss of this rank's pairs against those of all ranks."""
        image_BD, text_BD, scale = self.model(*batch)
        total, count = info_nce(
            image_BD,
            text_BD,
            self._gather(image_BD),
            self._gather(text_BD),
            scale.clamp(max=_LARGEST_SCALE),
            first=rank() * len(image_BD),
        )
        loss = total / count
        self.log("loss/info_nce", loss.detach(), on_step=False, on_epoch=True)
        self.log("scale", scale.detach(), on_step=False, on_epoch=True)
        return loss

    def configure_optimizers(self) -> Any:
        """Return AdamW and its schedule by step."""
        rate, decay = self.settings.learning_rate, self.settings.weight_decay
        optimizer = adamw(self, learning_rate=rate, weight_decay=decay, betas=(0.9, 0.98))
        schedule = cosine_with_warmup(optimizer, num_steps=self.settings.num_epochs * len(self.batches), warmup=0.1)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def _gather(self, vectors_BD: Tensor) -> Tensor:
        """Return the vectors of all ranks, in the order of ranks, with gradients."""
        gathered = self.all_gather(vectors_BD, sync_grads=True)
        assert isinstance(gathered, Tensor)
        return gathered.reshape(-1, vectors_BD.shape[-1])
