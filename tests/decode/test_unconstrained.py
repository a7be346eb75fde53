"""Search without the trie: exhaustive over all K^L tuples, and the probability that leads nowhere."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch

from trialign.decode.step import Beams
from trialign.decode.unconstrained import illegal_mass, unconstrained_search

K, L = 4, 3


class PrefixScorer:
    """Logits that are an arbitrary but fixed function of (user, prefix)."""

    def __init__(self, num_users: int, seed: int) -> None:
        self.seed = seed
        self.prefixes: list[list[tuple[int, ...]]] = [[()] for _ in range(num_users)]

    def logits(self, user: int, prefix: tuple[int, ...]) -> np.ndarray:
        return np.random.default_rng([self.seed, user, len(prefix), *prefix]).normal(size=K) * 3

    def start(self) -> torch.Tensor:
        return self._tabulate()[:, 0]

    def advance(self, beams: Beams) -> torch.Tensor:
        grown = zip(self.prefixes, beams.parents.tolist(), beams.codes.tolist(), strict=True)
        self.prefixes = [[(*old[p], c) for p, c in zip(parents, codes, strict=True)] for old, parents, codes in grown]
        return self._tabulate()

    def _tabulate(self) -> torch.Tensor:
        rows = [[self.logits(user, prefix) for prefix in found] for user, found in enumerate(self.prefixes)]
        return torch.from_numpy(np.array(rows)).float()


def log_prob(scorer: PrefixScorer, user: int, codes: tuple[int, ...]) -> float:
    total = 0.0
    for depth, code in enumerate(codes):
        logits = scorer.logits(user, codes[:depth])
        total += logits[code] - math.log(np.exp(logits).sum())
    return total


def test_all_tuples_in_the_order_of_their_probability() -> None:
    found = unconstrained_search(PrefixScorer(3, seed=1), L, num_beams=K**L)
    for user in range(3):
        scorer = PrefixScorer(3, seed=1)
        every = {codes: log_prob(scorer, user, codes) for codes in itertools.product(range(K), repeat=L)}
        assert [tuple(codes) for codes in found.codes[user].tolist()] == sorted(every, key=lambda c: -every[c])
        assert found.scores[user].tolist() == pytest.approx(sorted(every.values(), reverse=True), abs=1e-4)


def test_illegal_mass_along_a_path() -> None:
    legal = torch.from_numpy(np.random.default_rng(0).random((2, L, K)) < 0.5)
    path = torch.tensor([[1, 3, 0], [2, 2, 1]])
    found = illegal_mass(PrefixScorer(2, seed=2), path, legal)
    scorer = PrefixScorer(2, seed=2)
    for user, level in itertools.product(range(2), range(L)):
        odds = np.exp(scorer.logits(user, tuple(path[user, :level].tolist())))
        expected = (odds / odds.sum())[~legal[user, level].numpy()].sum()
        assert found[user, level].item() == pytest.approx(expected, abs=1e-6)
