"""Codebooks that follow the latents by running means instead of gradients."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from trialign.quantize.kmeans import draw
from trialign.quantize.nearest import nearest
from trialign.quantize.residual import decode, encode, residuals
from trialign.runtime.collectives import all_reduce_sum, broadcast_


@dataclass(frozen=True)
class Quantized:
    """What a batch of latents became.

    Args:
        codes_BL: int64.
        residuals_LBD: what each level leaves over, without gradient.
        quantized_BD: the sum of the codes' vectors; its gradient passes to the latents unchanged (straight-through).
    """

    codes_BL: Tensor
    residuals_LBD: Tensor
    quantized_BD: Tensor


class EMACodebooks(nn.Module):
    """L codebooks of K vectors, each the running mean of the residuals that chose it (van den Oord et al., 2017, A.1).

    They are float32 buffers: an optimizer would undo what `update` and `revive` write. Counts and sums are added over
    ranks, so every rank holds the codebooks of the whole batch.

    Args:
        num_levels: L.
        codebook_size: K.
        dim: D.
        decay: share of the running counts and sums that an update keeps.
    """

    vectors_LKD: Tensor
    counts_LK: Tensor
    sums_LKD: Tensor

    def __init__(self, num_levels: int, codebook_size: int, dim: int, decay: float) -> None:
        super().__init__()
        self.decay = decay
        self.register_buffer("vectors_LKD", torch.zeros(num_levels, codebook_size, dim))
        self.register_buffer("counts_LK", torch.ones(num_levels, codebook_size))
        self.register_buffer("sums_LKD", torch.zeros(num_levels, codebook_size, dim))

    def forward(self, latents_BD: Tensor) -> Quantized:
        """Quantize; the codebooks are left as they are."""
        values_BD = latents_BD.detach().float()
        codes_BL = encode(values_BD, self.vectors_LKD)
        quantized_BD = decode(codes_BL, self.vectors_LKD)
        residuals_LBD = residuals(values_BD, codes_BL, self.vectors_LKD)
        return Quantized(codes_BL, residuals_LBD, latents_BD + (quantized_BD - values_BD))

    @torch.no_grad()
    def set(self, vectors_LKD: Tensor) -> None:
        """Start from given codebooks, the first rank's, each vector with the weight of one item."""
        self.vectors_LKD.copy_(vectors_LKD)
        broadcast_(self.vectors_LKD)  # a GPU may add up in another order on every rank
        self.counts_LK.fill_(1.0)
        self.sums_LKD.copy_(self.vectors_LKD)

    @torch.no_grad()
    def update(self, latents_BD: Tensor, quantized: Quantized) -> None:
        """Move every vector towards the mean of the residuals that chose it on any rank.

        n <- decay n + (1 - decay) n_batch,  s <- decay s + (1 - decay) s_batch,  vector = s / n. A code that nobody
        chose keeps its vector.
        """
        entering_LBD = torch.cat([latents_BD.detach().float()[None], quantized.residuals_LBD[:-1]])
        counts_LK, sums_LKD = torch.zeros_like(self.counts_LK), torch.zeros_like(self.sums_LKD)
        for level, codes_B in enumerate(quantized.codes_BL.T):
            counts_LK[level] = torch.bincount(codes_B, minlength=counts_LK.shape[1])
            sums_LKD[level].index_add_(0, codes_B, entering_LBD[level])
        self.counts_LK.lerp_(all_reduce_sum(counts_LK), 1.0 - self.decay)
        self.sums_LKD.lerp_(all_reduce_sum(sums_LKD), 1.0 - self.decay)
        # After a thousand updates without an item both are denormal and their quotient is noise.
        alive_LK1 = (self.counts_LK > 1e-6)[..., None]
        self.vectors_LKD.copy_(torch.where(alive_LK1, self.sums_LKD / self.counts_LK[..., None], self.vectors_LKD))

    @torch.no_grad()
    def revive(self, latents_ND: Tensor, generator: torch.Generator) -> int:
        """Put every code that no item of a sample chooses on an item that its level serves badly.

        Args:
            latents_ND: the sample, at least K items, the same on every rank.
            generator: equal on every rank.

        Returns:
            How many codes were moved.
        """
        num_moved, residual_ND = 0, latents_ND
        for level, vectors_KD in enumerate(self.vectors_LKD):
            codes_N, squared_N = nearest(residual_ND, vectors_KD)
            dead_K = torch.bincount(codes_N, minlength=len(vectors_KD)) == 0
            num_dead = int(dead_K.sum())
            if num_dead:
                vectors_KD[dead_K] = residual_ND[draw(squared_N, num_dead, generator)]
                self.sums_LKD[level, dead_K] = vectors_KD[dead_K]
                self.counts_LK[level, dead_K] = 1.0
                num_moved += num_dead
                # The next level must serve what this one leaves over now.
                codes_N, _ = nearest(residual_ND, vectors_KD)
            residual_ND = residual_ND - vectors_KD[codes_N]
        for tensor in (self.vectors_LKD, self.counts_LK, self.sums_LKD):
            broadcast_(tensor)
        return num_moved
