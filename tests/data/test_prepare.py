from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from trialign.config.data import DataConfig, InterJsonConfig
from trialign.data.dataset import Dataset
from trialign.data.events import Histories
from trialign.data.histories import EventWriter, SplitWriters
from trialign.data.prepare import prepare
from trialign.data.sources import InterJson
from trialign.data.splits import last_n
from trialign.errors import ConfigError, DataError
from trialign.stream.blocks import user_hash
from trialign.types import EvaluationSplit

Prepared = Callable[..., tuple[Dataset, dict[str, int]]]


def _records(dataset: Dataset, name: Any) -> list[dict[str, Any]]:
    store = dataset.store(name)
    return [record for block in range(store.num_blocks) for record in store.read(block).to_pylist()]


def _random_lists(num_users: int, seed: int = 0) -> dict[str, list[int]]:
    chance = np.random.default_rng(seed)
    return {f"u{user}": chance.integers(0, 40, chance.integers(1, 30)).tolist() for user in range(num_users)}


def test_three_users_by_hand(prepared: Prepared) -> None:
    dataset, counts = prepared({"a": [5, 6, 7, 5], "b": [7, 6], "c": [6, 5, 7]})
    assert dataset.keys == ["5", "6", "7"]
    train = {record["user"]: record for record in _records(dataset, "train")}
    assert train["a"] == {"user": "a", "items": [0, 1], "times": [0, 1], "first_target": 0}
    assert {user: record["items"] for user, record in train.items()} == {"a": [0, 1], "b": [2, 1], "c": [1]}
    validation = {record["user"]: record for record in _records(dataset, "validation")}
    assert validation["a"] == {"user": "a", "items": [0, 1], "times": [0, 1], "targets": [2], "older": []}
    test = {record["user"]: record for record in _records(dataset, "test")}
    assert test["a"] == {"user": "a", "items": [0, 1, 2], "times": [0, 1, 2], "targets": [0], "older": []}
    assert test["c"] == {"user": "c", "items": [1, 0], "times": [0, 1], "targets": [2], "older": []}
    assert set(validation) == set(test) == {"a", "c"}
    users = {record["user"]: record for record in _records(dataset, "users")}
    assert users["a"] == {"user": "a", "items": [0, 1, 2, 0], "times": [0, 1, 2, 3], "older": []}
    assert {user: record["items"] for user, record in users.items()} == {"a": [0, 1, 2, 0], "b": [2, 1], "c": [1, 0, 2]}
    assert counts == {
        "users": 3,
        "users_not_trained": 0,
        "users_not_evaluated": 1,
        "users_cut_in_ties": 0,
        "events": 9,
        "events_in_ties": 0,
        "events_unused": 0,
        "events_dropped": 0,
        "events_repeated": 0,
        "bad_events": {},
        "windows": 3,
        "train_targets": 2,
        "train_targets_repeated": 0,
        "items": 3,
        "items_without_title": 0,
        "items_without_description": 3,
        "items_without_events": 0,
        "images": 0,
    }


def test_every_split_agrees_with_a_plain_reference(prepared: Prepared) -> None:
    lists = _random_lists(60)
    dataset, _ = prepared(lists)
    item_of = {int(key): item for item, key in enumerate(dataset.keys)}
    indices = {user: [item_of[item] for item in items] for user, items in lists.items()}
    users = sorted(lists, key=lambda user: hashlib.md5(user.encode()).hexdigest())

    train = [indices[user][:-2] if len(indices[user]) >= 3 else indices[user] for user in users]
    assert [items.tolist() for items in dataset.train_histories()] == train
    for split, held in (("validation", 2), ("test", 1)):
        evaluation = dataset.evaluation(split)  # type: ignore[arg-type]
        assert evaluation.users == [user for user in users if len(indices[user]) >= 3]
        chosen = [indices[user] for user in evaluation.users]
        assert [items.tolist() for items in evaluation.histories] == [items[:-held][-6:] for items in chosen]
        assert [items.tolist() for items in evaluation.targets] == [[items[-held]] for items in chosen]
        assert [set(seen.tolist()) for seen in evaluation.seen] == [set(items[:-held]) for items in chosen]
        assert any(len(items) for items in evaluation.older)
    for user in users:
        found = dataset.user(user)
        assert found.history.tolist() == indices[user][-6:]
        assert found.times.tolist() == list(range(len(lists[user])))[-6:]
        assert found.older.tolist() == sorted(set(indices[user][:-6]) - set(indices[user][-6:]))
        assert set(found.seen.tolist()) == set(indices[user])


