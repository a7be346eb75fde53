"""Advantages worked by hand."""

from __future__ import annotations

import numpy as np
import pytest

from trialign.config.compose import compose
from trialign.errors import ConfigError
from trialign.rl.advantage import advantages, differ

REWARDS = np.array([[1.0, 0.0, 0.0, 0.0], [0.5, 0.5, 0.5, 0.5], [2.0, 1.0, 0.0, 1.0]])


def test_by_hand() -> None:
    found = advantages(REWARDS, scale_rewards=True)
    # mean 1/4, standard deviation sqrt(3)/4
    np.testing.assert_allclose(found[0], np.array([3.0, -1.0, -1.0, -1.0]) / np.sqrt(3), atol=1e-4)
    assert (found[1] == 0).all()
    np.testing.assert_allclose(found[2], np.array([1.0, 0.0, -1.0, 0.0]) * np.sqrt(2), atol=1e-4)
    plain = advantages(REWARDS, scale_rewards=False)
    np.testing.assert_allclose(plain[0], [0.75, -0.25, -0.25, -0.25])
    np.testing.assert_allclose(plain.sum(axis=1), 0, atol=1e-12)


def test_normalised_they_do_not_depend_on_the_scale_of_rewards() -> None:
    one, other = (advantages(scale * REWARDS, scale_rewards=True) for scale in (1.0, 40.0))
    np.testing.assert_allclose(one, other, atol=1e-4)


def test_a_bonus_on_the_hit_alone_nearly_cancels() -> None:
    """Why `quality_exact` cannot do much: within a group it is a multiple of the hit."""
    hits = REWARDS[:1]
    for quality in (0.1, 0.9):
        with_bonus = advantages(hits * (1 + 0.5 * quality), scale_rewards=True)
        np.testing.assert_allclose(with_bonus, advantages(hits, scale_rewards=True), atol=1e-5)


def test_groups_whose_rewards_are_equal_say_nothing() -> None:
    assert differ(REWARDS).tolist() == [True, False, True]
    assert not differ(np.full((1, 8), 0.1 + 0.2)).any()
    assert differ(np.array([[0.0, 1e-3]])).all()


def test_a_group_of_one_is_never_better_than_itself() -> None:
    assert advantages(np.array([[3.0]]), scale_rewards=True)[0, 0] == pytest.approx(0.0)
    with pytest.raises(ConfigError, match=r"rl\.group_size=1"):
        compose("rl", ["run=runs/x", "rl.group_size=1"])
