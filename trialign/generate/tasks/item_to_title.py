"""Task 3 of method.md 6: an item's semantic ID to its title."""

from __future__ import annotations

from trialign.generate.task import CatalogueItem, ItemList, ItemTask, Part


def parts(given: CatalogueItem) -> list[Part]:
    """Return item, then title."""
    return [ItemList.read([given.item]), given.text("title", target=True)]


TASK = ItemTask(parts, needs=("title",), evaluation="writes")
