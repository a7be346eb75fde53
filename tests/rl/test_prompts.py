"""What is asked: every held-out position with what came before it, shared among ranks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray

from tests.tools import NUM_ITEMS, run_ranks
from trialign.config.rl import RLConfig
from trialign.data.dataset import Dataset
from trialign.decode.index import PrefixIndex
from trialign.decode.path import Trie
from trialign.generate.save_load import load_generator
from trialign.rl.prompts import PromptBatch, Prompts
from trialign.rl.rollout import Policy
from trialign.rl.source import RolloutSource, RolloutState
from trialign.rl.start import Start
from trialign.runtime.collectives import rank
from trialign.stream.blocks import Records
from trialign.stream.rl_holdout import held_out_for_rl

SHARE = 0.4


def test_a_prompt_is_what_its_window_shows_before_a_held_out_for_rl_position(dataset: Dataset) -> None:
    wanted: Counter[tuple[tuple[int, ...], int]] = Counter()
    store = dataset.store("train")
    for block in range(store.num_blocks):
        records = Records(store.read(block))
        for number in range(len(records)):
            items = records[number]["items"].tolist()
            kept = held_out_for_rl(records, np.array([number]), SHARE)
            wanted.update((tuple(items[:place]), items[place]) for place in range(1, len(items)) if kept[place])
    prompts = Prompts(dataset, SHARE, seed=0)
    asked = prompts.at(np.arange(len(prompts)))
    histories = [tuple(history.tolist()) for history in asked.histories]
    assert Counter(zip(histories, asked.targets_B.tolist(), strict=True)) == wanted
    assert {len(history) for history, _ in wanted} == {1, 2, 3}  # windows of four


def test_every_epoch_asks_all_of_them_in_another_order(dataset: Dataset) -> None:
    prompts = Prompts(dataset, SHARE, seed=0)
    epochs = [prompts.at(np.arange(len(prompts)) + epoch * len(prompts)) for epoch in (0, 1)]
    asked = [list(zip(map(tuple, found.histories), found.targets_B.tolist(), strict=True)) for found in epochs]
    assert Counter(asked[0]) == Counter(asked[1])
    assert asked[0] != asked[1]
    other = Prompts(dataset, SHARE, seed=1).at(np.arange(len(prompts)))
    assert list(map(tuple, other.histories)) != [history for history, _ in asked[0]]


class OnePrompt(Prompts):
    """Asks the same whatever the place, so that ranks differ in chance alone."""

    def at(self, places: NDArray[np.int64]) -> PromptBatch:
        return super().at(np.zeros_like(places))


def draw(start: Start, folder: Path) -> None:
    """Draw one step's rollouts and write down which prompts were asked, and what was drawn; runs on every rank."""
    dist.init_process_group("gloo")
    trained = load_generator(start.folder, start.sids)
    trie = Trie.from_index(PrefixIndex.from_codes(start.sids.codes_NL, start.sids.codebook_size))
    policy = Policy(trained.generator.eval(), trained.template, trie)
    settings = RLConfig(group_size=NUM_ITEMS, num_iterations=1, steps=1)
    for kind in (Prompts, OnePrompt):
        prompts = kind(start.dataset, start.share, 0)
        held = RolloutSource(
            policy, policy, prompts, {"hit": 1.0}, start.sids.codes_NL, None, settings, num_groups=6, micro=2, seed=0
        ).collect(RolloutState()).held  # fmt: skip
        assert held is not None
        torch.save((held.places_B, held.items_BG), folder / f"{kind.__name__}-{rank()}.pt")
    dist.destroy_process_group()


def test_ranks_share_the_prompts_and_draw_by_chances_of_their_own(
    trained: Callable[[str], Start], tmp_path: Path
) -> None:
    # Groups of the whole catalogue hold the target, so none is skipped.
    assert run_ranks(draw, 2, trained("tokens"), tmp_path) == [0, 0]
    places = [torch.load(tmp_path / f"Prompts-{number}.pt")[0].tolist() for number in (0, 1)]
    assert sorted([*places[0], *places[1]]) == list(range(12))
    items = [torch.load(tmp_path / f"OnePrompt-{number}.pt")[1] for number in (0, 1)]
    assert not torch.equal(*items)


def test_rollouts_are_used_as_often_as_stated_before_new_ones_are_drawn(trained: Callable[[str], Start]) -> None:
    start = trained("tokens")
    found = load_generator(start.folder, start.sids)
    trie = Trie.from_index(PrefixIndex.from_codes(start.sids.codes_NL, start.sids.codebook_size))
    policy = Policy(found.generator.eval(), found.template, trie)
    settings = RLConfig(group_size=NUM_ITEMS, num_iterations=3, steps=6)
    prompts = Prompts(start.dataset, start.share, 0)
    source = RolloutSource(
        policy, policy, prompts, {"hit": 1.0}, start.sids.codes_NL, None, settings,
        num_groups=2, micro=1, seed=0,
    )  # fmt: skip
    batches = list(islice(source, len(source)))
    places = [[int(batch.groups.places_B[0]) for batch in batches[step : step + 2]] for step in range(0, 12, 2)]
    assert places == [[0, 1]] * 3 + [[2, 3]] * 3
    assert [batch.first_of_step for batch in batches] == [True, False] * 6
    assert {batch.step_candidates for batch in batches} == {2 * NUM_ITEMS}  # of the step, not of the micro-batch
    # Of twelve candidates one is hit: it is better than the mean by 11/12, by so many standard deviations if asked for.
    spread = (11 / 12 * 1 / 12) ** 0.5
    for scale_rewards, scale in ((True, spread + 1e-6), (False, 1.0)):
        source = RolloutSource(
            policy, policy, prompts, {"hit": 1.0}, start.sids.codes_NL, None,
            replace(settings, scale_rewards=scale_rewards), num_groups=2, micro=1, seed=0,
        )  # fmt: skip
        held = source.collect(RolloutState()).held
        assert held is not None
        torch.testing.assert_close(held.advantages_BG.amax(dim=1), torch.full((2,), 11 / 12 / scale))
