from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import ibis
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trialign.config.data import DataConfig
from trialign.data.dataset import Dataset
from trialign.data.prepare import prepare
from trialign.data.source import RawData
from trialign.errors import DataError
from trialign.stream.blocks import user_hash

World = Callable[..., tuple[Dataset, dict[str, Any]]]


def _records(dataset: Dataset, name: Any) -> list[dict[str, Any]]:
    store = dataset.store(name)
    return [record for block in range(store.num_blocks) for record in store.read(block).to_pylist()]


def _learned(dataset: Dataset) -> list[tuple[str, tuple[int, ...], int]]:
    """Return (user, what is before, target) of every target of every train record."""
    return [
        (record["user"], tuple(record["items"][:place]), record["items"][place])
        for record in _records(dataset, "train")
        for place in range(record["first_target"], len(record["items"]))
    ]


ROWS = [
    # One history of three targets, whatever the order of its rows.
    ("a", ["p", "q"], ["r"], "train"),
    ("a", ["p"], ["q"], "train"),
    ("a", ["p", "q", "r"], ["p"], "train"),
    # A gap: s is context, no target.
    ("b", ["q"], ["q"], "train"),
    ("b", ["q", "q", "s"], ["p"], "train"),
    # Two histories that part after the first item, and a row twice.
    ("c", ["p"], ["q"], "train"),
    ("c", ["p"], ["r"], "train"),
    ("c", ["p", "q"], ["s"], "train"),
    ("c", ["p"], ["q"], "train"),
    ("a", ["p", "q", "r", "p"], ["s"], "validation"),
    ("d", ["s"], ["s"], "test"),
    ("d", ["s", "s"], ["p", "q"], "test"),
    ("d", [], ["q"], "test"),
]


def test_ready_examples_by_hand(world: World) -> None:
    dataset, counts = world(keys="pqrs", examples=ROWS, split="given")
    train = [(record["user"], record["items"], record["first_target"]) for record in _records(dataset, "train")]
    assert sorted(train) == [
        ("a", [0, 1, 2, 0], 1),
        ("b", [1, 1], 1),
        ("b", [1, 1, 3, 0], 3),
        ("c", [0, 1, 3], 1),
        ("c", [0, 2], 1),
    ]
    histories = sorted(items.tolist() for items in dataset.train_histories())
    assert histories == [[0, 1, 2, 0], [0, 1, 3], [0, 2], [1, 1, 3, 0]]
    held = {name: dataset.evaluation(name) for name in ("validation", "test")}  # type: ignore[arg-type]
    assert held["validation"].users == ["a"]
    assert held["validation"].histories[0].tolist() == [0, 1, 2, 0]
    assert held["test"].users == ["d"] * 3
    tested = zip(held["test"].histories, held["test"].targets, strict=True)
    assert [(items.tolist(), targets.tolist()) for items, targets in tested] == [
        ([], [1]),
        ([3], [3]),
        ([3, 3], [0, 1]),
    ]
    users = {
        record["user"]: (record["items"], record["times"], record["older"]) for record in _records(dataset, "users")
    }
    assert users == {
        # The newest example and its target: for testing, then for validation, then the longest for training.
        "a": ([0, 1, 2, 0, 3], [0, 1, 2, 3, 4], []),
        "b": ([1, 1, 3, 0], [0, 1, 2, 3], []),
        "c": ([0, 1, 3], [0, 1, 2], [2]),
        "d": ([3, 3, 0, 1], [0, 1, 2, 3], []),
    }
    assert counts == {
        "users": 4,
        "users_not_trained": 1,
        "users_not_evaluated": 3,
        "examples": {"train": 9, "validation": 1, "test": 3},
        "examples_dropped": 0,
        "history_items_dropped": 0,
        "examples_repeated": 1,
        "windows": 5,
        "train_targets": 8,
        "train_targets_repeated": 2,  # the last 0 of a, the second 1 of b
        "items": 4,
        "items_without_title": 4,
        "items_without_description": 4,
        "items_without_events": 0,
        "images": 0,
    }


