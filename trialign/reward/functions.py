"""Reward functions of generated items: each scores groups of candidates against their targets; weights combine them.

To add a reward, write a function here and add it to REWARDS.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from trialign.errors import ConfigError, DataError, TrainingError, suggest

Rewards = NDArray[np.float64]


class Candidates(NamedTuple):
    """G candidates for each of B prompts.

    `items_BG`, `targets_B`: item indices. `log_probs_BG`: by the policy that drew them. `codes_NL`: semantic IDs of the
    catalogue. `quality_N`: how good each item's interests are, 0 to 1; None without a reward stage.
    """

    items_BG: NDArray[np.int64]
    targets_B: NDArray[np.int64]
    log_probs_BG: NDArray[np.float64]
    codes_NL: NDArray[np.integer]
    quality_N: NDArray[np.floating] | None


def hit(found: Candidates) -> Rewards:
    """Return 1 for the target, 0 for any other item."""
    hits: Rewards = (found.items_BG == found.targets_B[:, None]).astype(np.float64)
    return hits


def prefix(found: Candidates) -> Rewards:
    """Return the length of the prefix that a candidate shares with the target, as a share of the L codes."""
    same_BGL = found.codes_NL[found.items_BG] == found.codes_NL[found.targets_B][:, None]
    shared: Rewards = np.logical_and.accumulate(same_BGL, axis=2).mean(axis=2)
    return shared


def quality_exact(found: Candidates) -> Rewards:
    """Return the target's quality on a hit, 0 elsewhere: the paper's form.

    Within a group it is a constant times `hit`, so normalized advantages hardly change.
    """
    return hit(found) * _quality(found)[found.targets_B][:, None]


def quality_item(found: Candidates) -> Rewards:
    """Return the candidate's own quality where it shares its first code with the target, 0 elsewhere."""
    first_N = found.codes_NL[:, 0]
    near_BG = first_N[found.items_BG] == first_N[found.targets_B][:, None]
    worth: Rewards = near_BG * _quality(found)[found.items_BG]
    return worth


def rank(found: Candidates) -> Rewards:
    """Return, in groups that hold the target, minus 1/log2(1 + place) for every other candidate.

    Places are by the policy's own probability, 1 for the most probable, so wrong items at the top of a list cost most.
    0 for the target, and in groups without the target.
    """
    hits_BG = hit(found)
    order_BG = np.argsort(np.argsort(-found.log_probs_BG, axis=1, kind="stable"), axis=1, kind="stable")
    held: Rewards = -(1.0 - hits_BG) / np.log2(2.0 + order_BG) * hits_BG.max(axis=1, keepdims=True)
    return held


REWARDS: dict[str, Callable[[Candidates], Rewards]] = {
    "hit": hit,
    "prefix": prefix,
    "quality_exact": quality_exact,
    "quality_item": quality_item,
    "rank": rank,
}


def wanted(weights: Mapping[str, float]) -> dict[str, float]:
    """Return the rewards that have a weight.

    Raises:
        ConfigError: a name is unknown, or no reward is left.
    """
    for name in weights:
        if name not in REWARDS:
            raise ConfigError(f"rl.rewards.{name}", rule="a reward that exists", remedy=suggest(name, REWARDS))
    chosen = {name: weight for name, weight in weights.items() if weight != 0}
    if not chosen:
        raise ConfigError(
            "rl.rewards leaves no reward", rule="a policy is rewarded for something", remedy="set rl.rewards.hit=1"
        )
    return chosen


def score(found: Candidates, weights: Mapping[str, float]) -> tuple[Rewards, dict[str, Rewards]]:
    """Return the weighted sum of rewards [B, G], and each reward by itself.

    Args:
        found: the candidates.
        weights: as `wanted` returns them.

    Raises:
        DataError: a target is not an item of the catalogue.
        TrainingError: a reward is NaN or infinite.
    """
    num_items = len(found.codes_NL)
    if (outside := found.targets_B[(found.targets_B < 0) | (found.targets_B >= num_items)]).size:
        raise DataError(
            f"target {outside[0]} of a catalogue of {num_items} items",
            rule="what a user chose is in the catalogue that the semantic IDs were made for",
            remedy="run `trialign assign` and `trialign train` for this dataset, then this again",
        )
    parts = {name: REWARDS[name](found) for name in weights}
    for name, values in parts.items():
        if not np.isfinite(values).all():
            row, column = np.argwhere(~np.isfinite(values))[0]
            raise TrainingError(
                f"reward '{name}' of item {found.items_BG[row, column]} is {values[row, column]}",
                rule="a reward is a finite number",
                remedy=f"fix the function, or set rl.rewards.{name}=0",
            )
    total: Rewards = sum((weight * parts[name] for name, weight in weights.items()), np.zeros(found.items_BG.shape))
    return total, parts


def _quality(found: Candidates) -> NDArray[np.floating]:
    if found.quality_N is None:
        raise ConfigError(
            "a reward by quality, but no quality of the items is known",
            rule="the reward stage judges the interests of every item first",
            remedy="run `trialign reward` for this run, or name a finished one with from.reward=DIR",
        )
    return found.quality_N
