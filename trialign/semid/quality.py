"""What can be said of semantic IDs before any generator is trained."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import adjusted_mutual_info_score

from trialign.runtime.seeding import numpy_generator
from trialign.semid.assign import Assignment
from trialign.semid.table import flat_codes

_SAMPLE = 20_000
"""Items the mutual information is measured on: the cost of its adjustment grows with prefixes x categories."""


def quality(
    codes_before_NL: NDArray[np.int64],
    assignment: Assignment,
    codebook_size: int,
    *,
    categories: Sequence[Sequence[str]],
    health: Mapping[str, Any],
) -> dict[str, Any]:
    """Describe the semantic IDs of a catalogue; lists run over the levels.

    Args:
        codes_before_NL: the quantizer's codes.
        assignment: what became of them.
        codebook_size: K.
        categories: each item's path from the root; empty where unknown.
        health: the quantizer's own report, passed on.

    Returns:
        Collisions and distinct tuples before and after, items moved, added distortion, usage and perplexity per level,
        and, where items have categories, the adjusted mutual information of prefixes with them, beside the same for the
        same tuples dealt to items at random (about 0 by construction: the figure is adjusted for chance).
    """
    codes_NL = assignment.codes_NL
    num_items, num_levels = codes_NL.shape
    distinct = {"before": _num_distinct(codes_before_NL), "after": _num_distinct(codes_NL)}
    counts_LK = np.stack([np.bincount(codes_N, minlength=codebook_size) for codes_N in codes_NL.T])
    found: dict[str, Any] = {
        "num_items": num_items,
        "load": num_items / codebook_size**num_levels,
        "distinct_tuples": distinct,
        "collisions": {when: 1.0 - number / num_items for when, number in distinct.items()},
        "items_moved": assignment.items_moved,
        "added_distortion": assignment.added_distortion,
        "usage": (counts_LK > 0).mean(axis=1).tolist(),
        "perplexity": [_perplexity(counts_K) for counts_K in counts_LK],
        "quantizer": dict(health),
    }
    labels = category_labels(categories)
    if labels is not None:
        found["category"] = _agreement(codes_NL, codebook_size, labels)
    return found


def category_labels(categories: Sequence[Sequence[str]]) -> NDArray[np.int64] | None:
    """Return each item's category at the first depth that tells items apart, -1 where it has none there.

    A root that all items share says nothing of any of them. None where no depth has two categories.
    """
    for depth in range(max(map(len, categories), default=0)):
        names = [path[depth] if len(path) > depth else None for path in categories]
        known = {name: number for number, name in enumerate(sorted({name for name in names if name is not None}))}
        if len(known) > 1:
            return np.array([-1 if name is None else known[name] for name in names])
    return None


def _agreement(codes_NL: NDArray[np.int64], codebook_size: int, labels: NDArray[np.int64]) -> dict[str, Any]:
    # The measure of a given table is no part of an experiment's chance: its seed is fixed.
    draws = numpy_generator(0, "semid", "quality")
    known = draws.permutation(np.flatnonzero(labels >= 0))[:_SAMPLE]
    shuffled = draws.permutation(known)

    def measure(items: NDArray[np.intp]) -> dict[str, float]:
        return {
            f"prefix_{depth}": float(
                adjusted_mutual_info_score(labels[known], flat_codes(codes_NL[items, :depth], codebook_size))
            )
            for depth in range(1, min(2, codes_NL.shape[1]) + 1)
        }

    return {
        "num_categories": len(np.unique(labels[known])),
        "num_items": len(known),
        "adjusted_mutual_information": measure(known),
        "random_codes": measure(shuffled),
    }


def _perplexity(counts_K: NDArray[np.int64]) -> float:
    shares = counts_K[counts_K > 0] / counts_K.sum()
    return float(np.exp(-(shares * np.log(shares)).sum()))


def _num_distinct(codes_NL: NDArray[np.int64]) -> int:
    return len(np.unique(codes_NL, axis=0))
