from __future__ import annotations

from math import log2

import numpy as np
import pytest
from sklearn.metrics import ndcg_score

from trialign.errors import DataError
from trialign.ranking import METRICS, find_hits, measure, ndcg_at_k, recall_at_k
from trialign.types import NO_ITEM


def items(*found: int) -> np.ndarray:
    return np.array(found, np.int32)


def test_several_targets_by_hand() -> None:
    # Targets 7, 3, 9 of a user whose ranking finds 3 first and 9 third; a second user with one target at place 2.
    ranking = np.array([[3, 1, 9, 2], [5, 4, 0, 1]], np.int32)
    hits, num_targets = find_hits(ranking, [items(7, 3, 9), items(4)])
    assert hits.tolist() == [[True, False, True, False], [False, True, False, False]]
    assert num_targets.tolist() == [3, 1]
    # Recall is over min(K, 3): 1 of 1, 1 of 2, 2 of 3, 2 of 3.
    assert [recall_at_k(hits, num_targets, k)[0] for k in (1, 2, 3, 4)] == pytest.approx([1, 1 / 2, 2 / 3, 2 / 3])
    assert [recall_at_k(hits, num_targets, k)[1] for k in (1, 2)] == [0, 1]
    best_3 = 1 + 1 / log2(3) + 1 / log2(4)
    assert ndcg_at_k(hits, num_targets, 1) == pytest.approx([1, 0])
    assert ndcg_at_k(hits, num_targets, 2) == pytest.approx([1 / (1 + 1 / log2(3)), 1 / log2(3)])
    assert ndcg_at_k(hits, num_targets, 4) == pytest.approx([(1 + 1 / log2(4)) / best_3, 1 / log2(3)])


def test_cutoff_beyond_the_list_counts_the_missing_places_as_misses() -> None:
    hits, num_targets = find_hits(items(2, 0)[None], [items(0, 1, 2)])
    assert recall_at_k(hits, num_targets, 10) == pytest.approx([2 / 3])
    assert ndcg_at_k(hits, num_targets, 10) == pytest.approx([(1 + 1 / log2(3)) / (1 + 1 / log2(3) + 1 / 2)])


def test_target_named_twice_is_one_target_and_a_perfect_ranking_reaches_one() -> None:
    ranking = np.full((1, 50), NO_ITEM, np.int32)
    ranking[0, :2] = (4, 8)
    assert measure(ranking, [items(8, 4, 8)]).tolist() == [[1.0] * len(METRICS)]


def test_empty_places_and_other_users_targets_are_no_hits() -> None:
    ranking = np.array([[NO_ITEM, 1], [2, NO_ITEM]], np.int32)
    hits, _ = find_hits(ranking, [items(2), items(1)])
    assert not hits.any()


def test_columns_are_named_in_order() -> None:
    ranking = np.arange(50, dtype=np.int32)[None]
    values = dict(zip(METRICS, measure(ranking, [items(6)])[0].tolist(), strict=True))
    assert values == pytest.approx(
        {
            **{"recall@1": 0, "recall@5": 0, "recall@10": 1, "recall@50": 1},
            **{"ndcg@1": 0, "ndcg@5": 0, "ndcg@10": 1 / 3, "ndcg@50": 1 / 3},
        }
    )


@pytest.mark.parametrize("k", [1, 5, 10, 50])
def test_ndcg_equals_scikit_learn(k: int) -> None:
    generator = np.random.default_rng(k)
    num_users, num_items = 40, 60
    scores = generator.permuted(np.tile(np.arange(float(num_items)), (num_users, 1)), axis=1)
    targets = [generator.choice(num_items, 1 + user % 13, replace=False).astype(np.int32) for user in range(num_users)]
    relevance = np.zeros((num_users, num_items))
    for user, found in enumerate(targets):
        relevance[user, found] = 1
    hits, num_targets = find_hits(np.argsort(-scores, axis=1).astype(np.int32), targets)
    reference = [ndcg_score(relevance[[user]], scores[[user]], k=k) for user in range(num_users)]
    assert ndcg_at_k(hits, num_targets, k) == pytest.approx(reference)


def test_user_without_target_is_refused_by_place() -> None:
    with pytest.raises(DataError, match=r"user 1 \(counted from 0\) has no target"):
        measure(np.full((2, 50), NO_ITEM, np.int32), [items(1), items()])
