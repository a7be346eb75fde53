"""What grounding counts, on a generator whose answers are known."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from tests.tools import catalogue_texts
from trialign.evaluate import grounding as module
from trialign.evaluate.grounding import grounding, token_f1
from trialign.evaluate.record import Found
from trialign.generate.task import CatalogueItem, ItemList, ItemTask, ItemTexts, Part, Text

TITLES = ["red cup", "red cup", "Blue rug", "", "tall lamp"]
CAPTIONS = ["a cup", "", "", "a rug", ""]
WORDS = ["", *sorted({word for text in (*TITLES, *CAPTIONS) for word in text.split()}), "no"]


class Tokenizer:
    end = 0

    def encode(self, text: str) -> list[int]:
        return [WORDS.index(word) for word in text.split()]

    def decode(self, tokens: Sequence[int]) -> str:
        return " ".join(WORDS[token] for token in tokens)


class Template:
    """Prompts that say of themselves what they ask."""

    tokenizer = Tokenizer()

    def __init__(self, tasks: list[str]) -> None:
        self.tasks = tasks
        self.max_tokens = {"title": 2, "caption": 5}

    def prompt(self, task: str, parts: list[Any]) -> Any:
        (part,) = parts
        return (task, part.text if isinstance(part, Text) else int(part.items[0]))


class Ranker:
    num_beams = 3
    generator = None

    def __init__(self, *tasks: str) -> None:
        self.template = Template(list(tasks))
        self.asked: list[Any] = []

    def rank_prompts(self, prompts: list[Any], k: int) -> np.ndarray:
        assert k == 3
        self.asked += prompts
        # First the item it means, but for rugs and lamps, where it comes second; of two red cups always the first.
        return np.array(
            [[0, 1, 2] if "cup" in text else [3, 2, 0] if "rug" in text else [4, 0, 1] for _, text in prompts]
        )


def test_finding_by_hand() -> None:
    ranker = Ranker("title_to_item", "caption_to_item", "history_to_item")
    interests = [[], [], ["rug", "floor"], [], []]
    found = grounding(ranker, catalogue_texts(TITLES, CAPTIONS, interests), num_items=10)  # type: ignore[arg-type]
    assert found.catalogue == 5
    assert found.writes == {}
    assert found.finds["title_to_item"] == Found(
        items=4,  # the one without a title is not asked about
        recall_at_1=pytest.approx(2 / 4),  # item 0 and the lamp
        recall_at_10=1.0,
        ceiling_at_1=pytest.approx((0.5 + 0.5 + 1 + 1) / 4),
        ceiling_at_10=1.0,
    )
    assert found.finds["caption_to_item"].items == 2
    assert found.finds["caption_to_item"].recall_at_1 == 1.0
    by_interest = found.finds["interests_to_item"]
    assert (by_interest.items, by_interest.through, by_interest.recall_at_1) == (1, "caption_to_item", 0.0)
    assert ranker.asked[-1] == ("caption_to_item", "rug, floor")


def test_writing_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    told = {0: "red cup", 1: "red lamp", 2: "Blue rug", 4: "tall"}
    monkeypatch.setattr(
        module, "write_texts", lambda _, prompts, **limits: [Tokenizer().encode(told[item]) for _, item in prompts]
    )
    found = grounding(Ranker("item_to_title"), catalogue_texts(TITLES), num_items=10)  # type: ignore[arg-type]
    row = found.writes["item_to_title"]
    assert (row.items, row.exact) == (4, 0.5)
    assert row.token_f1 == pytest.approx((1 + 0.5 + 1 + 2 / 3) / 4)
    assert [(item, TITLES[item], told[item]) for item, _, _ in row.examples] == row.examples


def test_as_many_items_as_asked_for_and_always_the_same() -> None:
    asked = []
    for _ in range(2):
        ranker = Ranker("title_to_item")
        grounding(ranker, catalogue_texts(TITLES), num_items=2)  # type: ignore[arg-type]
        asked.append(ranker.asked)
    assert asked[0] == asked[1]
    assert len(asked[0]) == 2


def test_a_task_of_ones_own_is_scored_as_it_says(monkeypatch: pytest.MonkeyPatch) -> None:
    """A task that reads two texts, one of which more items share than both."""

    def parts(given: CatalogueItem) -> list[Part]:
        return [given.text("title"), given.text("brand"), ItemList.written(given.item)]

    task = ItemTask(parts, needs=("title", "brand"), evaluation="finds")
    monkeypatch.setattr(module, "load_task", lambda _: task)
    texts = ItemTexts(pa.table({"title": TITLES, "brand": ["a", "b", "a", "a", ""]}))
    monkeypatch.setattr(Template, "prompt", lambda _, name, parts: (name, " ".join(part.text for part in parts)))
    ranker = Ranker("brand_to_item")
    found = grounding(ranker, texts, num_items=9).finds  # type: ignore[arg-type]
    assert sorted(text for _, text in ranker.asked) == ["Blue rug a", "red cup a", "red cup b"]
    assert (found["brand_to_item"].items, found["brand_to_item"].ceiling_at_1) == (3, 1.0)


def test_tasks_that_were_not_trained_are_not_asked() -> None:
    found = grounding(
        SimpleNamespace(template=Template(["history_to_item"])), catalogue_texts(TITLES, interests=[["x"]] * 5), 9
    )  # type: ignore[arg-type]
    assert (found.finds, found.writes) == ({}, {})


def test_words_are_counted_as_often_as_they_stand() -> None:
    assert token_f1("a a b", "A b b") == pytest.approx(2 / 3)
    assert token_f1("", "a") == token_f1("b", "a") == 0.0
