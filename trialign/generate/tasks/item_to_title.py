"""Task 3 of method.md 6: an item's semantic ID to its title."""

from __future__ import annotations

import numpy as np

from trialign.data.blocks import Record
from trialign.generate.task import ItemList, Task, Text


def parts(record: Record) -> list[Text | ItemList]:
    """Return item, then title. Without a title the generator learns to say that there is none: the end token alone."""
    return [ItemList(np.array([record["item"]]), targets=np.array([False])), Text(record["title"], target=True)]


TASK = Task(source="items", parts=parts)
