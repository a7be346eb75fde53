"""Rewards worked by hand, their sum by weight, and what is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from trialign.errors import ConfigError, DataError, TrainingError
from trialign.reward import functions
from trialign.reward.functions import Candidates, score, wanted

CODES = np.array([[0, 0, 0], [0, 0, 1], [0, 1, 0], [1, 0, 0]])
QUALITY = np.array([0.9, 0.5, 0.2, 1.0])


def candidates(**changes: Any) -> Candidates:
    found = Candidates(
        items_BG=np.array([[3, 0, 1], [2, 3, 1]]),
        targets_B=np.array([0, 0]),
        log_probs_BG=np.log([[0.2, 0.3, 0.5], [0.1, 0.2, 0.3]]),
        codes_NL=CODES,
        quality_N=QUALITY,
    )
    return found._replace(**changes)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("hit", [[0, 1, 0], [0, 0, 0]]),
        ("prefix", [[0, 1, 2 / 3], [1 / 3, 0, 2 / 3]]),
        ("quality_exact", [[0, 0.9, 0], [0, 0, 0]]),
        ("quality_item", [[0, 0.9, 0.5], [0.2, 0, 0.5]]),
        # The target is second; the first place costs 1, the third half of it. Without the target nothing is said.
        ("rank", [[-1 / 2, 0, -1], [0, 0, 0]]),
    ],
)
def test_each_reward_by_hand(name: str, expected: list[list[float]]) -> None:
    np.testing.assert_allclose(functions.REWARDS[name](candidates()), expected, atol=1e-12)


def test_rewards_add_up_by_weight() -> None:
    total, parts = score(candidates(), {"hit": 1.0, "prefix": 0.5})
    np.testing.assert_allclose(total, [[0, 1.5, 1 / 3], [1 / 6, 0, 1 / 3]])
    assert parts.keys() == {"hit", "prefix"}
    assert parts["hit"].sum() == 1


def test_a_weight_of_zero_leaves_a_reward_out() -> None:
    assert wanted({"hit": 1.0, "prefix": 0.0}) == {"hit": 1.0}
    with pytest.raises(ConfigError, match="leaves no reward"):
        wanted({"hit": 0.0})
    with pytest.raises(ConfigError, match="did you mean 'prefix'"):
        wanted({"prefx": 1.0})


@pytest.mark.parametrize("target", [-1, 4])
def test_a_target_outside_the_catalogue_is_refused(target: int) -> None:
    with pytest.raises(DataError, match=f"target {target} of a catalogue of 4 items"):
        score(candidates(targets_B=np.array([0, target])), {"hit": 1.0})


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_reward_that_is_no_number_is_refused(value: float) -> None:
    quality = QUALITY.copy()
    quality[1] = value
    with pytest.raises(TrainingError, match="reward 'quality_item' of item 1 is"):
        score(candidates(quality_N=quality), {"quality_item": 0.5})


def test_quality_that_nobody_judged_is_refused() -> None:
    with pytest.raises(ConfigError, match="no quality of the items is known"):
        score(candidates(quality_N=None), {"quality_exact": 0.5})
