"""What each task reads and writes, token by token."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from trialign.data.rows import TokenizedExample
from trialign.errors import ConfigError
from trialign.generate.tasks import TASKS, load_task
from trialign.generate.template import Template
from trialign.semid.table import SIDTable

HISTORY, TO_ITEM, TO_TITLE = range(3)


def read(template: Template, sids: SIDTable, example: TokenizedExample) -> list[str]:
    """Spell an example: special tokens by name, items by number, other text as is; a target is marked with `!`."""
    tokenizer = template.tokenizer
    names = {tokenizer.end: "end"} | {tokenizer.marker(task): task for task in TASKS}
    spelled: list[str] = []
    level_codes: list[int] = []
    for token, target in zip(example.tokens.tolist(), example.targets.tolist(), strict=True):
        mark = "!" if target else ""
        if token < tokenizer.size:
            spelled.append(names.get(token, tokenizer.decode([token])) + mark)
            continue
        level, code = divmod(token - tokenizer.size, sids.codebook_size)
        assert level == len(level_codes), "levels of an item come in order"
        level_codes.append(code)
        if len(level_codes) == sids.num_levels:
            spelled.append(f"item {sids.item_of(np.array(level_codes))}{mark}")
            level_codes = []
    assert not level_codes
    return spelled


@pytest.fixture
def spell(template: Template, sids: SIDTable) -> Any:
    def spelled(task: int, **record: Any) -> list[str]:
        example = template.encode(task, record)
        assert (example.tokens.dtype, example.targets.dtype, example.task) == (np.int64, np.bool_, task)
        return read(template, sids, example)

    return spelled


def test_history_to_item_learns_every_item_but_the_first(spell: Any) -> None:
    found = spell(HISTORY, items=np.array([4, 7, 4]), first_target=0)
    assert found == ["history_to_item", "item 4", "item 7!", "item 4!"]


def test_a_later_window_learns_only_the_items_it_owns(spell: Any) -> None:
    found = spell(HISTORY, items=np.array([4, 7, 1, 2]), first_target=3)
    assert found == ["history_to_item", "item 4", "item 7", "item 1", "item 2!"]


def test_a_history_of_one_item_holds_no_example(spell: Any) -> None:
    assert spell(HISTORY, items=np.array([4]), first_target=0) == []


def test_title_to_item_reads_the_title_and_learns_the_item(spell: Any, template: Template) -> None:
    found = spell(TO_ITEM, item=5, title="green lamp")
    assert (found[0], found[-2:], "".join(found[1:-2])) == ("title_to_item", ["end", "item 5!"], "green lamp")


def test_item_to_title_reads_the_item_and_learns_the_title_and_its_end(spell: Any) -> None:
    found = spell(TO_TITLE, item=5, title="green lamp")
    assert found[:2] == ["item_to_title", "item 5"]
    assert found[-1] == "end!"
    assert all(word.endswith("!") for word in found[2:])
    assert "".join(word[:-1] for word in found[2:-1]) == "green lamp"


def test_an_item_without_a_title_is_learned_to_have_none(spell: Any) -> None:
    assert spell(TO_TITLE, item=5, title="") == ["item_to_title", "item 5", "end!"]
    assert spell(TO_ITEM, item=5, title="") == ["title_to_item", "end", "item 5!"]


def test_a_long_title_is_cut(template: Template) -> None:
    example = template.encode(TO_TITLE, {"item": 0, "title": "lamp " * 100})
    assert example.targets.sum() == template.max_title_tokens + 1


def test_the_prompt_of_a_history_is_its_example_without_the_answer(template: Template) -> None:
    example = template.encode(HISTORY, {"items": np.array([4, 7, 1]), "first_target": 0})
    assert template.history_prompt(np.array([4, 7])).tolist() == example.tokens[:-3].tolist()
    assert template.history_prompt(np.array([], dtype=np.int32)).tolist() == example.tokens[:1].tolist()


def test_an_unknown_task_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ConfigError, match="did you mean 'title_to_item'"):
        load_task("titel_to_item")
