"""Task 7 of method.md 6: the caption of an item's picture to its semantic ID."""

from __future__ import annotations

from trialign.generate.task import Given, ItemList, Part, Task, Text


def parts(given: Given) -> list[Part]:
    """Return caption, then item."""
    return [Text(given.texts.captions[given.item], kind="caption"), ItemList.written(given.item)]


TASK = Task(source="items", parts=parts, needs=("caption",))
