from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from trialign.data.splits import Targets, last_n, temporal, windows


def _ranges(targets: Targets) -> list[tuple[int, int]]:
    return list(zip(targets.begin.tolist(), targets.end.tolist(), strict=True))


def test_the_last_of_each_by_hand() -> None:
    cuts = last_n(np.array([1, 2, 3, 7]), 1, min_eval_events=3)
    assert cuts.train.tolist() == [1, 2, 1, 5]
    assert _ranges(cuts.held["validation"]) == [(1, 1), (2, 2), (1, 2), (5, 6)]
    assert _ranges(cuts.held["test"]) == [(1, 1), (2, 2), (2, 3), (6, 7)]


def test_the_last_ten_by_hand() -> None:
    # 10 events leave no history for test, 20 none for validation.
    cuts = last_n(np.array([10, 11, 20, 21]), 10, min_eval_events=3)
    assert cuts.train.tolist() == [10, 1, 10, 1]
    assert _ranges(cuts.held["validation"]) == [(10, 10), (1, 1), (10, 10), (1, 11)]
    assert _ranges(cuts.held["test"]) == [(10, 10), (1, 11), (10, 20), (11, 21)]


def test_users_below_min_events_are_not_cut() -> None:
    cuts = last_n(np.array([4, 5]), 1, min_eval_events=5)
    assert cuts.train.tolist() == [4, 3]
    assert _ranges(cuts.held["test"]) == [(4, 4), (4, 5)]


def test_two_times_by_hand() -> None:
    # Events before, between and after: 3 1 2, 3 0 2, 0 2 1, 0 0 4, 2 0 0, and 1 1 0 with too few.
    lengths = np.array([6, 5, 3, 4, 2, 2])
    cuts = temporal(np.array([3, 3, 0, 0, 2, 1]), np.array([4, 3, 2, 0, 2, 2]), lengths, min_eval_events=3)
    assert cuts.train.tolist() == [3, 3, 0, 0, 2, 1]
    assert _ranges(cuts.held["validation"]) == [(3, 4), (3, 3), (0, 0), (0, 0), (2, 2), (1, 1)]
    assert _ranges(cuts.held["test"]) == [(4, 6), (3, 5), (2, 3), (0, 0), (2, 2), (2, 2)]


def test_windows_by_hand() -> None:
    cut = windows(np.array([3, 11]), max_history=4)
    assert cut.histories.tolist() == [0, 1, 1, 1, 1, 1]
    assert cut.starts.tolist() == [0, 0, 2, 4, 6, 8]
    assert cut.lengths.tolist() == [3, 4, 4, 4, 4, 3]
    assert cut.first_target.tolist() == [0, 0, 2, 2, 2, 2]


@given(st.lists(st.integers(1, 200), min_size=1, max_size=20), st.integers(2, 60))
def test_each_position_is_a_target_in_exactly_one_window(lengths: list[int], max_history: int) -> None:
    cut = windows(np.array(lengths), max_history)
    targets = [
        (history, position)
        for history, start, length, first in zip(
            cut.histories.tolist(), cut.starts.tolist(), cut.lengths.tolist(), cut.first_target.tolist(), strict=True
        )
        for position in range(start + first, start + length)
    ]
    assert targets == [(history, position) for history, length in enumerate(lengths) for position in range(length)]
    assert cut.lengths.max() <= max_history
    assert (cut.lengths > cut.first_target).all()
