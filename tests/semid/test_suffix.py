import numpy as np
import pytest

from trialign.errors import ConfigError
from trialign.semid.assign import FixedAssignments
from trialign.semid.policy import ItemCodes, make_table
from trialign.semid.suffix import suffix
from trialign.types import NO_ITEM


def test_colliding_items_are_counted_and_the_others_have_zero():
    found = suffix(np.array([[1, 2], [0, 0], [1, 2], [1, 1], [1, 2]]), 4)
    assert found.codes_NL.tolist() == [[1, 2, 0], [0, 0, 0], [1, 2, 1], [1, 1, 0], [1, 2, 2]]
    assert (found.items_moved, found.added_distortion) == (2, 0.0)
    assert found.before_NL.tolist() == [[1, 2], [0, 0], [1, 2], [1, 1], [1, 2]]


def test_old_tuples_stay_and_new_items_count_past_them():
    """Row 1 keeps suffix 1; an item that left had (3, 0) suffix 0, so the new item there gets 1."""
    held = FixedAssignments(np.array([1, NO_ITEM]), np.array([[1, 2, 1], [3, 0, 0]]))
    found = suffix(np.array([[1, 2], [1, 2], [1, 2], [3, 0]]), 4, held)
    assert found.codes_NL.tolist() == [[1, 2, 0], [1, 2, 1], [1, 2, 2], [3, 0, 1]]


def test_more_items_on_one_tuple_than_codes_are_refused():
    assert len(np.unique(suffix(np.zeros((4, 2), int), 4).codes_NL, axis=0)) == 4
    with pytest.raises(ConfigError, match="5 items share one tuple of 2 codes"):
        suffix(np.zeros((5, 2), int), 4)


def test_the_added_level_stands_for_nothing():
    books_LKD = np.ones((2, 4, 3), np.float32)
    coded = ItemCodes(np.array([[1, 2], [1, 2]]), 4, np.ones((2, 3), np.float32), books_LKD)
    table, _ = make_table(coded, ["a", "b"], "suffix", 0.8)
    assert table.codebooks_LKD.tolist() == [*books_LKD.tolist(), [[0.0] * 3] * 4]
