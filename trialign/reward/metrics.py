"""Discrimination and calibration metrics of the reward model: AUC, accuracy, reliability and ECE."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

from trialign.reward.labels import KINDS, Labels

Values = NDArray[np.floating]


def auc(scores_M: Values, good_M: NDArray[np.bool_]) -> float:
    """Return the ROC AUC, ties counting half; NaN if there is only one class."""
    num_good, num_others = int(good_M.sum()), int((~good_M).sum())
    if not num_good or not num_others:
        return float("nan")
    ranks_M = rankdata(scores_M)
    return float((ranks_M[good_M].sum() - num_good * (num_good + 1) / 2) / (num_good * num_others))


def auc_by_kind(scores_M: Values, labels: Labels) -> dict[str, float]:
    """Return `auc` over all pairs, and of positives against each kind of negative."""
    found = {"all": auc(scores_M, labels.good_M)}
    for kind, name in enumerate(KINDS[1:], start=1):
        rows = labels.good_M | (labels.kinds_M == kind)
        found[name] = auc(scores_M[rows], labels.good_M[rows])
    return found


def reliability(chances_M: Values, good_M: NDArray[np.bool_], num_bins: int = 10) -> list[tuple[float, float, int]]:
    """Return mean probability, share of positives and number of pairs of every nonempty bin of equal width."""
    bins_M = np.minimum((chances_M * num_bins).astype(int), num_bins - 1)
    rows = [bins_M == place for place in range(num_bins)]
    return [(float(chances_M[r].mean()), float(good_M[r].mean()), int(r.sum())) for r in rows if r.any()]


def ece(chances_M: Values, good_M: NDArray[np.bool_]) -> float:
    """Return the expected calibration error (Naeini et al. 2015): the mean of |chance - share| over pairs, by bins."""
    bins = reliability(chances_M, good_M)
    return sum(abs(chance - share) * size for chance, share, size in bins) / sum(size for *_, size in bins)


def accuracy(chances_M: Values, good_M: NDArray[np.bool_]) -> float:
    """Return the share of pairs on the right side of one half."""
    return float(((chances_M >= 0.5) == good_M).mean())
