from __future__ import annotations

import numpy as np
import pytest

from trialign.evaluate.record import SeenPlaces, SeenSlice, Spread
from trialign.evaluate.slices import prefix_recall, recall_by_seen, seen_places, spread
from trialign.types import NO_ITEM, Items

POPULARITY = np.array([0, 3, 9, 1, 5])
TARGETS: list[Items] = [np.array(found, np.int32) for found in ([0], [1, 2], [3], [4])]
FILL = [NO_ITEM] * 7
ITEMS = np.array([[1, 2, 3, *FILL], [2, 3, 0, *FILL], [3, 0, 1, *FILL], [1, 2, 0, *FILL]], np.int32)


def test_recall_by_seen_by_hand() -> None:
    # Item 0 was never seen and is missed; 1 and 3 were seen 3 and 1 times: 3 is found; 2 and 4, 9 and 5 times: 2 is.
    assert recall_by_seen(ITEMS, TARGETS, POPULARITY) == {
        "0": SeenSlice(1, 0.0),
        "1-4": SeenSlice(2, 0.5),
        "5+": SeenSlice(2, 0.5),
    }


def test_an_eleventh_place_does_not_count() -> None:
    items = np.arange(20, 31, dtype=np.int32)[None]
    items[0, 10] = 1
    found = recall_by_seen(items, [np.array([1], np.int32)], np.full(40, 7))
    assert found["5+"] == SeenSlice(1, 0.0)
    assert found["0"] == SeenSlice(0, 0.0)


def test_spread_by_hand() -> None:
    # A tenth of five items is one: item 2. It holds 3 of 12 places and is 1 of 5 targets; items 0 to 3 are shown.
    found = spread(ITEMS, TARGETS, POPULARITY)
    assert found == Spread(pytest.approx(4 / 5), pytest.approx(3 / 12), pytest.approx(1 / 5))


def test_the_head_is_a_tenth_of_the_items() -> None:
    # Of twenty items two: 0 and 1. They hold 2 of 4 places; items 2 and 3, in the first fifth too, hold the others.
    items = np.array([[0, 2, *[NO_ITEM] * 8], [1, 3, *[NO_ITEM] * 8]], np.int32)
    targets: list[Items] = [np.array([found], np.int32) for found in (0, 2)]
    found = spread(items, targets, np.arange(20)[::-1])
    assert found == Spread(pytest.approx(4 / 20), pytest.approx(2 / 4), pytest.approx(1 / 2))


def test_prefix_recall_by_hand() -> None:
    codes = np.array([[0, 0], [0, 1], [1, 0], [1, 1], [0, 2]])
    # Target 0: item 1 shares its first code. 1: item 0 does. 2: is there. 3: is there. 4: items 1 and 0 share one code.
    found = prefix_recall(ITEMS, TARGETS, codes)
    assert found == pytest.approx({"prefix_1": 1.0, "prefix_2": 2 / 5})


def test_an_empty_place_shares_no_code() -> None:
    items = np.full((1, 10), NO_ITEM, np.int32)
    assert prefix_recall(items, [np.array([4], np.int32)], np.zeros((5, 2), int)) == {"prefix_1": 0.0, "prefix_2": 0.0}


def test_a_target_that_comes_twice_counts_once_by_hand() -> None:
    # The first user's targets are items 1 and 2, the 1 three times over; the second's is item 0. The first is shown 1
    # alone among items 1, 3, 4, the second nothing of its own: items 4, 3.
    targets = [np.array([1, 2, 1, 1], np.int32), np.array([0, 0], np.int32)]
    items = np.array([[1, 3, 4, *FILL], [4, 3, NO_ITEM, *FILL]], np.int32)
    assert recall_by_seen(items, targets, POPULARITY) == {
        "0": SeenSlice(1, 0.0),
        "1-4": SeenSlice(1, 1.0),
        "5+": SeenSlice(1, 0.0),
    }
    # Item 2, the head, is one of three distinct targets.
    assert spread(items, targets, POPULARITY).head_share_of_targets == 1 / 3
    codes = np.array([[0, 0], [0, 1], [1, 0], [1, 1], [2, 2]])
    # Target 1 is shown; 2 shares its first code with item 3; 0 shares nothing with items 4 and 3.
    assert prefix_recall(items, targets, codes) == pytest.approx({"prefix_1": 2 / 3, "prefix_2": 1 / 3})


def test_seen_places_by_hand() -> None:
    # User 0 saw 1 (shown) and 4; user 1 saw 0 and 2 twice, both shown, and 2 is a target; the others saw nothing shown.
    seen: list[Items] = [np.array(found, np.int32) for found in ([1, 4], [0, 2, 2], [], [3])]
    assert seen_places(ITEMS, TARGETS, seen) == SeenPlaces(pytest.approx(3 / 4), pytest.approx(1 / 3))
    assert seen_places(ITEMS, TARGETS, [np.empty(0, np.int32)] * 4) == SeenPlaces(0.0, 0.0)
