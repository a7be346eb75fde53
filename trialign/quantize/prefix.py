"""Fit codebooks with regard to prefixes: few codes under a prefix at middle levels, distinct codes at the last.

Plain residual k-means minimizes the squared error alone. A generator works with prefixes: it wants few, informative
ones, and distinct items below each. Two settings, both off at 0, change the fit; `residual.encode` stays one pass.
"""

from __future__ import annotations

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torch.nn.functional import normalize

from trialign.config.quantize import RQKMeansConfig
from trialign.progress import tracked
from trialign.quantize.kmeans import kmeans
from trialign.runtime.seeding import torch_generator

_FAMILIARITY = 0.5
"""How many items a prefix must hold for its own frequencies to count as much as those of the whole level."""
_ENOUGH = 4
"""Items of a prefix under one code that attract as much as any number of them."""


def fit_levels(latents_ND: Tensor, settings: RQKMeansConfig, *, seed: int) -> tuple[Tensor, Tensor]:
    """Return codebooks_LKD, and penalties_MKK as `residual.encode` takes them: M = L - 2, or 0 without concentration.

    Args:
        latents_ND: float32.
        settings: K, L, Lloyd iterations per level at most, the strength of `concentrate`, the rounds of `separate`.
        seed: of the starts.
    """
    num_levels, codebook_size, num_iterations = settings.num_levels, settings.codebook_size, settings.num_iterations
    concentration, separation = settings.concentration, settings.separation
    codebooks, penalties, residual_ND = [], [], latents_ND
    codes_N = prefixes_N = torch.zeros(len(latents_ND), dtype=torch.int64, device=latents_ND.device)
    for level in tracked(range(num_levels), "levels"):
        generator = torch_generator(seed, "quantize", "kmeans", level)
        last = level == num_levels - 1
        # `separate` compares directions, so its initial codebook is fitted on directions too.
        points_ND = normalize(residual_ND) if last and separation else residual_ND
        found = kmeans(points_ND, codebook_size, num_iterations=num_iterations, generator=generator)
        vectors_KD = found.centers_KD
        if last and separation:
            vectors_KD = separate(residual_ND, prefixes_N, vectors_KD, separation)
        elif concentration and level and not last:
            before_N, codes_N = codes_N, found.codes_N
            vectors_KD, codes_N, penalty_KK = concentrate(
                residual_ND, before_N, vectors_KD, codes_N, concentration, num_iterations
            )
            penalties.append(penalty_KK)
        else:
            codes_N = found.codes_N
        codebooks.append(vectors_KD)
        if not last:
            residual_ND = residual_ND - vectors_KD[codes_N]
            prefixes_N = (prefixes_N * codebook_size + codes_N).unique(return_inverse=True)[1]
    empty = latents_ND.new_zeros(0, codebook_size, codebook_size)
    return torch.stack(codebooks), torch.stack(penalties) if penalties else empty


