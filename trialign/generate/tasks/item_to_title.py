"""Task 3 of method.md 6: an item's semantic ID to its title."""

from __future__ import annotations

import numpy as np

from trialign.generate.task import Given, ItemList, Part, Task, Text


def parts(given: Given) -> list[Part]:
    """Return item, then title."""
    return [ItemList.read(np.array([given.item])), Text(given.texts.titles[given.item], target=True)]


TASK = Task(source="items", parts=parts, needs=("title",))
