"""Confidence intervals for the difference between two rankers: the paired bootstrap over users."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from trialign.evaluate.record import Difference
from trialign.progress import tracked
from trialign.runtime.seeding import numpy_generator

_CELLS = 1 << 22
"""Draws held at once, whatever the number of users and samples: about 100 MB."""


@dataclass(frozen=True)
class Intervals:
    """Mean differences and their 95 % intervals, one per column; `reason` says why there are no intervals."""

    difference_C: NDArray[np.float64]
    low_C: NDArray[np.float64] | None
    high_C: NDArray[np.float64] | None
    reason: str | None = None

    def by_column(self) -> list[Difference]:
        """Return difference and interval of each column."""
        nothing = [None] * len(self.difference_C)
        low_C, high_C = (nothing if ends_C is None else ends_C.tolist() for ends_C in (self.low_C, self.high_C))
        columns = zip(self.difference_C.tolist(), low_C, high_C, strict=True)
        return [Difference(difference, low, high, self.reason) for difference, low, high in columns]


def paired_bootstrap(
    differences_UC: NDArray[np.float64], *, num_samples: int, seed: int, owners: Sequence[str] | None = None
) -> Intervals:
    """Return the mean of paired differences with percentile intervals.

    Each sample draws U users with replacement and takes the mean of their differences; the interval spans the 2.5th to
    97.5th percentile of these means (Efron & Tibshirani 1993, chapter 13). Users are drawn whole, so all columns of a
    sample share its users.

    Args:
        differences_UC: one ranker's value minus the other's, on the same example, by column.
        num_samples: resamples.
        seed: seed of the resampling.
        owners: the user of each example; a user is drawn with all examples, since these are correlated. None if every
            example is a user of its own.

    Returns:
        The intervals; for a single user, whose resamples are all equal, a reason instead of bounds.
    """
    assert len(differences_UC) > 0
    assert num_samples > 0
    difference_C = differences_UC.mean(axis=0)
    sums_UC, sizes_U = _by_user(differences_UC, owners)
    num_users = len(sizes_U)
    if num_users == 1:
        return Intervals(difference_C, None, None, "one user has no spread to resample")
    generator = numpy_generator(seed, "bootstrap")
    chunk = max(1, _CELLS // num_users)
    means_SC = np.empty((num_samples, differences_UC.shape[1]))
    for start in tracked(range(0, num_samples, chunk), "parts of the bootstrap"):
        size = min(chunk, num_samples - start)
        drawn_SU = generator.integers(num_users, size=(size, num_users))
        drawn_SU += np.arange(size)[:, None] * num_users
        counts_SU = np.bincount(drawn_SU.ravel(), minlength=size * num_users).reshape(size, num_users)
        means_SC[start : start + size] = counts_SU @ sums_UC / (counts_SU @ sizes_U)[:, None]
    low_C, high_C = np.percentile(means_SC, [2.5, 97.5], axis=0)
    return Intervals(difference_C, low_C, high_C)


def _by_user(
    values_UC: NDArray[np.float64], owners: Sequence[str] | None
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Return each user's sum over its examples, and their number."""
    if owners is None:
        return values_UC, np.ones(len(values_UC), np.int64)
    numbers = {owner: number for number, owner in enumerate(dict.fromkeys(owners))}
    rows = [numbers[owner] for owner in owners]
    sums_UC = np.zeros((len(numbers), values_UC.shape[1]))
    np.add.at(sums_UC, rows, values_UC)
    return sums_UC, np.bincount(rows)
