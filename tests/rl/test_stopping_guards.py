"""Every limit by hand, held against the start; and the figures that they are held against."""

from __future__ import annotations

import pytest
import torch

from trialign.config.rl import StoppingGuardsConfig
from trialign.rl.loss import PolicySums
from trialign.rl.metrics import RolloutMeter
from trialign.rl.stopping_guards import stopping_reason

LIMITS = StoppingGuardsConfig(recall_drop=0.25, entropy_share=0.5, kl=2.0, zero_variance=0.9)
START = {"recall@50": 0.4, "entropy": 3.0, "kl": 0.0, "zero_variance": 0.1}


@pytest.mark.parametrize(
    ("now", "told"),
    [
        ({}, None),
        ({"recall@50": 0.31}, None),
        ({"recall@50": 0.29}, "Recall@50 fell from 0.4000 to 0.2900"),
        ({"entropy": 1.51}, None),
        ({"entropy": 1.49}, "entropy fell from 3.000 to 1.490 nats"),
        ({"kl": 1.9, "zero_variance": 0.89}, None),
        ({"kl": 2.1}, "2.100 nats away"),
        ({"zero_variance": 0.91}, "in 91.0% of the groups"),
    ],
)
def test_a_limit_is_held_against_the_start(now: dict[str, float], told: str | None) -> None:
    found = stopping_reason(now, START, LIMITS)
    assert found is None if told is None else told in str(found)


def test_shares_are_of_what_they_are_shares_of() -> None:
    meter = RolloutMeter(["hit"])
    # Two micro-batches of four candidates; for the first of them ten groups of four were drawn, six of one reward.
    loss = PolicySums(*map(torch.tensor, (6.0, 5.0, 2.0, 10.0, 1, 4)))
    meter.add(loss, [10.0, 6.0, 40.0, 8.0, 4.0])
    meter.add(loss, None)
    found = meter.flush()
    assert found == pytest.approx(
        {
            "loss": 1.5,
            "kl": 0.5,
            "entropy": 2.5,
            "clipped": 0.25,
            "zero_variance": 0.6,
            "reward": 0.2,
            "reward/hit": 0.1,
        }
    )
