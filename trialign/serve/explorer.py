"""What lies below each prefix of the semantic IDs: items, what they share, and the prefixes next to it."""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cache, cached_property
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from trialign.errors import DataError

Prefix = tuple[int, ...]

_MOST_NEIGHBOURS = 8
_TRAITS_SHOWN = 4
_LEAST_SHARE = 0.25
"""Of the items below a prefix, so that what they share names it."""


class Trait(NamedTuple):
    """What items share.

    `kind`: category, brand or word. `items`: how many of the items have it; `share`: as a part of them; `expected`: the
    part of the whole catalogue that has it.
    """

    kind: str
    value: str
    items: int
    share: float
    expected: float


class Explorer:
    """Looks up prefixes of semantic IDs.

    Args:
        codes_NL: the semantic IDs.
        texts: kind of trait -> N lists of texts, e.g. of categories.
        codebooks_LKD: the code vectors, which tell near codes; None where they are not known.
    """

    def __init__(
        self,
        codes_NL: NDArray[np.integer[Any]],
        texts: Mapping[str, pa.ListArray],
        codebooks_LKD: NDArray[np.floating[Any]] | None = None,
    ) -> None:
        self.order_N: NDArray[np.intp] = np.lexsort(np.asarray(codes_NL).T[::-1])
        """Items sorted by their codes: the items below a prefix are adjacent, and leaf n of the trie is item n here."""
        self._codes_NL = np.asarray(codes_NL)[self.order_N]
        self._texts = texts
        self._codebooks_LKD = codebooks_LKD
        self._shared = cache(self._find_shared)

    @property
    def num_levels(self) -> int:
        """L."""
        return int(self._codes_NL.shape[1])

    def span(self, prefix: Prefix) -> tuple[int, int]:
        """Return where the items below a prefix lie in `order_N`: start and end.

        Raises:
            DataError: no item has the prefix.
        """
        low, high = 0, len(self.order_N)
        for level, code in enumerate(prefix[: self.num_levels]):
            column = self._codes_NL[low:high, level]
            low, high = low + int(column.searchsorted(code)), low + int(column.searchsorted(code, "right"))
        if low == high or len(prefix) > self.num_levels:
            raise DataError(
                f"no item begins with the codes {' '.join(map(str, prefix))}",
                rule=f"a prefix is the first codes of an item, at most {self.num_levels}",
                remedy="start at the first level: GET /codes",
            )
        return low, high

    def below(self, prefix: Prefix, most: int) -> list[int]:
        """Return items below a prefix, spread evenly where there are more than `most`."""
        low, high = self.span(prefix)
        places = np.linspace(low, high - 1, min(most, high - low)).round().astype(int)
        return [int(item) for item in self.order_N[places]]

    def prefix_of(self, node: int, depth: int) -> Prefix:
        """Return the codes of a node of the trie."""
        return tuple(self._codes_NL[self._starts[depth - 1][node], :depth].tolist())

    def parents(self, nodes: NDArray[np.int64], depth: int) -> NDArray[np.intp]:
        """Return the node one level up of each node of a depth of at least 2."""
        return np.searchsorted(self._starts[depth - 2], self._starts[depth - 1][nodes], "right") - 1

    def children(self, prefix: Prefix) -> list[tuple[Prefix, int]]:
        """Return the prefixes one code longer and their numbers of items, the most frequent first."""
        low, high = self.span(prefix)
        if len(prefix) == self.num_levels:
            return []
        codes, counts = np.unique(self._codes_NL[low:high, len(prefix)], return_counts=True)
        order = np.argsort(-counts, kind="stable")
        return [((*prefix, int(codes[place])), int(counts[place])) for place in order]

    def neighbours(self, prefix: Prefix) -> list[tuple[Prefix, int]]:
        """Return the nearest prefixes that differ in the last code, and their numbers of items.

        Near by the distance of the code vectors where they are known, else by the number of the code.
        """
        if not prefix:
            return []
        others = [found for found in self.children(prefix[:-1]) if found[0] != prefix]
        books, level = self._codebooks_LKD, len(prefix) - 1
        if books is None or level >= len(books):
            return heapq.nsmallest(_MOST_NEIGHBOURS, others, key=lambda found: abs(found[0][-1] - prefix[-1]))
        distances_K = ((books[level] - books[level][prefix[-1]]) ** 2).sum(axis=1)
        return heapq.nsmallest(_MOST_NEIGHBOURS, others, key=lambda found: float(distances_K[found[0][-1]]))

    def shared(self, prefix: Prefix) -> tuple[Trait, ...]:
        """Return what the items below a prefix share more than the catalogue does, what tells most first."""
        return self._shared(prefix)

    def label(self, prefix: Prefix) -> str:
        """Return a few words on what the items below a prefix share, "" where they share little."""
        telling = [trait for trait in self.shared(prefix) if trait.share >= _LEAST_SHARE]
        return f"{100 * telling[0].share:.0f} % {telling[0].value}" if telling else ""

    def _find_shared(self, prefix: Prefix) -> tuple[Trait, ...]:
        low, high = self.span(prefix)
        if high - low == len(self.order_N) or high - low == 1:
            return ()  # everything shares nothing more than everything does, and one item shares nothing
        items = pa.array(self.order_N[low:high])
        found = []
        for kind, texts in self._texts.items():
            total, have = self._totals[kind], texts.take(items)
            for value, count in Counter(pc.list_flatten(have).to_pylist()).items():
                share, expected = count / (high - low), total[value] / len(self.order_N)
                if value and count > 1 and share > expected:
                    found.append(Trait(kind, value, count, share, expected))
        best = heapq.nlargest(2 * _TRAITS_SHOWN, found, key=lambda trait: trait.share - trait.expected)
        names = {trait.value.lower() for trait in best if trait.kind != "word"}
        return tuple([trait for trait in best if trait.kind != "word" or trait.value not in names][:_TRAITS_SHOWN])

    @cached_property
    def _totals(self) -> dict[str, dict[str, int]]:
        """How many items of the catalogue have each text of each kind."""
        counted = {kind: pc.value_counts(pc.list_flatten(texts)) for kind, texts in self._texts.items()}
        return {kind: {row["values"]: row["counts"] for row in found.to_pylist()} for kind, found in counted.items()}

    @cached_property
    def _starts(self) -> list[NDArray[np.intp]]:
        """Per level the place of each node's first item."""
        new = np.zeros(len(self._codes_NL), dtype=bool)
        new[0] = True
        starts = []
        for level in range(self.num_levels):
            column = self._codes_NL[:, level]
            new = new | np.append(True, column[1:] != column[:-1])
            starts.append(np.flatnonzero(new))
        return starts


def words_of(titles: pa.Array) -> pa.ListArray:
    """Return the distinct words of each title, of three letters at least, in lower case."""
    cut: Sequence[str | None] = pc.utf8_lower(titles).to_pylist()
    words = [sorted({word for word in (text or "").split() if len(word) > 2 and word.isalpha()}) for text in cut]
    return pa.array(words, pa.list_(pa.string()))
