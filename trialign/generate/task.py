"""Tasks: how a record of the dataset becomes an example of inputs and targets, and how the task is evaluated."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import pyarrow as pa
from numpy.typing import ArrayLike, NDArray

from trialign.embed.evidence import ENRICHED, Field, field_texts
from trialign.enrich.evidence import Evidence
from trialign.stream.blocks import Record, Records

PROMPT_ITEMS = 10
"""Items before a drawn position that are read, the last ones (method.md 6, tasks 4 to 6)."""


@dataclass(frozen=True)
class Text:
    """A part of an example: text with an end token; both are target or both are input.

    Args:
        text: the text; it is cut to the maximum length of its field.
        target: whether the generator learns to write it.
        field: the field of the catalogue that it comes from.
    """

    text: str
    target: bool = False
    field: Field = "title"


@dataclass(frozen=True)
class ItemList:
    """A part of an example: a sequence of items.

    Args:
        items: item indices, oldest first.
        targets: bool, as many: whether the generator learns to write each.
    """

    items: NDArray[np.integer]
    targets: NDArray[np.bool_]

    @classmethod
    def read(cls, items: ArrayLike) -> ItemList:
        """Return items as inputs."""
        read = np.asarray(items)
        return cls(read, np.zeros(len(read), np.bool_))

    @classmethod
    def written(cls, item: int) -> ItemList:
        """Return one item as a target."""
        return cls(np.array([item]), np.array([True]))


Part = Text | ItemList


@dataclass(frozen=True)
class ItemLists:
    """The item lists of many examples, concatenated.

    Args:
        items: item indices, of all examples.
        targets: bool, as many: whether the generator learns to write each.
        lengths: int64, number of items of each example.
    """

    items: NDArray[np.integer]
    targets: NDArray[np.bool_]
    lengths: NDArray[np.int64]


class ItemTexts:
    """The texts of all items by field, from the catalogue and the enrich stage; a field is read at its first use.

    Args:
        items: the catalogue.
        enriched: captions and interests by the enrich stage, which are not columns of the catalogue.
    """

    def __init__(self, items: pa.Table, enriched: Evidence | None = None) -> None:
        self._items = items
        self._enriched = enriched or Evidence([], [], [])
        self._texts: dict[Field, list[str]] = {}
        self._known: dict[Field, NDArray[np.bool_]] = {}

    def __len__(self) -> int:
        return int(self._items.num_rows)

    def __getitem__(self, field: Field) -> list[str]:
        """Return the field's text of every item; "" if an item has none."""
        if field not in self._texts:
            columns = {"caption": self._enriched.captions, "interests": self._enriched.interests}
            made = columns[field] if field in ENRICHED else field in self._items.column_names
            found = field_texts(field, self._items, self._enriched) if made else [""] * len(self)
            # A text of blanks counts as no text.
            self._texts[field] = [text.strip() for text in found]
        return self._texts[field]

    def known(self, *fields: Field) -> NDArray[np.bool_]:
        """Return which items have a text in every one of these fields, bool [N]."""
        found = np.ones(len(self), np.bool_)
        for field in fields:
            found &= self.has(field)
        return found

    def has(self, field: Field) -> NDArray[np.bool_]:
        """Return which items have a text in a field, bool [N]; the array is cached, so do not change it."""
        if field not in self._known:
            self._known[field] = np.array([bool(text) for text in self[field]], np.bool_)
        return self._known[field]


NO_TEXTS = ItemTexts(pa.table({}))


@dataclass(frozen=True)
class CatalogueItem:
    """A record of a task on the catalogue: an item, with the texts of all items."""

    item: int
    texts: ItemTexts = NO_TEXTS

    def text(self, field: Field, *, target: bool = False) -> Text:
        """Return the item's text in a field; `target` as in `Text`."""
        return Text(self.texts[field][self.item], target, field)