def concentrate(
    residual_ND: Tensor, before_N: Tensor, vectors_KD: Tensor, codes_N: Tensor, strength: float, num_iterations: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Concentrate the items of a prefix on few codes where that adds little squared error.

    Entropy-constrained quantization (Chou, Lookabaugh and Gray, 1989): a code is chosen by squared distance plus
    strength x mean squared residual x -log p(code | code before), the frequencies and the vectors being fitted in turn.
    More than four items of a prefix under one code count as four. Otherwise large groups grow at the cost of small
    ones, until a few prefixes hold most items (benchmarks/quantize.md).

    Args:
        residual_ND: residuals of the previous level.
        before_N: int64, each item's code at the previous level.
        vectors_KD: the codebook by plain k-means.
        codes_N: int64, its nearest codes.
        strength: above 0.
        num_iterations: at most; it ends when no item moves.

    Returns:
        The codebook, the codes, and the penalties [K, K] by code before and code.
    """
    num_codes = len(vectors_KD)
    scale = strength * residual_ND.square().sum(dim=1).mean()
    penalty_KK = residual_ND.new_zeros(num_codes, num_codes)
    for _ in tracked(range(num_iterations), "passes that concentrate, at most"):
        counts_KK = residual_ND.new_zeros(num_codes, num_codes)
        counts_KK.index_put_((before_N, codes_N), residual_ND.new_ones(1), accumulate=True)
        sizes_K = counts_KK.sum(dim=0)
        sums_KD = torch.zeros_like(vectors_KD).index_add_(0, codes_N, residual_ND)
        vectors_KD = torch.where(sizes_K[:, None] > 0, sums_KD / sizes_K.clamp_min(1)[:, None], vectors_KD)
        # Smoothing leaves an unused code some probability under every prefix, so that it can be chosen again.
        overall_K = (sizes_K + 1.0) / (len(codes_N) + num_codes)
        # Counts are not normalized: the divisor is equal for all codes of a prefix and cannot change the argmin.
        penalty_KK = -scale * (counts_KK.clamp_max(_ENOUGH) + _FAMILIARITY * overall_K).log()
        squared_NK = vectors_KD.square().sum(dim=1) - 2.0 * residual_ND @ vectors_KD.T
        before_choice_N, codes_N = codes_N, (squared_NK + penalty_KK[before_N]).argmin(dim=1)
        if torch.equal(codes_N, before_choice_N):
            break
    return vectors_KD, codes_N, penalty_KK


def separate(residual_ND: Tensor, prefixes_N: Tensor, vectors_KD: Tensor, num_rounds: int) -> Tensor:
    """Fit a last codebook whose nearest codes rarely collide within a prefix.

    In plain k-means a few short vectors near the mean attract most residuals, so siblings collide. Here all vectors
    have the same length, so the nearest one has the nearest direction. Each round assigns distinct codes to the items
    of a prefix (cannot-link constraints, Wagstaff et al., 2001, solved as a linear assignment problem per prefix) and
    updates the vectors. An item assigned another code than its nearest gets more weight, until that code is its nearest
    (as in boosting). Encoding still takes the nearest code. The codebook fits the items it was trained on: items added
    later collide as often as under plain k-means.

    Args:
        residual_ND: residuals of the previous level.
        prefixes_N: int64, the prefix of each item as a number.
        vectors_KD: the initial codebook.
        num_rounds: the round with the fewest collisions is kept.
    """
    directions_KD = best_KD = normalize(vectors_KD)
    siblings, weights_N1 = _siblings(prefixes_N, len(vectors_KD)), residual_ND.new_ones(len(residual_ND), 1)
    fewest = len(residual_ND)
    for _ in tracked(range(num_rounds), "rounds that separate"):
        scores_NK = residual_ND @ directions_KD.T
        nearest_N = scores_NK.argmax(dim=1)
        codes_N, num_collisions = _deal(scores_NK, nearest_N, siblings)
        if num_collisions < fewest:
            fewest, best_KD = num_collisions, directions_KD
        weights_N1 = weights_N1 + (codes_N != nearest_N)[:, None]
        sums_KD = torch.zeros_like(directions_KD).index_add_(0, codes_N, residual_ND * weights_N1)
        unused_K1 = sums_KD.norm(dim=1, keepdim=True) == 0
        directions_KD = torch.where(unused_K1, directions_KD, normalize(sums_KD))
    return best_KD * (residual_ND @ best_KD.T).amax(dim=1).mean()


def _deal(scores_NK: Tensor, nearest_N: Tensor, siblings: list[Tensor]) -> tuple[Tensor, int]:
    """Assign distinct codes within every group of siblings; return them and the collisions of the nearest codes."""
    codes_N, num_collisions = nearest_N.clone(), 0
    for members in siblings:
        spare = len(members) - len(nearest_N[members].unique())
        if spare:
            num_collisions += spare
            _, dealt = linear_sum_assignment(scores_NK[members].cpu().numpy(), maximize=True)
            codes_N[members] = torch.from_numpy(dealt).to(codes_N.device)
    return codes_N, num_collisions


def _siblings(prefixes_N: Tensor, num_codes: int) -> list[Tensor]:
    """Return the items of each prefix that has at least two items and at most as many as there are codes."""
    order_N = prefixes_N.argsort(stable=True)
    sizes = prefixes_N.bincount().tolist()
    return [members for members in order_N.split(sizes) if 1 < len(members) <= num_codes]
