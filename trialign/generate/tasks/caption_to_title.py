"""Task 8 of method.md 6: the caption of an item's picture to its title."""

from __future__ import annotations

from trialign.generate.task import CatalogueItem, ItemTask, Part


def parts(given: CatalogueItem) -> list[Part]:
    """Return caption, then title."""
    return [given.text("caption"), given.text("title", target=True)]


TASK = ItemTask(parts, needs=("caption", "title"))
