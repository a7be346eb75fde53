from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ibis
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from trialign.config.data import DataConfig
from trialign.data.core import core_of
from trialign.data.dataset import Dataset
from trialign.data.tables import bounded_tables
from trialign.errors import DataError

World = Callable[..., tuple[Dataset, dict[str, Any]]]


def _test_rows(dataset: Dataset) -> list[dict[str, Any]]:
    store = dataset.store("test")
    return [record for block in range(store.num_blocks) for record in store.read(block).to_pylist()]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ((None, "p", 1), "1 of 2 events have no user, e.g. user=None item=p order=1"),
        (("", "p", 1), "1 of 2 events have no user"),
        (("a", None, 1), "1 of 2 events have no item"),
        (("a", "", 1), "1 of 2 events have no item"),
        (("a", "p", None), "1 of 2 events have no order"),
    ],
)
def test_events_that_lack_something_are_refused(world: World, row: Any, message: str) -> None:
    for policy in ("refuse", "drop"):
        with pytest.raises(DataError, match=message):
            world([("b", "q", 0), row], missing_items=policy)


NOW = int(time.time())


@pytest.mark.parametrize(
    ("times", "message"),
    [
        (
            [1_500_000_000, 1_500_000_000_000],
            r"1 of 2 times look like milliseconds among seconds, e\.g\. .*order=15000",
        ),
        ([1_500_000_000_000] * 2, r"2 of 2 times look like milliseconds read as seconds, e\.g\."),
        ([1_500_000_000_000_000_000] * 2, r"2 of 2 times look like nanoseconds read as seconds, .*\n.*\n.*time_unit"),
        ([0, 90], r"2 of 2 times lie before March 1973, as seconds do that are read as milliseconds, .*\n.*\n.*rank"),
        ([1_500_000_000, -1], r"1 of 2 times lie before 1970, e\.g\. user=u1 item=p order=-1"),
        ([1_500_000_000, NOW + 3 * 86_400], "1 of 2 times lie in the future"),
        ([1_500_000_000, 1_500_000], "1 of 2 times lie before March 1973, far from all others, e.g. .*order=1500000"),
        ([0, 1_500_000_000, 0], "2 of 3 times lie before March 1973"),
    ],
)
def test_impossible_times_are_named(world: World, times: list[int], message: str) -> None:
    rows = [(f"u{number}", "p", order) for number, order in enumerate(times)]
    with pytest.raises(DataError, match=message):
        world(rows, has_clock=True)
    # The same numbers as ranks mean nothing but an order.
    world(rows)


def test_a_log_may_hold_the_seventies_and_today(world: World) -> None:
    _, counts = world([(f"u{number}", "p", number * 50_000_000) for number in range(10)], has_clock=True)
    assert counts["events"] == 10


def test_the_core_by_hand(world: World) -> None:
    # s has one event and goes; that leaves d with one, then t with one, then c with one.
    pairs = ["ap", "aq", "bp", "bq", "ds", "dt", "cp", "ct"]
    rows = [(user, item, place) for place, (user, item) in enumerate(pairs)]
    dataset, counts = world(rows, keys="pqrst", min_user_interactions=2, min_item_interactions=2)
    assert dataset.keys == ["p", "q"]
    assert counts["core_rounds"] == [
        {"users": 0, "items": 1, "events": 1, "left": 7},
        {"users": 1, "items": 1, "events": 2, "left": 5},
        {"users": 1, "items": 0, "events": 1, "left": 4},
    ]
    expected = {
        "users": 2,
        "items": 2,
        "events": 4,
        "users_below_core": 2,
        "items_below_core": 2,
        "events_below_core": 4,
    }
    assert counts.items() >= expected.items()
    assert [items.tolist() for items in dataset.train_histories()] == [[0, 1], [0, 1]]


def test_a_core_of_items_alone_keeps_users_and_drops_the_items_pictures(
    world: World, picture: Callable[..., bytes]
) -> None:
    pictures = [(key, picture(color)) for key, color in zip("pqr", ("red", "green", "blue"), strict=True)]
    rows = [("a", "p", 0), ("b", "p", 1), ("b", "r", 2), ("c", "r", 3), ("a", "q", 4)]
    dataset, counts = world(rows, keys="pqrs", min_item_interactions=2, images=lambda: iter(pictures))
    assert dataset.keys == ["p", "r"]
    assert counts.items() >= {"users": 3, "items": 2, "events": 4, "images": 2, "items_without_events": 0}.items()
    assert counts["items_without_description"] == 2, "of those that stayed"
    assert dict(dataset.images()) == {0: pictures[0][1], 1: pictures[2][1]}
    assert sorted(items.tolist() for items in dataset.train_histories()) == [[0], [0, 1], [1]]


