"""The baseline popularity: ranks items by how often they occur in the train histories."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

import numpy as np
from numpy.typing import NDArray

from trialign.evaluate.baselines.counts import CountingRanker, count_items
from trialign.types import Items


class Popularity(CountingRanker):
    """Scores an item by how often it occurs in the train histories, equally for all users."""

    name = "popularity"

    @classmethod
    def fit(cls, histories: Sequence[Items], num_items: int) -> Self:
        """Count the items of whole train histories."""
        return cls(count_items(histories, num_items))

    def score(self, histories: list[Items]) -> NDArray[np.float64]:
        """Return scores_BN: the popularity, repeated in every row."""
        return np.tile(self.popularity_N.astype(np.float64), (len(histories), 1))
