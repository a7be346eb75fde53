"""The items that a service knows, by index and by key."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from trialign.serve.schema import Item


@dataclass(frozen=True)
class Catalogue:
    """The items by index: keys, titles and semantic IDs.

    Args:
        keys: N keys.
        titles: N titles, "" where there is none.
        codes_NL: N semantic IDs.
    """

    keys: Sequence[str]
    titles: pa.Array
    codes_NL: NDArray[Any]

    @cached_property
    def index(self) -> dict[str, int]:
        """The index of every key."""
        return {key: item for item, key in enumerate(self.keys)}

    def search(self, words: str, most: int) -> list[int]:
        """Return the first `most` items whose title has all the words, whatever their case; a key finds its item."""
        if words in self.index:
            return [self.index[words]]
        found = pa.array(np.ones(len(self.keys), dtype=bool))
        for word in words.split():
            found = pc.and_(found, pc.match_substring(self.titles, word, ignore_case=True))
        places: list[int] = pc.indices_nonzero(found)[:most].to_pylist()
        return places

    def item(self, item: int) -> Item:
        """Return an item as answers show it."""
        return Item(item=self.keys[item], title=self.titles[item].as_py(), sid=self.codes_NL[item].tolist())
