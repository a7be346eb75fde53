"""Cached search equals the plain one, in every architecture; and what a ranker owes its caller."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pytest
import torch
from transformers import AutoConfig, PreTrainedModel

from trialign.decode.beam import beam_search
from trialign.decode.index import PrefixIndex
from trialign.decode.path import Trie
from trialign.decode.step import Beams
from trialign.errors import ConfigError, DataError
from trialign.generate.backbone import ARCHITECTURES, backbone_from_config
from trialign.generate.encodings.tokens import CachedScorer
from trialign.generate.model import Generator
from trialign.generate.ranker import GeneratorRanker
from trialign.generate.template import Template
from trialign.types import NO_ITEM, Items, Ranker

HISTORIES: list[Items] = [
    np.array(items, dtype=np.int32) for items in ([3], [], [0, 5, 5, 9, 11, 2], [7, 1], [4, 8, 10, 6])
]


@pytest.fixture
def make_ranker(
    make_generator: Callable[..., Generator], template: Template, index: PrefixIndex
) -> Callable[..., GeneratorRanker]:
    def make(**options: int) -> GeneratorRanker:
        settings = {"num_beams": 12, "max_history": 6, "batch_size": 2} | options
        return GeneratorRanker(make_generator(), template, index, **settings)

    return make


def grouped(architecture: str, vocab_size: int, *, tied: bool) -> PreTrainedModel:
    """A backbone whose four query heads share two key-value heads, their width not D / heads."""
    config = AutoConfig.for_model(
        architecture,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        intermediate_size=32,
        max_position_embeddings=64,
        vocab_size=vocab_size,
        tie_word_embeddings=tied,
    )
    return backbone_from_config(config, dropout=0.0, seed=0)


@pytest.mark.parametrize(
    ("architecture", "tied"),
    [
        *((architecture, None) for architecture in ARCHITECTURES),
        *((architecture, tied) for architecture in ("qwen2", "qwen3", "llama") for tied in (True, False)),
    ],
)
def test_cached_logits_equal_a_full_pass_for_every_beam(
    architecture: str, tied: bool | None, make_generator: Callable[..., Generator], template: Template
) -> None:
    backbone = None if tied is None else grouped(architecture, template.tokenizer.size, tied=tied)
    generator = make_generator(architecture, backbone=backbone).eval()
    space = generator.items.space
    prompts = [template.history_prompt(history) for history in HISTORIES]

    def uncached(prompt: np.ndarray, codes: list[int]) -> torch.Tensor:
        tokens = torch.cat([torch.from_numpy(prompt), space.encode(torch.tensor(codes, dtype=torch.int64))])
        hidden_TD = generator.hidden(tokens[None], torch.arange(len(tokens))[None])[0]
        return generator.items.code_head(hidden_TD[-1], len(codes))

    draws = torch.Generator().manual_seed(0)
    with torch.no_grad():
        scorer = CachedScorer(generator, generator.items, prompts)
        found = scorer.start()
        wanted = torch.stack([uncached(prompt, []) for prompt in prompts])
        torch.testing.assert_close(found, wanted, atol=1e-5, rtol=0)
        beams: list[list[list[int]]] = [[[]] for _ in prompts]
        for width in (4, 3):  # beams that share a parent, beams whose parent died, and a change of width
            codes_BW = torch.randint(space.codebook_size, (len(prompts), width), generator=draws)
            parents_BW = torch.randint(len(beams[0]), (len(prompts), width), generator=draws)
            found = scorer.advance(Beams(codes_BW, codes_BW, torch.zeros(codes_BW.shape), parents_BW))
            beams = [
                [[*known[parent], code] for code, parent in zip(codes, parents, strict=True)]
                for known, codes, parents in zip(beams, codes_BW.tolist(), parents_BW.tolist(), strict=True)
            ]
            wanted = torch.stack(
                [
                    torch.stack([uncached(prompt, codes) for codes in known])
                    for prompt, known in zip(prompts, beams, strict=True)
                ]
            )
            torch.testing.assert_close(found, wanted, atol=1e-5, rtol=0)


def test_rankings_do_not_depend_on_who_shares_the_batch(make_ranker: Callable[..., GeneratorRanker]) -> None:
    together, scores = make_ranker(batch_size=5).rank(HISTORIES, 8, exclude=None)
    for batch_size in (1, 2):
        items, again = make_ranker(batch_size=batch_size).rank(HISTORIES, 8, exclude=None)
        np.testing.assert_array_equal(items, together)
        np.testing.assert_allclose(again, scores, atol=1e-5)


def test_scores_are_log_probabilities_of_the_whole_catalogue(make_ranker: Callable[..., GeneratorRanker]) -> None:
    ranker = make_ranker()
    assert isinstance(ranker, Ranker)
    items, scores = ranker.rank(HISTORIES, 12, exclude=None)
    assert (items.dtype, scores.dtype) == (np.int32, np.float32)
    assert all(sorted(row) == list(range(12)) for row in items.tolist())
    np.testing.assert_allclose(np.exp(scores).sum(axis=1), 1, atol=1e-5)


def test_excluded_items_are_filtered_from_their_own_ranking_only(make_ranker: Callable[..., GeneratorRanker]) -> None:
    ranker = make_ranker()
    free, free_scores = ranker.rank(HISTORIES, 12, exclude=None)
    items, scores = ranker.rank(HISTORIES, 12, exclude=HISTORIES[::-1])
    for row, excluded in enumerate(HISTORIES[::-1]):
        kept = ~np.isin(free[row], excluded)
        missing = 12 - kept.sum()
        assert items[row].tolist() == free[row][kept].tolist() + [NO_ITEM] * missing
        np.testing.assert_allclose(scores[row][: kept.sum()], free_scores[row][kept], atol=1e-6)
        assert (scores[row][kept.sum() :] == -np.inf).all()


@pytest.mark.parametrize("num_beams", [12, 3])
def test_stock_ranks_as_all_items_without_the_others(
    num_beams: int, make_generator: Callable[..., Generator], template: Template, index: PrefixIndex
) -> None:
    generator = make_generator()
    ranker = GeneratorRanker(generator, template, index, num_beams=num_beams, max_history=6, batch_size=2)
    stock_UN = np.zeros((5, 12), dtype=bool)
    for user in range(5):
        stock_UN[user, [(user + step) % 12 for step in range(num_beams)]] = True
    items_UK, scores_UK = ranker.rank(HISTORIES, num_beams, exclude=HISTORIES, stock=stock_UN)
    prompts = [template.history_prompt(history) for history in HISTORIES]
    with torch.no_grad():
        paths = generator.score_candidates(prompts, Trie.from_index(index), torch.arange(12).expand(5, -1))
    for user, seen in enumerate(HISTORIES):
        left = np.setdiff1d(np.flatnonzero(stock_UN[user]), seen)
        wanted = paths.log_probs_BG[user].numpy()
        best = left[np.argsort(-wanted[left])]
        assert items_UK[user].tolist() == [*best, *[NO_ITEM] * (num_beams - len(best))]
        np.testing.assert_allclose(scores_UK[user, : len(best)], wanted[best], atol=1e-4)


def test_no_stock_no_items(make_ranker: Callable[..., GeneratorRanker]) -> None:
    items, scores = make_ranker().rank(HISTORIES, 4, exclude=None, stock=np.zeros(12, dtype=bool))
    assert (items == NO_ITEM).all()
    assert (scores == -np.inf).all()


@pytest.mark.parametrize("wrong", [np.ones(11, dtype=bool), np.ones((4, 12), dtype=bool), np.ones(12)])
def test_stock_of_another_shape_is_refused(wrong: np.ndarray, make_ranker: Callable[..., GeneratorRanker]) -> None:
    with pytest.raises(DataError, match=r"stock of shape \((.|\n)*pass a bool array \[12\] or \[5, 12\]") as refused:
        make_ranker().rank(HISTORIES, 4, exclude=None, stock=wrong)
    assert str(wrong.dtype) in refused.value.value


def test_items_that_are_no_longer_read_are_still_seen(make_ranker: Callable[..., GeneratorRanker]) -> None:
    ranker = make_ranker(max_history=2)
    long = HISTORIES[2]
    cut, cut_scores = ranker.rank([long[-2:]], 12, exclude=None)
    items, scores = ranker.rank([long], 12, exclude=None)
    np.testing.assert_array_equal(items, cut)
    np.testing.assert_allclose(scores, cut_scores, atol=1e-6)
    filtered, _ = ranker.rank([long], 12, exclude=[long])
    assert not np.isin(filtered, long).any()


def test_no_history_is_read_as_the_marker_alone(
    make_ranker: Callable[..., GeneratorRanker],
    make_generator: Callable[..., Generator],
    template: Template,
    index: PrefixIndex,
) -> None:
    items, _ = make_ranker().rank([np.array([], dtype=np.int32)], 12, exclude=[np.array([], dtype=np.int32)])
    task_token = np.array([template.tokenizer.task_token("history_to_item")])
    generator = make_generator().eval()
    wanted = beam_search(CachedScorer(generator, generator.items, [task_token]), index, 12)
    assert items[0].tolist() == wanted.items[0].tolist()


def test_nobody_to_rank_for(make_ranker: Callable[..., GeneratorRanker]) -> None:
    items, scores = make_ranker().rank([], 5, exclude=[])
    assert items.shape == scores.shape == (0, 5)


def test_more_items_than_beams_are_refused(make_ranker: Callable[..., GeneratorRanker]) -> None:
    with pytest.raises(ConfigError, match="11 items from 10 beams"):
        make_ranker(num_beams=10).rank(HISTORIES, 11, exclude=None)


def test_a_million_beams_search_the_whole_catalogue_once(make_ranker: Callable[..., GeneratorRanker]) -> None:
    whole, scores = make_ranker(num_beams=12).rank(HISTORIES, 12, exclude=None)
    items, again = make_ranker(num_beams=1_000_000).rank(HISTORIES, 14, exclude=None)
    np.testing.assert_array_equal(items, np.pad(whole, ((0, 0), (0, 2)), constant_values=NO_ITEM))
    np.testing.assert_array_equal(again, np.pad(scores, ((0, 0), (0, 2)), constant_values=-np.inf))


def test_no_beams_or_more_than_a_machine_can_hold_are_refused(
    make_generator: Callable[..., Generator], template: Template
) -> None:
    codes_NL = np.stack(np.unravel_index(np.arange(20_000), (128, 128, 2)), axis=1)
    index = PrefixIndex.from_codes(codes_NL, 128)
    with pytest.raises(ConfigError, match="num_beams=1000000 over 20000 items"):
        GeneratorRanker(make_generator(), template, index, num_beams=1_000_000, max_history=6, batch_size=2)
    with pytest.raises(ConfigError, match="num_beams=0"):
        GeneratorRanker(make_generator(), template, index, num_beams=0, max_history=6, batch_size=2)


def test_a_prompt_longer_than_the_model_is_refused_with_what_would_fit(
    make_ranker: Callable[..., GeneratorRanker],
) -> None:
    with pytest.raises(ConfigError, match=r"max_history=20") as refused:
        make_ranker(max_history=21)
    assert "takes 66 positions" in str(refused.value)
    full = np.arange(20, dtype=np.int32) % 12
    items, _ = make_ranker(max_history=20).rank([full], 5, exclude=None)
    assert (items >= 0).all()


def test_scores_fall(make_ranker: Callable[..., GeneratorRanker]) -> None:
    _, scores = make_ranker().rank(HISTORIES, 12, exclude=None)
    assert all(before >= after for row in scores.tolist() for before, after in pairwise(row))
