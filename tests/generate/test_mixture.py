"""Tasks and their multiples become the stream's sources."""

from __future__ import annotations

from typing import cast

import pytest

from trialign.data.dataset import Dataset
from trialign.errors import ConfigError
from trialign.generate.mixture import open_sources


class NamedStores:
    """Stands for a dataset where only the name of a store matters."""

    def store(self, name: str) -> str:
        return name


DATASET = cast(Dataset, NamedStores())


def test_each_task_reads_its_own_records_and_keeps_its_place() -> None:
    sources = open_sources(DATASET, {"item_to_title": 0.5, "history_to_item": 2.0, "title_to_item": 1})
    assert [(source.name, source.store, source.weight) for source in sources] == [
        ("item_to_title", "items", 0.5),
        ("history_to_item", "train", 2.0),
        ("title_to_item", "items", 1),
    ]


def test_a_multiple_of_zero_leaves_a_task_out() -> None:
    sources = open_sources(DATASET, {"item_to_title": 0, "history_to_item": 1})
    assert [source.name for source in sources] == ["history_to_item"]


@pytest.mark.parametrize(
    ("tasks", "message"), [({}, "no task"), ({"history_to_item": 0.0}, "no task"), ({"h": 1}, "unknown task 'h'")]
)
def test_no_task_and_unknown_tasks_are_refused(tasks: dict[str, float], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        open_sources(DATASET, tasks)
