"""Quality metrics of semantic IDs that need no trained generator."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from hashlib import sha256
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from sklearn.metrics import adjusted_mutual_info_score

from trialign.data.dataset import Evaluation
from trialign.embed.evidence import item_texts
from trialign.runtime.seeding import numpy_generator
from trialign.semid.assign import Assignment
from trialign.semid.record import (
    Agreement,
    Collisions,
    DistinctTuples,
    Neighbourhood,
    Neighbours,
    Quality,
    Statistic,
)

_SAMPLE = 20_000
"""Items the mutual information is measured on: the cost of its adjustment grows with prefixes x categories."""


def quality(
    assignment: Assignment,
    codebook_size: int,
    *,
    evidence_N: NDArray[np.int64],
    categories: Sequence[Sequence[str]],
    pairs_P2: NDArray[np.int64],
    quantizer: dict[str, Statistic],
    labels: Mapping[str, NDArray[np.int64]] | None = None,
    neighbourhoods: dict[str, Neighbourhood] | None = None,
) -> Quality:
    """Return the quality metrics of a catalogue's semantic IDs.

    Args:
        assignment: the codes before and after collisions were resolved.
        codebook_size: K.
        evidence_N: a number per item, equal for items with identical evidence, see `evidence_numbers`.
        categories: each item's path from the root; empty where unknown.
        pairs_P2: held-out neighbors, see `neighbour_lift`.
        quantizer: the quantizer's own statistics, passed on.
        labels: further labels of items by name, -1 where an item has none, see `labels`.
        neighbourhoods: preserved neighbors by modality, passed on.
    """
    codes_NL, before_NL = assignment.codes_NL, assignment.before_NL
    num_items, num_levels = codes_NL.shape
    distinct = DistinctTuples(_num_distinct(before_NL), _num_distinct(codes_NL))
    counts_LK = _counts(codes_NL, codebook_size)
    # The seed is fixed, so that equal tables have equal metrics in every experiment.
    random_NL = numpy_generator(0, "semid", "quality").permutation(codes_NL)
    told = {"category": category_labels(categories), "category_path": path_labels(categories), **(labels or {})}
    agreements = {
        name: Agreement(
            num_categories=len(np.unique(labels_N[labels_N >= 0])),
            num_items=int((labels_N >= 0).sum()),
            adjusted_mutual_information=agreement(codes_NL, labels_N),
            random_codes=agreement(random_NL, labels_N),
        )
        for name, labels_N in told.items()
        if labels_N is not None
    }
    lifts = (neighbour_lift(found_NL, pairs_P2) for found_NL in (codes_NL, random_NL))
    return Quality(
        num_items=num_items,
        codebook_size=codebook_size,
        load=num_items / codebook_size**num_levels,
        distinct_tuples=distinct,
        collisions=Collisions(
            1.0 - distinct.before / num_items,
            1.0 - distinct.after / num_items,
            collisions_without_twins(before_NL, evidence_N),
        ),
        twins=num_items - len(np.unique(evidence_N)),
        items_moved=assignment.items_moved,
        added_distortion=assignment.added_distortion,
        usage=(counts_LK > 0).mean(axis=1).tolist(),
        dead_codes=(counts_LK == 0).sum(axis=1).tolist(),
        perplexity=[_perplexity(counts_K) for counts_K in counts_LK],
        perplexity_before=[_perplexity(counts_K) for counts_K in _counts(before_NL, codebook_size)],
        quantizer=quantizer,
        category=agreements.get("category"),
        category_path=agreements.get("category_path"),
        style=agreements.get("style"),
        purpose=agreements.get("purpose"),
        caption=agreements.get("caption"),
        interest=agreements.get("interest"),
        neighbours=Neighbours(len(pairs_P2), *lifts) if len(pairs_P2) else None,
        neighbourhoods=neighbourhoods,
    )


def evidence_numbers(items: pa.Table, images: Iterable[tuple[int, bytes]]) -> NDArray[np.int64]:
    """Return a number for each item, equal for items whose evidence is identical byte for byte.

    Args:
        items: the item table.
        images: (item, encoded picture); read only where two items with pictures share all of their text.
    """
    texts = item_texts(items)
    counts = Counter(texts)
    doubtful = {
        item
        for item, (text, pictured) in enumerate(zip(texts, items["has_image"].to_pylist(), strict=True))
        if pictured and counts[text] > 1
    }
    seen = {item: sha256(data).hexdigest() for item, data in images if item in doubtful} if doubtful else {}
    known: dict[tuple[str, str], int] = {}
    return np.array([known.setdefault((text, seen.get(item, "")), len(known)) for item, text in enumerate(texts)])


def held_out_pairs(evaluation: Evaluation) -> NDArray[np.int64]:
    """Return the last item of each history and the first target after it, int64 [P, 2].

    An item chosen twice in a row is not a pair: it shares every prefix with itself, whatever the codes.
    """
    found = [
        (history[-1], targets[0])
        for history, targets in zip(evaluation.histories, evaluation.targets, strict=True)
        if len(history) and len(targets) and history[-1] != targets[0]
    ]
    return np.array(found, dtype=np.int64).reshape(-1, 2)


def collisions_without_twins(codes_NL: NDArray[np.int64], evidence_N: NDArray[np.int64]) -> float:
    """Return 1 - distinct tuples / items, without items that share both tuple and evidence with an earlier one.

    No quantizer can tell such items apart.
    """
    return 1.0 - _num_distinct(codes_NL) / _num_distinct(np.column_stack([codes_NL, evidence_N]))


def category_labels(categories: Sequence[Sequence[str]]) -> NDArray[np.int64] | None:
    """Return each item's category at the first depth with several categories, -1 where it has none there.

    A root that all items share distinguishes none of them. None if no depth has two categories.
    """
    for depth in range(max(map(len, categories), default=0)):
        labels = _number([path[depth] if len(path) > depth else None for path in categories])
        if labels.max() > 0:
            return labels
    return None


def path_labels(categories: Sequence[Sequence[str]]) -> NDArray[np.int64] | None:
    """Return a number for each item's category path, -1 where it has none; None if all paths are equal."""
    labels = _number([tuple(path) or None for path in categories])
    return labels if labels.max() > 0 else None


