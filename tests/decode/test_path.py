"""Walking items down the trie gives the scores that search gives them; entropy and divergence are exact."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from trialign.decode.beam import beam_search
from trialign.decode.index import PrefixIndex
from trialign.decode.path import Trie, divergence, entropy, score_items
from trialign.decode.step import Beams

CODES = np.array([[0, 0, 1], [3, 3, 3], [0, 1, 0], [0, 0, 2], [2, 1, 1], [0, 2, 2]])
K = 4


class FixedScorer:
    """Logits that depend on the prompt and on the code before; checks whom each beam says it grew from."""

    def __init__(self, num_prompts: int, seed: int = 0) -> None:
        draws = torch.Generator().manual_seed(seed)
        self.tables = [torch.randn(num_prompts, K, K, generator=draws) for _ in range(2)]
        self.first = torch.randn(num_prompts, K, generator=draws)
        self.level = 0

    def start(self) -> torch.Tensor:
        return self.first

    def advance(self, beams: Beams) -> torch.Tensor:
        width = beams.codes.shape[1]
        if self.level:
            assert beams.parents.max() < width
        else:
            assert (beams.parents == 0).all()
        self.level += 1
        return self.tables[self.level - 1].gather(1, beams.codes[..., None].expand(-1, -1, K))


@pytest.fixture(scope="module")
def trie() -> Trie:
    return Trie.from_index(PrefixIndex.from_codes(CODES, K))


def test_items_score_as_in_search(trie: Trie) -> None:
    found = score_items(FixedScorer(5), trie, torch.arange(6).expand(5, -1))
    searched = beam_search(FixedScorer(5), trie.index, num_beams=6)
    torch.testing.assert_close(found.log_probs_BG.gather(1, searched.items), searched.scores.clone())
    torch.testing.assert_close(found.log_probs_BG.exp().sum(dim=1), torch.ones(5))


def test_entropy_and_divergence_in_expectation_are_those_of_the_items(trie: Trie) -> None:
    items_BG = torch.arange(6).expand(3, -1)
    one, other = (score_items(FixedScorer(3, seed), trie, items_BG) for seed in (0, 1))
    chances_BG = one.log_probs_BG.exp()
    torch.testing.assert_close(
        (chances_BG * entropy(one.levels, 6)).sum(dim=1), -(chances_BG * one.log_probs_BG).sum(dim=1)
    )
    torch.testing.assert_close(
        (chances_BG * divergence(one.levels, other.levels, 6)).sum(dim=1),
        (chances_BG * (one.log_probs_BG - other.log_probs_BG)).sum(dim=1),
    )
    assert (divergence(one.levels, one.levels, 6) == 0).all()


def test_gradients_pass_missing_children(trie: Trie) -> None:
    scorer, other = FixedScorer(2), FixedScorer(2, seed=1)
    for table in (scorer.first, *scorer.tables):
        table.requires_grad_()
    items_BG = torch.tensor([[0, 1, 4], [2, 3, 5]])
    found, reference = score_items(scorer, trie, items_BG), score_items(other, trie, items_BG)
    (found.log_probs_BG.sum() + divergence(found.levels, reference.levels, 3).sum()).backward()
    for table in (scorer.first, *scorer.tables):
        assert table.grad is not None
        assert torch.isfinite(table.grad).all()
        assert table.grad.abs().sum() > 0
    assert (scorer.first.grad[:, 1] == 0).all()  # no item begins with code 1
