"""Task 5 of method.md 6: the titles before one position of a history, drawn, to the semantic ID of the item there."""

from __future__ import annotations

from trialign.generate.task import Given, ItemList, Part, Task, Text


def parts(given: Given) -> list[Part]:
    """Return the titles of the last items before the position, then the item."""
    drawn = given.drawn_target(read_titles=True, written_title=False)
    if drawn is None:
        return []
    items, target = drawn
    return [*(Text(given.texts.titles[item]) for item in items), ItemList.written(target)]


TASK = Task(source="train", parts=parts, needs=("title",))
