"""Residual quantization: each level codes what the levels before it left over.

r_1 = z,  c_l = argmin_k ||r_l - C_l[k]||,  r_(l+1) = r_l - C_l[c_l]
"""

from __future__ import annotations

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torch.nn.functional import normalize

from trialign.quantize.kmeans import kmeans
from trialign.runtime.seeding import torch_generator

_BLOCK = 2048


def encode(latents_ND: Tensor, codebooks_LKD: Tensor) -> Tensor:
    """Return the codes of each vector (int64 [N, L])."""
    halves_LK = 0.5 * codebooks_LKD.square().sum(dim=2)
    codes = []
    # A block stays in the cache while it passes through the levels: several times as fast as level after level.
    for block_BD in latents_ND.split(_BLOCK):
        residual_BD, codes_BL = block_BD.clone(), []
        for half_K, vectors_KD in zip(halves_LK, codebooks_LKD, strict=True):
            codes_B = torch.addmm(half_K, residual_BD, vectors_KD.T, beta=-1.0).max(dim=1).indices
            residual_BD -= vectors_KD[codes_B]
            codes_BL.append(codes_B)
        codes.append(torch.stack(codes_BL, dim=1))
    return torch.cat(codes)


def residuals(latents_ND: Tensor, codes_NL: Tensor, codebooks_LKD: Tensor) -> Tensor:
    """Return what each level and those before it leave over (float32 [L, N, D])."""
    left, residual_ND = [], latents_ND
    for codes_N, vectors_KD in zip(codes_NL.T, codebooks_LKD, strict=True):
        residual_ND = residual_ND - vectors_KD[codes_N]
        left.append(residual_ND)
    return torch.stack(left)


def decode(codes_NL: Tensor, codebooks_LKD: Tensor) -> Tensor:
    """Return the vectors that codes stand for: the sum of their codebook vectors (float32 [N, D])."""
    levels = torch.arange(len(codebooks_LKD), device=codes_NL.device)
    return codebooks_LKD[levels, codes_NL].sum(dim=1)


def fit_codebooks(
    latents_ND: Tensor, *, num_levels: int, codebook_size: int, num_iterations: int, seed: int, separation: int = 0
) -> Tensor:
    """Return codebooks_LKD by k-means on the residuals of each level in turn.

    Args:
        latents_ND: float32.
        num_levels: L.
        codebook_size: K.
        num_iterations: Lloyd iterations per level at most.
        seed: of the starts.
        separation: rounds in which the last codebook learns to tell items of one prefix apart; 0: plain k-means there
            too.
    """
    codebooks, residual_ND = [], latents_ND
    prefixes_N = torch.zeros(len(latents_ND), dtype=torch.int64, device=latents_ND.device)
    for level in range(num_levels):
        generator = torch_generator(seed, "quantize", "kmeans", level)
        if separation and level == num_levels - 1:
            codebooks.append(fit_apart(residual_ND, prefixes_N, codebook_size, num_iterations, separation, generator))
            break
        found = kmeans(residual_ND, codebook_size, num_iterations=num_iterations, generator=generator)
        residual_ND = residual_ND - found.centers_KD[found.codes_N]
        prefixes_N = (prefixes_N * codebook_size + found.codes_N).unique(return_inverse=True)[1]
        codebooks.append(found.centers_KD)
    return torch.stack(codebooks)


def fit_apart(
    residual_ND: Tensor,
    prefixes_N: Tensor,
    num_codes: int,
    num_iterations: int,
    num_rounds: int,
    generator: torch.Generator,
) -> Tensor:
    """Return a last codebook whose nearest codes seldom coincide within a prefix.

    Plain k-means serves the mean error, and a few short vectors in the middle then swallow most residuals, siblings
    together. Here all vectors have one length, so the nearest is the one of nearest direction and none is central; and
    in each round items of one prefix may not share a code while the vectors are fitted (cannot-link constraints, as in
    Wagstaff et al., 2001, met at the least cost by an assignment problem per prefix). Encoding stays the nearest code.

    Args:
        residual_ND: what the levels before left over.
        prefixes_N: int64, which items stand under one prefix.
        num_codes: K.
        num_iterations: Lloyd iterations of the start at most.
        num_rounds: rounds of the constraint.
        generator: the only source of chance.
    """
    start = kmeans(normalize(residual_ND), num_codes, num_iterations=num_iterations, generator=generator)
    directions_KD = normalize(start.centers_KD)
    siblings = _siblings(prefixes_N, num_codes)
    for _ in range(num_rounds):
        scores_NK = residual_ND @ directions_KD.T
        codes_N = scores_NK.argmax(dim=1)
        for members in siblings:
            if len(codes_N[members].unique()) < len(members):
                _, dealt = linear_sum_assignment(scores_NK[members].cpu().numpy(), maximize=True)
                codes_N[members] = torch.from_numpy(dealt).to(codes_N.device)
        sums_KD = torch.zeros_like(directions_KD).index_add_(0, codes_N, residual_ND)
        unused_K1 = sums_KD.norm(dim=1, keepdim=True) == 0
        directions_KD = torch.where(unused_K1, directions_KD, normalize(sums_KD))
    return directions_KD * (residual_ND @ directions_KD.T).amax(dim=1).mean()


def _siblings(prefixes_N: Tensor, num_codes: int) -> list[Tensor]:
    """Return the items of each prefix that holds more than one, and no more than there are codes to tell them apart."""
    order_N = prefixes_N.argsort(stable=True)
    sizes = prefixes_N.bincount().tolist()
    return [members for members in order_N.split(sizes) if 1 < len(members) <= num_codes]