@given(
    st.lists(st.lists(st.integers(0, 5), min_size=1, max_size=14), min_size=1, max_size=6),
    st.integers(2, 9),
    st.integers(0, 3),
)
def test_what_was_seen_is_whole_however_long_the_history_and_however_short_the_window(
    tmp_path_factory: pytest.TempPathFactory, histories: list[list[int]], max_history: int, num_held: int
) -> None:
    folder = tmp_path_factory.mktemp("histories")
    lengths = np.array([len(items) for items in histories])
    keys = sorted((f"u{number}" for number in range(len(histories))), key=user_hash)
    events = Histories(
        users=pa.array(keys),
        starts=np.cumsum(lengths) - lengths,
        lengths=lengths,
        items=pa.array([item for items in histories for item in items], pa.int32()),
        times=pa.array(np.arange(lengths.sum())),
        tied=np.zeros(lengths.sum(), np.bool_),
    )
    with SplitWriters(folder, DataConfig(max_history=max_history, block_records=2, shard_blocks=8)) as splits:
        EventWriter(splits, {}, 6, lambda found: last_n(found.lengths, max(1, num_held), 3)).write(events)
    (folder / "items.parquet").touch()
    dataset = Dataset.__new__(Dataset)
    dataset.folder = folder
    for key, items in zip(keys, histories, strict=True):
        found = dataset.user(key)
        assert found.history.tolist() == items[-max_history:]
        assert found.older.tolist() == sorted(set(items[:-max_history]) - set(items[-max_history:]))
    for split in get_args(EvaluationSplit):
        evaluation = dataset.evaluation(split)
        whole = [histories[keys.index(user)] for user in evaluation.users]
        for items, seen, history, older, targets in zip(
            whole, evaluation.seen, evaluation.histories, evaluation.older, evaluation.targets, strict=True
        ):
            end = len(items) - len(targets) * (2 if split == "validation" else 1)
            assert items[end : end + len(targets)] == targets.tolist()
            assert history.tolist() == items[:end][-max_history:]
            assert older.tolist() == sorted(set(items[:end]) - set(history.tolist()))
            assert set(seen.tolist()) == set(items[:end])


def test_records_of_users_stand_in_the_order_of_their_hashes_and_lookups_read_two_blocks(prepared: Prepared) -> None:
    lists = _random_lists(60)
    dataset, _ = prepared(lists)
    for name in ("train", "validation", "test", "users"):
        hashes = [user_hash(record["user"]) for record in _records(dataset, name)]
        assert hashes == sorted(hashes)
        store = dataset.store(name)  # type: ignore[arg-type]
        for user in lists:
            found = [
                record["items"]
                for b in store.blocks_of(user)
                for record in store.read(b).to_pylist()
                if record["user"] == user
            ]
            assert found == [record["items"] for record in _records(dataset, name) if record["user"] == user]
    store = dataset.store("users")
    assert store.num_blocks == 15
    assert max(len(store.blocks_of(user)) for user in lists) <= 2


def test_nobody_is_found_who_is_not_there(prepared: Prepared) -> None:
    dataset, _ = prepared(_random_lists(9))
    for stranger in (f"stranger {number}" for number in range(20)):
        assert len(dataset.store("users").blocks_of(stranger)) <= 1
        with pytest.raises(DataError, match=rf"no user '{stranger}' in the logs\n.*\n.*e\.g\. u\d"):
            dataset.user(stranger)


def test_a_dataset_of_an_older_format_is_refused_with_what_to_do(prepared: Prepared) -> None:
    dataset, _ = prepared({"a": [1, 2, 3]})
    names = dataset.folder / "items" / "shards.json"
    names.write_text(json.dumps(json.loads(names.read_text()) | {"format": 1}))
    with pytest.raises(DataError, match=r"has format 1\n.*format 2\n.*trialign prepare.*rebuild=true"):
        Dataset(dataset.folder)


def test_a_long_history_becomes_windows_next_to_each_other(prepared: Prepared) -> None:
    dataset, counts = prepared({"a": list(range(13))})
    windows = [(record["items"], record["first_target"]) for record in _records(dataset, "train")]
    assert windows == [([0, 1, 2, 3, 4, 5], 0), ([3, 4, 5, 6, 7, 8], 3), ([6, 7, 8, 9, 10], 3)]
    assert counts["windows"] == 3


def test_blocks_are_full_across_buckets_and_bytes_do_not_depend_on_them(prepared: Prepared) -> None:
    lists = _random_lists(60)
    reference = None
    for buckets in (1, 16, 256):
        dataset, _ = prepared(lists, buckets=buckets)
        sizes = dataset.store("train").index["records"].tolist()
        assert set(sizes[:-1]) == {4}
        assert 1 <= sizes[-1] <= 4
        reference = reference or _files(dataset)
        assert _files(dataset) == reference


