from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from trialign.data.splits import leave_one_out, windows


def test_leave_one_out_by_hand() -> None:
    cuts = leave_one_out(np.array([1, 2, 3, 7]), min_events=3)
    assert cuts.validation.tolist() == [1, 2, 1, 5]
    assert cuts.test.tolist() == [1, 2, 2, 6]


def test_users_below_min_events_are_not_cut() -> None:
    cuts = leave_one_out(np.array([4, 5]), min_events=5)
    assert cuts.validation.tolist() == [4, 3]
    assert cuts.test.tolist() == [4, 4]


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
