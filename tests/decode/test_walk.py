"""The walk of a search says what the search did."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.decode.test_beam import TableScorer, catalogue, exhaustive
from trialign.decode.beam import beam_search
from trialign.decode.index import PrefixIndex
from trialign.decode.walk import DROPPED, FILTERED, KEPT, LevelWalk, prefix_walk, watch_search

CODES_NL = catalogue(50, 3, 6)
INDEX = PrefixIndex.from_codes(CODES_NL, 6)


def by_fate(level: LevelWalk, fate: int) -> set[int]:
    return set(level.nodes[level.fates == fate].tolist())


def test_the_watched_search_is_the_search() -> None:
    excluded = torch.tensor([[3, 17, 30]])
    levels = watch_search(TableScorer(1, 6, seed=5), INDEX, 9, exclude_1M=excluded)
    found = beam_search(TableScorer(1, 6, seed=5), INDEX, 9, exclude_BM=excluded)
    kept = levels[-1].fates == KEPT
    assert INDEX.items[torch.from_numpy(levels[-1].nodes[kept])].tolist() == found.items[0].tolist()
    np.testing.assert_allclose(levels[-1].log_probs[kept], found.scores[0], atol=1e-6)


def test_every_level_keeps_the_likeliest_and_weighs_only_their_continuations() -> None:
    levels = watch_search(TableScorer(1, 6, seed=5), INDEX, 4)
    kept = {0}
    for level, table in zip(levels, INDEX.levels, strict=True):
        children = {child for node in kept for child in range(int(table.starts[node]), int(table.starts[node + 1]))}
        assert set(level.nodes.tolist()) == children
        assert (np.diff(level.log_probs) <= 0).all()
        assert level.fates.tolist() == [KEPT] * min(4, len(children)) + [DROPPED] * (len(children) - 4)
        kept = by_fate(level, KEPT)
    assert sum(np.exp(levels[0].log_probs)) == pytest.approx(1.0, abs=1e-5)


def test_what_may_not_be_returned_is_filtered_and_not_dropped() -> None:
    stock_1N = torch.ones(1, 50, dtype=torch.bool)
    below = torch.from_numpy(CODES_NL[:, 0] == CODES_NL[0, 0])
    stock_1N[0, below] = False
    excluded = torch.tensor([[int(np.flatnonzero(~below.numpy())[0])]])
    levels = watch_search(TableScorer(1, 6, seed=5), INDEX, 50, exclude_1M=excluded, stocked=INDEX.stocked(stock_1N))
    (node,) = by_fate(levels[0], FILTERED)
    assert levels[0].nodes.tolist().count(node) == 1
    leaf_N = torch.argsort(INDEX.items)
    assert by_fate(levels[2], FILTERED) == set(leaf_N[excluded[0]].tolist())
    assert not by_fate(levels[2], DROPPED)


def test_of_one_softmax_a_prefix_is_as_likely_as_the_items_below_it() -> None:
    log_probs_1N = torch.randn(1, 50, generator=torch.Generator().manual_seed(0)).log_softmax(1)
    levels = prefix_walk(log_probs_1N, INDEX, exclude_1M=torch.tensor([[7]]))
    chances_N = log_probs_1N[0].exp().numpy()
    for depth, level in enumerate(levels, start=1):
        prefixes = np.unique(CODES_NL[:, :depth], axis=0)
        wanted = [chances_N[(CODES_NL[:, :depth] == prefix).all(axis=1)].sum() for prefix in prefixes]
        order = np.argsort(level.nodes)
        np.testing.assert_allclose(np.exp(level.log_probs[order]), wanted, rtol=1e-5)
        assert not by_fate(level, DROPPED)
    assert by_fate(levels[2], FILTERED) == {int(torch.argsort(INDEX.items)[7])}


def test_an_exhaustive_walk_ends_with_the_probability_of_every_item() -> None:
    levels = watch_search(TableScorer(1, 6, seed=2), INDEX, 50)
    wanted = exhaustive(TableScorer(1, 6, seed=2), CODES_NL, 0)
    items = INDEX.items[torch.from_numpy(levels[-1].nodes)].tolist()
    assert levels[-1].log_probs.tolist() == pytest.approx([wanted[item] for item in items], abs=1e-4)
