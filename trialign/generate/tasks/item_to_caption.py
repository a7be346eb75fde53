"""Task 9 of method.md 6: an item's semantic ID to the caption of its picture; used in evaluation."""

from __future__ import annotations

from trialign.generate.task import CatalogueItem, ItemList, ItemTask, Part


def parts(given: CatalogueItem) -> list[Part]:
    """Return item, then caption."""
    return [ItemList.read([given.item]), given.text("caption", target=True)]


TASK = ItemTask(parts, needs=("caption",), evaluation="writes")
