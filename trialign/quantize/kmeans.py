"""Batched k-means in plain torch: the codebooks of RQ-KMeans, and the start of RQ-VAE's."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import embedding_bag

from trialign.progress import tracked
from trialign.quantize.nearest import finder, nearest, squared_lengths

_SAMPLE_PER_CLUSTER = 32
_ROUNDS = 16
_SHRINK = 0.25


@dataclass(frozen=True)
class KMeans:
    """A clustering: centers_KD float32, codes_N int64 (nearest center), and the sum of squared distances to them."""

    centers_KD: Tensor
    codes_N: Tensor
    inertia: float


def kmeans(
    points_ND: Tensor, num_clusters: int, *, num_iterations: int, generator: torch.Generator, tolerance: float = 1e-4
) -> KMeans:
    """Lloyd's algorithm from a seeded start; an empty cluster restarts at a point far from its center.

    Args:
        points_ND: float32, on any device; N >= num_clusters.
        num_clusters: K.
        num_iterations: at most so many updates of the centers.
        generator: a CPU generator; the only randomness, so ranks with equal points and seed get equal results.
        tolerance: stop once an update lowers the inertia by less than this share of it.
    """
    assert len(points_ND) >= num_clusters, (points_ND.shape, num_clusters)
    find, centers_KD = finder(points_ND), _seed_centers(points_ND, num_clusters, generator)
    codes_N = torch.zeros(len(points_ND), dtype=torch.int64, device=points_ND.device)
    energy, inertia = float(squared_lengths(points_ND).sum(dtype=torch.float64)), math.inf
    for done in tracked(range(num_iterations + 1), "passes of k-means, at most"):
        codes_N = find(centers_KD, codes_N)
        counts_K = torch.bincount(codes_N, minlength=num_clusters)
        first_K = counts_K.cumsum(0) - counts_K
        sums_KD = embedding_bag(codes_N.argsort(stable=True), points_ND, first_K, mode="sum")
        # sum ||x - c||^2 = sum ||x||^2 - 2 c.sum x + n ||c||^2 per cluster, which needs no second pass over the points.
        centers64_KD = centers_KD.double()
        gained_KD = (2.0 * sums_KD - counts_K[:, None] * centers64_KD) * centers64_KD
        before, inertia = inertia, max(0.0, energy - float(gained_KD.sum()))
        if done == num_iterations or inertia >= (1.0 - tolerance) * before:
            break
        centers_KD = _update_centers(points_ND, codes_N, centers_KD, sums_KD, counts_K, generator)
    return KMeans(centers_KD, codes_N, inertia)


def draw(weights_N: Tensor, num_draws: int, generator: torch.Generator) -> Tensor:
    """Draw distinct indices in proportion to non-negative weights; weight 0 is drawn only when no other is left.

    Each index waits an exponential time with its weight as rate; the first to arrive are drawn (Efraimidis & Spirakis,
    2006).
    """
    waits_N = torch.empty(len(weights_N), dtype=torch.float64).exponential_(generator=generator).to(weights_N.device)
    return (waits_N / weights_N.double().clamp_min(1e-300)).topk(num_draws, largest=False).indices


def _seed_centers(points_ND: Tensor, num_clusters: int, generator: torch.Generator) -> Tensor:
    """k-means++ on a sample, several centers a round, then shrunk towards the mean.

    Arthur & Vassilvitskii (2007) draw one center at a time, in proportion to the squared distance to the nearest one.
    Drawing K / 16 a round (as Bahmani et al., 2012, oversample) replaces K matrix-vector products by 16 matrix ones.

    Shrinking is our addition. Residuals are nearly orthogonal to each other, so a point is closer to the mean than to
    any seed, which is a point too. One cluster near the mean would then take almost all points and leave one to each
    other code. Shrunk seeds compare by direction instead, and the clusters start balanced.
    """
    order = torch.randperm(len(points_ND), generator=generator)[: _SAMPLE_PER_CLUSTER * num_clusters]
    sample_SD = points_ND.index_select(0, order.to(points_ND.device))
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
    points_ND: Tensor,
    codes_N: Tensor,
    centers_KD: Tensor,
    sums_KD: Tensor,
    counts_K: Tensor,
    generator: torch.Generator,
) -> Tensor:
    """Return the means of the clusters; an empty cluster is moved to a point far from its center."""
    means_KD = sums_KD / counts_K.clamp_min(1)[:, None]
    empty_K = counts_K == 0
    num_empty = int(empty_K.sum())
    if num_empty:
        squared_N = squared_lengths(points_ND - centers_KD[codes_N])
        means_KD[empty_K] = points_ND[draw(squared_N, num_empty, generator)]
    return means_KD
