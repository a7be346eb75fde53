"""Task 1 of method.md 6: the history's semantic IDs to the next one, at every position in one pass."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from trialign.generate.task import HistoryTask, ItemList, ItemLists, Part, Window
from trialign.stream.blocks import Records


def parts(given: Window) -> list[Part]:
    """Return a window of a history; an item is a target in the one window that owns it."""
    # The first item of all follows nothing that was read, so it is no example of this task: n items are n - 1.
    return [ItemList(given.items, given.targets())]


def lists(records: Records, chosen: NDArray[np.int64]) -> ItemLists:
    """Return the same of many windows."""
    items, lengths = records.lists("items", chosen)
    first = np.maximum(records.numbers("first_target", chosen), 1)
    begins = np.cumsum(lengths) - lengths
    return ItemLists(items, np.arange(len(items)) >= np.repeat(begins + first, lengths), lengths)


TASK = HistoryTask(parts, lists=lists)
