"""Residual quantization: each level quantizes the residual of the previous one.

r_1 = z,  c_l = argmin_k ||r_l - C_l[k]||,  r_(l+1) = r_l - C_l[c_l]
"""

from __future__ import annotations

import torch
from torch import Tensor

from trialign.quantize.kmeans import kmeans
from trialign.runtime.seeding import torch_generator

_BLOCK = 2048


def encode(latents_ND: Tensor, codebooks_LKD: Tensor, penalties_MKK: Tensor | None = None) -> Tensor:
    """Return the codes of each vector (int64 [N, L]).

    Args:
        latents_ND: float32.
        codebooks_LKD: float32.
        penalties_MKK: added to the squared distances of the levels between the first and the last (M = L - 2), by the
            code before and the code; see `prefix.concentrate`. None or M = 0: the nearest code.
    """
    halves_LK = 0.5 * codebooks_LKD.square().sum(dim=2)
    # The first and the last level have no penalties.
    penalties = [None, *(penalties_MKK if penalties_MKK is not None else [])]
    penalties += [None] * (len(codebooks_LKD) - len(penalties))
    codes: list[Tensor] = []
    # Each block passes through all levels while it is in the CPU cache, several times as fast as level by level.
    for block_BD in latents_ND.split(_BLOCK):
        residual_BD = block_BD.clone()
        codes_BL: list[Tensor] = []
        for half_K, vectors_KD, penalty_KK in zip(halves_LK, codebooks_LKD, penalties, strict=True):
            offset = half_K if penalty_KK is None else half_K + 0.5 * penalty_KK[codes_BL[-1]]
            codes_B = torch.addmm(offset, residual_BD, vectors_KD.T, beta=-1.0).max(dim=1).indices
            residual_BD -= vectors_KD[codes_B]
            codes_BL.append(codes_B)
        codes.append(torch.stack(codes_BL, dim=1))
    return torch.cat(codes)


def residuals(latents_ND: Tensor, codes_NL: Tensor, codebooks_LKD: Tensor) -> Tensor:
    """Return the residuals after each level (float32 [L, N, D])."""
    left, residual_ND = [], latents_ND
    for codes_N, vectors_KD in zip(codes_NL.T, codebooks_LKD, strict=True):
        residual_ND = residual_ND - vectors_KD[codes_N]
        left.append(residual_ND)
    return torch.stack(left)


def decode(codes_NL: Tensor, codebooks_LKD: Tensor) -> Tensor:
    """Return the quantized vectors: the sums of the codes' codebook vectors (float32 [N, D])."""
    levels = torch.arange(len(codebooks_LKD), device=codes_NL.device)
    return codebooks_LKD[levels, codes_NL].sum(dim=1)


def fit_codebooks(latents_ND: Tensor, *, num_levels: int, codebook_size: int, num_iterations: int, seed: int) -> Tensor:
    """Return codebooks_LKD by k-means on the residuals of each level in turn."""
    codebooks: list[Tensor] = []
    residual_ND = latents_ND.clone()
    for level in range(num_levels):
        generator = torch_generator(seed, "quantize", "kmeans", level)
        found = kmeans(residual_ND, codebook_size, num_iterations=num_iterations, generator=generator)
        codebooks.append(found.centers_KD)
        _subtract_(residual_ND, found.centers_KD, found.codes_N)
    return torch.stack(codebooks)


def _subtract_(points_ND: Tensor, vectors_KD: Tensor, codes_N: Tensor) -> None:
    """Subtract each point's code vector from it, in place and in blocks: four times as fast as with full copies."""
    for block_BD, codes_B in zip(points_ND.split(_BLOCK), codes_N.split(_BLOCK), strict=True):
        block_BD -= vectors_KD[codes_B]
