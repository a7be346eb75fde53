"""Task 8 of method.md 6: the caption of an item's picture to its title."""

from __future__ import annotations

from trialign.generate.task import Given, Part, Task, Text


def parts(given: Given) -> list[Part]:
    """Return caption, then title."""
    caption, title = given.texts.captions[given.item], given.texts.titles[given.item]
    return [Text(caption, kind="caption"), Text(title, target=True)]


TASK = Task(source="items", parts=parts, needs=("caption", "title"))
