"""Task 5 of method.md 6: the titles before one position of a history, drawn, to the semantic ID of the item there."""

from __future__ import annotations

from trialign.generate.task import HistoryTask, ItemList, Part, Window


def parts(given: Window) -> list[Part]:
    """Return the titles of the last items before the position, then the item."""
    drawn = given.drawn_target(read="title")
    if drawn is None:
        return []
    return [*(given.text("title", item) for item in drawn.before), ItemList.written(drawn.item)]


TASK = HistoryTask(parts, needs=("title",))
