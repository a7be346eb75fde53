"""Task 4 of method.md 6: the semantic IDs before one position of a history, drawn, to the title of the item there."""

from __future__ import annotations

from trialign.generate.task import Given, ItemList, Part, Task, Text


def parts(given: Given) -> list[Part]:
    """Return the last items before the position, then the title."""
    drawn = given.drawn_target(read_titles=False, written_title=True)
    if drawn is None:
        return []
    items, target = drawn
    return [ItemList.read(items), Text(given.texts.titles[target], target=True)]


TASK = Task(source="train", parts=parts, needs=("title",))
