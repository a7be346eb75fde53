"""Task 9 of method.md 6: an item's semantic ID to the caption of its picture; it serves evaluation."""

from __future__ import annotations

import numpy as np

from trialign.generate.task import Given, ItemList, Part, Task, Text


def parts(given: Given) -> list[Part]:
    """Return item, then caption."""
    caption = Text(given.texts.captions[given.item], target=True, kind="caption")
    return [ItemList.read(np.array([given.item])), caption]


TASK = Task(source="items", parts=parts, needs=("caption",))
