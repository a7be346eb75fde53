"""How an item becomes positions of a row: the one place that knows."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from trialign.semid.tokens import TokenSpace


class TokensEncoding:
    """An item is L positions, one per level: the form of the papers (method.md 6, encoding `tokens`).

    Args:
        codes_NL: the semantic IDs.
        space: the token space they live in.
    """

    def __init__(self, codes_NL: NDArray[Any], space: TokenSpace) -> None:
        self._tokens_NL = space.encode(codes_NL.astype(np.int64))

    @property
    def positions_per_item(self) -> int:
        """L."""
        return int(self._tokens_NL.shape[1])

    def positions(self, items: NDArray[Any]) -> NDArray[np.int64]:
        """Return the tokens of a run of items, int64 [n * L]."""
        tokens: NDArray[np.int64] = self._tokens_NL[items].reshape(-1)
        return tokens

    def spread(self, per_item: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Return a value of each item as a value of each of its positions."""
        return np.repeat(per_item, self.positions_per_item)