def test_the_order_of_the_files_changes_nothing(prepared: Prepared) -> None:
    lists = _random_lists(20)
    one, _ = prepared(lists)
    other, _ = prepared(dict(reversed(lists.items())))
    assert _records(one, "train") == _records(other, "train")
    assert one.items.equals(other.items)


def test_items_are_written_whole_and_in_blocks(prepared: Prepared) -> None:
    items = {"3": {"title": "c"}, "20": {"description": "words", "brand": "b", "categories": "x,y"}, "100": {}}
    dataset, counts = prepared({"a": [20]}, items)
    assert _records(dataset, "items") == [
        {"item": 0, "title": "c", "description": "", "brand": "", "categories": []},
        {"item": 1, "title": "", "description": "words", "brand": "b", "categories": ["x", "y"]},
        {"item": 2, "title": "", "description": "", "brand": "", "categories": []},
    ]
    assert dataset.items["has_image"].to_pylist() == [False] * 3
    missing = (counts["items_without_title"], counts["items_without_description"], counts["items_without_events"])
    assert missing == (2, 2, 2)


@pytest.mark.parametrize("lists", [{"a": [1]}, {"a": [1, 1, 1, 1]}, {"a": [1], "b": [1]}, {"a": [2, 1, 3]}])
def test_the_smallest_worlds_are_datasets(prepared: Prepared, lists: dict[str, list[int]]) -> None:
    dataset, counts = prepared(lists)
    assert counts["users"] == len(lists) == len(dataset.train_histories())
    evaluated = sum(len(items) >= 3 for items in lists.values())
    assert len(dataset.evaluation("test").users) == len(dataset.evaluation("validation").users) == evaluated


def test_events_of_unknown_items_are_refused_or_dropped_and_counted(
    prepared: Prepared, caplog: pytest.LogCaptureFixture
) -> None:
    lists = {"a": [1, 8, 2, 9, 3], "b": [9], "c": [1, 8]}
    items = {str(item): {} for item in (1, 2, 3)}
    with pytest.raises(
        DataError,
        match=r"4 of 8 events name 2 items .* e\.g\. 8, 9\n.*\n.*lose these 4 events: data\.missing_items=drop",
    ):
        prepared(lists, items)
    dataset, counts = prepared(lists, items, missing_items="drop")
    assert "4 of 8 events name 2 items that are not in the catalogue, e.g. 8, 9; dropped" in caplog.text
    assert (counts["events_dropped"], counts["events"], counts["users"]) == (4, 4, 2)
    assert {record["user"]: record["times"] for record in _records(dataset, "test")} == {"a": [0, 2]}


def test_a_log_of_which_nothing_is_left_is_refused(prepared: Prepared) -> None:
    with pytest.raises(DataError, match="none of the 2 events"):
        prepared({"a": [8, 9]}, {"1": {}}, missing_items="drop")


@pytest.mark.parametrize("lists", [{}, {"a": []}])
def test_an_empty_log_is_refused(prepared: Prepared, lists: dict[str, list[int]]) -> None:
    with pytest.raises(DataError, match="log holds no event"):
        prepared(lists, {"1": {}})


def test_an_empty_catalogue_is_refused(
    inter_json: Callable[..., InterJson], tmp_path: Path, settings: DataConfig
) -> None:
    with pytest.raises(DataError, match="catalogue is empty"):
        prepare(inter_json({"a": [1]}, {}), tmp_path, settings)


def test_pictures_are_stored_and_counted(world: Prepared, picture: Callable[..., bytes]) -> None:
    pictures = [("r", picture("red", "JPEG")), ("p", picture("blue", "PNG"))]
    dataset, counts = world([("a", "p", 0)], images=lambda: iter(pictures))
    assert counts["images"] == 2
    assert dataset.items["has_image"].to_pylist() == [True, False, True]
    assert dict(dataset.images()) == {2: pictures[0][1], 0: pictures[1][1]}


class Echo:
    """Knows that the next item is the last one with 0.7, the first one with 0.2, else any of three."""

    def next_item(self, history: list[str]) -> NDArray[np.float64]:
        probabilities = np.full(3, 0.1 / 3)
        probabilities["pqr".index(history[-1])] += 0.7
        probabilities["pqr".index(history[0])] += 0.2
        return probabilities


