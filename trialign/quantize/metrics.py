"""The health of codes: are they used, do they tell items apart, does each level explain something."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def health(codes_NL: Tensor, codebook_size: int, latents_ND: Tensor, residuals_LND: Tensor) -> dict[str, Any]:
    """Describe codes; lists run over the levels.

    Returns:
        usage: share of the K codes that some item has; dead_codes: the number of the others;
        perplexity: exp of the entropy of the codes' distribution, K if all are equally frequent;
        residual_energy: what a level and those before it leave of the latents' mean squared norm (about their mean);
        collisions: 1 - distinct tuples / items.
    """
    counts_LK = torch.stack([torch.bincount(codes_N, minlength=codebook_size) for codes_N in codes_NL.T])
    used_L = (counts_LK > 0).sum(dim=1)
    shares_LK = counts_LK / len(codes_NL)
    energy = (latents_ND - latents_ND.mean(dim=0)).square().sum().clamp_min(torch.finfo(torch.float32).tiny)
    return {
        "usage": (used_L / codebook_size).tolist(),
        "dead_codes": (codebook_size - used_L).tolist(),
        "perplexity": torch.special.entr(shares_LK).sum(dim=1).exp().tolist(),
        "residual_energy": (residuals_LND.square().sum(dim=(1, 2)) / energy).tolist(),
        "collisions": 1.0 - len(codes_NL.unique(dim=0)) / len(codes_NL),
    }
