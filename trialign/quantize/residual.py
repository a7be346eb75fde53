"""Residual quantization: each level codes what the levels before it left over.

r_1 = z,  c_l = argmin_k ||r_l - C_l[k]||,  r_(l+1) = r_l - C_l[c_l]
"""

from __future__ import annotations

import torch
from torch import Tensor

from trialign.quantize.kmeans import kmeans, nearest
from trialign.runtime.seeding import torch_generator


def encode(latents_ND: Tensor, codebooks_LKD: Tensor) -> tuple[Tensor, Tensor]:
    """Return the codes of each vector (int64 [N, L]) and what every level leaves over (float32 [L, N, D])."""
    codes, residuals, residual_ND = [], [], latents_ND
    for vectors_KD in codebooks_LKD:
        codes_N, _ = nearest(residual_ND, vectors_KD)
        residual_ND = residual_ND - vectors_KD[codes_N]
        codes.append(codes_N)
        residuals.append(residual_ND)
    return torch.stack(codes, dim=1), torch.stack(residuals)


def decode(codes_NL: Tensor, codebooks_LKD: Tensor) -> Tensor:
    """Return the vectors that codes stand for: the sum of their codebook vectors (float32 [N, D])."""
    levels = torch.arange(len(codebooks_LKD), device=codes_NL.device)
    return codebooks_LKD[levels, codes_NL].sum(dim=1)


def fit_codebooks(latents_ND: Tensor, *, num_levels: int, codebook_size: int, num_iterations: int, seed: int) -> Tensor:
    """Return codebooks_LKD by k-means on the residuals of each level in turn."""
    codebooks, residual_ND = [], latents_ND
    for level in range(num_levels):
        generator = torch_generator(seed, "quantize", "kmeans", level)
        found = kmeans(residual_ND, codebook_size, num_iterations=num_iterations, generator=generator)
        residual_ND = residual_ND - found.centers_KD[found.codes_N]
        codebooks.append(found.centers_KD)
    return torch.stack(codebooks)
