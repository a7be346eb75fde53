from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from trialign.errors import TrialignError
from trialign.evaluate.protocol import evaluate, rank_users
from trialign.progress import Intervals, read_progress, telling
from trialign.types import NO_ITEM, Items

NUM_ITEMS = 6


class Fixed:
    """Answers every user with the same places, so that each fault can be put in by hand."""

    def __init__(self, places: list[int], scores: list[float] | None = None) -> None:
        self.places = np.array(places, np.int32)
        self.scores = np.array(scores or [-np.inf if place == NO_ITEM else 0.0 for place in places], np.float32)

    def rank(self, histories: list[Items], k: int, *, exclude: object) -> tuple[np.ndarray, np.ndarray]:
        return np.tile(self.places, (len(histories), 1)), np.tile(self.scores, (len(histories), 1))


class LastFirst:
    """Ranks item (last + 1) mod N first, then onwards: each history has an answer of its own."""

    def rank(self, histories: list[Items], k: int, *, exclude: object) -> tuple[np.ndarray, np.ndarray]:
        items = np.full((len(histories), k), NO_ITEM, np.int32)
        scores = np.full((len(histories), k), -np.inf, np.float32)
        width = min(k, NUM_ITEMS)
        last = np.array([history[-1] for history in histories])[:, None]
        items[:, :width] = (last + 1 + np.arange(width)) % NUM_ITEMS
        scores[:, :width] = -np.arange(width)
        return items, scores


def histories(*found: list[int]) -> list[Items]:
    return [np.array(history, np.int32) for history in found]


def rate(places: list[int], *, exclude_seen: bool = False, history: list[int] | None = None) -> float:
    found = histories(history or [], history or [])
    rankings = rank_users(
        Fixed(places), found, len(places), num_items=NUM_ITEMS, exclude=found if exclude_seen else None, batch_size=1
    )
    return rankings.invalid_rate


def test_whole_and_rightly_short_rankings_are_valid() -> None:
    assert rate([0, 1, 2, 3]) == 0
    assert rate([5, 4, 3, 2, 1, 0, NO_ITEM, NO_ITEM]) == 0
    # Two of six items filtered: four places are owed. A repeated history item is filtered once.
    assert rate([2, 3, 4, 5, NO_ITEM, NO_ITEM], exclude_seen=True, history=[0, 1, 0]) == 0


def test_each_kind_of_invalid_place_is_counted() -> None:
    assert rate([0, NO_ITEM, NO_ITEM, NO_ITEM]) == 3 / 4
    assert rate([NO_ITEM] * 4) == 1
    assert rate([0, 1, NUM_ITEMS, 3]) == 1 / 4
    assert rate([0, 1, -7, 3]) == 1 / 4
    # Beyond the places owed an item outside the catalogue still counts, and is counted among the places: 1 of 7.
    assert rate([0, 1, 2, 3, 4, 5, NUM_ITEMS, NO_ITEM]) == 1 / 7
    assert rate([2, 3, 4, NO_ITEM, NO_ITEM, NO_ITEM], exclude_seen=True, history=[0, 1]) == 1 / 4


@pytest.mark.parametrize(
    ("ranker", "exclude_seen", "told"),
    [
        (Fixed([0, 3, 1, 3]), False, "item 3 more than once"),
        (Fixed([9, 0, 1, 9]), False, "item 9 more than once"),
        (Fixed([0, 1, 2, 3], [3, 1, 2, 0]), False, "scores that rise"),
        (Fixed([0, 1, 2, 3], [3, 2, float("nan"), 0]), False, "scores that rise or are not numbers"),
        (Fixed([0, 1, 2, 5]), True, "item 5, which is to be filtered"),
        (Fixed([0], [float("nan")]), False, "scores that rise or are not numbers"),
    ],
)
def test_ranking_that_cannot_be_measured_is_refused(ranker: Fixed, exclude_seen: bool, told: str) -> None:
    k = len(ranker.places)
    found = histories([5])
    with pytest.raises(TrialignError, match=told):
        rank_users(ranker, found, k, num_items=NUM_ITEMS, exclude=found if exclude_seen else None, batch_size=8)


@pytest.mark.parametrize("ranker", [Fixed([0, 1, 2], [3, 2, 1, 0]), Fixed([0, 1, 2, 3], [3, 2, 1])])
def test_ranking_of_the_wrong_length_is_refused(ranker: Fixed) -> None:
    with pytest.raises(
        TrialignError, match=r"(?s)the ranker returned items of shape .* rule: +both are \(1, 4\)"
    ) as refused:
        rank_users(ranker, histories([5]), 4, num_items=NUM_ITEMS, exclude=None, batch_size=8)
    assert "(1, 3)" in refused.value.value


@pytest.mark.parametrize("batch_size", [1, 2, 3, 100])
def test_batches_change_nothing_and_users_are_counted(batch_size: int, tmp_path: Path) -> None:
    found = histories([0], [3, 2], [5], [1, 1, 4], [2])
    counted: list[int] = []

    class Watched(LastFirst):
        def rank(self, *given: Any, **options: Any) -> Any:
            beat = read_progress(tmp_path)
            assert beat is not None
            counted.append(beat.done)
            return super().rank(*given, **options)

    with telling("evaluate", tmp_path, Intervals(beat=0.0)):
        rankings = rank_users(
            Watched(), found, 3, num_items=NUM_ITEMS, exclude=None, batch_size=batch_size, what="users"
        )
    assert rankings.items_UK.tolist() == [[1, 2, 3], [3, 4, 5], [0, 1, 2], [5, 0, 1], [3, 4, 5]]
    assert rankings.scores_UK.tolist() == [[0, -1, -2]] * 5
    assert counted == list(range(0, 5, batch_size))


def test_evaluate_averages_over_users() -> None:
    found = histories([0], [1])
    targets = histories([1], [1])  # first place of the first user, last of the second
    measured = evaluate(LastFirst(), found, targets, num_items=NUM_ITEMS, exclude=None, batch_size=2)
    assert measured.invalid_rate == 0
    means = measured.means()
    assert means["recall@1"] == means["recall@5"] == 0.5
    assert means["recall@10"] == 1
    assert means["ndcg@50"] == pytest.approx((1 + 1 / np.log2(7)) / 2)
