"""Task 6 of method.md 6: the titles before one position of a history, drawn, to the title of the item there."""

from __future__ import annotations

from trialign.generate.task import Given, Part, Task, Text


def parts(given: Given) -> list[Part]:
    """Return the titles of the last items before the position, then its own."""
    drawn = given.drawn_target(read_titles=True, written_title=True)
    if drawn is None:
        return []
    items, target = drawn
    return [*(Text(given.texts.titles[item]) for item in items), Text(given.texts.titles[target], target=True)]


TASK = Task(source="train", parts=parts, needs=("title",))
