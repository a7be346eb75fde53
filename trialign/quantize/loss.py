"""The terms of the quantizer's loss, as sums and counts.

A term is a sum over items and the count of those items. An item without a modality is in neither, so every item has the
same weight even if ranks hold different numbers of pictures.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import normalize, softplus

from trialign.enrich.clip.loss import info_nce
from trialign.runtime.collectives import all_gather_rows, all_reduce_sum, world_size


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


def reconstruction(predicted_BD: Tensor, target_BD: Tensor, present_B: Tensor, weight: float = 1.0) -> Term:
    """Reconstruction loss: squared error per element of a standardized modality, over the items that have it.

    1 is what predicting the catalogue's mean costs.
    """
    errors_B = (predicted_BD - target_BD).square().mean(dim=1)
    return Term(torch.where(present_B, errors_B, 0.0).sum(), present_B.sum(), weight)


def commitment(latents_BD: Tensor, residuals_LBD: Tensor, weight: float) -> Term:
    """Commitment loss: sum over levels of ||z - sg(c_1 + .. + c_l)||^2 / D (Lee et al., 2022, eq. 8).

    Args:
        latents_BD: z, with gradient.
        residuals_LBD: z - (c_1 + .. + c_l), without.
        weight: beta.
    """
    gaps_LBD = residuals_LBD + (latents_BD - latents_BD.detach())
    count = torch.tensor(len(latents_BD), device=latents_BD.device)
    return Term(gaps_LBD.square().mean(dim=2).sum(), count, weight)


def alignment(text_BD: Tensor, image_BD: Tensor, *, temperature: float, weight: float) -> Term:
    """Alignment loss: symmetric InfoNCE between the quantized text view and the quantized image view of an item.

    Negatives are the other items of all ranks; gradients flow through them.

    Args:
        text_BD: the quantized text views of items with both modalities, perhaps none.
        image_BD: their quantized image views.
        temperature: of the cosines.
        weight: of the term.
    """
    text_BD, image_BD = normalize(text_BD, dim=1), normalize(image_BD, dim=1)
    all_text_GD, first = all_gather_rows(text_BD)
    all_image_GD, _ = all_gather_rows(image_BD)
    scale = text_BD.new_tensor(1.0 / temperature)
    total, count = info_nce(image_BD, text_BD, all_image_GD, all_text_GD, scale, first)
    return Term(total, torch.tensor(count, device=total.device), weight)


def interest_reconstruction(
    predicted_BD: Tensor, interests_CD: Tensor, own_BC: Tensor, *, temperature: float, weight: float
) -> Term:
    """Interest loss: InfoNCE of each of an item's interests against the batch's interests that are not its own.

    Args:
        predicted_BD: the interest head's output for the quantized vectors.
        interests_CD: length 1, the distinct interests of the batch of all ranks; constants.
        own_BC: bool, which of them an item has; one without any leaves sum and count.
        temperature: of the cosines.
        weight: of the term.
    """
    scores_BC = normalize(predicted_BD, dim=1) @ interests_CD.T / temperature
    others_B1 = scores_BC.masked_fill(own_BC, torch.finfo(scores_BC.dtype).min).logsumexp(dim=1, keepdim=True)
    num_own_B = own_BC.sum(dim=1)
    # -log(e^s / (e^s + e^others)), averaged over the interests of an item.
    losses_B = torch.where(own_BC, softplus(others_B1 - scores_BC), 0.0).sum(dim=1) / num_own_B.clamp_min(1)
    return Term(losses_B.sum(), (num_own_B > 0).sum(), weight)


def balance(latents_BD: Tensor, residuals_LBD: Tensor, codebooks_LKD: Tensor, *, weight: float) -> Term:
    """Balance loss: KL(mean responsibility || uniform) in nats, mean over levels; 0 if all codes are used equally.

    Responsibilities, a soft form of the assignment, are those of a mixture of Gaussians around the codes, with the
    variance of the level's residuals. Their mean is over the items of all ranks, so the term is not a sum over items
    and weights each rank by its number of items.

    Args:
        latents_BD: z, with gradient.
        residuals_LBD: z - (c_1 + .. + c_l), without.
        codebooks_LKD: fixed here.
        weight: of the term.
    """
    count = torch.tensor(len(latents_BD), device=latents_BD.device)
    num_items, num_codes = all_reduce_sum(count), codebooks_LKD.shape[1]
    values_BD = latents_BD.detach()
    entering_LBD = torch.cat([values_BD[None], residuals_LBD[:-1]]) + (latents_BD - values_BD)
    squared_L = all_reduce_sum(residuals_LBD.square().sum(dim=(1, 2)))
    variance_L11 = (squared_L / (num_items * latents_BD.shape[1])).clamp_min(1e-12)[:, None, None]
    responsible_LBK = (-torch.cdist(entering_LBD, codebooks_LKD).square() / (2.0 * variance_L11)).softmax(dim=2)
    sums_RLK, _ = all_gather_rows(responsible_LBK.sum(dim=1)[None])
    shares_LK = sums_RLK.sum(dim=0) / num_items
    unevenness = math.log(num_codes) - torch.special.entr(shares_LK).sum(dim=1).mean()
    return Term(unevenness * count, count, weight)


def weighted_sum(terms: Mapping[str, Term]) -> Tensor:
    """Return the loss: the sum of weight times mean over all terms."""
    return torch.stack([term.weight * term.mean() for term in terms.values()]).sum()
