"""Item encodings: map items to the token ids at the positions of a row (method.md 6); no parameters here."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from trialign.semid.tokens import TokenSpace


class ItemEncoding(Protocol):
    """The interface of an item encoding: how many positions an item takes in a row, and their token ids."""

    @property
    def positions_per_item(self) -> int:
        """The number of positions of an item."""
        ...

    def positions(self, items: NDArray[Any]) -> NDArray[np.int64]:
        """Return the tokens of a sequence of items, int64 [n * positions_per_item]; all ids are above those of text."""
        ...

    def spread(self, per_item: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Repeat each item's value for all of its positions."""
        ...


class TokensEncoding:
    """Encoding `tokens`: an item is L positions, one per level, as in the papers.

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
        """Return the tokens of a sequence of items, int64 [n * L]."""
        tokens: NDArray[np.int64] = self._tokens_NL.take(items, axis=0).reshape(
            -1
        )  # faster than indexing, because it copies whole rows
        return tokens

    def spread(self, per_item: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Repeat each item's value for all of its positions."""
        return np.repeat(per_item, self.positions_per_item)


class PositionEncoding:
    """Encoding `position`: an item is one position with token `text_vocab + item`; the network handles its codes.

    Args:
        text_vocab: number of text tokens.
    """

    positions_per_item = 1

    def __init__(self, text_vocab: int) -> None:
        self._text_vocab = text_vocab

    def positions(self, items: NDArray[Any]) -> NDArray[np.int64]:
        """Return the tokens of a sequence of items, int64 [n]."""
        return items.astype(np.int64) + self._text_vocab

    def spread(self, per_item: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Return the values unchanged."""
        return per_item
