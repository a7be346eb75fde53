"""Recall and NDCG of rankings, as pure functions (method.md 10): of item indices, and of lists of anybody's own.

Shape suffixes next to those of `trialign.types`: U users, K places of a ranking (best first), C columns of METRICS.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence

import numpy as np
from numpy.typing import NDArray

from trialign.errors import DataError
from trialign.types import NO_ITEM

CUTOFFS = (1, 5, 10, 50)


def measure(items_UK: NDArray[np.int32], targets: Sequence[NDArray[np.int32]]) -> NDArray[np.float64]:
    """Return every metric of every user.

    Args:
        items_UK: ranked items without duplicates, K >= 50; NO_ITEM where a ranking is shorter.
        targets: U item-index arrays; an item that occurs twice is one target.

    Returns:
        values_UC in 0..1, columns as in METRICS.

    Raises:
        DataError: a user has no target.
    """
    assert items_UK.shape[1] >= max(CUTOFFS), "a shorter list would understate recall@50"
    hits_UK, num_targets_U = find_hits(items_UK, targets)
    if (num_targets_U == 0).any():
        raise _without_target(int(np.argmin(num_targets_U)))
    columns = [metric(hits_UK, num_targets_U, k) for metric in FORMULAS.values() for k in CUTOFFS]
    return np.stack(columns, axis=1)


def find_hits(
    items_UK: NDArray[np.int32], targets: Sequence[NDArray[np.int32]]
) -> tuple[NDArray[np.bool_], NDArray[np.int64]]:
    """Return which places of each ranking hold a target of that user, and how many distinct targets the user has."""
    num_users = len(targets)
    owners = np.repeat(np.arange(num_users), [len(found) for found in targets])
    wanted = np.unique(_pair(owners, np.concatenate([*targets, np.empty(0, np.int32)])))
    hits_UK = np.isin(_pair(np.arange(num_users)[:, None], items_UK), wanted)
    return hits_UK, np.bincount(wanted >> 32, minlength=num_users)


def recall_at_k(hits_UK: NDArray[np.bool_], num_targets_U: NDArray[np.int64], k: int) -> NDArray[np.float64]:
    """Return hits in the top `k` / min(k, number of targets), per user; with one target this is the hit rate."""
    recall_U: NDArray[np.float64] = hits_UK[:, :k].sum(axis=1) / np.minimum(k, num_targets_U)
    return recall_U


def ndcg_at_k(hits_UK: NDArray[np.bool_], num_targets_U: NDArray[np.int64], k: int) -> NDArray[np.float64]:
    """Return DCG of the top `k` / the best DCG that the user's number of targets allows, per user.

    DCG sums 1 / log2(1 + place) over the hits, places counted from 1 (Jarvelin & Kekalainen 2002, binary gains).
    """
    gains_K = 1.0 / np.log2(np.arange(2, k + 2))
    best_K = np.cumsum(gains_K)
    top_UK = hits_UK[:, :k]
    ndcg_U: NDArray[np.float64] = top_UK @ gains_K[: top_UK.shape[1]] / best_K[np.minimum(k, num_targets_U) - 1]
    return ndcg_U


FORMULAS: dict[str, Callable[[NDArray[np.bool_], NDArray[np.int64], int], NDArray[np.float64]]] = {
    "recall": recall_at_k,
    "ndcg": ndcg_at_k,
}
"""By name, a metric as a function of hits_UK, the number of targets of every user, and the cutoff K."""
METRICS = tuple(f"{name}@{k}" for name in FORMULAS for k in CUTOFFS)


def recall(ranked: Sequence[Sequence[Hashable]], targets: Sequence[Sequence[Hashable]], k: int) -> NDArray[np.float64]:
    """Return recall@k of lists of your own, by the definition that `trialign evaluate` uses.

    Args:
        ranked: U lists of items, best first, without duplicates; a shorter one than `k` just has fewer hits.
        targets: U lists of what was chosen; an item that occurs twice is one target.
        k: how many items of each ranked list count.

    Returns:
        recall_U, float64: hits in the top `k` / min(k, number of targets) of each list. Its mean is what tables show.

    Raises:
        DataError: other numbers of lists, a list without targets, an item twice in a ranked list, or k below 1.

    Examples:
        >>> trialign.recall([["a", "b", "c"], ["d", "e", "f"]], [["b"], ["a", "d"]], k=2)
        array([1. , 0.5])
    """
    return recall_at_k(*_hits(ranked, targets, k), k)


def ndcg(ranked: Sequence[Sequence[Hashable]], targets: Sequence[Sequence[Hashable]], k: int) -> NDArray[np.float64]:
    """Return NDCG@k of lists of your own, by the definition that `trialign evaluate` uses.

    Args and errors are those of `trialign.recall`.

    Returns:
        ndcg_U, float64: DCG of the top `k` / the best DCG that the list's number of targets allows.

    Examples:
        >>> trialign.ndcg([["a", "b", "c"], ["d", "e", "f"]], [["b"], ["d"]], k=2).round(4)
        array([0.6309, 1.    ])
    """
    return ndcg_at_k(*_hits(ranked, targets, k), k)


def number_lists(
    ranked: Sequence[Sequence[Hashable]], targets: Sequence[Sequence[Hashable]], k: int
) -> tuple[NDArray[np.int32], list[NDArray[np.int32]]]:
    """Return the first `k` items of ranked lists and their targets as numbers: items_UK, NO_ITEM where a list ends."""
    numbers: dict[Hashable, int] = {}
    for found in (*ranked, *targets):
        for key in found:
            numbers.setdefault(key, len(numbers))
    items_UK = np.full((len(ranked), k), NO_ITEM, np.int32)
    for row, keys in enumerate(ranked):
        items_UK[row, : len(keys)] = [numbers[key] for key in keys[:k]]
    return items_UK, [np.array([numbers[key] for key in keys], np.int32) for keys in targets]


def _hits(
    ranked: Sequence[Sequence[Hashable]], targets: Sequence[Sequence[Hashable]], k: int
) -> tuple[NDArray[np.bool_], NDArray[np.int64]]:
    if k < 1:
        raise DataError(f"k={k}", rule="at least the best item of each list counts", remedy="pass k=10")
    if len(ranked) != len(targets):
        raise DataError(
            f"{len(ranked)} ranked lists and {len(targets)} lists of targets",
            rule="every ranked list has its targets at the same place",
            remedy="pass two sequences of the same length",
        )
    for place, keys in enumerate(ranked):
        if len(set(keys)) < len(keys):
            raise DataError(
                f"ranked list {place} (counted from 0) names an item twice",
                rule="a ranking names an item once",
                remedy="leave out the later places, e.g. list(dict.fromkeys(ranked))",
            )
    for place, keys in enumerate(targets):
        if not keys:
            raise _without_target(place)
    return find_hits(*number_lists(ranked, targets, k))


def _without_target(place: int) -> DataError:
    return DataError(
        f"user {place} (counted from 0) has no target",
        rule="every evaluated user has at least one target",
        remedy="leave users without held-out events out of the split",
    )


def _pair(users: NDArray[np.int64], items: NDArray[np.int32]) -> NDArray[np.int64]:
    # NO_ITEM makes a negative number, which is no target's.
    return (users.astype(np.int64) << 32) | items.astype(np.int64)
