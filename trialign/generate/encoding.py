"""How items become positions of a row: the side of an item encoding that needs no network (method.md 6)."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from trialign.semid.tokens import TokenSpace


class ItemEncoding(Protocol):
    """Where the items of a row are, and under which token ids."""

    @property
    def positions_per_item(self) -> int:
        """How many positions one item takes."""
        ...

    def positions(self, items: NDArray[Any]) -> NDArray[np.int64]:
        """Return the tokens of a run of items, int64 [n * positions_per_item]; all are at least the text vocabulary."""
        ...

    def spread(self, per_item: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Return a value of each item as a value of each of its positions."""
        ...


class TokensEncoding:
    """An item is L positions, one per level: the form of the papers (encoding `tokens`).

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
        tokens: NDArray[np.int64] = self._tokens_NL.take(items, axis=0).reshape(
            -1
        )  # copies whole rows, which indexing does not
        return tokens

    def spread(self, per_item: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Return a value of each item as a value of each of its positions."""
        return np.repeat(per_item, self.positions_per_item)


class PositionEncoding:
    """An item is one position (encoding `position`): token `text_vocab + item`; its codes are the network's business.

    Args:
        text_vocab: number of text tokens.
    """

    positions_per_item = 1

    def __init__(self, text_vocab: int) -> None:
        self._text_vocab = text_vocab

    def positions(self, items: NDArray[Any]) -> NDArray[np.int64]:
        """Return the tokens of a run of items, int64 [n]."""
        return items.astype(np.int64) + self._text_vocab

    def spread(self, per_item: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Return the values as they are."""
        return per_item
