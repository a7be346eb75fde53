"""Add new items to an older table of semantic IDs, whose items keep theirs.

The vectors of a grown catalogue differ from the old ones: TF-IDF, SVD and quantizer are fitted again, and their axes
rotate. So code vectors are estimated from the old items: in the new space, a code's vector is the mean residual of the
old items that have it. New items take the nearest codes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from trialign.errors import ConfigError, DataError
from trialign.quantize.residual import encode
from trialign.semid.assign import FixedAssignments
from trialign.semid.policy import ItemCodes
from trialign.semid.table import SIDTable
from trialign.types import NO_ITEM

_ALIKE = 0.95
"""Largest share of the spread of all items that a first code may leave among its own; unrelated codes leave 1."""


@dataclass(frozen=True)
class Extension:
    """The codes of a grown catalogue, and the tuples of the older table.

    Args:
        coded: the nearest codes of the older table for the new catalogue's vectors.
        held: the older table's tuples.
        counts: items `kept` from the older table, `new`, and `left` (in the older table, no longer in the catalogue).
    """

    coded: ItemCodes
    held: FixedAssignments
    counts: dict[str, int]


def grow(coded: ItemCodes, item_keys: Sequence[str], policy: str, older: SIDTable) -> Extension:
    """Return the codes of a grown catalogue that keeps the semantic IDs of an older table.

    Args:
        coded: the new catalogue, quantized with as many levels and codes. Its latents are used to compare items; its
            code vectors are used for codes that no old item has.
        item_keys: the new catalogue.
        policy: how collisions will be resolved.
        older: the table to grow.

    Raises:
        ConfigError: another policy, or another number of levels or codes than the older table's.
        DataError: the older table is of another catalogue.
    """
    assert coded.latents_ND is not None
    assert coded.codebooks_LKD is not None
    num_levels = coded.codes_NL.shape[1]
    ours = (policy, num_levels + (policy == "suffix"), coded.codebook_size)
    theirs = (older.policy, older.num_levels, older.codebook_size)
    if ours != theirs:
        levels = older.num_levels - (older.policy == "suffix")
        raise ConfigError(
            f"a table of {theirs[1]} levels of {theirs[2]} codes by {theirs[0]} would grow by one of {ours[1]} levels "
            f"of {ours[2]} codes by {ours[0]}",
            rule="a table grows by its own policy, levels and codes",
            remedy=f"set assign.policy={older.policy} quantize.num_levels={levels} "
            f"quantize.codebook_size={older.codebook_size}, and run quantize again",
        )
    row_of = {key: row for row, key in enumerate(item_keys)}
    rows_M = np.array([row_of.get(key, NO_ITEM) for key in older.item_keys], dtype=np.int64)
    inside_M = rows_M != NO_ITEM
    kept, known_ML = rows_M[inside_M], older.codes_NL[inside_M, :num_levels]
    if not len(kept) or not _alike(coded.latents_ND[kept], known_ML[:, 0]):
        raise DataError(
            f"{len(kept)} of the {older.num_items} items of the older table are in this catalogue, "
            "and those of one first code are no more alike than any",
            rule="a table grows with its own catalogue, whose items keep their keys",
            remedy="name an older run of this catalogue with assign.extend=DIR",
        )
    books_LKD = _read_codebooks(coded.latents_ND[kept], known_ML, coded.codebooks_LKD)
    codes_NL = encode(torch.from_numpy(coded.latents_ND), torch.from_numpy(books_LKD)).numpy()
    counts = {"kept": len(kept), "new": len(item_keys) - len(kept), "left": int((~inside_M).sum())}
    return Extension(
        replace(coded, codes_NL=codes_NL, codebooks_LKD=books_LKD), FixedAssignments(rows_M, older.codes_NL), counts
    )


def _read_codebooks(
    latents_MD: NDArray[np.float32], codes_ML: NDArray[np.int64], spare_LKD: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Return the code vectors: the mean residual of a code's items, or the spare vector if no item has it."""
    books_LKD, residual_MD = spare_LKD.copy(), latents_MD.copy()
    for books_KD, codes_M in zip(books_LKD, codes_ML.T, strict=True):
        used = np.unique(codes_M)
        books_KD[used] = _means(residual_MD, codes_M)[used]
        residual_MD -= books_KD[codes_M]
    return books_LKD


def _alike(latents_MD: NDArray[np.float32], codes_M: NDArray[np.int64]) -> bool:
    """Return whether items of equal code are closer to each other than to the overall mean; True if all codes differ.

    The mean that an item is compared with leaves out the item: in many dimensions, a mean of few points is near each of
    them, related or not.
    """
    counts_M1 = np.bincount(codes_M)[codes_M][:, None]
    others_M = counts_M1[:, 0] > 1
    gaps_MD = (latents_MD - _means(latents_MD, codes_M)[codes_M]) * counts_M1 / np.maximum(counts_M1 - 1, 1)
    from_all_MD = latents_MD - latents_MD.mean(axis=0)
    return bool(np.square(gaps_MD[others_M]).sum() <= _ALIKE * np.square(from_all_MD[others_M]).sum())


def _means(points_MD: NDArray[np.float32], codes_M: NDArray[np.int64]) -> NDArray[np.float32]:
    """Return the mean point of each code; zero for a code without points."""
    size = int(codes_M.max()) + 1
    sums_KD = np.zeros((size, points_MD.shape[1]), dtype=np.float64)
    np.add.at(sums_KD, codes_M, points_MD)
    means_KD: NDArray[np.float32] = (sums_KD / np.bincount(codes_M, minlength=size).clip(1)[:, None]).astype(np.float32)
    return means_KD
