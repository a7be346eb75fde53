"""Task 7 of method.md 6: the caption of an item's picture to its semantic ID."""

from __future__ import annotations

from trialign.generate.task import CatalogueItem, ItemList, ItemTask, Part


def parts(given: CatalogueItem) -> list[Part]:
    """Return caption, then item."""
    return [given.text("caption"), ItemList.written(given.item)]


TASK = ItemTask(parts, needs=("caption",), evaluation="finds")
