"""Task 2 of method.md 6: an item's title to its semantic ID."""

from __future__ import annotations

from trialign.generate.task import Given, ItemList, Part, Task, Text


def parts(given: Given) -> list[Part]:
    """Return title, then item."""
    return [Text(given.texts.titles[given.item]), ItemList.written(given.item)]


TASK = Task(source="items", parts=parts, needs=("title",))
