"""The loss by hand, its gradient as plain REINFORCE, and a bandit whose optimum is known."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from trialign.decode.index import PrefixIndex
from trialign.decode.path import ItemPaths, Trie, score_items
from trialign.decode.sample import sample
from trialign.decode.step import Beams
from trialign.rl.advantage import advantages
from trialign.rl.loss import policy_loss

CODES = np.array([[0, 0], [0, 1], [1, 0], [1, 2], [2, 2]])
K = 3


class TablePolicy:
    """One prompt's logits as parameters: of the first code, and of the second after each first."""

    def __init__(self, num_prompts: int, seed: int = 0) -> None:
        draws = torch.Generator().manual_seed(seed)
        self.first = torch.randn(K, generator=draws).requires_grad_()
        self.second = torch.randn(K, K, generator=draws).requires_grad_()
        self.num_prompts = num_prompts

    def start(self) -> torch.Tensor:
        return self.first.expand(self.num_prompts, K)

    def advance(self, beams: Beams) -> torch.Tensor:
        return self.second[beams.codes]


@pytest.fixture(scope="module")
def trie() -> Trie:
    return Trie.from_index(PrefixIndex.from_codes(CODES, K))


def test_by_hand() -> None:
    # One prompt, two candidates: ratios 1.5 and 0.9, advantages 1 and -1, the first clipped to 1.2.
    then = torch.log(torch.tensor([[0.2, 0.5]]))
    now_BG = torch.log(torch.tensor([[0.3, 0.45]]))
    level = torch.log(torch.tensor([[[0.3, 0.45, 0.25]]]))
    reference = torch.log(torch.tensor([[[0.2, 0.5, 0.3]]]))
    sums = policy_loss(
        ItemPaths(now_BG, [level]), then, [reference], torch.tensor([[1.0, -1.0]]), clip=0.2, kl_weight=0.1
    )
    kl = 0.3 * np.log(1.5) + 0.45 * np.log(0.9) + 0.25 * np.log(0.25 / 0.3)
    assert sums.policy.item() == pytest.approx(-(1.2 - 0.9), abs=1e-6)
    assert sums.kl.item() == pytest.approx(2 * kl, abs=1e-6)
    assert sums.total.item() == pytest.approx(-0.3 + 0.1 * 2 * kl, abs=1e-6)
    assert sums.entropy.item() == pytest.approx(-2 * sum(p * np.log(p) for p in (0.3, 0.45, 0.25)), abs=1e-5)
    assert (sums.clipped.item(), sums.candidates.item()) == (1, 2)


@pytest.mark.parametrize(("ratio", "advantage", "moves"), [(1.5, 1.0, False), (0.5, 1.0, True), (0.5, -1.0, False)])
def test_a_ratio_out_of_bounds_moves_the_policy_only_back(ratio: float, advantage: float, moves: bool) -> None:
    now = torch.tensor([[np.log(ratio)]], requires_grad=True)
    level = torch.zeros(1, 1, 1)
    walked = ItemPaths(now, [level])
    policy_loss(
        walked, torch.zeros(1, 1), [level], torch.tensor([[advantage]]), clip=0.2, kl_weight=0.0
    ).total.backward()
    assert now.grad is not None
    assert bool(now.grad.abs().sum() > 0) == moves


def test_where_nothing_has_moved_the_gradient_is_that_of_reinforce(trie: Trie) -> None:
    policy, plain = TablePolicy(2), TablePolicy(2)
    items_BG = torch.tensor([[0, 3, 4], [1, 2, 0]])
    rewards_BG = np.array([[1.0, 0.0, 0.5], [0.0, 0.0, 2.0]])
    weights_BG = torch.from_numpy(advantages(rewards_BG, scale_rewards=False)).float()
    now = score_items(policy, trie, items_BG)
    sums = policy_loss(now, now.log_probs_BG.detach(), now.levels, weights_BG, clip=0.2, kl_weight=0.0)
    sums.total.backward()
    # REINFORCE by hand: minus reward above the mean, times the log-probability of the item among all items.
    everything = score_items(plain, trie, torch.arange(5).expand(2, -1)).log_probs_BG
    baseline = torch.from_numpy(rewards_BG - rewards_BG.mean(axis=1, keepdims=True)).float()
    (-(baseline * everything.gather(1, items_BG)).sum()).backward()
    torch.testing.assert_close(policy.first.grad, plain.first.grad)
    torch.testing.assert_close(policy.second.grad, plain.second.grad)
    assert policy.first.grad.abs().max() > 0.1
    assert sums.kl.item() == 0


@pytest.mark.parametrize("uses", [1, 2])
def test_a_bandit_is_solved(trie: Trie, uses: int) -> None:
    worth = np.array([0.1, 0.0, 0.3, 1.0, 0.2])  # item 3 is best, and its first code leads to a bad one too
    policy, reference = TablePolicy(8), TablePolicy(8)
    optimizer = torch.optim.Adam([policy.first, policy.second], lr=0.1)
    draws = torch.Generator().manual_seed(0)
    for _ in range(120):
        drawn = sample(policy, trie.index, 3, draws, replacement=False)
        items_BG, then_BG = drawn.items.clone(), drawn.log_probs.clone()
        weights_BG = torch.from_numpy(advantages(worth[items_BG.numpy()], scale_rewards=True)).float()
        with torch.no_grad():
            levels = score_items(reference, trie, items_BG).levels
        for _ in range(uses):
            now = score_items(policy, trie, items_BG)
            sums = policy_loss(now, then_BG, levels, weights_BG, clip=0.2, kl_weight=1e-3)
            optimizer.zero_grad()
            (sums.total / sums.candidates).backward()
            optimizer.step()
    chances = score_items(policy, trie, torch.arange(5).expand(8, -1)).log_probs_BG[0].exp()
    assert chances[3] > 0.9


def test_a_strong_divergence_holds_the_policy_where_it_started(trie: Trie) -> None:
    policy, reference = TablePolicy(4, seed=1), TablePolicy(4, seed=0)
    optimizer = torch.optim.Adam([policy.first, policy.second], lr=0.1)
    items_BG = torch.tensor([[0, 3, 4]]).expand(4, -1)
    for _ in range(150):
        with torch.no_grad():
            levels = score_items(reference, trie, items_BG).levels
        now = score_items(policy, trie, items_BG)
        sums = policy_loss(now, now.log_probs_BG.detach(), levels, torch.zeros(4, 3), clip=0.2, kl_weight=1.0)
        optimizer.zero_grad()
        sums.total.backward()
        optimizer.step()
    assert sums.kl.item() / sums.candidates.item() < 1e-3
