"""Training of the residual-quantized autoencoder."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from trialign.config.quantize import RQVAEConfig
from trialign.embed.store import Interests
from trialign.quantize.autoencoder import RQVAE, Output
from trialign.quantize.loss import (
    Term,
    alignment,
    balance,
    commitment,
    interest_reconstruction,
    reconstruction,
    weighted_sum,
)
from trialign.quantize.metrics import codebook_stats
from trialign.quantize.residual import encode, fit_codebooks
from trialign.runtime.collectives import all_reduce_sum, rank, world_size
from trialign.runtime.lightning import pl
from trialign.runtime.optim import adamw, cosine_with_warmup
from trialign.runtime.seeding import torch_generator

_SAMPLE = 32768
_KMEANS_ITERATIONS = 10
_GRADIENTS_EVERY = 50
"""Steps of an epoch between two measurements of the terms' gradients, the first of which is always measured."""


class Batch(NamedTuple):
    """This rank's items of a global batch.

    Attributes:
        inputs: standardized vectors by modality.
        present: bool by modality.
        interests_CD: the distinct interests of the global batch, length 1; None without the interest loss.
        own_BC: which of them an item has.
    """

    inputs: dict[str, Tensor]
    present: dict[str, Tensor]
    interests_CD: Tensor | None
    own_BC: Tensor | None


