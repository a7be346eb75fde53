"""Metrics beyond averages: recall by the target's frequency, catalogue coverage, and recall of SID prefixes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trialign.evaluate.record import Figures, SeenPlaces, SeenSlice, Spread
from trialign.ranking import find_hits
from trialign.types import NO_ITEM, Items

PLACES = 10
"""Every figure here is about the first ten places of a ranking."""

_SEEN = {"0": (0, 0), "1-4": (1, 4), "5+": (5, None)}


def recall_by_seen(
    items_UK: NDArray[np.int32], targets: Sequence[Items], popularity_N: NDArray[np.int64]
) -> dict[str, SeenSlice]:
    """Return Recall@10 by the target's number of train events.

    As in every metric, an item that is several targets of one user counts once.

    Args:
        items_UK: ranked items, best first.
        targets: U item-index arrays.
        popularity_N: train events of every item.
    """
    owners, wanted = _distinct(targets)
    found = (items_UK[owners, :PLACES] == wanted[:, None]).any(axis=1)
    seen = popularity_N[wanted]
    slices = {}
    for name, (least, most) in _SEEN.items():
        inside = (seen >= least) & (seen <= (most if most is not None else seen))
        share = float(found[inside].mean()) if inside.any() else 0.0
        slices[name] = SeenSlice(int(inside.sum()), share)
    return slices


def seen_places(items_UK: NDArray[np.int32], targets: Sequence[Items], seen: Sequence[Items]) -> SeenPlaces:
    """Return how many of the first ten places items of the history hold, and how many of these are targets.

    Args:
        items_UK: ranked items, best first.
        targets: U item-index arrays.
        seen: U item-index arrays, what each user had chosen.
    """
    seen_UK, _ = find_hits(items_UK[:, :PLACES], seen)
    right_UK, _ = find_hits(items_UK[:, :PLACES], targets)
    places = int(seen_UK.sum())
    return SeenPlaces(places / max(len(items_UK), 1), int((seen_UK & right_UK).sum()) / max(places, 1))


def spread(items_UK: NDArray[np.int32], targets: Sequence[Items], popularity_N: NDArray[np.int64]) -> Spread:
    """Return the catalogue coverage and the popularity bias of the recommendations."""
    shown = items_UK[:, :PLACES]
    shown = shown[shown != NO_ITEM]
    num_items = len(popularity_N)
    head_N = np.zeros(num_items, bool)
    head_N[np.argsort(-popularity_N, kind="stable")[: max(1, num_items // 10)]] = True
    _, wanted = _distinct(targets)
    return Spread(
        coverage_at_10=len(np.unique(shown)) / num_items,
        head_share_at_10=float(head_N[shown].mean()) if len(shown) else 0.0,
        head_share_of_targets=float(head_N[wanted].mean()),
    )


def prefix_recall(items_UK: NDArray[np.int32], targets: Sequence[Items], codes_NL: NDArray[Any]) -> Figures:
    """Return the share of targets whose first l codes are those of an item in the top ten, for l = 1..L.

    The last one is item recall, since semantic IDs are unique. Papers that match SID strings with collisions report a
    value between the last two.
    """
    owners, wanted = _distinct(targets)
    shown = items_UK[owners, :PLACES]
    agree = codes_NL[shown] == codes_NL[wanted][:, None]
    agree[shown == NO_ITEM] = False
    along = np.logical_and.accumulate(agree, axis=2).any(axis=1)
    return {f"prefix_{depth + 1}": float(share) for depth, share in enumerate(along.mean(axis=0))}


def _distinct(targets: Sequence[Items]) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
    """Return user and item of every target; repeated targets of a user count once."""
    distinct = [np.unique(found) for found in targets]
    owners = np.repeat(np.arange(len(targets)), [len(found) for found in distinct])
    return owners, np.concatenate([*distinct, np.empty(0, np.int32)])