def test_the_ceiling_asks_about_the_whole_history_of_each_split(world: Prepared) -> None:
    # More events than a window: the first item decides too, and only the whole history has it.
    chosen = ["p", *["q"] * 9, "r", "p"]
    rows = [("a", item, order) for order, item in enumerate(chosen)]
    dataset, _ = world(rows, oracle=Echo())
    expected = {
        # validation: history p q..q, so q .7, p .2;  test: history p q..q r, so r .7, p .2
        split: np.sort(Echo().next_item(chosen[: -1 - held]))[::-1]
        for held, split in ((1, "validation"), (0, "test"))
    }
    for split, best in expected.items():
        assert best == pytest.approx([0.7 + 0.1 / 3, 0.2 + 0.1 / 3, 0.1 / 3])
        table = dataset.oracle(split)  # type: ignore[arg-type]
        assert table is not None
        (row,) = table.to_pylist()
        assert row["user"] == "a"
        assert row["recall@1"] == row["ndcg@1"] == pytest.approx(best[0])
        assert row["recall@5"] == row["recall@50"] == pytest.approx(1.0)
        assert row["ndcg@10"] == pytest.approx(best[0] + best[1] / np.log2(3) + best[2] / 2)


def test_without_an_oracle_there_is_no_ceiling(prepared: Prepared) -> None:
    dataset, _ = prepared({"a": [1, 2, 3]})
    assert dataset.oracle("test") is None


def test_nothing_but_the_dataset_is_left(prepared: Prepared) -> None:
    dataset, _ = prepared({"a": [1, 2, 3]})
    names = {path.name for path in dataset.folder.iterdir()}
    assert names == {"items.parquet", "items", "images", "train", "validation", "test", "users"}


def _parts(dataset: Dataset) -> dict[str, dict[str, list[int]]]:
    """Return what each user is trained on, and the targets of validation and test."""
    train: dict[str, list[int]] = {}
    for record in _records(dataset, "train"):
        train.setdefault(record["user"], []).extend(record["items"][record["first_target"] :])
    held = {
        name: {record["user"]: record["targets"] for record in _records(dataset, name)}
        for name in ("validation", "test")
    }
    return {"train": train} | held


def test_the_last_two_of_each_by_hand(world: Prepared) -> None:
    rows = [
        (user, "pqrst"[place], place) for user, length in {"a": 5, "b": 4, "c": 2}.items() for place in range(length)
    ]
    dataset, counts = world(rows, keys="pqrst", split="last_n", last_n=2)
    assert _parts(dataset) == {
        "train": {"a": [0], "b": [0, 1], "c": [0, 1]},
        "validation": {"a": [1, 2]},
        "test": {"a": [3, 4], "b": [2, 3]},
    }
    assert counts.items() >= {"users": 3, "users_not_evaluated": 1, "users_not_trained": 0, "events_unused": 0}.items()


START = 10**9
TEMPORAL = [
    *(("a", item, time) for item, time in zip("pqrs", (10, 20, 30, 40), strict=True)),
    *(("b", item, time) for item, time in zip("qrs", (19, 29, 30), strict=True)),
    *(("late", item, time) for item, time in zip("prs", (20, 31, 32), strict=True)),
    *(("cold", item, time) for item, time in zip("rqp", (30, 31, 32), strict=True)),
    ("few", "q", 5),
    ("few", "r", 50),
]


def test_two_times_divide_every_user_at_once(world: Prepared) -> None:
    rows = [(user, item, START + time) for user, item, time in TEMPORAL]
    times = [START + 20, START + 30]
    dataset, counts = world(rows, keys="pqrs", split="temporal", has_clock=True, cut_times=times)
    assert _parts(dataset) == {
        "train": {"a": [0], "b": [1], "few": [1]},
        "validation": {"a": [1], "b": [2]},
        "test": {"a": [2, 3], "b": [3], "late": [2, 3]},
    }
    # Unused: late's event at 20, which has no history before it, all of cold's, and few's second.
    expected = {"users": 5, "users_not_trained": 2, "users_not_evaluated": 2, "events": 15, "events_unused": 5}
    assert counts.items() >= expected.items()
    assert counts["cut_times"] == times
    # As of now everybody's whole history, unused events included.
    now = {
        record["user"]: (record["items"], [time - START for time in record["times"]])
        for record in _records(dataset, "users")
    }
    assert now == {
        "a": ([0, 1, 2, 3], [10, 20, 30, 40]),
        "b": ([1, 2, 3], [19, 29, 30]),
        "late": ([0, 2, 3], [20, 31, 32]),
        "cold": ([2, 1, 0], [30, 31, 32]),
        "few": ([1, 2], [5, 50]),
    }


