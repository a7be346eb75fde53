"""Task 5 of method.md 6: from the titles before a random position of a history to the semantic ID of its item."""

from __future__ import annotations

from trialign.generate.task import HistoryTask, ItemList, Part, Window


def parts(given: Window) -> list[Part]:
    """Return the titles of the last items before the position, then the item."""
    drawn = given.drawn_target(read="title")
    if drawn is None:
        return []
    return [*(given.text("title", item) for item in drawn.before), ItemList.written(drawn.item)]


TASK = HistoryTask(parts, needs=("title",))
