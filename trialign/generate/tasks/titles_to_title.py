"""Task 6 of method.md 6: from the titles before a random position of a history to the title of its item."""

from __future__ import annotations

from trialign.generate.task import HistoryTask, Part, Window


def parts(given: Window) -> list[Part]:
    """Return the titles of the last items before the position, then the title of its item."""
    drawn = given.drawn_target(read="title", written="title")
    if drawn is None:
        return []
    read = (given.text("title", item) for item in drawn.before)
    return [*read, given.text("title", drawn.item, target=True)]


TASK = HistoryTask(parts, needs=("title",))
