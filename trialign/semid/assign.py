"""Resolve collisions by moving items to nearby free tuples at the least distortion."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from trialign.errors import ConfigError
from trialign.progress import tracked
from trialign.semid.table import flat_codes
from trialign.types import NO_ITEM

Codes = NDArray[np.int64]
Reals = NDArray[np.float64]


@dataclass(frozen=True)
class Assignment:
    """Unique codes, and the distortion that making them unique added.

    Args:
        codes_NL: one tuple per item.
        before_NL: the quantizer's codes, with collisions.
        items_moved: items whose tuple changed.
        added_distortion: mean increase of ||z - quantized z||^2 over all items, as a share of its mean before (of the
            latents' mean squared norm if that was 0).
    """

    codes_NL: Codes
    before_NL: Codes
    items_moved: int = 0
    added_distortion: float = 0.0


@dataclass(frozen=True)
class FixedAssignments:
    """Tuples that an older table has assigned and that must not change.

    Args:
        rows_M: int64, the row of each such item in the new catalogue; NO_ITEM for an item that is no longer in it. Its
            tuple stays taken, or an old semantic ID would come to mean another item.
        codes_ML: int64.
    """

    rows_M: NDArray[np.int64]
    codes_ML: Codes

    def over(self, codes_NL: Codes) -> tuple[Codes, NDArray[np.bool_]]:
        """Return the codes with fixed tuples in place, removed items' tuples at the end, and a mask of the fixed ones.

        Args:
            codes_NL: the codes that the new catalogue would have.
        """
        inside = self.rows_M != NO_ITEM
        codes_XL = np.concatenate([codes_NL, self.codes_ML[~inside]])
        codes_XL[self.rows_M[inside]] = self.codes_ML[inside]
        held_X = np.zeros(len(codes_XL), dtype=bool)
        held_X[self.rows_M[inside]] = True
        held_X[len(codes_NL) :] = True
        return codes_XL, held_X


def reassign(
    codes_NL: NDArray[np.integer],
    latents_ND: NDArray[np.floating],
    codebooks_LKD: NDArray[np.floating],
    max_load: float,
    held: FixedAssignments | None = None,
) -> Assignment:
    """Give every item a unique tuple near its quantized one.

    Level by level, a prefix with more items than the K^(levels below) tuples under it moves its worst-fitting items to
    the nearest sibling with room, where they take the nearest codes below. Then, within each prefix of L - 1 codes with
    collisions, the last codes are reassigned with the least sum of squared distances.

    Args:
        codes_NL: the quantizer's codes.
        latents_ND: the vectors that were quantized.
        codebooks_LKD: the code vectors.
        max_load: largest share of the K^L tuples that may be taken.
        held: tuples that must not change; the other items avoid them.

    Raises:
        ConfigError: too many items for K and L.
    """
    num_items, num_levels = codes_NL.shape
    codebooks = np.asarray(codebooks_LKD, dtype=np.float64)
    latents = np.asarray(latents_ND, dtype=np.float64)
    before, fixed = np.asarray(codes_NL, dtype=np.int64), np.zeros(num_items, dtype=bool)
    if held is not None:
        before, fixed = held.over(before)
        latents = np.concatenate([latents, np.zeros((len(before) - num_items, latents.shape[1]))])
    check_load(len(before), num_levels, codebooks.shape[1], max_load)
    codes = before.copy()
    for level in range(num_levels - 1):
        _spill(codes, latents, codebooks, level, fixed)
    _separate(codes, latents, codebooks, fixed)
    codes, before, latents = codes[:num_items], before[:num_items], latents[:num_items]
    lost, lost_before = (_squared_error(latents, found, codebooks) for found in (codes, before))
    # An error below 1e-9 of the latents' squared norm is rounding, not distortion.
    scale = lost_before if lost_before > 1e-9 * np.square(latents).sum() else np.square(latents).sum()
    return Assignment(
        codes_NL=codes,
        before_NL=before,
        items_moved=int((codes != before).any(axis=1).sum()),
        added_distortion=float((lost - lost_before) / scale) if scale > 0 else 0.0,
    )


def check_load(num_items: int, num_levels: int, codebook_size: int, max_load: float) -> None:
    """Raise an error if the catalogue needs more than a share `max_load` of the K^L tuples.

    Raises:
        ConfigError: N > max_load K^L.
    """
    if num_items <= max_load * codebook_size**num_levels:
        return
    levels = next(level for level in range(num_levels, 64) if num_items <= max_load * max(codebook_size, 2) ** level)
    size = math.ceil((num_items / max_load) ** (1 / num_levels))
    size += num_items > max_load * size**num_levels  # the root is inexact
    raise ConfigError(
        f"{num_items} items for {codebook_size}^{num_levels} = {codebook_size**num_levels} tuples",
        rule=f"at most assign.max_load = {max_load} of the tuples are taken",
        remedy=f"set quantize.num_levels={levels}"
        + (f" or quantize.codebook_size={size}" if size <= num_items else "")  # quantize would lower a larger K
        + ", and run quantize again"
        + (", or assign.max_load=1" if num_items <= codebook_size**num_levels else ""),
    )


def _spill(codes: Codes, latents: Reals, codebooks: Reals, level: int, fixed: NDArray[np.bool_]) -> None:
    """Move items out of prefixes of `level` + 1 codes with more items than tuples, in place; fixed items stay."""
    num_levels, codebook_size = codebooks.shape[:2]
    capacity = codebook_size ** (num_levels - level - 1)
    for members in tracked(_groups(codes[:, :level], codebook_size), f"prefixes of {level} codes brought into bounds"):
        count_K = np.bincount(codes[members, level], minlength=codebook_size)
        if count_K.max() <= capacity:
            continue
        distance_MK = _distances(_residual(latents[members], codes[members], codebooks, level), codebooks[level])
        for code in np.flatnonzero(count_K > capacity):
            inside = np.flatnonzero((codes[members, level] == code) & ~fixed[members])
            worst_first = inside[np.argsort(-distance_MK[inside, code], kind="stable")]
            for row in worst_first[: count_K[code] - capacity]:
                # never to a sibling that is itself over capacity
                target = int(np.where(count_K < capacity, distance_MK[row], np.inf).argmin())
                count_K[target] += 1
                count_K[code] -= 1
                item = members[row]
                codes[item, level] = target
                _complete(codes[item], latents[item], codebooks, level + 1)


def _complete(codes_L: Codes, latent_D: Reals, codebooks: Reals, level: int) -> None:
    """Set the codes from `level` on to the nearest ones, in place."""
    for below in range(level, len(codebooks)):
        residual_1D = _residual(latent_D[None], codes_L[None], codebooks, below)
        codes_L[below] = _distances(residual_1D, codebooks[below])[0].argmin()


def _separate(codes: Codes, latents: Reals, codebooks: Reals, fixed: NDArray[np.bool_]) -> None:
    """Reassign the last codes within every prefix in which items collide, in place; fixed items stay."""
    last, codebook_size = len(codebooks) - 1, codebooks.shape[1]
    for members in tracked(_groups(codes[:, :last], codebook_size), "prefixes whose items are told apart"):
        if len(np.unique(codes[members, last])) == len(members):
            continue
        taken, members = codes[members[fixed[members]], last], members[~fixed[members]]
        own = codes[members, last]
        distance_MK = _distances(_residual(latents[members], codes[members], codebooks, last), codebooks[last])
        # Of equally good solutions, take one that moves fewer items.
        nudge = 1e-9 * max(float(distance_MK.max()), 1e-300)
        distance_MK[np.arange(len(members)), own] -= nudge
        free = np.setdiff1d(np.arange(codebook_size), taken)
        _, dealt = linear_sum_assignment(distance_MK[:, free])
        codes[members, last] = free[dealt]


def _groups(prefixes: Codes, codebook_size: int) -> list[NDArray[np.intp]]:
    """Return the items of every distinct prefix that has more than one."""
    numbers = flat_codes(prefixes, codebook_size)
    order = np.argsort(numbers, kind="stable")
    starts = np.flatnonzero(np.diff(numbers[order])) + 1
    return [members for members in np.split(order, starts) if len(members) > 1]


def _residual(latents: Reals, codes: Codes, codebooks: Reals, level: int) -> Reals:
    """Return the residuals of the latents before `level`."""
    residual = latents.copy()
    for before in range(level):
        residual -= codebooks[before, codes[:, before]]
    return residual


def _distances(points_MD: Reals, vectors_KD: Reals) -> Reals:
    """Return squared distances [M, K]."""
    lengths_M1, lengths_K = np.square(points_MD).sum(axis=1)[:, None], np.square(vectors_KD).sum(axis=1)
    squared_MK: Reals = np.maximum(lengths_M1 - 2.0 * points_MD @ vectors_KD.T + lengths_K, 0.0)
    return squared_MK


def _squared_error(latents: Reals, codes: Codes, codebooks: Reals) -> float:
    return float(np.square(_residual(latents, codes, codebooks, len(codebooks))).sum())
