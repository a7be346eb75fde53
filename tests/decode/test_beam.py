"""Beam search against exhaustive scoring and against a plain search written from the definition."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest
import torch

from trialign.decode.beam import beam_search
from trialign.decode.index import PrefixIndex
from trialign.decode.step import Beams, legal_children
from trialign.types import NO_ITEM

Codes = tuple[int, ...]


class TableScorer:
    """Logits that are an arbitrary but fixed function of (history, prefix), tracked through `parents`."""

    def __init__(self, num_users: int, codebook_size: int, seed: int) -> None:
        self.num_users, self.codebook_size, self.seed = num_users, codebook_size, seed
        self.prefixes: list[list[Codes]] = [[()] for _ in range(num_users)]

    def logits(self, user: int, prefix: Codes) -> np.ndarray:
        return np.random.default_rng([self.seed, user, len(prefix), *prefix]).normal(size=self.codebook_size) * 3

    def start(self) -> torch.Tensor:
        return torch.from_numpy(np.stack([self.logits(user, ()) for user in range(self.num_users)])).float()

    def advance(self, beams: Beams) -> torch.Tensor:
        self.prefixes = [
            [(*known[parent], code) for code, parent in zip(codes, parents, strict=True)]
            for known, codes, parents in zip(self.prefixes, beams.codes.tolist(), beams.parents.tolist(), strict=True)
        ]
        rows = [[self.logits(user, prefix) for prefix in prefixes] for user, prefixes in enumerate(self.prefixes)]
        return torch.from_numpy(np.array(rows)).float()


def catalogue(num_items: int, num_levels: int, size: int, seed: int = 0) -> np.ndarray:
    tuples = np.random.default_rng(seed).choice(size**num_levels, size=num_items, replace=False)
    return np.stack(np.unravel_index(tuples, (size,) * num_levels), axis=1)


def step_log_prob(scorer: TableScorer, codes_NL: np.ndarray, user: int, prefix: Codes, code: int) -> float:
    """log p(code | prefix) over the codes that some item continues the prefix with."""
    depth = len(prefix)
    legal = sorted({int(row[depth]) for row in codes_NL if tuple(row[:depth]) == prefix})
    logits = scorer.logits(user, prefix)
    return float(logits[code] - math.log(sum(math.exp(logits[other]) for other in legal)))


def exhaustive(scorer: TableScorer, codes_NL: np.ndarray, user: int) -> dict[int, float]:
    return {
        item: sum(
            step_log_prob(scorer, codes_NL, user, tuple(codes[:depth]), codes[depth]) for depth in range(len(codes))
        )
        for item, codes in enumerate(codes_NL.tolist())
    }


def plain_beam_search(
    scorer: TableScorer,
    codes_NL: np.ndarray,
    user: int,
    num_beams: int,
    exclude: Sequence[int] = (),
    stock: Sequence[int] | None = None,
) -> list[tuple[int, float]]:
    """Beam search from the definition: lists, loops, no tensors."""
    items = {tuple(codes): item for item, codes in enumerate(codes_NL.tolist())}
    stocked = [codes for codes, item in items.items() if stock is None or item in stock]
    num_levels = codes_NL.shape[1]
    beams: list[tuple[Codes, float]] = [((), 0.0)]
    for depth in range(num_levels):
        grown = []
        for prefix, score in beams:
            for code in {codes[depth] for codes in items if codes[:depth] == prefix}:
                grown.append(((*prefix, code), score + step_log_prob(scorer, codes_NL, user, prefix, code)))
        grown = [(codes, score) for codes, score in grown if any(item[: depth + 1] == codes for item in stocked)]
        if depth == num_levels - 1:
            grown = [(codes, score) for codes, score in grown if items[codes] not in exclude]
        beams = sorted(grown, key=lambda beam: -beam[1])[:num_beams]
    return [(items[codes], score) for codes, score in beams]


@pytest.mark.parametrize(("num_items", "num_levels", "size"), [(60, 3, 6), (40, 2, 16), (12, 1, 16), (30, 4, 3)])
def test_beams_that_cover_every_prefix_give_the_exhaustive_ranking(num_items: int, num_levels: int, size: int) -> None:
    codes_NL = catalogue(num_items, num_levels, size)
    scorer = TableScorer(3, size, seed=1)
    found = beam_search(scorer, PrefixIndex.from_codes(codes_NL, size), num_items)
    for user in range(3):
        wanted = exhaustive(scorer, codes_NL, user)
        assert math.isclose(sum(map(math.exp, wanted.values())), 1.0, abs_tol=1e-9)
        assert found.items[user].tolist() == sorted(wanted, key=lambda item: -wanted[item])
        assert found.scores[user].tolist() == pytest.approx(sorted(wanted.values(), reverse=True), abs=1e-4)


@pytest.mark.parametrize("num_beams", [1, 2, 5, 17])
@pytest.mark.parametrize("seed", range(4))
def test_equals_a_plain_beam_search_at_any_width(num_beams: int, seed: int) -> None:
    codes_NL = catalogue(80, 3, 8, seed)
    scorer = TableScorer(2, 8, seed)
    found = beam_search(scorer, PrefixIndex.from_codes(codes_NL, 8), num_beams)
    for user in range(2):
        items, scores = zip(*plain_beam_search(scorer, codes_NL, user, num_beams), strict=True)
        missing = num_beams - len(items)
        assert found.items[user].tolist() == [*items, *[NO_ITEM] * missing]
        assert found.scores[user].tolist() == pytest.approx([*scores, *[-math.inf] * missing], abs=1e-4)


def test_a_prefix_with_one_child_costs_nothing() -> None:
    # Both items are decided by their first code; logits of later levels, however large, must not matter.
    codes_NL = np.array([[0, 3, 1], [2, 1, 0]])
    scorer = TableScorer(1, 4, seed=0)
    found = beam_search(scorer, PrefixIndex.from_codes(codes_NL, 4), 2)
    logits = scorer.logits(0, ())[[0, 2]]
    wanted = logits - np.log(np.exp(logits).sum())
    assert found.scores[0].tolist() == pytest.approx(sorted(wanted, reverse=True), abs=1e-5)


def test_a_catalogue_of_one_item() -> None:
    found = beam_search(TableScorer(2, 4, seed=0), PrefixIndex.from_codes(np.array([[3, 0, 2]]), 4), 3)
    assert found.items.tolist() == [[0, NO_ITEM, NO_ITEM]] * 2
    assert found.scores.tolist() == [[0.0, -math.inf, -math.inf]] * 2


def test_excluded_items_are_struck_and_the_others_keep_their_scores() -> None:
    codes_NL = catalogue(20, 2, 6)
    index = PrefixIndex.from_codes(codes_NL, 6)
    scorer = TableScorer(2, 6, seed=3)
    free = beam_search(scorer, index, 20)
    filtered = [sorted(free.items[0, [0, 3, 4]].tolist(), reverse=True), []]
    padded = torch.tensor([filtered[0], [NO_ITEM] * 3])
    found = beam_search(TableScorer(2, 6, seed=3), index, 20, exclude_BM=padded)
    for user in range(2):
        kept = [place for place, item in enumerate(free.items[user].tolist()) if item not in filtered[user]]
        assert found.items[user].tolist() == free.items[user, kept].tolist() + [NO_ITEM] * len(filtered[user])
        assert found.scores[user, : len(kept)].tolist() == free.scores[user, kept].tolist()
        assert found.scores[user, len(kept) :].tolist() == [-math.inf] * len(filtered[user])


@pytest.mark.parametrize("num_beams", [1, 4, 9])
def test_exclusion_in_a_narrow_search_equals_the_plain_one(num_beams: int) -> None:
    codes_NL = catalogue(50, 3, 6)
    scorer = TableScorer(1, 6, seed=5)
    seen = [item for item, _ in plain_beam_search(scorer, codes_NL, 0, 3)]
    found = beam_search(scorer, PrefixIndex.from_codes(codes_NL, 6), num_beams, exclude_BM=torch.tensor([seen]))
    wanted = [item for item, _ in plain_beam_search(scorer, codes_NL, 0, num_beams, seen)]
    assert found.items[0].tolist() == wanted + [NO_ITEM] * (num_beams - len(wanted))


@pytest.mark.parametrize("seed", range(6))
def test_what_is_in_stock_is_found_by_as_many_beams_as_there_is(seed: int) -> None:
    codes_NL = catalogue(60, 3, 6, seed)
    index = PrefixIndex.from_codes(codes_NL, 6)
    stock_BN = np.random.default_rng(seed).random((2, 60)) < [[0.05], [0.1]]
    stock_BN[:, seed] = True
    found = beam_search(TableScorer(2, 6, seed), index, 12, stocked=index.stocked(torch.from_numpy(stock_BN)))
    for user in range(2):
        wanted = exhaustive(TableScorer(2, 6, seed), codes_NL, user)  # the scores are those of the whole catalogue
        best = sorted(np.flatnonzero(stock_BN[user]).tolist(), key=lambda item: -wanted[item])[:12]
        missing = 12 - len(best)
        assert found.items[user].tolist() == [*best, *[NO_ITEM] * missing]
        scores = [*(wanted[item] for item in best), *[-math.inf] * missing]
        assert found.scores[user].tolist() == pytest.approx(scores, abs=1e-4)


@pytest.mark.parametrize("num_beams", [1, 4, 9])
def test_stock_in_a_narrow_search_equals_the_plain_one(num_beams: int) -> None:
    codes_NL = catalogue(50, 3, 6)
    index = PrefixIndex.from_codes(codes_NL, 6)
    stock = np.random.default_rng(num_beams).choice(50, size=20, replace=False).tolist()
    stock_1N = torch.zeros(1, 50, dtype=torch.bool).index_fill(1, torch.tensor(stock), value=True)
    scorer = TableScorer(2, 6, seed=5)
    seen = stock[:3]
    found = beam_search(
        scorer,
        index,
        num_beams,
        exclude_BM=torch.tensor([seen, seen]).sort().values,
        stocked=index.stocked(stock_1N),
    )
    for user in range(2):
        wanted = [item for item, _ in plain_beam_search(scorer, codes_NL, user, num_beams, seen, stock)]
        assert found.items[user].tolist() == wanted + [NO_ITEM] * (num_beams - len(wanted))


def test_an_empty_stock_leaves_nothing() -> None:
    index = PrefixIndex.from_codes(catalogue(9, 2, 4), 4)
    found = beam_search(TableScorer(2, 4, seed=0), index, 5, stocked=index.stocked(torch.zeros(1, 9, dtype=torch.bool)))
    assert found.items.tolist() == [[NO_ITEM] * 5] * 2
    assert found.scores.tolist() == [[-math.inf] * 5] * 2


def test_everything_seen_leaves_nothing() -> None:
    codes_NL = catalogue(5, 2, 4)
    found = beam_search(
        TableScorer(1, 4, seed=0), PrefixIndex.from_codes(codes_NL, 4), 8, exclude_BM=torch.arange(5)[None]
    )
    assert found.items.tolist() == [[NO_ITEM] * 8]
    assert found.scores.tolist() == [[-math.inf] * 8]


@pytest.mark.parametrize("seed", range(30))
def test_only_items_of_the_catalogue_and_none_twice(seed: int) -> None:
    draws = np.random.default_rng(seed)
    num_levels, size = int(draws.integers(1, 5)), int(draws.integers(2, 9))
    num_items = int(draws.integers(1, min(40, size**num_levels) + 1))
    num_beams = int(draws.integers(1, 60))
    index = PrefixIndex.from_codes(catalogue(num_items, num_levels, size, seed), size)
    found = beam_search(TableScorer(2, size, seed), index, num_beams)
    for items, scores in zip(found.items.tolist(), found.scores.tolist(), strict=True):
        legal = [item for item in items if item != NO_ITEM]
        assert len(legal) == len(set(legal)) >= 1
        assert all(0 <= item < num_items for item in legal)
        assert items == legal + [NO_ITEM] * (num_beams - len(legal))
        assert [score > -math.inf for score in scores] == [item != NO_ITEM for item in items]
        assert scores == sorted(scores, reverse=True)


def test_logits_of_half_precision_are_normalised_in_single() -> None:
    index = PrefixIndex.from_codes(np.arange(300)[:, None], 300)
    logits_BWK = torch.zeros(1, 1, 300, dtype=torch.bfloat16)
    found = legal_children(torch.zeros(1, 1, dtype=torch.int64), 0, logits_BWK, index).log_probs
    torch.testing.assert_close(found, torch.full((1, 1, 300), -math.log(300)))
