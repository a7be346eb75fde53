"""The search that a bundle carries is the ranker's, and the beams of transformers with its processor are too."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from trialign.export.files.generate import NO_ITEM, Catalogue, Recommender, TrieProcessor, load
from trialign.export.form import Source
from trialign.types import Items

LISTS = [[], [3], [0, 1, 2], [5, 5, 9, 0], [4, 7, 1, 8, 2, 6, 3], [11, 10]]
HISTORIES: list[Items] = [np.array(items, np.int32) for items in LISTS]
STOCK = np.isin(np.arange(12), [0, 1, 4, 6, 7, 11])


@pytest.fixture(scope="module")
def model(bundle: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(bundle).eval()


def same(found: tuple[Any, Any], expected: tuple[Any, Any]) -> None:
    np.testing.assert_array_equal(found[0], expected[0])
    np.testing.assert_allclose(found[1], expected[1], atol=1e-5)


@pytest.mark.parametrize("num_beams", [3, 12, 50])
@pytest.mark.parametrize("stock", [None, STOCK, np.stack([np.roll(STOCK, row) for row in range(len(LISTS))])])
@pytest.mark.parametrize("excludes", [False, True])
def test_items_and_scores_are_those_of_the_ranker(
    source: Source, bundle: Path, num_beams: int, stock: Any, excludes: bool
) -> None:
    exclude = HISTORIES if excludes else None
    k = min(num_beams, 10)
    expected = source.ranker(num_beams).rank(HISTORIES, k, exclude=exclude, stock=stock)
    same(load(bundle, num_beams=num_beams).rank_items(HISTORIES, k, exclude=exclude, stock=stock), expected)


def test_a_history_answers_alone_as_among_others(bundle: Path, model: Any) -> None:
    together = load(bundle).rank_items(HISTORIES, 10)
    same(Recommender(model, Catalogue(bundle), batch_size=1).rank_items(HISTORIES, 10), together)


def test_keys_in_keys_and_scores_out(bundle: Path) -> None:
    recommender = load(bundle)
    keys = [[recommender.keys[item] for item in items] for items in LISTS]
    allowed = [recommender.keys[item] for item in np.flatnonzero(STOCK)]
    found = recommender.rank(keys, 10, exclude=keys, allowed=allowed, blocked=allowed[:1])
    stock = STOCK & (np.arange(12) != 0)
    items, scores = recommender.rank_items(HISTORIES, 10, exclude=HISTORIES, stock=stock)
    assert [[key for key, _ in one] for one in found] == [
        [recommender.keys[item] for item in row if item != NO_ITEM] for row in items
    ]
    assert [score for one in found for _, score in one] == scores[items != NO_ITEM].tolist()
    with pytest.raises(KeyError, match="no item 'other' among the 12"):
        recommender.rank([["other"]])
    with pytest.raises(ValueError, match="k=51 items from 50 beams"):
        recommender.rank([[]], 51)


@pytest.mark.parametrize("stock", [None, STOCK])
def test_the_beams_of_transformers_write_the_same_lists(bundle: Path, model: Any, stock: Any) -> None:
    """Prompts of different lengths, padded on the left; with stock the scores of the rest stay as they are."""
    catalogue, tokenizer = Catalogue(bundle), AutoTokenizer.from_pretrained(bundle)
    prompts = tokenizer.pad({"input_ids": [catalogue.prompt(items) for items in LISTS]}, return_tensors="pt")
    k = 6
    found = model.generate(
        **prompts,
        logits_processor=[TrieProcessor(catalogue, stock)],
        num_return_sequences=k,
        num_beams=12,
        output_scores=True,
        return_dict_in_generate=True,
        renormalize_logits=stock is None,
    )
    items_X = catalogue.read(found.sequences)[0][:, -1].reshape(len(LISTS), k)
    same((items_X, found.sequences_scores.reshape(len(LISTS), k)), load(bundle).rank_items(HISTORIES, k, stock=stock))


def test_generate_of_a_trusted_folder_is_the_search(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path))
    trusted = AutoModelForCausalLM.from_pretrained(bundle, trust_remote_code=True)
    catalogue, tokenizer = Catalogue(bundle), AutoTokenizer.from_pretrained(bundle)
    prompts = tokenizer.pad({"input_ids": [catalogue.prompt(items) for items in LISTS]}, return_tensors="pt")
    rows = trusted.generate(**prompts, num_return_sequences=4)
    items = catalogue.read(rows)[0][:, -1].reshape(len(LISTS), 4)
    np.testing.assert_array_equal(items, load(bundle).rank_items(HISTORIES, 4)[0])
    with pytest.raises(TypeError, match="top_p: this model's generate takes"):
        trusted.generate(**prompts, top_p=0.9)


def test_what_continues_no_item_has_no_probability(bundle: Path, model: Any) -> None:
    """Not even after a prefix that no item begins with, which must not turn into NaN either."""
    catalogue = Catalogue(bundle)
    assert not (catalogue.codes_NL[:, :2] == 2).all(dim=1).any()
    start = torch.tensor([catalogue.prompt([])])
    codes = torch.tensor([[catalogue.first_code + 2, catalogue.first_code + 3 + 2]])
    scores = TrieProcessor(catalogue)(torch.cat([start, codes], dim=1), torch.zeros(1, model.config.vocab_size))
    assert torch.isfinite(scores).all()
    first = TrieProcessor(catalogue)(start, torch.zeros(1, model.config.vocab_size))
    legal = {int(code) + catalogue.first_code for code in catalogue.codes_NL[:, 0]}
    assert set(torch.nonzero(first[0] > -torch.inf)[:, 0].tolist()) == legal
    assert float(first.exp().sum()) == pytest.approx(1.0)