def agreement(codes_NL: NDArray[np.int64], labels_N: NDArray[np.int64]) -> dict[str, float]:
    """Return the adjusted mutual information of the prefixes of one and two codes with labels; -1 is no label."""
    known = np.flatnonzero(labels_N >= 0)
    known = numpy_generator(0, "semid", "agreement").permutation(known)[:_SAMPLE]
    return {
        f"prefix_{depth}": float(adjusted_mutual_info_score(labels_N[known], prefixes(codes_NL, depth)[known]))
        for depth in _depths(codes_NL)
    }


def neighbour_lift(codes_NL: NDArray[np.int64], pairs_P2: NDArray[np.int64]) -> dict[str, float]:
    """Return the ratio of how often held-out neighbors share a prefix to how often they would by chance.

    The share of pairs whose items agree in their first l codes, over the share that would if each first item met the
    second item of any pair: sum over prefixes p of a(p) b(p), with a and b the shares of p among first and second
    items. Both are shares of events, so a prefix does not score higher because its items are popular.

    Args:
        codes_NL: the codes.
        pairs_P2: int64, the last item of a history and what came next, which nothing was fitted on.
    """
    found = {}
    for depth in _depths(codes_NL):
        first_P, second_P = prefixes(codes_NL, depth)[pairs_P2].T
        size = int(max(first_P.max(), second_P.max())) + 1
        chance = np.bincount(first_P, minlength=size) @ np.bincount(second_P, minlength=size) / len(pairs_P2) ** 2
        together = float((first_P == second_P).mean())
        found[f"prefix_{depth}"] = together / float(chance) if chance > 0 else 0.0
    return found


def prefixes(codes_NL: NDArray[np.int64], depth: int) -> NDArray[np.int64]:
    """Return a number for each item, equal for items with the same first `depth` codes."""
    numbers: NDArray[np.int64] = np.unique(codes_NL[:, :depth], axis=0, return_inverse=True)[1].ravel()
    return numbers


def _depths(codes_NL: NDArray[np.int64]) -> range:
    return range(1, min(2, codes_NL.shape[1]) + 1)


def _number(names: Sequence[Any]) -> NDArray[np.int64]:
    known = {name: number for number, name in enumerate(sorted({name for name in names if name is not None}))}
    return np.array([-1 if name is None else known[name] for name in names], dtype=np.int64)


def _counts(codes_NL: NDArray[np.int64], codebook_size: int) -> NDArray[np.int64]:
    return np.stack([np.bincount(codes_N, minlength=codebook_size) for codes_N in codes_NL.T])


def _perplexity(counts_K: NDArray[np.int64]) -> float:
    shares = counts_K[counts_K > 0] / counts_K.sum()
    return float(np.exp(-(shares * np.log(shares)).sum()))


def _num_distinct(codes_NL: NDArray[np.int64]) -> int:
    return len(np.unique(codes_NL, axis=0))
