"""What each task reads and writes, token by token, and the table of the page that says so."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from tests.tools import catalogue_texts
from trialign.config.train import TasksConfig
from trialign.embed.evidence import ENRICHED, FIELDS
from trialign.enrich.evidence import Evidence
from trialign.errors import ConfigError
from trialign.generate.encodings.tokens import TokensRows
from trialign.generate.task import PROMPT_ITEMS, CatalogueItem, ItemTexts, Window
from trialign.generate.tasks import TASKS, load_task
from trialign.generate.template import Template
from trialign.generate.tokenizer import TextTokenizer
from trialign.semid.table import SIDTable
from trialign.semid.tokens import TokenSpace
from trialign.stream.rows import TokenizedExample

HISTORY, TO_ITEM, TO_TITLE = range(3)
GENERATOR_PAGE = Path(__file__).parents[2] / "docs" / "generator.md"
TITLES = ["red cup", "red lamp", "", "green cup", "blue rug", "green lamp", *(f"thing {n}" for n in range(6, 12))]
CAPTIONS = ["a round cup", "", "", "a cup on a table", "", "a tall lamp", *([""] * 6)]
NUMBERS = range(len(TITLES))
TEXTS = catalogue_texts(
    TITLES,
    CAPTIONS,
    interests=[[f"use {n}"] for n in NUMBERS],
    description=[f"thing of size {n}" for n in NUMBERS],
    brand=[f"brand {n}" for n in NUMBERS],
    categories=[["things", f"kind {n}"] for n in NUMBERS],
)


@pytest.fixture
def all_tasks(tokenizer: TextTokenizer, sids: SIDTable) -> Template:
    space = TokenSpace(tokenizer.size, sids.num_levels, sids.codebook_size)
    encoding = TokensRows(sids.codes_NL, space)
    return Template(tokenizer, encoding, TASKS, max_title_tokens=16, max_caption_tokens=32)


def read(template: Template, sids: SIDTable, example: TokenizedExample) -> list[str]:
    """Spell an example: special tokens by name, items by number, text between them as is; `!` marks what is learned."""
    tokenizer = template.tokenizer
    names = {tokenizer.end: "end"} | {tokenizer.task_token(task): task for task in TASKS}
    spelled: list[str] = []
    text: list[int] = []
    level_codes: list[int] = []
    for token, target in zip(example.tokens.tolist(), example.targets.tolist(), strict=True):
        mark = "!" if target else ""
        if token < tokenizer.size and token not in names:
            text.append(token)
            continue
        if text:
            spelled.append(tokenizer.decode(text) + mark)  # its end is learned if it is
            text = []
        if token < tokenizer.size:
            spelled.append(names[token] + mark)
            continue
        level, code = divmod(token - tokenizer.size, sids.codebook_size)
        assert level == len(level_codes), "levels of an item come in order"
        level_codes.append(code)
        if len(level_codes) == sids.num_levels:
            spelled.append(f"item {sids.item_of(np.array(level_codes))}{mark}")
            level_codes = []
    assert not level_codes
    assert not text
    return spelled


@pytest.fixture
def spell(all_tasks: Template, sids: SIDTable) -> Any:
    def spelled(task: str, draw: float = 0.0, **record: Any) -> list[str]:
        example = all_tasks.encode(TASKS.index(task), load_task(task).given(record, TEXTS, draw))
        assert (example.tokens.dtype, example.targets.dtype) == (np.int64, np.bool_)
        return read(all_tasks, sids, example)

    return spelled


def test_history_to_item_learns_every_item_but_the_first(spell: Any) -> None:
    found = spell("history_to_item", items=np.array([4, 7, 4]), first_target=0)
    assert found == ["history_to_item", "item 4", "item 7!", "item 4!"]


def test_a_later_window_learns_only_the_items_it_owns(spell: Any) -> None:
    found = spell("history_to_item", items=np.array([4, 7, 1, 2]), first_target=3)
    assert found == ["history_to_item", "item 4", "item 7", "item 1", "item 2!"]


def test_the_tasks_of_an_item(spell: Any) -> None:
    assert spell("title_to_item", item=5) == ["title_to_item", "green lamp", "end", "item 5!"]
    assert spell("item_to_title", item=5) == ["item_to_title", "item 5", "green lamp!", "end!"]
    assert spell("caption_to_item", item=5) == ["caption_to_item", "a tall lamp", "end", "item 5!"]
    assert spell("item_to_caption", item=5) == ["item_to_caption", "item 5", "a tall lamp!", "end!"]
    assert spell("caption_to_title", item=5) == [
        *("caption_to_title", "a tall lamp", "end", "green lamp!", "end!"),
    ]


@pytest.mark.parametrize(
    ("draw", "place"),
    # Items 1, 2 and 3 of the window follow something; item 2 has no title.
    [(0.0, 1), (0.49, 1), (0.51, 3), (0.999, 3)],
)
def test_the_tasks_of_a_drawn_position(spell: Any, draw: float, place: int) -> None:
    items = np.array([4, 1, 2, 5])
    before = [f"item {item}" for item in items[:place]]
    told = [part for item in items[:place] if TITLES[item] for part in (TITLES[item], "end")]
    record = {"items": items, "first_target": 0, "draw": draw}
    assert spell("history_to_title", **record) == ["history_to_title", *before, f"{TITLES[items[place]]}!", "end!"]
    assert spell("titles_to_title", **record) == ["titles_to_title", *told, f"{TITLES[items[place]]}!", "end!"]


def test_titles_to_item_may_write_an_item_without_a_title(spell: Any) -> None:
    found = spell("titles_to_item", draw=0.5, items=np.array([4, 1, 2, 5]), first_target=0)
    assert found == ["titles_to_item", "blue rug", "end", "red lamp", "end", "item 2!"]


def test_a_position_is_drawn_among_those_that_the_window_owns(spell: Any) -> None:
    items = np.array([4, 1, 3, 5])
    drawn = {spell("history_to_title", draw=draw, items=items, first_target=2)[-2] for draw in np.linspace(0, 0.99, 9)}
    assert drawn == {"green cup!", "green lamp!"}


def test_a_position_that_is_held_out_for_rl_is_not_drawn(all_tasks: Template, sids: SIDTable) -> None:
    window = Window(np.array([4, 1, 3, 5]), 0, TEXTS, learned=np.array([True, False, True, False]))
    for draw in (0.0, 0.5, 0.999):
        found = all_tasks.encode(TASKS.index("history_to_title"), replace(window, draw=draw))
        assert read(all_tasks, sids, found) == ["history_to_title", "item 4", "item 1", "green cup!", "end!"]


def test_the_last_ten_items_are_read(spell: Any) -> None:
    items = np.array([*range(3, 12), 0, 1, 3])
    for task in ("history_to_title", "titles_to_item", "titles_to_title"):
        found = spell(task, draw=0.999, items=items, first_target=11)
        told = [part for part in found[1:-1] if part != "end" and not part.endswith("!")]
        assert len(told) == PROMPT_ITEMS
        assert told[0] in ("item 4", "blue rug")


@pytest.mark.parametrize(
    ("task", "record"),
    [
        *((task, {"item": 2}) for task in ("title_to_item", "item_to_title")),
        *((task, {"item": 4}) for task in ("caption_to_item", "item_to_caption", "caption_to_title")),
        ("caption_to_title", {"item": 2}),
        *((task, {"items": np.array([4]), "first_target": 0}) for task in TASKS if load_task(task).source == "train"),
        ("history_to_title", {"items": np.array([4, 2]), "first_target": 0}),
        ("titles_to_item", {"items": np.array([2, 4]), "first_target": 0}),
        ("titles_to_title", {"items": np.array([2, 4, 2]), "first_target": 2}),
        ("titles_to_item", {"items": np.array([4, *[2] * 10, 5]), "first_target": 11}),  # a title eleven items ago
    ],
)
def test_what_cannot_be_told_is_no_example(spell: Any, task: str, record: dict[str, Any]) -> None:
    assert spell(task, **record) == []


def test_a_task_may_read_and_write_any_field_of_the_catalogue() -> None:
    items = pa.table({"title": ["cup"], "description": ["for tea"], "brand": [" Acme "], "categories": [["a", "b"]]})
    item = CatalogueItem(0, ItemTexts(items, Evidence(["a cup"], [["tea", "pottery"]], [[0.5, 0.5]])))
    told = {field: item.text(field).text for field in FIELDS}
    assert told == {
        **{"title": "cup", "description": "for tea", "brand": "Acme", "categories": "a > b", "caption": "a cup"},
        "interests": "tea, pottery",
    }


def test_what_a_task_needs_of_the_enrich_stage_stands_in_its_name() -> None:
    """By their names `train` knows whether it reads that stage."""
    for name in TASKS:
        needed = set(ENRICHED) & set(load_task(name).needs)
        weights = TasksConfig(**{name: 1.0})  # type: ignore[arg-type]
        assert set(weights.enriched) == needed, f"name the task after {needed or 'what it reads'}"


def test_blanks_are_no_title() -> None:
    assert catalogue_texts([" \n", "a"]).known("title").tolist() == [False, True]


def test_long_texts_are_cut_each_by_its_own_limit(all_tasks: Template) -> None:
    texts = catalogue_texts(["lamp " * 100], ["cup " * 100])
    for task, limit in (("item_to_title", 16), ("item_to_caption", 32)):
        example = all_tasks.encode(TASKS.index(task), CatalogueItem(0, texts))
        assert example.targets.sum() == limit + 1
        assert example.tokens[-1] == all_tasks.tokenizer.end


def test_the_oldest_titles_are_left_out_where_a_row_is_short(all_tasks: Template, sids: SIDTable) -> None:
    window = Window(np.array([3, 4, 1, 5, 0]), 4, TEXTS)
    whole = all_tasks.encode(TASKS.index("titles_to_title"), window)
    short = Template(all_tasks.tokenizer, all_tasks.rows, TASKS, 16, 32, seq_len=len(whole.tokens) - 1)
    cut = short.encode(TASKS.index("titles_to_title"), window)
    assert read(short, sids, cut)[1:] == read(all_tasks, sids, whole)[3:]
    assert cut.targets.sum() == whole.targets.sum()
    just = Template(all_tasks.tokenizer, all_tasks.rows, TASKS, 16, 32, seq_len=len(whole.tokens))
    assert read(just, sids, just.encode(TASKS.index("titles_to_title"), window)) == read(all_tasks, sids, whole)


def test_a_row_that_holds_no_pair_of_texts_is_refused(all_tasks: Template) -> None:
    # Task token, a caption of 32, a title of 16, and an end token each.
    fits = Template(all_tasks.tokenizer, all_tasks.rows, TASKS, 16, 32, seq_len=51)
    fits.require_room()
    short = Template(all_tasks.tokenizer, all_tasks.rows, TASKS, 16, 32, seq_len=50)
    with pytest.raises(ConfigError, match="caption_to_title may take 51 tokens, a row holds 50"):
        short.require_room()
    uneven = Template(all_tasks.tokenizer, all_tasks.rows, TASKS, 4, 200, seq_len=206)
    with pytest.raises(ConfigError, match="caption_to_title may take 207 tokens, a row holds 206"):
        uneven.require_room()


def test_markup_and_other_languages_are_text_like_any_other(all_tasks: Template, sids: SIDTable) -> None:
    for caption in ("<b>red</b> &amp; <|end|> <|item_to_title|>", "一个红色的杯子", "чашка"):
        longer = Template(all_tasks.tokenizer, all_tasks.rows, TASKS, 16, max_caption_tokens=200)
        example = longer.encode(TASKS.index("item_to_caption"), CatalogueItem(0, catalogue_texts([""], [caption])))
        assert read(longer, sids, example) == ["item_to_caption", "item 0", f"{caption}!", "end!"]


def test_prompts_are_examples_without_the_answer(template: Template) -> None:
    example = template.encode(HISTORY, Window(np.array([4, 7, 1]), 0))
    assert template.history_prompt(np.array([4, 7])).tolist() == example.tokens[:-3].tolist()
    assert template.history_prompt(np.array([], dtype=np.int32)).tolist() == example.tokens[:1].tolist()
    example = template.encode(TO_ITEM, CatalogueItem(5, TEXTS))
    title = load_task("title_to_item").parts(CatalogueItem(5, TEXTS))[:1]
    assert template.prompt("title_to_item", title).tolist() == example.tokens[:-3].tolist()


def test_an_unknown_task_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ConfigError, match="did you mean 'title_to_item'"):
        load_task("titel_to_item")


def test_the_page_shows_an_example_of_every_task(all_tasks: Template, sids: SIDTable) -> None:
    """Every task rendered on one small catalogue, as docs/generator.md prints it."""
    page = GENERATOR_PAGE.read_text()
    shown = dict(re.findall(r"^\| \d+ \| (\w+) \| (.*) \|$", page, flags=re.MULTILINE))
    assert set(shown) == set(TASKS)
    for number, task in enumerate(TASKS):
        record = {"item": 5} if load_task(task).source == "items" else {"items": np.array([3, 0, 5]), "first_target": 0}
        spelled = read(all_tasks, sids, all_tasks.encode(number, load_task(task).given(record, TEXTS, 0.9)))
        assert shown[task] == " ".join(f"**{part[:-1]}**" if part.endswith("!") else part for part in spelled[1:])
