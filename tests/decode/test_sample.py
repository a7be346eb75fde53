"""Draws follow the distribution of the trie: independent ones its probabilities, distinct ones those given before."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from trialign.decode.beam import beam_search
from trialign.decode.index import PrefixIndex
from trialign.decode.sample import sample
from trialign.decode.step import Beams
from trialign.types import NO_ITEM

CODES = np.array([[0, 0], [0, 1], [0, 2], [2, 1], [3, 3]])
K = 4


class FixedScorer:
    """The same logits for every prompt; those of the second level depend on the first code."""

    def __init__(self, num_prompts: int) -> None:
        self.num_prompts = num_prompts
        draws = np.random.default_rng(0)
        self.first, self.second = (torch.from_numpy(draws.normal(size=s)).float() for s in ((K,), (K, K)))

    def start(self) -> torch.Tensor:
        return self.first.expand(self.num_prompts, K)

    def advance(self, beams: Beams) -> torch.Tensor:
        return self.second[beams.codes]


@pytest.fixture(scope="module")
def index() -> PrefixIndex:
    return PrefixIndex.from_codes(CODES, K)


@pytest.fixture(scope="module")
def chances(index: PrefixIndex) -> np.ndarray:
    found = beam_search(FixedScorer(1), index, num_beams=5)
    chances = np.zeros(5)
    chances[found.items[0].numpy()] = found.scores[0].exp().numpy()
    assert chances.sum() == pytest.approx(1)
    return chances


def close(counts: np.ndarray, expected: np.ndarray) -> None:
    """Within five standard deviations of a binomial."""
    total = counts.sum()
    assert (abs(counts - total * expected) < 5 * np.sqrt(total * expected * (1 - expected)) + 1e-9).all()


def test_independent_draws(index: PrefixIndex, chances: np.ndarray) -> None:
    found = sample(FixedScorer(4000), index, 5, torch.Generator().manual_seed(0), replacement=True)
    close(np.bincount(found.items.flatten().numpy(), minlength=5), chances)
    torch.testing.assert_close(found.log_probs.exp(), torch.from_numpy(chances).float()[found.items])


def test_distinct_draws_in_order(index: PrefixIndex, chances: np.ndarray) -> None:
    found = sample(FixedScorer(20000), index, 2, torch.Generator().manual_seed(1), replacement=False)
    assert (found.items[:, 0] != found.items[:, 1]).all()
    torch.testing.assert_close(found.log_probs.exp(), torch.from_numpy(chances).float()[found.items])
    pairs = np.bincount((found.items[:, 0] * 5 + found.items[:, 1]).numpy(), minlength=25)
    expected = np.zeros(25)
    for one, other in itertools.permutations(range(5), 2):
        expected[one * 5 + other] = chances[one] * chances[other] / (1 - chances[one])
    close(pairs, expected)


def test_inclusion_in_a_sample_of_three(index: PrefixIndex, chances: np.ndarray) -> None:
    found = sample(FixedScorer(20000), index, 3, torch.Generator().manual_seed(4), replacement=False)
    expected = np.zeros(5)
    for drawn in itertools.permutations(range(5), 3):
        chance, left = 1.0, 1.0
        for item in drawn:
            chance, left = chance * chances[item] / left, left - chances[item]
        expected[list(drawn)] += chance
    assert expected.sum() == pytest.approx(3)
    counts = np.bincount(found.items.flatten().numpy(), minlength=5)
    assert (abs(counts - 20000 * expected) < 5 * np.sqrt(20000 * expected * (1 - expected))).all()


def test_more_draws_than_items(index: PrefixIndex) -> None:
    found = sample(FixedScorer(50), index, 8, torch.Generator().manual_seed(2), replacement=False)
    assert (found.items[:, :5].sort(dim=1).values == torch.arange(5)).all()
    assert (found.items[:, 5:] == NO_ITEM).all()
    assert (found.log_probs[:, 5:] == -torch.inf).all()


def test_same_draws_same_sample(index: PrefixIndex) -> None:
    for replacement in (True, False):
        one, other = (
            sample(FixedScorer(9), index, 4, torch.Generator().manual_seed(3), replacement=replacement)
            for _ in range(2)
        )
        assert torch.equal(one.items, other.items)


class Keeping(FixedScorer):
    """Keeps something of every beam, as a scorer with a cache does: at first the prompt's one state."""

    def start(self) -> torch.Tensor:
        self.kept = torch.arange(self.num_prompts)[:, None]
        return super().start()

    def advance(self, beams: Beams) -> torch.Tensor:
        self.kept = self.kept.gather(1, beams.parents)
        return super().advance(beams)


@pytest.mark.parametrize("replacement", [True, False])
def test_draws_begin_with_the_one_state_of_their_prompt(index: PrefixIndex, replacement: bool) -> None:
    scorer = Keeping(6)
    sample(scorer, index, 3, torch.Generator().manual_seed(0), replacement=replacement)
    assert scorer.kept.tolist() == [[prompt] * 3 for prompt in range(6)]
