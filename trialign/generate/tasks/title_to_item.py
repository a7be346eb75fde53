"""Task 2 of method.md 6: an item's title to its semantic ID."""

from __future__ import annotations

from trialign.generate.task import CatalogueItem, ItemList, ItemTask, Part


def parts(given: CatalogueItem) -> list[Part]:
    """Return title, then item."""
    return [given.text("title"), ItemList.written(given.item)]


TASK = ItemTask(parts, needs=("title",), evaluation="finds")
