"""The vocabulary that every stage shares.

Shape suffixes used throughout the package, in names such as `codes_NL`:

    N items   B batch   T positions of a row   L levels   K codes per level   D width   W beams   M targets
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

Split = Literal["train", "validation", "test"]
EvaluationSplit = Literal["validation", "test"]

Items = NDArray[np.int32]
"""Item indices: rows of the catalogue's item table, 0..N-1."""

Counts = dict[str, int | list[int] | dict[str, int] | list[dict[str, int]]]
"""What `prepare` counted, for its manifest."""

NO_ITEM = -1
"""Fills a ranking that is shorter than it was asked for (a small catalogue, everything seen)."""


@runtime_checkable
class Ranker(Protocol):
    """A model that ranks the catalogue for a history: the generator and every baseline.

    Examples:
        >>> isinstance(run.ranker(), trialign.Ranker)
        True
    """

    def rank(
        self, histories: list[Items], k: int, *, exclude: Sequence[Items] | None
    ) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
        """Return the `k` best items of each history, best first, and their scores.

        Args:
            histories: B item-index arrays, oldest first; an empty history is legal.
            k: how many items to return.
            exclude: B item-index arrays, items that are filtered out of each ranking; None filters nothing.

        Returns:
            items_BK filled with NO_ITEM, scores_BK filled with -inf, where fewer than `k` items can be ranked.
        """
        ...
