"""Events of one user and time: neither the item's number, nor the user's, nor the place in the log orders them."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from trialign.data.dataset import Dataset

World = Callable[..., tuple[Dataset, dict[str, Any]]]
KEYS = [f"i{number:02d}" for number in range(40)]
DAY = 1_700_006_400


def _histories(dataset: Dataset) -> dict[str, list[str]]:
    """Return what each user chose, targets of the test split included, by keys."""
    store = dataset.store("test")
    records = [record for block in range(store.num_blocks) for record in store.read(block).to_pylist()]
    return {
        record["user"]: [dataset.keys[item] for item in [*record["items"], *record["targets"]]] for record in records
    }


def _days(num_users: int = 50, num_events: int = 6) -> list[tuple[Any, ...]]:
    """Return a log that knows the day of an event and no more."""
    draws = np.random.default_rng(3)
    return [
        (f"u{user:02d}", KEYS[item], DAY)
        for user in range(num_users)
        for item in draws.choice(40, num_events, replace=False)
    ]


def test_targets_of_a_log_of_days_show_no_trace_of_the_items_number(world: World) -> None:
    last = [KEYS.index(items[-1]) for items in _histories(world(_days(), keys=KEYS)[0]).values()]
    # Ordered by number, the last of six of 40 is 34 in the mean; of a fair draw it is 19.5 +- 1.6.
    assert len(last) == 50
    assert abs(np.mean(last) - 19.5) < 5


def test_neither_rows_nor_numbers_order_a_tie(world: World) -> None:
    rows = _days()
    expected = _histories(world(rows, keys=KEYS)[0])
    for order in (sorted(rows), sorted(rows)[::-1], np.random.default_rng(0).permutation(len(rows))):
        shuffled = [rows[row] for row in order] if isinstance(order, np.ndarray) else order
        assert _histories(world(shuffled, keys=KEYS)[0]) == expected
    # Every number of an item and of a user is another one now, and no key is.
    strangers = [(f"a{user}", "a", DAY - 1) for user in range(300)]
    more = _histories(world([*strangers, *rows], keys=["a", "i025", *KEYS])[0])
    assert {user: more[user] for user in expected} == expected


def test_the_order_of_a_tie_differs_from_user_to_user_and_from_time_to_time(world: World) -> None:
    rows = [(f"u{user}", key, DAY) for user in range(20) for key in "pqr"]
    assert len({tuple(items) for items in _histories(world(rows)[0]).values()}) == 6
    orders = {tuple(_histories(world([("u", key, DAY + day) for key in "pqr"])[0])["u"]) for day in range(20)}
    assert len(orders) == 6


def test_fractions_of_a_second_decide_before_a_column_of_ties(world: World) -> None:
    rows = [("a", "p", DAY, 7, 1), ("a", "q", DAY, 3, 9), ("a", "r", DAY, 3, 5)]
    for order in (rows, rows[::-1]):
        dataset, counts = world(order, columns=("fine", "tie"))
        assert _histories(dataset) == {"a": ["r", "q", "p"]}
        assert counts["events_in_ties"] == counts["users_cut_in_ties"] == 0


def test_events_and_cuts_in_ties_are_counted_and_told(world: World, caplog: pytest.LogCaptureFixture) -> None:
    rows = [("early", "p", 0), ("early", "q", 0), ("early", "r", 1), ("early", "p", 2), ("early", "q", 3)]
    rows += [("late", "p", 0), ("late", "q", 1), ("late", "r", 2), ("late", "p", 2), ("few", "q", 9), ("few", "r", 9)]
    rows = [(user, item, DAY + place) for user, item, place in rows]
    _, counts = world(rows)
    # The cut before `early`'s last two events lies between two times, `late`'s in its tie; `few` is not cut at all.
    assert counts.items() >= {"events": 11, "events_in_ties": 6, "users": 3, "users_cut_in_ties": 1}.items()
    assert "6 of 11 events share user and time with another" in caplog.text
    assert "the cut of 1 of 3 users lies among them" in caplog.text
    _, counts = world(rows, split="temporal", cut_times=[DAY + 2, DAY + 3], has_clock=True)
    assert counts.items() >= {"events_in_ties": 6, "users_cut_in_ties": 0}.items()
    # Now the cut before `early`'s validation targets lies in its tie.
    _, counts = world(rows, split="last_n", last_n=2)
    assert counts["users_cut_in_ties"] == 1


def test_a_log_without_ties_says_nothing_of_them(world: World, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        _, counts = world([("a", key, DAY + place) for place, key in enumerate("pqrp")])
    assert counts["events_in_ties"] == counts["users_cut_in_ties"] == 0
    assert "share user and time" not in caplog.text


def test_a_tie_that_spans_pieces_of_a_bucket_stays_one(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = _days(num_users=3, num_events=40)
    expected = _histories(world(rows, keys=KEYS, max_history=40)[0])
    monkeypatch.setattr("trialign.data.events._PIECE_EVENTS", 16)
    assert _histories(world(rows, keys=KEYS, max_history=40)[0]) == expected
