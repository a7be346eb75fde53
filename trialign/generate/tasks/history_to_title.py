"""Task 4 of method.md 6: from the semantic IDs before a random position of a history to the title of its item."""

from __future__ import annotations

from trialign.generate.task import HistoryTask, ItemList, Part, Window


def parts(given: Window) -> list[Part]:
    """Return the last items before the position, then the title."""
    drawn = given.drawn_target(written="title")
    if drawn is None:
        return []
    return [ItemList.read(drawn.before), given.text("title", drawn.item, target=True)]


TASK = HistoryTask(parts, needs=("title",))
