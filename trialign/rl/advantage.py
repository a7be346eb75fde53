"""Group-relative advantages (Shao et al. 2024, "GRPO")."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_LEAST_STD = 1e-6


def advantages(rewards_BG: NDArray[np.float64], *, scale_rewards: bool) -> NDArray[np.float64]:
    """Return rewards minus their group's mean, divided by its standard deviation if `scale_rewards`.

    Args:
        rewards_BG: G candidates of each of B prompts.
        scale_rewards: divide by std + 1e-6. Without it (Liu et al. 2025) a group's weight grows with its reward spread.
    """
    centred_BG: NDArray[np.float64] = rewards_BG - rewards_BG.mean(axis=1, keepdims=True)
    if not scale_rewards:
        return centred_BG
    scaled: NDArray[np.float64] = centred_BG / (rewards_BG.std(axis=1, keepdims=True) + _LEAST_STD)
    return scaled


def differ(rewards_BG: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Return which groups have rewards that differ [B]; the advantages of the other groups are all 0."""
    spread: NDArray[np.bool_] = np.ptp(rewards_BG, axis=1) > _LEAST_STD
    return spread
