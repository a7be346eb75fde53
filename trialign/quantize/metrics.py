"""Codebook statistics: usage, perplexity, residual energy per level, and collisions."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from trialign.quantize.residual import residuals


def codebook_stats(codes_NL: Tensor, latents_ND: Tensor, codebooks_LKD: Tensor) -> dict[str, Any]:
    """Return the statistics of the codes; lists have one entry per level.

    Args:
        codes_NL: the codes of N items.
        latents_ND: the vectors that were quantized.
        codebooks_LKD: the code vectors.

    Returns:
        usage: share of the K codes that some item has; dead_codes: the number of the others;
        perplexity: exp of the entropy of the codes' distribution, K if all are equally frequent;
        residual_energy: mean squared norm of the residual after each level, as a share of the latents' variance;
        collisions: 1 - distinct tuples / items.
    """
    codebook_size = codebooks_LKD.shape[1]
    residuals_LND = residuals(latents_ND, codes_NL, codebooks_LKD)
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
