from __future__ import annotations

import numpy as np
import pytest

from trialign.evaluate import bootstrap
from trialign.evaluate.bootstrap import paired_bootstrap


def differences(num_users: int, seed: int, shift: float = 0.0) -> np.ndarray:
    return np.random.default_rng(seed).normal(shift, 1.0, (num_users, 1))


def test_interval_agrees_with_the_normal_approximation() -> None:
    found = differences(900, seed=1, shift=0.3)
    interval = paired_bootstrap(found, num_samples=4000, seed=0)
    half = 1.96 * found.std() / np.sqrt(900)
    assert interval.difference_C[0] == found.mean()
    assert interval.low_C[0] == pytest.approx(found.mean() - half, abs=0.08 * half)
    assert interval.high_C[0] == pytest.approx(found.mean() + half, abs=0.08 * half)


def test_interval_covers_the_truth_about_nineteen_times_in_twenty() -> None:
    covered = 0
    for trial in range(300):
        interval = paired_bootstrap(differences(80, seed=trial, shift=0.5), num_samples=300, seed=trial)
        covered += interval.low_C[0] <= 0.5 <= interval.high_C[0]
    # 95 % of 300 is 285, with a standard deviation of 4.
    assert 270 <= covered <= 296


def test_swapping_the_rankers_mirrors_the_interval() -> None:
    found = np.concatenate([differences(50, seed=2), differences(50, seed=3, shift=1)], axis=1)
    there = paired_bootstrap(found, num_samples=200, seed=4)
    back = paired_bootstrap(-found, num_samples=200, seed=4)
    assert back.difference_C == pytest.approx(-there.difference_C)
    assert back.low_C == pytest.approx(-there.high_C)
    assert back.high_C == pytest.approx(-there.low_C)


def test_a_column_does_not_depend_on_the_others() -> None:
    found = np.concatenate([differences(50, seed=2), differences(50, seed=3)], axis=1)
    both = paired_bootstrap(found, num_samples=200, seed=4)
    alone = paired_bootstrap(found[:, 1:], num_samples=200, seed=4)
    assert alone.low_C[0] == pytest.approx(both.low_C[1])


def test_samples_are_seeded_and_the_seed_matters() -> None:
    found = differences(50, seed=2)
    first, again, other = (paired_bootstrap(found, num_samples=100, seed=seed).low_C[0] for seed in (1, 1, 2))
    assert first == again != other


def test_resamples_draw_users_with_replacement() -> None:
    # One user of two differs: a resample holds it 0, 1 or 2 times.
    found = np.array([[0.0], [1.0]])
    interval = paired_bootstrap(found, num_samples=400, seed=0)
    assert (interval.low_C[0], interval.high_C[0]) == (0.0, 1.0)


def test_memory_bound_changes_no_number(monkeypatch: pytest.MonkeyPatch) -> None:
    found = differences(51, seed=5)
    whole = paired_bootstrap(found, num_samples=100, seed=0)
    monkeypatch.setattr(bootstrap, "_CELLS", 7 * 51)
    pieces = paired_bootstrap(found, num_samples=100, seed=0)
    assert pieces.low_C[0] == pytest.approx(whole.low_C[0])
    assert pieces.high_C[0] == pytest.approx(whole.high_C[0])


def test_one_user_has_a_difference_but_no_interval() -> None:
    interval = paired_bootstrap(np.array([[0.25]]), num_samples=100, seed=0)
    assert interval.difference_C.tolist() == [0.25]
    assert interval.low_C is None
    assert interval.high_C is None
    assert interval.reason == "one user has no spread to resample"


def test_a_user_with_several_examples_is_drawn_with_all_of_them() -> None:
    # Ten users of nine equal examples each are worth ten observations, not ninety.
    per_user = differences(10, seed=7)
    owners = [str(row // 9) for row in range(90)]
    examples = np.repeat(per_user, 9, axis=0)
    whole = paired_bootstrap(per_user, num_samples=400, seed=0)
    grouped = paired_bootstrap(examples, num_samples=400, seed=0, owners=owners)
    assert grouped.low_C == pytest.approx(whole.low_C)
    assert grouped.high_C == pytest.approx(whole.high_C)
    assert grouped.difference_C == pytest.approx(examples.mean(axis=0))


def test_a_user_weighs_as_much_as_its_examples() -> None:
    # Twenty users of one example that is 1, twenty of nine that are 0: a tenth of the examples, half of the users.
    owners = [str(user) for user in range(40) for _ in range(1 if user < 20 else 9)]
    found = np.array([[float(int(owner) < 20)] for owner in owners])
    interval = paired_bootstrap(found, num_samples=1000, seed=0, owners=owners)
    assert interval.difference_C[0] == 0.1
    assert interval.low_C[0] < 0.1 < interval.high_C[0] < 0.25


def test_users_of_unequal_size_are_averaged_over_examples() -> None:
    # a holds 3 examples of 0, b one of 1: the mean over examples is 1/4; a resample of b twice is 1, of both 1/4.
    found = paired_bootstrap(
        np.array([[0.0], [0.0], [1.0], [0.0]]), num_samples=400, seed=0, owners=["a", "a", "b", "a"]
    )
    assert found.difference_C[0] == 0.25
    assert (found.low_C[0], found.high_C[0]) == (0.0, 1.0)
    assert paired_bootstrap(np.ones((3, 1)), num_samples=9, seed=0, owners=["a"] * 3).reason is not None
