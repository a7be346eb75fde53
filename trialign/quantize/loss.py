"""The terms of the quantizer's loss, as sums and counts.

A term is a sum over items and the number of items it ran over. Ranks whose batches hold different numbers of pictures
then weigh every item alike, and an item that lacks a modality leaves both.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from trialign.runtime.collectives import all_reduce_sum, world_size


@dataclass(frozen=True)
class Term:
    """One named part of the loss: its sum over items, how many items, and its weight."""

    total: Tensor
    count: Tensor
    weight: float = 1.0

    def mean(self) -> Tensor:
        """Return the mean over the items of all ranks, as this rank's share times the number of ranks.

        Averaging the gradients over ranks, as data parallelism does, then gives the gradient of the global mean.
        """
        return self.total * world_size() / all_reduce_sum(self.count).clamp_min(1)


def reconstruction(predicted_BD: Tensor, target_BD: Tensor, present_B: Tensor) -> Term:
    """Squared error per element against a frozen, standardised modality, over the items that have it.

    1 is what predicting the catalogue's mean costs.
    """
    errors_B = (predicted_BD - target_BD).square().mean(dim=1)
    return Term(torch.where(present_B, errors_B, 0.0).sum(), present_B.sum())


def commitment(latents_BD: Tensor, residuals_LBD: Tensor, weight: float) -> Term:
    """Keep the encoder near its codes: sum over levels of ||z - sg(c_1 + .. + c_l)||^2 / D (Lee et al., 2022, eq. 8).

    Args:
        latents_BD: z, with gradient.
        residuals_LBD: z - (c_1 + .. + c_l), without.
        weight: beta.
    """
    gaps_LBD = residuals_LBD + (latents_BD - latents_BD.detach())
    count = torch.tensor(len(latents_BD), device=latents_BD.device)
    return Term(gaps_LBD.square().mean(dim=2).sum(), count, weight)


def weighted_sum(terms: Mapping[str, Term]) -> Tensor:
    """Return the loss: the sum of weight times mean over all terms."""
    return torch.stack([term.weight * term.mean() for term in terms.values()]).sum()
