"""Exact nearest centers: by float32 products, or by bfloat16 products with error bounds and a float32 recheck."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

_BLOCK = 2048
_ROUGH_BLOCK = 8192
_SMALL_BLOCK = 256
"""What three copies of fit into the cache."""
_BFLOAT16 = 2.0**-8
_FLOAT32 = 2.0**-24
"""The largest relative error of rounding to either."""


def nearest(points_ND: Tensor, centers_KD: Tensor, lengths_N: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Return the nearest center of each point (int64 [N]; the first of equals) and its squared distance (float [N]).

    Args:
        points_ND: float32.
        centers_KD: float32.
        lengths_N: `squared_lengths` of the points, computed once by callers that repeat the search.
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


def finder(points_ND: Tensor) -> Callable[[Tensor, Tensor], Tensor]:
    """Return a function that finds the points' nearest centers repeatedly; arguments as `RoughPoints.nearest`."""
    # A CPU with a matrix unit (AMX) multiplies bfloat16 eight times as fast as float32.
    if points_ND.device.type == "cpu" and torch.cpu._is_amx_tile_supported():
        return RoughPoints(points_ND).nearest
    return lambda centers_KD, _: nearest(points_ND, centers_KD)[0]


class RoughPoints:
    """Points whose nearest centers are found with bfloat16 products; the result equals that of `nearest`.

    With x and c rounded to x' and c', the product x'.c' differs from x.c by at most |x - x'| |c| + |x'| |c - c'|
    (Cauchy-Schwarz), plus the float32 error of summing D terms, a share of |x| |c|. One extra column adds this bound,
    and three add -|c|^2 / 2, so that a score is an upper bound of x.c - |c|^2 / 2. A point is settled if the lower
    bound of its center exceeds the upper bound of every other: no float32 product could choose otherwise. The others,
    1 % to 33 % of all points, are searched again in float32.

    Args:
        points_ND: float32.
    """

    def __init__(self, points_ND: Tensor) -> None:
        (num_points, dim), lengths_N = points_ND.shape, torch.linalg.vector_norm(points_ND, dim=1)
        self._points_ND = points_ND
        self._rough_NE = torch.ones(num_points, dim + 4, dtype=torch.bfloat16, device=points_ND.device)
        self._rough_NE[:, :dim] = points_ND
        self._rough_NE[:, -1] = _rounded_up(lengths_N)
        self._lost = _largest_loss(points_ND, self._rough_NE[:, :dim], lengths_N)

    def nearest(self, centers_KD: Tensor, guess_N: Tensor) -> Tensor:
        """Return the nearest center of each point (int64 [N]; the first of equals).

        Args:
            centers_KD: float32.
            guess_N: int64, guessed nearest centers; a right guess costs least.
        """
        rough_KE, open_parts, codes_N = self._rough(centers_KD), [], guess_N.clone()
        slack_K = rough_KE[:, -1]
        for start in range(0, len(codes_N), _ROUGH_BLOCK):
            part = slice(start, start + _ROUGH_BLOCK)
            rough_BE, codes_B = self._rough_NE[part], codes_N[part]
            scores_BK, reach_B = rough_BE @ rough_KE.T, rough_BE[:, -1]
            open_B = _unproved(scores_BK, codes_B, reach_B, slack_K)
            scores_BK, reach_B = scores_BK.index_select(0, open_B), reach_B[open_B]
            codes_B[open_B] = best_B = scores_BK.max(dim=1).indices
            open_parts.append(start + open_B[_unproved(scores_BK, best_B, reach_B, slack_K)])
        for rows in torch.cat(open_parts).split(_BLOCK):
            codes_N[rows] = nearest(self._points_ND.index_select(0, rows), centers_KD)[0]
        return codes_N

    def _rough(self, centers_KD: Tensor) -> Tensor:
        """Return the centers in bfloat16 with their four extra columns."""
        rough_KD, lengths_K = centers_KD.bfloat16(), torch.linalg.vector_norm(centers_KD, dim=1)
        lost = _largest_loss(centers_KD, rough_KD, lengths_K)
        share = (1.0 + self._lost) * (1.0 + lost) - 1.0 + 2.0 * centers_KD.shape[1] * _FLOAT32
        columns = _in_three(-0.5 * lengths_K.square()), _rounded_up(share * lengths_K)[:, None]
        return torch.cat([rough_KD, *columns], dim=1)


def _unproved(scores_BK: Tensor, codes_B: Tensor, reach_B: Tensor, slack_K: Tensor) -> Tensor:
    """Return the points (int64) for which another center may be as near as their code's; scores are upper bounds."""
    own = torch.arange(len(codes_B), device=codes_B.device), codes_B
    own_B = scores_BK[own]
    scores_BK[own] = -torch.inf
    rival_B = scores_BK.amax(dim=1).float()
    scores_BK[own] = own_B
    own_B = own_B.float()
    worst_B = own_B - _BFLOAT16 * own_B.abs() - 2.0 * reach_B.float() * slack_K[codes_B].float()
    return (rival_B + _BFLOAT16 * rival_B.abs() >= worst_B).nonzero()[:, 0]


def _largest_loss(exact_ND: Tensor, rough_ND: Tensor, lengths_N: Tensor) -> float:
    """Return the largest relative rounding error of a vector."""
    parts = zip(exact_ND.split(_SMALL_BLOCK), rough_ND.split(_SMALL_BLOCK), strict=True)
    lost_N = torch.cat([torch.linalg.vector_norm(exact_BD - rough_BD, dim=1) for exact_BD, rough_BD in parts])
    return float((lost_N / lengths_N.clamp_min(torch.finfo(torch.float32).tiny)).max())


def _rounded_up(values_N: Tensor) -> Tensor:
    """Return non-negative values rounded up to bfloat16."""
    return (values_N * (1.0 + 2.0 * _BFLOAT16)).bfloat16()


def _in_three(values_K: Tensor) -> Tensor:
    """Split float32 values into three bfloat16 summands ([K, 3])."""
    parts = []
    for _ in range(3):
        parts.append(values_K.bfloat16())
        values_K = values_K - parts[-1]
    return torch.stack(parts, dim=1)
