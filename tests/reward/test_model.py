"""What the reward model reads of a pair, and that padding is no part of it."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from trialign.config.reward import TinyRewardConfig
from trialign.reward.labels import Labels
from trialign.reward.model import Reader, RewardModel, tiny_model
from trialign.reward.module import pair_loader

ITEMS = ["a red cup", "a tall lamp that is next to a chair and gives light to whoever reads in it"]
INTERESTS = ["tea", "reading in the evening"]


@pytest.fixture(scope="module")
def judge() -> tuple[RewardModel, Reader]:
    sizes = TinyRewardConfig(hidden_size=16, num_layers=2, num_heads=2, dropout=0.0, vocab_size=320)
    scorer, reader = tiny_model([*ITEMS, *INTERESTS], sizes, max_tokens=64, seed=0)
    return scorer.eval(), reader


def test_a_pair_is_judged_alike_beside_a_longer_one(judge: tuple[RewardModel, Reader]) -> None:
    scorer, reader = judge
    with torch.no_grad():
        torch.nn.init.normal_(scorer.head.weight, generator=torch.Generator().manual_seed(0))
        together = scorer(reader(INTERESTS, ITEMS))
        alone = torch.cat([scorer(reader([INTERESTS[row]], [ITEMS[row]])) for row in range(2)])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-4)


def test_of_a_pair_that_is_too_long_the_item_is_cut() -> None:
    reader = Reader(lambda text: list(map(int, text.split())), 99, max_tokens=5)
    pairs = reader(["1 2", "1"], ["3 4 5 6", "3"])
    assert pairs.tokens_BT.tolist() == [[1, 2, 99, 3, 4], [1, 99, 3, 0, 0]]
    assert pairs.interest_BT.sum(dim=1).tolist() == [3, 2]
    assert pairs.real_BT.sum(dim=1).tolist() == [5, 3]


@pytest.mark.parametrize(("num_pairs", "sizes"), [(3, [3]), (4, [4]), (9, [4, 4])])
def test_pairs_fewer_than_a_batch_are_learned_all_the_same(
    num_pairs: int, sizes: list[int], judge: tuple[RewardModel, Reader]
) -> None:
    nothing = np.zeros(num_pairs, np.int64)
    labels = Labels(nothing, ["tea"] * num_pairs, nothing == 0, nothing)
    loader = pair_loader(judge[1], labels, ITEMS, batch_size=4, seed=0)
    assert [len(good_B) for _, good_B in loader] == sizes
