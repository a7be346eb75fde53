"""Training of the residual-quantized autoencoder."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

import trialign.runtime.torchvision_fault  # noqa: F401  (before lightning)

# isort: split
import pytorch_lightning as pl

from trialign.quantize.autoencoder import RQVAE, Output
from trialign.quantize.loss import Term, commitment, reconstruction, weighted_sum
from trialign.quantize.metrics import health
from trialign.quantize.residual import encode, fit_codebooks
from trialign.runtime.collectives import all_reduce_sum, rank, world_size
from trialign.runtime.optim import adamw, cosine_with_warmup
from trialign.runtime.seeding import torch_generator

_SAMPLE = 32768
_KMEANS_ITERATIONS = 10

Batch = tuple[dict[str, Tensor], dict[str, Tensor]]
"""Standardised vectors and presence, by modality."""


class ItemBatches:
    """A catalogue in memory, in a new seeded order each pass; ranks share each batch.

    Args:
        inputs: standardised vectors [N, D] by modality.
        present: bool [N] by modality.
        batch_size: items per step, over all ranks.
        seed: of the order.
    """

    def __init__(self, inputs: Mapping[str, Tensor], present: Mapping[str, Tensor], batch_size: int, seed: int) -> None:
        self.inputs, self.present, self.batch_size = dict(inputs), dict(present), batch_size
        self.num_items = len(next(iter(self.present.values())))
        self._generator = torch_generator(seed, "quantize", "order")

    def __len__(self) -> int:
        """Number of batches of a pass."""
        return -(-self.num_items // self.batch_size)

    def __iter__(self) -> Iterator[Batch]:
        order_N = torch.randperm(self.num_items, generator=self._generator)
        for items in order_N.split(self.batch_size):
            mine = items[rank() :: world_size()]
            yield {k: v[mine] for k, v in self.inputs.items()}, {k: v[mine] for k, v in self.present.items()}


class RQVAEModule(pl.LightningModule):
    """Trains the autoencoder: first without codebooks, then with codebooks that k-means starts on its latents.

    Without the first phase k-means would start on the latents of a random encoder, and codes would die by the thousand
    while the encoder moves away from them.

    Args:
        model: the autoencoder.
        batches: the catalogue.
        num_epochs: passes over it.
        warmup: share of them without codebooks.
        learning_rate: peak; linear rise over 5 % of the steps, cosine to zero.
        weight_decay: AdamW.
        commitment_weight: beta.
        seed: of k-means and of revived codes.
    """

    def __init__(
        self,
        model: RQVAE,
        batches: ItemBatches,
        *,
        num_epochs: int,
        warmup: float,
        learning_rate: float,
        weight_decay: float,
        commitment_weight: float,
        seed: int,
    ) -> None:
        super().__init__()
        self.model, self.batches = model, batches
        self.num_epochs, self.learning_rate, self.weight_decay = num_epochs, learning_rate, weight_decay
        self.first_epoch = min(round(warmup * num_epochs), num_epochs - 1)
        self.commitment_weight, self.seed = commitment_weight, seed
        self.num_revived = 0
        self._generator = torch_generator(seed, "quantize", "revive")

    @property
    def quantizing(self) -> bool:
        """Whether the codebooks take part in this epoch."""
        return self.current_epoch >= self.first_epoch

    def train_dataloader(self) -> ItemBatches:
        """Return the catalogue."""
        return self.batches

    def on_train_epoch_start(self) -> None:
        """Start the codebooks when their first epoch begins."""
        if self.current_epoch == self.first_epoch:
            num_levels, codebook_size, _ = self.model.codebooks.vectors_LKD.shape
            vectors_LKD = fit_codebooks(
                self._sample_latents(),
                num_levels=num_levels,
                codebook_size=codebook_size,
                num_iterations=_KMEANS_ITERATIONS,
                seed=self.seed,
            )
            self.model.codebooks.set(vectors_LKD)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Return the loss of a batch and let the codebooks follow it."""
        inputs, present = batch
        output: Output = self.model(inputs, quantize=self.quantizing)
        terms = self._terms(output, inputs, present)
        if batch_idx == 0:
            self._log_gradients(terms, output.latents_BD, batch_idx)
        if output.quantized is not None:
            self.model.codebooks.update(output.latents_BD, output.quantized)
        for name, term in terms.items():
            self._log_by_batch(f"loss/{name}", term.mean().detach(), batch_idx)
        return weighted_sum(terms)

    def on_train_epoch_end(self) -> None:
        """Log the health of the codes; revive dead ones, but not after the last pass: a revived code needs training."""
        if not self.quantizing:
            return
        latents_ND = self._sample_latents()
        codebooks_LKD = self.model.codebooks.vectors_LKD
        found = health(encode(latents_ND, codebooks_LKD), latents_ND, codebooks_LKD)
        for name, value in found.items():
            for level, number in enumerate(value if isinstance(value, list) else [value], start=1):
                key = f"health/{name}" + (f"_{level}" if isinstance(value, list) else "")
                self.log(key, float(number), sync_dist=True)
        if self.current_epoch < self.num_epochs - 1:
            revived = self.model.codebooks.revive(latents_ND, self._generator)
            self.num_revived += revived
            self.log("health/revived", float(revived), sync_dist=True)

    def configure_optimizers(self) -> Any:
        """Return AdamW and its schedule by step."""
        optimizer = adamw(self, learning_rate=self.learning_rate, weight_decay=self.weight_decay)
        schedule = cosine_with_warmup(optimizer, num_steps=self.num_epochs * len(self.batches), warmup=0.05)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def _terms(self, output: Output, inputs: Mapping[str, Tensor], present: Mapping[str, Tensor]) -> dict[str, Term]:
        terms = {
            f"reconstruction_{name}": reconstruction(predicted_BD, inputs[name], present[name])
            for name, predicted_BD in output.reconstructions.items()
        }
        if output.quantized is not None:
            residuals_LBD = output.quantized.residuals_LBD
            terms["commitment"] = commitment(output.latents_BD, residuals_LBD, self.commitment_weight)
        return terms

    def _log_gradients(self, terms: Mapping[str, Term], latents_BD: Tensor, batch_idx: int) -> None:
        """Log how hard each term pulls at the latents of all ranks, the one place where all of them meet."""
        for name, term in terms.items():
            (gradient,) = torch.autograd.grad(term.weight * term.mean(), latents_BD, retain_graph=True)
            squared = all_reduce_sum((gradient / world_size()).square().sum())
            self._log_by_batch(f"gradient/{name}", squared.sqrt(), batch_idx)

    def _log_by_batch(self, name: str, value: Tensor, batch_idx: int) -> None:
        """Log the mean over ranks and over the batches of a pass, weighted by the items that all ranks hold of each."""
        size = min(self.batches.batch_size, self.batches.num_items - batch_idx * self.batches.batch_size)
        self.log(name, value, on_step=False, on_epoch=True, sync_dist=True, batch_size=size)

    @torch.no_grad()
    def _sample_latents(self) -> Tensor:
        """Return the latents of a seeded sample, the same on every rank."""
        generator = torch_generator(self.seed, "quantize", "sample")
        items = torch.randperm(self.batches.num_items, generator=generator)[:_SAMPLE]
        return self.model.encode(
            {name: vectors_ND[items].to(self.device) for name, vectors_ND in self.batches.inputs.items()}
        )
