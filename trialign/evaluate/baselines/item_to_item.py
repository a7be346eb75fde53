"""The baseline item_to_item: scores items by how often they followed the last item of a history."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

import numpy as np
from numpy.typing import NDArray

from trialign.evaluate.baselines.counts import CountingRanker, count_items, count_pairs
from trialign.types import Items


class ItemToItem(CountingRanker):
    """Scores an item by how often it came directly after the history's last item in the train histories.

    Forward only: a pair (a, b) counts for a -> b. Ties, such as all items that never followed and score 0, are ordered
    by popularity, then by index. So the ranking is by popularity alone for an empty history, or one whose last item was
    never followed.
    """

    name = "item_to_item"

    @classmethod
    def fit(cls, histories: Sequence[Items], num_items: int) -> Self:
        """Count the pairs of successive items in whole train histories."""
        return cls(count_items(histories, num_items), count_pairs(histories, num_items, distance=1))

    def score(self, histories: list[Items]) -> NDArray[np.float64]:
        """Return scores_BN: how often each item followed the last one of each history."""
        assert self.pairs_NN is not None
        scores_BN = np.zeros((len(histories), self.num_items))
        started = [row for row, history in enumerate(histories) if len(history)]
        last = [int(histories[row][-1]) for row in started]
        scores_BN[started] = self.pairs_NN[last].toarray()
        return scores_BN
