"""What is drawn is scored by the distribution that training sees: cached, uncached, and by the training forward."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from tests.tools import NUM_ITEMS
from trialign.decode.index import PrefixIndex
from trialign.decode.path import Trie, divergence
from trialign.generate.loss import Predictions, TablePredictions
from trialign.generate.save_load import TrainedGenerator, load_generator
from trialign.generate.task import Window
from trialign.rl.reference import frozen_copy
from trialign.rl.rollout import Policy
from trialign.rl.start import Start

HISTORIES = [np.array([3, 4, 5], np.int32), np.array([7], np.int32), np.array([0, 1], np.int32)]
ENCODINGS = pytest.mark.parametrize("encoding", ["tokens", "position"])


def opened(start: Start) -> tuple[TrainedGenerator, Policy]:
    trained = load_generator(start.folder, start.sids)
    trained.generator.eval()
    trie = Trie.from_index(PrefixIndex.from_codes(start.sids.codes_NL, start.sids.codebook_size))
    return trained, Policy(trained.generator, trained.template, trie)


@torch.no_grad()
def uncached(trained: TrainedGenerator, history: np.ndarray, item: int, codes_NL: np.ndarray) -> float:
    """The log-probability of an item as supervised training computes it: one row, no cache, legal codes only."""
    items = np.append(history, item)
    example = trained.template.encode(0, Window(items, len(history)))
    tokens = torch.from_numpy(example.tokens)[None]
    targets, places = torch.from_numpy(example.targets)[None], torch.arange(tokens.shape[1])[None]
    total = 0.0
    level = 0
    for group in trained.generator(tokens, places, targets, torch.zeros_like(tokens))[1:]:
        if isinstance(group, TablePredictions):
            total += (group.queries_MD @ group.table_CD.T).log_softmax(-1)[0, group.answers_M[0]].item()
            continue
        assert isinstance(group, Predictions)
        logits = group.logits_MC[0].clone()
        if len(logits) == 3:  # over all codes of the level (`tokens`): those that lead nowhere are no choice
            alike = (codes_NL[:, :level] == codes_NL[item, :level]).all(axis=1)
            legal = np.isin(np.arange(3), codes_NL[alike, level])
            logits[torch.from_numpy(~legal)] = -torch.inf
        level += 1
        total += logits.log_softmax(-1)[group.answers_M[0]].item()
    return total


@ENCODINGS
def test_drawn_walked_and_uncached_are_one_distribution(trained: Callable[[str], Start], encoding: str) -> None:
    start = trained(encoding)
    generator, policy = opened(start)
    drawn = policy.draw(HISTORIES, 5, "distinct", torch.Generator().manual_seed(0))
    assert all(len(set(row)) == 5 for row in drawn.items_BG.tolist())
    walked = policy.score_candidates(HISTORIES, drawn.items_BG)
    assert walked.log_probs_BG.requires_grad
    torch.testing.assert_close(walked.log_probs_BG.detach(), drawn.log_probs_BG, atol=1e-5, rtol=1e-5)
    alone = [
        [uncached(generator, history, item, start.sids.codes_NL) for item in row]
        for history, row in zip(HISTORIES, drawn.items_BG.tolist(), strict=True)
    ]
    torch.testing.assert_close(walked.log_probs_BG.detach(), torch.tensor(alone), atol=1e-4, rtol=1e-4)


@ENCODINGS
def test_all_items_together_are_certain_and_beams_are_the_likeliest(
    trained: Callable[[str], Start], encoding: str
) -> None:
    _, policy = opened(trained(encoding))
    everything = torch.arange(NUM_ITEMS).expand(3, -1)
    log_probs_BN = policy.score_candidates(HISTORIES, everything).log_probs_BG.detach()
    torch.testing.assert_close(log_probs_BN.exp().sum(dim=1), torch.ones(3))
    beams = policy.draw(HISTORIES, NUM_ITEMS, "beams", torch.Generator())
    torch.testing.assert_close(log_probs_BN.gather(1, beams.items_BG), beams.log_probs_BG, atol=1e-5, rtol=1e-5)
    assert (beams.log_probs_BG.diff(dim=1) <= 1e-6).all()


@ENCODINGS
def test_at_the_start_the_policy_is_the_reference(trained: Callable[[str], Start], encoding: str) -> None:
    generator, policy = opened(trained(encoding))
    trie = Trie.from_index(PrefixIndex.from_codes(trained(encoding).sids.codes_NL, 3))
    reference = Policy(frozen_copy(generator.generator), generator.template, trie)
    items_BG = policy.draw(HISTORIES, 4, "distinct", torch.Generator().manual_seed(0)).items_BG
    now, then = policy.score_candidates(HISTORIES, items_BG), reference.score_candidates(HISTORIES, items_BG)
    torch.testing.assert_close(now.log_probs_BG, then.log_probs_BG, atol=0, rtol=0)
    assert (divergence(now.levels, then.levels, 4) == 0).all()
    assert not then.log_probs_BG.requires_grad


def test_the_gradient_of_a_log_probability_is_that_of_supervised_training(trained: Callable[[str], Start]) -> None:
    """With `position`, that is; with `tokens` supervised training scores codes that lead nowhere too."""
    start = trained("position")
    generator, policy = opened(start)
    history, item = HISTORIES[0], 6
    (-policy.score_candidates([history], torch.tensor([[item]])).log_probs_BG.sum()).backward()
    walked = {name: p.grad.clone() for name, p in generator.generator.named_parameters() if p.grad is not None}
    generator.generator.zero_grad()
    example = generator.template.encode(0, Window(np.append(history, item), 3))
    tokens, targets = torch.from_numpy(example.tokens)[None], torch.from_numpy(example.targets)[None]
    places = torch.arange(tokens.shape[1])[None]
    groups = generator.generator(tokens, places, targets, torch.zeros_like(tokens))
    sum(group.score().total for group in groups[1:]).backward()
    for name, found in walked.items():
        expected = dict(generator.generator.named_parameters())[name].grad
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-3, msg=name)