def test_the_order_of_rows_and_the_buckets_change_nothing(world: World) -> None:
    one, _ = world(keys="pqrs", examples=ROWS, split="given")
    other, _ = world(keys="pqrs", examples=ROWS[::-1], split="given", buckets=1)
    for name in ("train", "validation", "test", "users"):
        assert _records(one, name) == _records(other, name)
        hashes = [user_hash(record["user"]) for record in _records(one, name)]
        assert hashes == sorted(hashes)


def test_what_only_older_examples_of_a_user_hold_was_seen_too(world: World) -> None:
    # Histories that were cut to two items by whoever made the examples; windows of 6 are not what cuts here.
    rows = [
        ("a", ["p", "q"], ["r"], "train"),
        ("a", ["q", "r"], ["s"], "validation"),
        ("a", ["r", "s"], ["t"], "test"),
    ]
    dataset, _ = world(keys="pqrst", examples=rows, split="given")
    found = dataset.user("a")
    assert (found.history.tolist(), found.times.tolist(), found.older.tolist()) == ([2, 3, 4], [0, 1, 2], [0, 1])
    assert dataset.evaluation("test").seen[0].tolist() == [2, 3], "an example says all that was chosen before it"


def test_an_example_for_testing_is_newer_than_a_longer_one_and_alone_makes_a_user_evaluated(world: World) -> None:
    rows = [
        ("a", ["p", "q", "r"], ["s"], "validation"),
        ("a", ["r", "s"], ["t"], "test"),
        ("b", ["p"], ["q"], "validation"),
        ("c", ["p"], ["q"], "validation"),
    ]
    dataset, counts = world(keys="pqrst", examples=rows, split="given")
    found = dataset.user("a")
    assert (found.history.tolist(), found.older.tolist()) == ([2, 3, 4], [0, 1])
    assert counts["users_not_evaluated"] == 2


def test_a_long_example_is_read_from_its_window_and_seen_as_a_whole(world: World) -> None:
    items = list("pqrpqrstpq")
    dataset, _ = world(keys="pqrst", examples=[("a", items[:-1], items[-1:], "test")], split="given", max_history=3)
    found, test = dataset.user("a"), dataset.evaluation("test")
    assert (found.history.tolist(), found.times.tolist(), found.older.tolist()) == ([4, 0, 1], [7, 8, 9], [2, 3])
    assert (test.histories[0].tolist(), test.older[0].tolist()) == ([3, 4, 0], [1, 2])


def test_long_examples_become_windows_that_learn_each_target_once(world: World) -> None:
    # 20 items of context, then 9 targets; windows of 6.
    chosen = [str(item) for item in np.random.default_rng(0).integers(0, 5, 29)]
    rows = [("a", chosen[:end], [chosen[end]], "train") for end in range(20, 29)]
    dataset, _ = world(keys="01234", examples=rows, split="given")
    assert [target for _, _, target in _learned(dataset)] == [int(item) for item in chosen[20:]]
    assert all(context for _, context, _ in _learned(dataset))
    assert [items.tolist() for items in dataset.train_histories()] == [[int(item) for item in chosen]]


@given(st.lists(st.tuples(st.sampled_from("ab"), st.lists(st.integers(0, 1), min_size=1, max_size=5)), min_size=1))
def test_every_target_is_learned_once_after_its_own_history(
    tmp_path_factory: Any, rows: list[tuple[str, list[int]]]
) -> None:
    from trialign.data.examples import Example, ExampleWriter, _place
    from trialign.data.histories import SplitWriters

    examples = [Example(user * 32, user, "train", tuple(items[:-1]), (items[-1],)) for user, items in rows]
    folder = tmp_path_factory.mktemp("examples")
    with SplitWriters(folder, DataConfig(max_history=50, block_records=8, shard_blocks=8)) as splits:
        ExampleWriter(splits, 2).write(sorted(examples, key=_place))
    (folder / "items.parquet").touch()
    dataset = Dataset.__new__(Dataset)
    dataset.folder = folder
    expected = Counter((user, tuple(items[:-1]), items[-1]) for user, items in set((u, tuple(i)) for u, i in rows))
    assert Counter(_learned(dataset)) == expected
    # No history is the beginning of another that follows it.
    histories = [tuple(items.tolist()) for items in dataset.train_histories()]
    assert {items[: len(items)] for items in histories} <= {tuple(items) for _, items in rows}


