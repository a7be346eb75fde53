"""Make a table of semantic IDs from codes: resolve collisions by a policy, and keep an older table's tuples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from trialign.errors import DataError
from trialign.semid.assign import Assignment, FixedAssignments, reassign
from trialign.semid.suffix import suffix
from trialign.semid.table import SIDTable


@dataclass(frozen=True)
class ItemCodes:
    """A catalogue's codes before they are unique.

    Args:
        codes_NL: int64; several items may share a tuple.
        codebook_size: K.
        latents_ND: the vectors that were quantized; None for codes read from a file.
        codebooks_LKD: the code vectors; None likewise.
    """

    codes_NL: NDArray[np.int64]
    codebook_size: int
    latents_ND: NDArray[np.float32] | None = None
    codebooks_LKD: NDArray[np.float32] | None = None


def make_table(
    coded: ItemCodes, item_keys: Sequence[str], policy: str, max_load: float, held: FixedAssignments | None = None
) -> tuple[SIDTable, Assignment]:
    """Resolve collisions and return the table of semantic IDs.

    Args:
        coded: the codes.
        item_keys: the catalogue.
        policy: `reassign` (move items to near free codes) or `suffix` (one more level for all).
        max_load: see `reassign`.
        held: tuples that must not change, see `grow`.

    Raises:
        ConfigError: there are too few tuples.
        DataError: codes without codebooks collide under `reassign`.
    """
    books_LKD = coded.codebooks_LKD
    if policy == "suffix":
        assigned = suffix(coded.codes_NL, coded.codebook_size, held)
        if books_LKD is not None:  # the added level only counts items, so its code vectors are zero
            books_LKD = np.concatenate([books_LKD, np.zeros_like(books_LKD[:1])])
    elif coded.latents_ND is None or books_LKD is None:
        assigned = _as_they_are(coded.codes_NL)
    else:
        assigned = reassign(coded.codes_NL, coded.latents_ND, books_LKD, max_load, held)
    return SIDTable(assigned.codes_NL, coded.codebook_size, item_keys, policy, books_LKD), assigned


def _as_they_are(codes_NL: NDArray[np.int64]) -> Assignment:
    tuples, counts = np.unique(codes_NL, axis=0, return_counts=True)
    if len(tuples) < len(codes_NL):
        raise DataError(
            f"{int(counts[counts > 1].sum())} of {len(codes_NL)} items share {int((counts > 1).sum())} tuples, "
            f"{counts.max()} of them one",
            rule="items are moved to near free codes by codebooks, and an index file holds none",
            remedy="set assign.policy=suffix",
        )
    return Assignment(codes_NL, codes_NL)
