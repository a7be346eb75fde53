"""Keys are text as they are typed, whatever Hydra would read in them."""

from __future__ import annotations

import pytest

from trialign.config.compose import compose
from trialign.config.typed import as_typed

KEYS = ["1_000", "1e3", "1000.0", "0012", "007", "0x1F", "true", "null", "inf", "<|end|>", "a=b", "x y", "é", "it's"]
KEYS += ["${run}", "a\\", "a\\'b", "#c", "(1)", "a:b", "{z}", "-5", "+1", "~", "a@b"]
FILES = ["data.root=r", "data.events=e.csv", "data.items=i.csv"]


@pytest.mark.parametrize("key", KEYS)
def test_a_user_is_the_text_that_was_typed(key: str) -> None:
    assert compose("recommend", ["run=x", f"recommend.user={key}"]).recommend.user == key


def test_items_are_the_texts_that_were_typed() -> None:
    typed = f"recommend.items=[{', '.join(KEYS)}]"
    assert compose("recommend", ["run=x", typed]).recommend.items == KEYS
    assert compose("recommend", ["run=x", "recommend.items=[]"]).recommend.items == []


def test_what_a_list_is_made_of_stands_in_quotes() -> None:
    typed = """recommend.items=["a,b",'[c]', "it's", 'say \\'hi\\'']"""
    assert compose("recommend", ["run=x", typed]).recommend.items == ["a,b", "[c]", "it's", "say 'hi'"]
    assert compose("recommend", ["run=x", 'recommend.user="[a,b]"']).recommend.user == "[a,b]"


def test_other_texts_that_look_like_numbers_stay_texts_and_numbers_numbers() -> None:
    typed = [
        "run=2026_11_30",
        "from.prepare=1_0",
        "data=tables",
        *FILES,
        "data.columns.user=1e3",
        "data.category_separator=true",
        "data.columns.item=TRUE",
        "seed=7",
    ]
    config = compose("prepare", typed)
    assert config.run.name == "2026_11_30"
    assert config.from_stage["prepare"].name == "1_0"
    assert config.data.columns.user == "1e3"
    assert config.data.category_separator == "true"
    assert config.data.columns.item == "TRUE"
    assert config.seed == 7
    assert compose("prepare", ["run=x", "from.prepare=null"]).from_stage == {}


def test_overrides_that_were_read_once_are_read_alike_again() -> None:
    """As jobs of a cluster do with what their submission was given."""
    once = as_typed([f"recommend.user={key}" for key in KEYS] + ["recommend.items=[1_000,a]", "run=1_0", "seed=1"])
    assert as_typed(once) == once