def test_unknown_items_are_refused_or_left_out(world: World, caplog: pytest.LogCaptureFixture) -> None:
    rows = [("a", ["p", "x"], ["q"], "train"), ("a", ["p"], ["y"], "test"), ("b", ["x"], ["p"], "test")]
    told = "2 items of the examples are not in the catalogue, e.g. x, y; "
    told += "they are in 2 places of histories and 1 of targets"
    with pytest.raises(DataError) as refused:
        world(examples=rows, split="given")
    assert refused.value.value == told
    assert refused.value.remedy == "add the items, or lose these places: data.missing_items=drop"
    dataset, counts = world(examples=rows, split="given", missing_items="drop")
    assert f"{told}; dropped, of 4 places of histories" in caplog.text
    assert (counts["examples_dropped"], counts["history_items_dropped"], counts["users"]) == (1, 2, 2)
    assert [record["items"] for record in _records(dataset, "train")] == [[0, 1]]
    assert [(record["items"], record["targets"]) for record in _records(dataset, "test")] == [([], [0])]


def test_histories_that_keep_no_item_are_refused(world: World) -> None:
    """A remedy that the tool prints itself emptied all histories of a published file, and ended well."""
    rows = [("a", ["[p,", "q]"], ["q"], "train"), ("a", ["[p]"], ["r"], "test")]
    with pytest.raises(DataError, match="no history keeps any item"):
        world(examples=rows, split="given", missing_items="drop")


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ((None, ["p"], ["q"], "train"), "1 of 2 examples have no user"),
        (("a", None, ["q"], "train"), "1 of 2 examples have no history"),
        (
            ("a", ["p"], [], "train"),
            r"1 of 2 examples have no target, e\.g\. user=a split=train items=\['p'\] target=\[\]",
        ),
        (("a", ["p"], None, "train"), "1 of 2 examples have no target"),
        (("a", ["p"], ["q"], "valid"), "1 of 2 examples name no split among train, validation, test"),
        (("a", ["p"], ["q"], None), "1 of 2 examples name no split"),
        (("a", ["p"], ["q", "r"], "train"), "1 of 2 examples are for training and have more than one target"),
    ],
)
def test_broken_examples_are_refused(world: World, row: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        world(examples=[("b", ["p"], ["q"], "test"), row], split="given")


def test_no_example_is_refused(world: World) -> None:
    with pytest.raises(DataError, match="there is no example"):
        world(examples=[], split="given")


def test_real_examples_keep_every_target(
    shared_data: Callable[[str], Path], tmp_path: Path, settings: DataConfig
) -> None:
    folder = shared_data("amazon2023_industrial_vlm_captions")
    rows = [
        (user, items.split(), [target], split)
        for split, name in (("train", "train"), ("validation", "valid"), ("test", "test"))
        for user, items, target in (
            line.split("\t")
            for line in (folder / f"Industrial_and_Scientific.{name}.inter").read_text().splitlines()[1:]
        )
    ]

    class Real:
        def sources(self) -> dict[str, Path]:
            return {}

        def load(self, folder: Path) -> RawData:
            keys = [str(key) for key in range(1204)]
            texts = {name: [""] * 1204 for name in ("title", "description", "brand")}
            empty = pa.array([[]] * 1204, pa.list_(pa.string()))
            columns = zip(*rows, strict=True)
            examples = pa.table(dict(zip(("user", "items", "target", "split"), columns, strict=True)))
            items = pa.table({"item": keys, **texts, "categories": empty})
            return RawData(items=items, has_clock=False, examples=ibis.memtable(examples))

    counts = prepare(Real(), tmp_path, replace(settings, split="given", max_history=50))
    assert counts["examples"] == {"train": 7672, "validation": 959, "test": 959}
    assert counts["windows"] == 6177
    dataset = Dataset(tmp_path)
    assert len(dataset.train_histories()) == 6177
    expected = Counter((user, tuple(map(int, items)), int(t[0])) for user, items, t, split in rows if split == "train")
    assert Counter(_learned(dataset)) == expected
