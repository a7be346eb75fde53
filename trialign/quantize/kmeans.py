"""Batched k-means in plain torch: the codebooks of RQ-KMeans, and the start of RQ-VAE's."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

_BLOCK = 2048
_SAMPLE_PER_CLUSTER = 32
_ROUNDS = 16
_SHRINK = 0.25


@dataclass(frozen=True)
class KMeans:
    """A clustering: centers_KD float32, codes_N int64 (nearest centre), and the sum of squared distances to them."""

    centers_KD: Tensor
    codes_N: Tensor
    inertia: float


def kmeans(
    points_ND: Tensor, num_clusters: int, *, num_iterations: int, generator: torch.Generator, tolerance: float = 1e-4
) -> KMeans:
    """Lloyd's algorithm from a seeded start; a cluster that loses its last point begins again on a badly served one.

    Args:
        points_ND: float32, on any device; N >= num_clusters.
        num_clusters: K.
        num_iterations: updates of the centres at most.
        generator: a CPU generator; the only source of chance, so ranks that share points and seed share the result.
        tolerance: stop once an update lowers the inertia by less than this share of it.
    """
    assert len(points_ND) >= num_clusters, (points_ND.shape, num_clusters)
    centers_KD = _seed_centers(points_ND, num_clusters, generator)
    lengths_N = squared_lengths(points_ND)
    codes_N, squared_N = nearest(points_ND, centers_KD, lengths_N)
    inertia = float(squared_N.sum())
    for _ in range(num_iterations):
        before = inertia
        centers_KD = _update_centers(points_ND, codes_N, squared_N, num_clusters, generator)
        codes_N, squared_N = nearest(points_ND, centers_KD, lengths_N)
        inertia = float(squared_N.sum())
        if before - inertia <= tolerance * before:
            break
    return KMeans(centers_KD, codes_N, inertia)


def nearest(points_ND: Tensor, centers_KD: Tensor, lengths_N: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Return the nearest centre of each point (int64 [N]; of equals the first) and its squared distance (float [N]).

    Args:
        points_ND: float32.
        centers_KD: float32.
        lengths_N: `squared_lengths` of the points, for who asks about the same points again and again.
    """
    half_K = 0.5 * squared_lengths(centers_KD)
    # Blocks keep the scores in the cache; ||x - c||^2 = ||x||^2 - 2 (x.c - ||c||^2 / 2).
    found = [torch.addmm(half_K, block_BD, centers_KD.T, beta=-1.0).max(dim=1) for block_BD in points_ND.split(_BLOCK)]
    best_N, codes_N = (torch.cat(parts) for parts in zip(*found, strict=True))
    lengths_N = squared_lengths(points_ND) if lengths_N is None else lengths_N
    return codes_N, (lengths_N - 2.0 * best_N).clamp_min(0.0)


def squared_lengths(points_ND: Tensor) -> Tensor:
    """Return the squared length of each point (float [N]), without a second copy of the points."""
    lengths_N: Tensor = torch.linalg.vector_norm(points_ND, dim=1).square()
    return lengths_N


def draw(weights_N: Tensor, num_draws: int, generator: torch.Generator) -> Tensor:
    """Draw distinct indices in proportion to non-negative weights; weightless ones only once no others are left.

    Each index waits an exponential time with its weight as rate; the first to arrive are drawn (Efraimidis & Spirakis,
    2006).
    """
    waits_N = torch.empty(len(weights_N), dtype=torch.float64).exponential_(generator=generator).to(weights_N.device)
    return (waits_N / weights_N.double().clamp_min(1e-300)).topk(num_draws, largest=False).indices


def _seed_centers(points_ND: Tensor, num_clusters: int, generator: torch.Generator) -> Tensor:
    """k-means++ on a sample, several centres a round, then shrunk towards the mean.

    Arthur & Vassilvitskii (2007) draw one centre at a time in proportion to the squared distance from those there are.
    Drawing K / 16 a round (as Bahmani et al., 2012, oversample) replaces K matrix-vector products by 16 matrix ones.

    Shrinking is ours. Residuals are nearly orthogonal to each other, so a seed, itself a point, is further from any
    other point than the mean is: one cluster near the mean then swallows almost everything and the other codes keep a
    point each. Shrunk seeds compare by direction instead, and the clusters start balanced.
    """
    order = torch.randperm(len(points_ND), generator=generator)[: _SAMPLE_PER_CLUSTER * num_clusters]
    sample_SD = points_ND[order.to(points_ND.device)]
    centers_KD, lengths_S = sample_SD[:1], squared_lengths(sample_SD)
    _, squared_S = nearest(sample_SD, centers_KD, lengths_S)
    while len(centers_KD) < num_clusters:
        room = num_clusters - len(centers_KD)
        chosen = draw(squared_S, min(room, max(1, num_clusters // _ROUNDS)), generator)
        centers_KD = torch.cat([centers_KD, sample_SD[chosen]])
        squared_S = torch.minimum(squared_S, nearest(sample_SD, sample_SD[chosen], lengths_S)[1])
    mean_D = sample_SD.mean(dim=0)
    return mean_D + _SHRINK * (centers_KD - mean_D)


def _update_centers(
    points_ND: Tensor, codes_N: Tensor, squared_N: Tensor, num_clusters: int, generator: torch.Generator
) -> Tensor:
    sums_KD = torch.zeros(num_clusters, points_ND.shape[1], dtype=points_ND.dtype, device=points_ND.device)
    sums_KD.index_add_(0, codes_N, points_ND)
    counts_K = torch.bincount(codes_N, minlength=num_clusters)
    empty_K = counts_K == 0
    centers_KD = sums_KD / counts_K.clamp_min(1)[:, None]
    num_empty = int(empty_K.sum())
    if num_empty:
        centers_KD[empty_K] = points_ND[draw(squared_N, num_empty, generator)]
    return centers_KD
