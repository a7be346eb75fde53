from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from trialign.data.dataset import Dataset, Evaluation
from trialign.errors import DataError


def test_a_folder_without_a_dataset_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"items.parquet does not exist\n.*\n.*trialign prepare"):
        Dataset(tmp_path)


def test_items_are_found_by_key_and_near_misses_are_suggested(prepared: Callable[..., tuple[Dataset, dict]]) -> None:
    items = {key: {} for key in ("lamp-1", "chair-1", "chair-2")}
    dataset, _ = prepared({"a": ["lamp-1"]}, items)
    assert [dataset.item_of(key) for key in ("chair-1", "chair-2", "lamp-1")] == [0, 1, 2]
    with pytest.raises(DataError, match=r"no item 'lamp1' among 3\n.*\n.*did you mean lamp-1"):
        dataset.item_of("lamp1")
    with pytest.raises(DataError, match=r"no item 'zzz'.*\n.*\n.*items\.parquet"):
        dataset.item_of("zzz")


def test_the_first_users_keep_all_of_their_examples() -> None:
    items = [np.array([number], np.int32) for number in range(6)]
    whole = Evaluation(["b", "b", "a", "c", "c", "c"], items, items[::-1], items)
    assert [whole.first(number).users for number in (1, 2, 3)] == [["b"] * 2, ["b", "b", "a"], whole.users]
    found = whole.first(2)
    assert [len(found.histories), len(found.targets), len(found.older), len(found.seen)] == [3] * 4


def test_histories_are_item_indices(prepared: Callable[..., tuple[Dataset, dict]]) -> None:
    dataset, _ = prepared({"a": list(range(20)), "b": [3, 4, 5]})
    arrays = [*dataset.train_histories(), *dataset.evaluation("test").histories, *dataset.evaluation("test").targets]
    assert {array.dtype for array in arrays} == {np.dtype(np.int32)}


def test_a_held_out_event_is_found_with_the_history_before_it(prepared: Callable[..., tuple[Dataset, dict]]) -> None:
    dataset, _ = prepared({"a": list(range(20)), "b": [3, 4, 5], "one": [7]})
    found = dataset.held_out("b", "test")
    assert found is not None
    user, targets = found
    keys = dataset.keys
    assert [keys[item] for item in user.history] == ["3", "4"]
    assert [keys[item] for item in targets] == ["5"]
    before = dataset.held_out("b", "validation")
    assert before is not None
    assert [keys[item] for item in before[1]] == ["4"]
    assert dataset.held_out("one", "test") is None
    assert dataset.held_out("nobody", "test") is None
