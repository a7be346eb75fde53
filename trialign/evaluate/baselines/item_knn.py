"""The baseline item_knn: scores items by their co-occurrence with the recent items of a history."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from trialign.config.evaluate import ItemKNNConfig
from trialign.evaluate.baselines.counts import CountingRanker, count_items, count_pairs
from trialign.types import Items


class ItemKNN(CountingRanker):
    """Scores an item by its distance-weighted co-occurrence, in the train histories, with the history's recent items.

    s(j) = popularity(j)^-damping * sum over the last `window` items i of the history: decay^age(i) * c(i, j)

    c(i, j) is the sum of 1 / distance over all pairs of an event of i and an event of j in one train history, at most
    `window` events apart, in either order. The age of the last item is 0; an item that occurs twice among the last
    `window` counts twice. Ties, such as all items that score 0, are ordered by popularity, then by index.

    Args:
        popularity_N: how often each item occurs in the train histories.
        pairs_NN: c, symmetric.
        window: largest distance of a pair, and how many of the last items are read.
        decay: weight of a history item per event of age.
        damping: power of the popularity that scores are divided by.
    """

    name = "item_knn"

    def __init__(
        self,
        popularity_N: NDArray[np.int64],
        pairs_NN: sp.csr_array,
        *,
        window: int,
        decay: float,
        damping: float,
    ) -> None:
        super().__init__(popularity_N, pairs_NN)
        self.window, self.decay, self.damping = window, decay, damping
        # Items that never occur are in no pair; the 1 only avoids a division by 0.
        damping_N = np.maximum(popularity_N, 1).astype(np.float64) ** -damping
        self._nearness_NN = (pairs_NN @ sp.diags_array(damping_N)).tocsr()

    @classmethod
    def fit(
        cls,
        histories: Sequence[Items],
        num_items: int,
        settings: ItemKNNConfig,
    ) -> Self:
        """Count pairs in whole train histories."""
        window, decay, damping = settings.window, settings.decay, settings.damping
        forward_NN = count_pairs(histories, num_items, distance=1).astype(np.float64)
        for distance in range(2, window + 1):
            forward_NN = forward_NN + count_pairs(histories, num_items, distance) / distance
        pairs_NN = (forward_NN + forward_NN.T).tocsr()
        return cls(count_items(histories, num_items), pairs_NN, window=window, decay=decay, damping=damping)

    @property
    def options(self) -> dict[str, Any]:
        """Keyword arguments of the constructor."""
        return {"window": self.window, "decay": self.decay, "damping": self.damping}

    def score(self, histories: list[Items]) -> NDArray[np.float64]:
        """Return scores_BN as the class defines them."""
        recent = [history[-self.window :] for history in histories]
        lengths = np.array([len(history) for history in recent])
        rows = np.repeat(np.arange(len(recent)), lengths)
        ages = np.repeat(lengths.cumsum(), lengths) - 1 - np.arange(lengths.sum())
        query_BN = sp.csr_array((self.decay**ages, (rows, np.concatenate(recent))), shape=(len(recent), self.num_items))
        scores_BN: NDArray[np.float64] = (query_BN @ self._nearness_NN).toarray()
        return scores_BN