def test_nothing_after_the_first_time_is_trained_on(world: Prepared) -> None:
    chance = np.random.default_rng(4)
    rows = [
        (f"u{chance.integers(20)}", "pqr"[chance.integers(3)], START + int(chance.integers(100_000)))
        for _ in range(401)
    ]
    dataset, counts = world(rows, split="temporal", has_clock=True, cut_shares=[0.5, 0.75])
    first, second = counts["cut_times"]
    times = sorted(time for _, _, time in rows)
    assert (first, second) == (times[200] + 1, times[300] + 1), "at least that share comes before"
    trained = [time for record in _records(dataset, "train") for time in record["times"][record["first_target"] :]]
    assert sorted(trained) == times[:201]
    tested = _records(dataset, "test")
    assert tested
    assert all(record["times"][-1] < second for record in tested)


def test_shares_after_which_nothing_comes_are_refused(world: Prepared) -> None:
    with pytest.raises(DataError, match=r"no event comes after the first 90% of 4 events: the last time is 1000000007"):
        world(
            [("a", "p", START + 1), ("a", "q", START + 2), ("a", "r", START + 7), ("b", "r", START + 7)],
            split="temporal",
            has_clock=True,
            cut_shares=[0.5, 0.9],
        )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"split": "temporal", "has_clock": False}, "without a clock"),
        ({"split": "given"}, r"data\.split=given with events\n.*\n.*data\.split=leave_one_out"),
        ({"examples": [("a", ["p"], ["q"], "train")]}, r"with ready examples\n.*\n.*data\.split=given"),
        (
            {"examples": [("a", ["p"], ["q"], "train")], "split": "given", "min_user_interactions": 2},
            "interactions with ready examples",
        ),
        ({"oracle": Echo(), "min_item_interactions": 2}, "interactions with a world whose choices are known"),
    ],
)
def test_settings_that_do_not_suit_the_source_are_refused(
    world: Prepared, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        world([("a", "p", 1)], **changes)


def test_threads_and_the_order_of_rows_change_no_byte(world: Prepared) -> None:
    chance = np.random.default_rng(0)
    rows = [(f"u{chance.integers(50)}", f"{chance.integers(30)}", int(chance.integers(40))) for _ in range(3000)]
    setting = {"keys": [f"{key}" for key in range(30)], "min_user_interactions": 40, "min_item_interactions": 90}
    one, counts = world(rows, threads=1, **setting)
    other, _ = world([rows[row] for row in chance.permutation(3000)], threads=2, memory="300MB", **setting)
    assert counts["core_rounds"]
    assert _files(one) == _files(other)


def _files(dataset: Dataset) -> dict[str, bytes]:
    paths = (path for path in sorted(dataset.folder.rglob("*")) if path.is_file())
    return {str(path.relative_to(dataset.folder)): path.read_bytes() for path in paths}


@pytest.mark.parametrize(
    ("name", "files", "expected"),
    [
        ("amazon2018_scientific", "Scientific", {"users": 8317, "items": 4344, "events": 58492}),
        ("amazon2014_beauty", "Beauty", {"users": 22363, "items": 12101, "events": 198502}),
    ],
)
def test_real_logs_become_the_leave_one_out_split_that_others_print(
    shared_data: Callable[[str], Path],
    tmp_path: Path,
    settings: DataConfig,
    name: str,
    files: str,
    expected: dict[str, int],
) -> None:
    folder = shared_data(name)
    source = InterJson(
        InterJsonConfig(
            root=str(folder.parent),
            interactions=f"{name}/{files}.inter.json",
            items=f"{name}/{files}.item.json",
        )
    )
    counts = prepare(source, tmp_path, replace(settings, max_history=50, block_records=1024))
    assert counts.items() >= (expected | {"users_not_evaluated": 0, "items_without_events": 0}).items()
    dataset = Dataset(tmp_path)
    lists = json.loads((folder / f"{files}.inter.json").read_text())
    evaluation = dataset.evaluation("test")
    histories = dict(zip(evaluation.users, evaluation.histories, strict=True))
    targets = dict(zip(evaluation.users, evaluation.targets, strict=True))
    for user, items in lists.items():
        # Keys are 0..N-1 in both sets, so an item's index is its key.
        assert targets[user].tolist() == items[-1:]
        assert histories[user].tolist() == items[:-1][-50:]
    assert sum(map(len, dataset.train_histories())) == counts["events"] - 2 * counts["users"]
    assert pq.read_table(tmp_path / "items.parquet").num_rows == expected["items"]
