"""How the items of a tuple are told apart, and how a table grows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from trialign.errors import DataError
from trialign.semid.assign import Assignment, Held, reassign
from trialign.semid.suffix import suffix
from trialign.semid.table import SIDTable
from trialign.types import NO_ITEM


@dataclass(frozen=True)
class Coded:
    """A catalogue's codes before they are unique.

    Args:
        codes_NL: int64; several items may share a tuple.
        codebook_size: K.
        latents_ND: the vectors that were quantized; None for codes read from a file.
        codebooks_LKD: what the codes stand for; None likewise.
    """

    codes_NL: NDArray[np.int64]
    codebook_size: int
    latents_ND: NDArray[np.float32] | None = None
    codebooks_LKD: NDArray[np.float32] | None = None


def make_table(
    coded: Coded, item_keys: Sequence[str], policy: str, max_load: float, older: SIDTable | None = None
) -> tuple[SIDTable, Assignment]:
    """Give every item a tuple of its own.

    Args:
        coded: the codes.
        item_keys: the catalogue.
        policy: `reassign` (move items to near free codes) or `suffix` (one more level for all).
        max_load: see `reassign`.
        older: a table made by the same quantizer and policy, whose items keep their tuples.

    Raises:
        ConfigError: the tuples do not suffice.
        DataError: the older table is of other codes, or codes without codebooks collide under `reassign`.
    """
    held = None if older is None else _held(older, coded, item_keys, policy)
    books_LKD = coded.codebooks_LKD
    if policy == "suffix":
        assigned = suffix(coded.codes_NL, coded.codebook_size, held)
        if books_LKD is not None:  # the added level says which, not what: it stands for nothing
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
    return Assignment(codes_NL, 0.0, 0, 0.0)


def _held(older: SIDTable, coded: Coded, item_keys: Sequence[str], policy: str) -> Held:
    given, num_levels = coded.codebooks_LKD, coded.codes_NL.shape[1]
    same = (
        given is not None
        and older.codebooks_LKD is not None
        and np.array_equal(older.codebooks_LKD[:num_levels], given)
    )
    if older.policy != policy or not same:
        raise DataError(
            f"the older table was made by policy {older.policy} and "
            f"{'the same codebooks' if same else 'other codebooks'}",
            rule="a table grows by the policy and the quantizer that made it",
            remedy=f"set assign.policy={older.policy} and from.quantize to the quantizer of that run",
        )
    row_of = {key: row for row, key in enumerate(item_keys)}
    return Held(np.array([row_of.get(key, NO_ITEM) for key in older.item_keys], dtype=np.int64), older.codes_NL)
