"""EMA codebooks: code vectors updated by running means of the latents instead of gradients."""

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
    """A quantized batch of latents.

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

    They are float32 buffers, because an optimizer would undo the writes of `update` and `revive`. Counts and sums are
    reduced over ranks, so every rank holds the codebooks of the global batch.

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
        """Initialize with the first rank's codebooks, each vector with the weight of one item."""
        self.vectors_LKD.copy_(vectors_LKD)
        broadcast_(self.vectors_LKD)  # GPUs may sum in a different order on each rank
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
        # After a thousand updates without an item, count and sum are denormal, and their quotient is noise.
        alive_LK1 = (self.counts_LK > 1e-6)[..., None]
        self.vectors_LKD.copy_(torch.where(alive_LK1, self.sums_LKD / self.counts_LK[..., None], self.vectors_LKD))

    @torch.no_grad()
    def revive(self, latents_ND: Tensor, generator: torch.Generator) -> int:
        """Move every code that no item of a sample chooses to an item with a large residual at its level.

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
                # The next level quantizes the residuals of this level's new codes.
                codes_N, _ = nearest(residual_ND, vectors_KD)
            residual_ND = residual_ND - vectors_KD[codes_N]
        for tensor in (self.vectors_LKD, self.counts_LK, self.sums_LKD):
            broadcast_(tensor)
        return num_moved
