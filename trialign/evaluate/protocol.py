"""The evaluation protocol of all rankers: rank the whole catalogue, check the ranking, compute the metrics."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from trialign.data.dataset import Evaluation
from trialign.errors import DataError, TrialignError
from trialign.progress import Progress
from trialign.ranking import CUTOFFS, METRICS, find_hits, measure
from trialign.types import NO_ITEM, EvaluationSplit, Items, Ranker


@dataclass(frozen=True)
class Rankings:
    """The best K items of U users.

    Attributes:
        items_UK: best first, NO_ITEM where fewer can be ranked.
        scores_UK: on the ranker's own scale, not increasing along a row, -inf for NO_ITEM.
        invalid_rate: share of the required places without an item of the catalogue; see `rank_users`.
    """

    items_UK: NDArray[np.int32]
    scores_UK: NDArray[np.float32]
    invalid_rate: float


@dataclass(frozen=True)
class Measured:
    """Rankings with every metric of every user, columns as in METRICS."""

    values_UC: NDArray[np.float64]
    rankings: Rankings

    @property
    def invalid_rate(self) -> float:
        """As in `Rankings`."""
        return self.rankings.invalid_rate

    def means(self) -> dict[str, float]:
        """Return the averages over users by metric name."""
        return dict(zip(METRICS, self.values_UC.mean(axis=0).tolist(), strict=True))


def require_examples(users: Evaluation, split: EvaluationSplit, num_users: int | None = None) -> None:
    """Raise an error if a split is empty or smaller than the requested sample.

    Raises:
        DataError: it is empty, or holds fewer than `num_users`.
    """
    if num_users is not None and num_users > (found := len(set(users.users))) > 0:
        raise DataError(
            f"evaluate.users={num_users}, but the {split} split holds {found} users",
            rule="a sample is no larger than the split",
            remedy=f"set evaluate.users={found} or fewer, or leave it out to rank all",
        )
    if not users.users:
        raise DataError(
            f"the {split} split holds no user",
            rule="at least one user is evaluated",
            remedy="prepare data whose users have enough events (data.min_eval_events, data.split), or give examples "
            "of that split; `trialign prepare` counts `users_not_evaluated`",
        )


def rank_users(
    ranker: Ranker,
    histories: Sequence[Items],
    k: int,
    *,
    num_items: int,
    exclude: Sequence[Items] | None,
    batch_size: int,
    what: str = "users ranked",
) -> Rankings:
    """Rank the catalogue for every history, and raise an error for malformed rankings.

    A ranker must fill min(k, N) places for each user, with N reduced by the user's distinct filtered items. A required
    place is invalid if it is NO_ITEM or not an item of the catalogue; an item outside the catalogue on a later place is
    invalid too. So a ranker that returns nothing, too little or nonsense never has an invalid rate of 0.

    Args:
        ranker: the generator or a baseline.
        histories: U item-index arrays, oldest first.
        k: length of a ranking.
        num_items: N, size of the catalogue.
        exclude: U item-index arrays, items that are filtered out of each ranking; None filters nothing.
        batch_size: users per call of the ranker.
        what: name of the work in the log.

    Raises:
        TrialignError: a ranking has the wrong shape, repeats an item or holds a filtered one, or scores rise or are
            NaN.
    """
    items_UK = np.full((len(histories), k), NO_ITEM, np.int32)
    scores_UK = np.full((len(histories), k), -np.inf, np.float32)
    num_invalid = num_counted = 0
    with Progress(what, len(histories)) as progress:
        for start in range(0, len(histories), batch_size):
            batch = list(histories[start : start + batch_size])
            filtered = None if exclude is None else exclude[start : start + batch_size]
            items_BK, scores_BK = ranker.rank(batch, k, exclude=filtered)
            num_filtered_B = _check(items_BK, scores_BK, (len(batch), k), filtered)
            owed_B = np.minimum(k, num_items - num_filtered_B)
            counted_BK = (np.arange(k) < owed_B[:, None]) | (items_BK != NO_ITEM)
            num_counted += int(counted_BK.sum())
            num_invalid += int((counted_BK & ((items_BK < 0) | (items_BK >= num_items))).sum())
            items_UK[start : start + len(batch)] = items_BK
            scores_UK[start : start + len(batch)] = scores_BK
            progress.add(len(batch))
    return Rankings(items_UK, scores_UK, num_invalid / num_counted if num_counted else 0.0)


def evaluate(
    ranker: Ranker,
    histories: Sequence[Items],
    targets: Sequence[Items],
    *,
    num_items: int,
    exclude: Sequence[Items] | None,
    batch_size: int,
    what: str = "users ranked",
) -> Measured:
    """Rank every history and measure the rankings against the targets; arguments and errors as `rank_users`."""
    rankings = rank_users(
        ranker,
        histories,
        max(CUTOFFS),
        num_items=num_items,
        exclude=exclude,
        batch_size=batch_size,
        what=what,
    )
    return Measured(measure(rankings.items_UK, targets), rankings)


def _check(
    items_BK: NDArray[np.int32],
    scores_BK: NDArray[np.float32],
    shape: tuple[int, int],
    exclude: Sequence[Items] | None,
) -> NDArray[np.int64]:
    """Raise an error if rankings break the Ranker protocol; return each user's number of distinct filtered items."""
    if items_BK.shape != shape or scores_BK.shape != shape:
        raise _broken(f"items of shape {items_BK.shape} and scores of shape {scores_BK.shape}", f"both are {shape}")
    ordered_BK = np.sort(items_BK, axis=1)
    repeated = (ordered_BK[:, 1:] == ordered_BK[:, :-1]) & (ordered_BK[:, 1:] != NO_ITEM)
    if repeated.any():
        row = int(repeated.any(axis=1).argmax())
        item = int(ordered_BK[row, 1:][repeated[row]][0])
        raise _broken(f"item {item} more than once in one user's ranking", "an item is in a ranking once")
    # A comparison with NaN is False, so this detects NaN too.
    falling = scores_BK[:, 1:] <= scores_BK[:, :-1]
    if not falling.all() or np.isnan(scores_BK).any():
        raise _broken("scores that rise or are not numbers", "scores never rise from one place to the next")
    if exclude is None:
        return np.zeros(len(items_BK), np.int64)
    filtered_BK, num_filtered_B = find_hits(items_BK, exclude)
    if filtered_BK.any():
        raise _broken(
            f"item {int(items_BK[filtered_BK][0])}, which is to be filtered", "no ranking holds an item of `exclude`"
        )
    return num_filtered_B


def _broken(found: str, rule: str) -> TrialignError:
    return TrialignError(
        f"the ranker returned {found}", rule=rule, remedy="fix its rank(); trialign/types.py states the contract"
    )