class ItemBatches:
    """The vectors of a catalogue in memory, shuffled each epoch; a batch is split over the ranks.

    Args:
        inputs: standardized vectors [N, D] by modality.
        present: bool [N] by modality.
        batch_size: items per step, over all ranks.
        seed: of the order.
        interests: of the items; None without the interest loss.
    """

    def __init__(
        self,
        inputs: Mapping[str, Tensor],
        present: Mapping[str, Tensor],
        batch_size: int,
        seed: int,
        interests: Interests | None = None,
    ) -> None:
        self.inputs, self.present, self.batch_size = dict(inputs), dict(present), batch_size
        self.interests = interests
        # Vectors of one encoder share a common direction that distinguishes no item, so their mean is subtracted.
        self._interests_mean_D = None if interests is None else interests.vectors_UD[np.unique(interests.ids_M)].mean(0)
        self.num_items = len(next(iter(self.present.values())))
        self._generator = torch_generator(seed, "quantize", "order")

    def __len__(self) -> int:
        """Number of batches per epoch."""
        return -(-self.num_items // self.batch_size)

    def __iter__(self) -> Iterator[Batch]:
        order_N = torch.randperm(self.num_items, generator=self._generator)
        for items in order_N.split(self.batch_size):
            mine = items[rank() :: world_size()]
            inputs, present = ({k: v[mine] for k, v in given.items()} for given in (self.inputs, self.present))
            yield Batch(inputs, present, *self._interests_of(items, mine))

    def _interests_of(self, items: Tensor, mine: Tensor) -> tuple[Tensor, Tensor] | tuple[None, None]:
        """Return the distinct interests of a global batch, and a mask of which this rank's items have."""
        if self.interests is None:
            return None, None
        ids_M, offsets = self.interests.ids_M, self.interests.offsets
        ids_C = np.unique(np.concatenate([ids_M[offsets[item] : offsets[item + 1]] for item in items.tolist()]))
        own_BC = torch.zeros(len(mine), len(ids_C), dtype=torch.bool)
        for row, item in enumerate(mine.tolist()):
            own_BC[row, np.searchsorted(ids_C, ids_M[offsets[item] : offsets[item + 1]])] = True
        vectors_CD = torch.from_numpy(self.interests.vectors_UD[ids_C] - self._interests_mean_D)
        return nn.functional.normalize(vectors_CD, dim=1), own_BC


class RQVAEModule(pl.LightningModule):
    """Trains the autoencoder: first without codebooks, then with codebooks initialized by k-means on its latents.

    Without the first phase, k-means would run on the latents of a random encoder, and thousands of codes would die as
    the encoder moves away from them.

    Args:
        model: the autoencoder.
        batches: the catalogue.
        settings: of the quantizer; a term of weight 0 is not computed. The learning rate warms up over 5 % of the
            steps, then follows a cosine to zero.
        interest_head: predicts interests from quantized vectors, in training only; None without that term.
        seed: of k-means and of revived codes.
    """

    def __init__(
        self,
        model: RQVAE,
        batches: ItemBatches,
        settings: RQVAEConfig,
        *,
        interest_head: nn.Module | None,
        seed: int,
    ) -> None:
        super().__init__()
        self.model, self.batches, self.settings, self.interest_head = model, batches, settings, interest_head
        self.first_epoch = min(round(settings.warmup * settings.num_epochs), settings.num_epochs - 1)
        self.seed, self.num_revived = seed, 0
        self._generator = torch_generator(seed, "quantize", "revive")

    @property
    def quantizing(self) -> bool:
        """Whether this epoch quantizes; the first epochs train without codebooks."""
        return self.current_epoch >= self.first_epoch

    def train_dataloader(self) -> ItemBatches:
        """Return the catalogue."""
        return self.batches

    def on_train_epoch_start(self) -> None:
        """Initialize the codebooks at the start of the first epoch that quantizes."""
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
        """Return the loss of a batch and update the codebooks."""
        output: Output = self.model(batch.inputs, quantize=self.quantizing)
        terms = self.terms(output, batch)
        if batch_idx % _GRADIENTS_EVERY == 0:
            self._log_gradients(terms, batch_idx)
        if output.quantized is not None:
            # Only the fused latents update the codebooks; the views of single modalities have to adapt to them.
            self.model.codebooks.update(output.latents_BD, output.quantized)
        for name, term in terms.items():
            # Averaged over ranks, the terms' means give the mean over all items.
            self._log_by_batch(f"loss/{name}", term.mean().detach(), batch_idx)
        return weighted_sum(terms)

    def on_train_epoch_end(self) -> None:
        """Log codebook statistics; revive dead codes, except after the last epoch, as a revived code needs training."""
        if not self.quantizing:
            return
        latents_ND = self._sample_latents()
        codebooks_LKD = self.model.codebooks.vectors_LKD
        found = codebook_stats(encode(latents_ND, codebooks_LKD), latents_ND, codebooks_LKD)
        for name, value in found.items():
            for level, number in enumerate(value if isinstance(value, list) else [value], start=1):
                key = f"codebook/{name}" + (f"_{level}" if isinstance(value, list) else "")
                self.log(key, float(number), sync_dist=True)
        if self.current_epoch < self.settings.num_epochs - 1:
            revived = self.model.codebooks.revive(latents_ND, self._generator)
            self.num_revived += revived
            self.log("codebook/revived", float(revived), sync_dist=True)

    def configure_optimizers(self) -> Any:
        """Return AdamW and its schedule by step."""
        settings = self.settings
        optimizer = adamw(self, learning_rate=settings.learning_rate, weight_decay=settings.weight_decay)
        schedule = cosine_with_warmup(optimizer, num_steps=settings.num_epochs * len(self.batches), warmup=0.05)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def terms(self, output: Output, batch: Batch) -> dict[str, Term]:
        """Return the loss terms with a positive weight, by name."""
        settings, shares = self.settings, self.settings.weights.by_modality()
        terms = {
            f"reconstruction_{name}": reconstruction(
                predicted_BD, batch.inputs[name], batch.present[name], shares.get(name, 1.0)
            )
            for name, predicted_BD in output.reconstructions.items()
        }
        if settings.alignment_weight and {"text", "image"} <= set(self.model.dims):
            terms["alignment"] = self._alignment(batch, quantize=output.quantized is not None)
        if self.interest_head is not None:
            assert batch.interests_CD is not None
            assert batch.own_BC is not None
            terms["interest"] = interest_reconstruction(
                self.interest_head(output.read_BD),
                batch.interests_CD,
                batch.own_BC,
                temperature=settings.temperature,
                weight=settings.interest_weight,
            )
        if output.quantized is not None:
            latents_BD, residuals_LBD = output.latents_BD, output.quantized.residuals_LBD
            if weight := settings.commitment_weight:
                terms["commitment"] = commitment(latents_BD, residuals_LBD, weight)
            if weight := settings.balance_weight:
                vectors_LKD = self.model.codebooks.vectors_LKD.clone()  # updated before the backward pass
                terms["balance"] = balance(latents_BD, residuals_LBD, vectors_LKD, weight=weight)
        return terms

    def _alignment(self, batch: Batch, *, quantize: bool) -> Term:
        both_B = batch.present["text"] & batch.present["image"]
        inputs = {name: given[both_B] for name, given in batch.inputs.items()}
        text_BD, image_BD = (self.model.view(inputs, name, quantize=quantize) for name in ("text", "image"))
        settings = self.settings
        return alignment(text_BD, image_BD, temperature=settings.temperature, weight=settings.alignment_weight)

    def _log_gradients(self, terms: Mapping[str, Term], batch_idx: int) -> None:
        """Log the gradient norm of each loss term at the encoder's last layer, which all views share."""
        layer, _ = list(self.model.encoder.parameters())[-2:]
        for name, term in terms.items():
            (share,) = torch.autograd.grad(term.weight * term.mean(), layer, retain_graph=True)
            gradient = all_reduce_sum(share) / world_size()
            self._log_by_batch(f"gradient/{name}", gradient.norm(), batch_idx)

    def _log_by_batch(self, name: str, value: Tensor, batch_idx: int) -> None:
        """Log the mean over ranks and an epoch's batches, weighted by each global batch's number of items."""
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
