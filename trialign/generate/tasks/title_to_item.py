"""Task 2 of method.md 6: an item's title to its semantic ID."""

from __future__ import annotations

import numpy as np

from trialign.data.blocks import Record
from trialign.generate.task import ItemList, Task, Text


def parts(record: Record) -> list[Text | ItemList]:
    """Return title, then item. Items without a title share the empty one: what can be said of them is a prior."""
    return [Text(record["title"]), ItemList(np.array([record["item"]]), targets=np.array([True]))]


TASK = Task(source="items", parts=parts)
