"""Tasks and their weights become the stream's sources."""

from __future__ import annotations

from dataclasses import fields
from types import SimpleNamespace
from typing import Any, cast

import pyarrow as pa
import pytest

from tests.tools import catalogue_texts
from trialign.config.train import TasksConfig
from trialign.data.dataset import Dataset
from trialign.errors import ConfigError
from trialign.generate.mixture import in_words, left_out, open_sources, tasks_without_texts
from trialign.generate.task import ItemTexts

NUM_RECORDS = {"items": 4, "train": 50}
TEXTS = catalogue_texts(["a", "b", "", "d"], ["on a table", "", "", ""])


class CountedStores:
    """Stands for a dataset where only the names and sizes of stores matter."""

    def store(self, name: str) -> Any:
        return SimpleNamespace(name=name, num_records=NUM_RECORDS[name])


DATASET = cast(Dataset, CountedStores())


def examples(tasks: dict[str, float], texts: ItemTexts = TEXTS, **options: Any) -> dict[str, float]:
    """Return how many examples of each task an epoch of the mixture holds, empty ones left out."""
    number = {"title_to_item": 3, "item_to_title": 3, "caption_to_item": 1, "caption_to_title": 1, "item_to_caption": 1}
    return {
        source.name: source.weight * number.get(source.name, NUM_RECORDS["train"])
        for source in open_sources(DATASET, texts, tasks, **options)
    }


def test_each_task_reads_its_own_records_and_keeps_its_place() -> None:
    sources = open_sources(DATASET, TEXTS, {"item_to_title": 0.5, "history_to_item": 2.0, "title_to_item": 1})
    assert [(source.name, cast(Any, source.store).name, source.weight) for source in sources] == [
        ("item_to_title", "items", 0.5),
        ("history_to_item", "train", 2.0),
        ("title_to_item", "items", 1),
    ]


def test_a_weight_of_zero_leaves_a_task_out() -> None:
    assert list(examples({"item_to_title": 0, "history_to_item": 1})) == ["history_to_item"]


def test_proportional_counts_examples_times_weights() -> None:
    found = examples({"history_to_item": 1, "title_to_item": 2, "caption_to_item": 3})
    assert found == pytest.approx({"history_to_item": 50, "title_to_item": 6, "caption_to_item": 3})


def test_a_temperature_draws_the_tasks_together() -> None:
    tasks = {"history_to_item": 1.0, "title_to_item": 2.0, "caption_to_item": 3.0}
    # Shares are the square roots of 50, 2 x 3 and 3 x 1; together as many examples as there are: 50 + 3 + 1.
    roots = {"history_to_item": 50**0.5, "title_to_item": 6**0.5, "caption_to_item": 3**0.5}
    wanted = {name: 54 * root / sum(roots.values()) for name, root in roots.items()}
    assert examples(tasks, mixture="temperature", temperature=2.0) == pytest.approx(wanted)
    even = examples(dict.fromkeys(tasks, 1.0), mixture="temperature", temperature=1e6)
    assert even == pytest.approx(dict.fromkeys(tasks, 18), rel=1e-4)


def test_weights_alone_decide() -> None:
    found = examples({"history_to_item": 1, "title_to_item": 2, "caption_to_item": 6}, mixture="weights")
    assert found == pytest.approx({"history_to_item": 6, "title_to_item": 12, "caption_to_item": 36})


def test_tasks_on_texts_that_no_item_has_are_known_from_the_catalogue_alone() -> None:
    items = pa.table({"title": ["", " "], "brand": ["", "Acme"]})
    tasks = {"title_to_item": 1.0, "item_to_title": 0.0, "caption_to_title": 1.0, "caption_to_item": 1.0}
    assert tasks_without_texts(items, tasks) == {"title_to_item": ["title"], "caption_to_title": ["title"]}
    assert in_words(["title", "categories", "title"], "or") == "categories or a title"


def test_items_without_a_text_are_counted() -> None:
    tasks = ["history_to_item", "titles_to_item", "title_to_item", "item_to_caption", "caption_to_title"]
    assert left_out(TEXTS, tasks) == {"title_to_item": 1, "item_to_caption": 3, "caption_to_title": 3}


@pytest.mark.parametrize(
    ("tasks", "message"),
    [
        ({}, "no task"),
        ({"history_to_item": 0.0}, "no task"),
        ({"h": 1}, "unknown task 'h'"),
        ({"caption_to_title": 1.0}, r"no item has a caption and a title(.|\n)*enrich/captions=builtin"),
        (
            {"titles_to_item": 1.0},
            r"no item has a title(.|\n)*titles_to_item=0 train.tasks.history_to_item=1$",
        ),
        (
            {"history_to_item": 1.0, "title_to_item": 1.0, "item_to_title": 1.0},
            r"remedy: set train.tasks.title_to_item=0 train.tasks.item_to_title=0$",
        ),
    ],
)
def test_no_task_unknown_tasks_and_tasks_without_texts_are_refused(tasks: dict[str, float], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        open_sources(DATASET, catalogue_texts([""] * 4), tasks)


def test_every_task_has_a_weight() -> None:
    assert list(TasksConfig().weights()) == [field.name for field in fields(TasksConfig)]
