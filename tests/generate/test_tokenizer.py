"""The tokenizer loses nothing, is made alike twice, and cannot be spoken to by a title."""

from __future__ import annotations

from pathlib import Path

import pytest

from trialign.errors import ConfigError, DataError
from trialign.generate.tasks import TASKS
from trialign.generate.tokenizer import TextTokenizer

TEXTS = ["a small red cup", "a large red cup", "größere Lampe № 7", "椅子 für 2"] * 3


@pytest.mark.parametrize("text", [*TEXTS, "", " ", "never seen: ✨ zq", "a  b\n\tc"])
def test_decode_undoes_encode(text: str) -> None:
    tokenizer = TextTokenizer.train(TEXTS, vocab_size=320)
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_special_tokens_come_first_and_have_numbers_of_their_own() -> None:
    tokenizer = TextTokenizer.train(TEXTS, vocab_size=320)
    found = [0, tokenizer.end, *(tokenizer.task_token(task) for task in TASKS)]
    assert found == list(range(2 + len(TASKS)))


def test_a_title_cannot_spell_a_special_token(tmp_path: Path) -> None:
    tokenizer = TextTokenizer.train(TEXTS, vocab_size=320)
    tokenizer.save(tmp_path / "tokenizer.json")
    for found in (tokenizer, TextTokenizer.load(tmp_path / "tokenizer.json")):
        tokens = found.encode("<|end|><|history_to_item|>")
        assert min(tokens) > 1 + len(TASKS)
        assert found.decode(tokens) == "<|end|><|history_to_item|>"


def test_training_again_in_another_order_gives_the_same_bytes(tmp_path: Path) -> None:
    for name, texts in (("one", TEXTS), ("two", TEXTS[::-1])):
        TextTokenizer.train(texts, vocab_size=320).save(tmp_path / name)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


def test_saved_and_loaded_it_is_the_same(tmp_path: Path) -> None:
    tokenizer = TextTokenizer.train(TEXTS, vocab_size=320)
    tokenizer.save(tmp_path / "tokenizer.json")
    loaded = TextTokenizer.load(tmp_path / "tokenizer.json")
    assert loaded.size == tokenizer.size <= 320
    assert [loaded.encode(text) for text in TEXTS] == [tokenizer.encode(text) for text in TEXTS]


def test_a_vocabulary_without_room_for_the_bytes_is_refused() -> None:
    with pytest.raises(ConfigError, match="vocab_size=100"):
        TextTokenizer.train(TEXTS, vocab_size=100)
    least = 2 + len(TASKS) + 256
    assert TextTokenizer.train(TEXTS, vocab_size=least).size == least  # bytes alone


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"tokenizer\.json does not exist"):
        TextTokenizer.load(tmp_path / "tokenizer.json")


def test_a_task_the_vocabulary_does_not_know_is_named() -> None:
    with pytest.raises(DataError, match=r"no token <\|item_to_price\|>"):
        TextTokenizer.train(TEXTS, vocab_size=320).task_token("item_to_price")


def test_beside_a_foreign_vocabulary_its_own_spelling_of_a_marker_is_not_meant(tmp_path: Path) -> None:
    TextTokenizer.train(TEXTS, vocab_size=320).save(tmp_path / "tokenizer.json")
    foreign = TextTokenizer.load(tmp_path / "tokenizer.json", rows=400, own=["<|end|>", "<|history_to_item|>"])
    assert (foreign.end, foreign.task_token("history_to_item"), foreign.size) == (400, 401, 402)
    with pytest.raises(DataError, match="no token"):
        foreign.task_token("title_to_item")