def test_a_core_of_users_alone_keeps_the_catalogue(world: World) -> None:
    dataset, counts = world([("a", "p", 0), ("b", "q", 1), ("b", "p", 2)], min_user_interactions=2)
    assert dataset.keys == ["p", "q", "r"]
    assert counts.items() >= {"users": 1, "items": 3, "items_without_events": 1, "users_below_core": 1}.items()


def _plain_core(
    pairs: list[tuple[int, int]], min_user_interactions: int, min_item_interactions: int
) -> list[tuple[int, int]]:
    while True:
        users, items = Counter(u for u, _ in pairs), Counter(i for _, i in pairs)
        left = [(u, i) for u, i in pairs if users[u] >= min_user_interactions and items[i] >= min_item_interactions]
        if left == pairs:
            return left
        pairs = left


@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, 1 << 30), st.integers(0, 4), st.integers(0, 4))
def test_the_core_is_the_plain_fixpoint(
    tmp_path_factory: Any, seed: int, min_user_interactions: int, min_item_interactions: int
) -> None:
    import ibis
    import pyarrow as pa

    chance = np.random.default_rng(seed)
    pairs = list(zip(chance.integers(0, 20, 60).tolist(), chance.integers(0, 20, 60).tolist(), strict=True))
    expected = _plain_core(pairs, min_user_interactions, min_item_interactions)
    folder = tmp_path_factory.mktemp("core")
    with bounded_tables(folder / "spill", memory="200MB", threads=1) as tables:
        events = ibis.memtable(pa.table({"user": [u for u, _ in pairs], "item": [i for _, i in pairs]}))

        def left() -> list[tuple[int, int]]:
            settings = DataConfig(
                min_user_interactions=min_user_interactions, min_item_interactions=min_item_interactions
            )
            core, _ = core_of(events, folder, settings, tables=tables)
            return [(row["user"], row["item"]) for row in tables.to_pyarrow(core).to_pylist()]

        if expected:
            assert sorted(left()) == sorted(expected)
        else:
            with pytest.raises(DataError, match="no event is left"):
                left()


def test_rounds_that_do_not_end_are_named(world: World) -> None:
    rows = [(user, item, place) for place, (user, item) in enumerate(["ap", "aq", "bp", "bq", "ds", "dt", "cp", "ct"])]
    with pytest.raises(DataError, match=r"core_rounds=2 rounds 5 events are left.* 1 users and 1 items\n.*\n.*raise"):
        world(rows, keys="pqrst", min_user_interactions=2, min_item_interactions=2, core_rounds=2)


def test_a_user_of_very_many_events_is_one_history_in_windows(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    # Pieces and parts far smaller than the history stand in for a history far larger than them.
    monkeypatch.setattr("trialign.data.events._PIECE_EVENTS", 64)
    monkeypatch.setattr("trialign.data.histories._RECORDS", 16)
    chosen = np.random.default_rng(1).integers(0, 3, 5000)
    rows = [("whale", "pqr"[item], place) for place, item in enumerate(chosen)]
    rows += [(f"u{user}", "p", user) for user in range(300)]
    dataset, counts = world(rows, buckets=1)
    assert counts.items() >= {"users": 301, "events": 5300, "users_not_evaluated": 300}.items()
    (longest,) = [items for items in dataset.train_histories() if len(items) > 1]
    assert longest.tolist() == chosen[:-2].tolist()
    assert _test_rows(dataset)[0]["targets"] == chosen[-1:].tolist()


@pytest.mark.parametrize("name", ["order=1", "user=3", "item=7", "bucket=1", "num_events=9/index=0", "a[1]b*{2}"])
def test_the_name_of_a_run_is_no_column_and_no_pattern(world: World, name: str) -> None:
    rows = [(user, item, place) for place, (user, item) in enumerate(["ap", "br", "aq", "bp", "ar", "bq", "ap"])]
    cores = {"min_user_interactions": 2, "min_item_interactions": 1}
    expected, counts = world(rows, keys="pqr", **cores)
    dataset, found = world(rows, keys="pqr", name=name, **cores)
    assert found == counts
    assert _test_rows(dataset) == _test_rows(expected)
    assert [items.tolist() for items in dataset.train_histories()] == [
        items.tolist() for items in expected.train_histories()
    ]


def test_the_tables_are_current_for_the_length_of_their_block_alone(tmp_path: Path) -> None:
    before = ibis.options.default_backend
    with bounded_tables(tmp_path / "spill", memory="1GB", threads=1) as tables:
        assert ibis.options.default_backend is tables
    assert ibis.options.default_backend is before
