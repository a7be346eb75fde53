from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from trialign.errors import DataError
from trialign.stream.rows import TokenizedExample, fill_row, pack, pack_window, stack_rows


@given(st.lists(st.integers(0, 40), max_size=200), st.integers(40, 90))
def test_packing_loses_nothing_and_never_exceeds_the_row(lengths: list[int], seq_len: int) -> None:
    rows = pack(lengths, seq_len)
    assert sorted(i for row in rows for i in row) == [i for i, length in enumerate(lengths) if length]
    assert all(0 < sum(lengths[i] for i in row) <= seq_len for row in rows)


def test_packing_by_hand() -> None:
    # 6 opens a row (4 left), 5 opens a second (5 left); 4 fits the first exactly, 3 the second, 2 the rest of it.
    assert pack([3, 6, 2, 5, 4], 10) == [[1, 4], [3, 0, 2]]


def test_each_example_goes_to_the_tightest_row_that_holds_it() -> None:
    # After 7 and 6 the rows have 3 and 4 left; 3 belongs into the first of them, so that 4 finds the other.
    assert pack([7, 6, 4, 3], 10) == [[0, 3], [1, 2]]


def test_padding_of_a_window_stays_below_five_percent() -> None:
    lengths = np.random.default_rng(0).integers(3, 151, 256).tolist()
    rows = pack(lengths, 512)
    assert 1 - sum(lengths) / (len(rows) * 512) < 0.05


def test_a_window_gives_back_what_would_leave_a_row_too_empty() -> None:
    # 11 x 3 are 33 of 40 positions; the first 9 are 27 of 30.
    assert pack_window(np.full(11, 3), 10) == (9, [[0, 1, 2], [3, 4, 5], [6, 7, 8]])
    # 39 of 40: nothing to gain.
    assert pack_window(np.array([9, 10, 10, 10]), 10) == (4, [[1], [2], [3], [0]])
    # One row is not given back, however empty.
    assert pack_window(np.array([2, 0]), 10) == (2, [[0]])
    assert pack_window(np.array([0, 0]), 10) == (2, [])


@given(st.lists(st.integers(0, 40), min_size=1, max_size=80), st.integers(40, 90))
def test_a_window_keeps_its_first_examples_and_packs_no_worse(lengths: list[int], seq_len: int) -> None:
    num_taken, rows = pack_window(np.array(lengths), seq_len)
    assert 1 <= num_taken <= len(lengths)
    assert rows == pack(lengths[:num_taken], seq_len)
    if rows:
        all_rows = pack(lengths, seq_len)
        assert sum(lengths[:num_taken]) / len(rows) >= min(sum(lengths) / len(all_rows), 0.95 * seq_len)


def test_an_example_longer_than_a_row_is_refused_with_the_setting_that_holds_it() -> None:
    with pytest.raises(DataError, match=r"113 tokens.*\n.*\n.*stream\.seq_len=113"):
        pack([4, 113], 64)


def _examples() -> list[TokenizedExample]:
    return [
        TokenizedExample(np.array([7, 8, 9]), np.array([False, True, True]), task=2),
        TokenizedExample(np.array([5, 6]), np.array([False, True]), task=1),
    ]


def test_a_window_keeps_what_fills_its_rows_to_the_last_position() -> None:
    assert pack_window(np.array([5, 5, 6]), 10) == (2, [[0, 1]])


def test_a_row_by_hand() -> None:
    row = fill_row(_examples(), 9, lane=3, start=1, row=4)
    assert row.tokens.tolist() == [7, 8, 9, 5, 6, 0, 0, 0, 0]
    assert row.targets.tolist() == [False, True, True, False, True, *[False] * 4]
    assert row.segments.tolist() == [1, 1, 1, 2, 2, 0, 0, 0, 0]
    assert row.positions.tolist() == [0, 1, 2, 0, 1, 0, 1, 2, 3]
    assert row.tasks.tolist() == [2, 2, 2, 1, 1, 0, 0, 0, 0]


def test_a_batch_keeps_rows_and_their_state() -> None:
    rows = [fill_row(_examples(), 8, lane=lane, start=lane + 1, row=lane + 2) for lane in (4, 0)]
    batch = stack_rows(rows, step_targets=6, first_of_step=True).to("cpu")
    assert batch.tokens_RT.shape == (2, 8)
    dtypes = [batch.tokens_RT.dtype, batch.targets_RT.dtype, batch.segments_RT.dtype, batch.positions_RT.dtype]
    assert dtypes == [torch.int64, torch.bool, torch.int32, torch.int64]
    assert (batch.lanes_R.tolist(), batch.starts_R.tolist(), batch.rows_R.tolist()) == ([4, 0], [5, 1], [6, 2])
    assert (batch.step_targets, batch.first_of_step) == (6, True)
    assert batch.num_tokens.item() == 10, "of each row five are read and three are padding"
