"""The stated choice function: by hand on four items, in its invariances, and against what is drawn from it."""

from __future__ import annotations

from dataclasses import replace
from math import exp
from typing import Any

import numpy as np
import pytest
from scipy.stats import chisquare

from trialign.config.data import StorefrontConfig
from trialign.errors import DataError
from trialign.storefront import Storefront
from trialign.storefront.taste import ExactOracle, Preference, Taste, draw_histories, taste_of
from trialign.storefront.world import NONE, draw_attributes, frozen_world

# Items:                     0     1     2     3
CATEGORIES = np.array([0, 1, NONE, NONE])
STYLES = np.array([0, 0, 1, 1])
LEADS = np.array([[0.0, 1.0], [0.0, 0.0]])  # category 0 leads to category 1, which leads nowhere


def four_items(window: int = 20) -> Taste:
    category = Preference(CATEGORIES, weight=2.0, decay=0.5, leads_VV=LEADS)
    style = Preference(STYLES, weight=1.0, decay=1.0, leads_VV=np.eye(2))
    return Taste(np.array([1.0, 2.0, 1.0, 4.0]), (category, style), window)


def small_shop(**changes: Any) -> Storefront:
    return Storefront(replace(StorefrontConfig(seed=3, num_items=60, num_users=40), **changes))


def test_an_empty_history_leaves_popularity() -> None:
    np.testing.assert_allclose(four_items().next_item(np.empty((1, 0), int)), [[0.125, 0.25, 0.125, 0.5]])


def test_one_event_by_hand() -> None:
    weights = np.array([0.0, 2 * exp(2 + 1), 1.0, 4.0])  # items 2 and 3: no evident category, the other style
    np.testing.assert_allclose(four_items().next_item(np.array([[0]]))[0], weights / weights.sum())


def test_two_events_by_hand() -> None:
    # Category: item 0 (age 1, weight 1/2) leads to 1, item 3 (age 0, weight 1) to nothing, so the share of 1 is 1/3.
    # Style: one event each, no decay.
    weights = np.array([0.0, 2 * exp(2 * 1 / 3 + 1 / 2), exp(1 / 2), 0.0])
    np.testing.assert_allclose(four_items().next_item(np.array([[0, 3]]))[0], weights / weights.sum())


def test_events_before_the_window_count_only_as_seen() -> None:
    weights = np.array([0.0, 2.0, exp(1), 0.0])  # item 3 alone is within a window of 1: style 1, no category
    np.testing.assert_allclose(four_items(window=1).next_item(np.array([[0, 3]]))[0], weights / weights.sum())


def test_probabilities_sum_to_one_and_seen_items_have_none() -> None:
    shop = small_shop()
    taste = shop.taste()
    for history in shop.histories(taste):
        for length in range(len(history)):
            chances = taste.next_item(history[None, :length])[0]
            assert chances.sum() == pytest.approx(1.0, abs=1e-12)
            assert (chances[history[:length]] == 0).all()
            assert (np.delete(chances, history[:length]) > 0).all()


def test_histories_batched_are_histories_alone() -> None:
    taste = small_shop().taste()
    histories_BT = np.array([[4, 8, 15], [16, 23, 42]])
    alone = np.concatenate([taste.next_item(history[None]) for history in histories_BT])
    np.testing.assert_allclose(taste.next_item(histories_BT), alone, rtol=1e-12)


@pytest.mark.parametrize(("knob", "attribute"), [("style_weight", "style_N"), ("purpose_weight", "purpose_N")])
def test_a_knob_at_zero_makes_its_attribute_irrelevant_and_at_one_does_not(knob: str, attribute: str) -> None:
    world, items = frozen_world(), draw_attributes(frozen_world(), 60, seed=3)
    permuted = np.random.default_rng(0).permutation(getattr(items, attribute))
    others = replace(items, **{attribute: permuted})
    history_1T = np.array([[4, 8, 15, 16, 23, 42]])
    for value in (0.0, 1.0):
        knobs = {"style_weight": 1.0, "purpose_weight": 1.0, knob: value}
        here, there = (
            taste_of(world, found, StorefrontConfig(**knobs)).next_item(history_1T) for found in (items, others)
        )
        assert np.array_equal(here, there) == (value == 0.0)


@pytest.mark.parametrize(("evidence", "attribute"), [("pictured_N", "style_N"), ("readable_N", "category_N")])
def test_what_no_evidence_shows_drives_nothing(evidence: str, attribute: str) -> None:
    world, items = frozen_world(), draw_attributes(frozen_world(), 60, seed=3)
    shown = getattr(items, evidence).copy()
    shown[:30] = False
    values = getattr(items, attribute)
    hidden = replace(items, **{evidence: shown})
    history_1T = np.array([[1, 40, 2, 50, 3]])

    def chances(changed_items: slice) -> np.ndarray:
        changed = values.copy()
        changed[changed_items] = 0
        taste = taste_of(world, replace(hidden, **{attribute: changed}), StorefrontConfig())
        return taste.next_item(history_1T)

    unchanged = chances(slice(0))
    np.testing.assert_array_equal(chances(slice(30)), unchanged)
    assert not np.array_equal(chances(slice(30, 60)), unchanged)


def test_a_category_leads_to_its_followers_and_not_to_itself() -> None:
    taste = small_shop().taste()
    leads_CC = taste.preferences[0].leads_VV
    offsets = frozen_world().taste["follower_offsets"]
    assert set(np.flatnonzero(leads_CC[30])) == {(30 + offset) % 32 for offset in offsets}
    assert leads_CC[30, 30] == 0


def test_draws_follow_the_stated_probabilities() -> None:
    taste, num_users = four_items(), 40_000
    chance_UT = np.random.default_rng(0).random((num_users, 2))
    histories = np.array(draw_histories(taste, np.full(num_users, 2), chance_UT))
    first_N = taste.next_item(np.empty((1, 0), int))[0]
    assert chisquare(np.bincount(histories[:, 0], minlength=4), num_users * first_N).pvalue > 0.001
    for item in range(4):
        after = histories[histories[:, 0] == item, 1]
        expected_N = len(after) * taste.next_item(np.array([[item]]))[0]
        counts_N = np.bincount(after, minlength=4)
        assert counts_N[item] == 0
        rest = np.arange(4) != item
        assert chisquare(counts_N[rest], expected_N[rest]).pvalue > 0.001


def test_the_oracle_speaks_in_keys() -> None:
    oracle = ExactOracle(four_items(), ["a", "b", "c", "d"])
    np.testing.assert_allclose(oracle.next_item(["a", "d"]), four_items().next_item(np.array([[0, 3]]))[0])
    np.testing.assert_allclose(oracle.next_item([]), [0.125, 0.25, 0.125, 0.5])


def test_the_oracle_refuses_what_has_no_answer() -> None:
    oracle = ExactOracle(four_items(), ["a", "b", "c", "d"])
    with pytest.raises(DataError, match="the history names 'z'"):
        oracle.next_item(["a", "z"])
    with pytest.raises(DataError, match="the history holds all 4 items"):
        oracle.next_item(["a", "b", "c", "d", "a"])
