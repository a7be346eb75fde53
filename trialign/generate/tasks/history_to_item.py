"""Task 1 of method.md 6: from a history's semantic IDs to the next item's, at every position in one pass."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from trialign.generate.task import HistoryTask, ItemList, ItemLists, Part, Window
from trialign.stream.blocks import Records


def parts(given: Window) -> list[Part]:
    """Return the items of a window; each item is a target in exactly one of the windows that hold it."""
    # The first item of a history has nothing before it, so a history of n items has n - 1 targets.
    return [ItemList(given.items, given.targets())]


def lists(records: Records, chosen: NDArray[np.int64]) -> ItemLists:
    """Return the same for many windows at once."""
    items, lengths = records.lists("items", chosen)
    first = np.maximum(records.numbers("first_target", chosen), 1)
    begins = np.cumsum(lengths) - lengths
    return ItemLists(items, np.arange(len(items)) >= np.repeat(begins + first, lengths), lengths)


TASK = HistoryTask(parts, lists=lists)
