"""The baseline that knows the last item only."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

import numpy as np
from numpy.typing import NDArray

from trialign.evaluate.baselines.counts import CountingRanker, count_items, count_pairs
from trialign.types import Items


class ItemToItem(CountingRanker):
    """Scores an item by how often it came directly after the history's last item in the train histories.

    Forward only: a pair (a, b) counts for a -> b. Items of equal count are by popularity, then by index, and so are
    all that never followed and score 0; a history that is empty, or ends in an item nothing ever followed, is therefore
    ranked by popularity alone.
    """

    name = "item_to_item"

    @classmethod
    def fit(cls, histories: Sequence[Items], num_items: int) -> Self:
        """Count the neighbours in whole train histories."""
        return cls(count_items(histories, num_items), count_pairs(histories, num_items, distance=1))

    def score(self, histories: list[Items]) -> NDArray[np.float64]:
        """Return scores_BN: how often each item followed the last one of each history."""
        assert self.pairs_NN is not None
        scores_BN = np.zeros((len(histories), self.num_items))
        started = [row for row, history in enumerate(histories) if len(history)]
        last = [int(histories[row][-1]) for row in started]
        scores_BN[started] = self.pairs_NN[last].toarray()
        return scores_BN