@dataclass(frozen=True)
class Window:
    """A record of a task on histories: a window of a training history.

    Args:
        items: item indices, oldest first.
        first_target: first position that may be a target here; those before are targets in an earlier window.
        texts: of the whole catalogue.
        draw: a random number in 0..1, for tasks that draw a position.
        learned: bool, for each position, whether it may be a target; None: all may.
    """

    items: NDArray[np.integer]
    first_target: int
    texts: ItemTexts = NO_TEXTS
    draw: float = 0.0
    learned: NDArray[np.bool_] | None = None

    def text(self, field: Field, item: int, *, target: bool = False) -> Text:
        """Return an item's text in a field; `target` as in `Text`."""
        return Text(self.texts[field][item], target, field)

    def targets(self) -> NDArray[np.bool_]:
        """Return which positions may be a target: those from `first_target` on that may be learned."""
        # The first item of a history has nothing before it to predict it from.
        owned: NDArray[np.bool_] = np.arange(len(self.items)) >= max(self.first_target, 1)
        return owned if self.learned is None else owned & self.learned

    def drawn_target(self, *, read: Field | None = None, written: Field | None = None) -> DrawnTarget | None:
        """Draw one position of `targets`; return its item and the last items before it.

        Args:
            read: the field to read of the items before it. At least one of them must have it; those without it are
                left out. None: the items themselves are read.
            written: the field to write of the item, which must have it. None: the item itself is written.

        Returns:
            None if no position qualifies.
        """
        possible = self.targets()
        if written is not None:
            possible &= self.texts.has(written)[self.items]
        if read is not None:
            before = np.concatenate([[0], np.cumsum(self.texts.has(read)[self.items])])
            places = np.arange(len(self.items))
            possible &= before[places] > before[np.maximum(places - PROMPT_ITEMS, 0)]
        places = np.flatnonzero(possible)
        if not len(places):
            return None
        place = int(places[int(self.draw * len(places))])
        last = self.items[max(place - PROMPT_ITEMS, 0) : place]
        return DrawnTarget(last if read is None else last[self.texts.has(read)[last]], int(self.items[place]))


@dataclass(frozen=True)
class DrawnTarget:
    """A target item of a history, with at most PROMPT_ITEMS items before it."""

    before: NDArray[np.integer]
    item: int


@dataclass(frozen=True)
class ItemTask:
    """A task on the catalogue: each item is an example.

    Args:
        parts: returns the parts of an example in order, without the task token at its beginning.
        needs: fields that it reads or writes. An item without one of them is not an example.
        evaluation: how `trialign evaluate` scores the task. The prompt is all parts but the last, which is the target:
            an item to find in the catalogue (`finds`: recall) or a text to write (`writes`: exact match, word F1).
            None: the task is not scored.
    """

    parts: Callable[[CatalogueItem], list[Part]]
    needs: tuple[Field, ...]
    evaluation: Literal["finds", "writes"] | None = None
    source: ClassVar[Literal["items"]] = "items"
    lists: ClassVar[None] = None

    def given(self, record: Record, texts: ItemTexts, *_: Any) -> CatalogueItem:
        """Return a record of a block as a `CatalogueItem`; the arguments for histories are ignored."""
        return CatalogueItem(int(record["item"]), texts)

    def render(self, given: Given) -> list[Part]:
        """Return the parts of an example; empty if the item is not an example."""
        assert isinstance(given, CatalogueItem), given
        return self.parts(given) if all(given.texts[field][given.item] for field in self.needs) else []


@dataclass(frozen=True)
class HistoryTask:
    """A task on training histories, window by window. `trialign evaluate` ranks held-out items by `history_to_item`.

    Args:
        parts: as in `ItemTask`; an empty list means that the window is not an example.
        needs: fields that it reads or writes.
        lists: an optional fast version of `parts` for many records at once, for tasks whose example is one item list.
    """

    parts: Callable[[Window], list[Part]]
    needs: tuple[Field, ...] = ()
    lists: Callable[[Records, NDArray[np.int64]], ItemLists] | None = None
    source: ClassVar[Literal["train"]] = "train"

    def given(
        self, record: Record, texts: ItemTexts, draw: float = 0.0, learned: NDArray[np.bool_] | None = None
    ) -> Window:
        """Return a record of a block as a `Window`; arguments as there."""
        return Window(np.asarray(record["items"]), int(record["first_target"]), texts, draw, learned)

    def render(self, given: Given) -> list[Part]:
        """Return `parts`."""
        assert isinstance(given, Window), given
        return self.parts(given)


Given = CatalogueItem | Window
Task = ItemTask | HistoryTask
