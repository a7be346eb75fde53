"""What a task is: what one record of the dataset gives to read and to write, and how the generator is scored on it."""

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
    """A piece of text, closed by an end token that is learned, or read, with it.

    Args:
        text: what is written of an item; longer than its field may be, it is cut.
        target: whether the generator learns to write it.
        field: of the catalogue that it comes from.
    """

    text: str
    target: bool = False
    field: Field = "title"


@dataclass(frozen=True)
class ItemList:
    """A run of items.

    Args:
        items: item indices, oldest first.
        targets: bool, as many: whether the generator learns to write each.
    """

    items: NDArray[np.integer]
    targets: NDArray[np.bool_]

    @classmethod
    def read(cls, items: ArrayLike) -> ItemList:
        """Return items that are read."""
        read = np.asarray(items)
        return cls(read, np.zeros(len(read), np.bool_))

    @classmethod
    def written(cls, item: int) -> ItemList:
        """Return one item that is written."""
        return cls(np.array([item]), np.array([True]))


Part = Text | ItemList


@dataclass(frozen=True)
class ItemLists:
    """The item lists of many examples, side by side.

    Args:
        items: item indices, of all examples.
        targets: bool, as many: whether the generator learns to write each.
        lengths: int64, items of each example.
    """

    items: NDArray[np.integer]
    targets: NDArray[np.bool_]
    lengths: NDArray[np.int64]


class ItemTexts:
    """The texts of every item of the catalogue, field by field, each field read when it is first asked for.

    Args:
        items: the catalogue.
        enriched: captions and interests by the enrich stage; they are no columns of the catalogue.
    """

    def __init__(self, items: pa.Table, enriched: Evidence | None = None) -> None:
        self._items = items
        self._enriched = enriched or Evidence([], [], [])
        self._texts: dict[Field, list[str]] = {}
        self._known: dict[Field, NDArray[np.bool_]] = {}

    def __len__(self) -> int:
        return int(self._items.num_rows)

    def __getitem__(self, field: Field) -> list[str]:
        """Return a field's text of every item; "" where there is none."""
        if field not in self._texts:
            columns = {"caption": self._enriched.captions, "interests": self._enriched.interests}
            made = columns[field] if field in ENRICHED else field in self._items.column_names
            found = field_texts(field, self._items, self._enriched) if made else [""] * len(self)
            # Blanks alone are no text.
            self._texts[field] = [text.strip() for text in found]
        return self._texts[field]

    def known(self, *fields: Field) -> NDArray[np.bool_]:
        """Return which items have a text in every one of these fields, bool [N]."""
        found = np.ones(len(self), np.bool_)
        for field in fields:
            found &= self.has(field)
        return found

    def has(self, field: Field) -> NDArray[np.bool_]:
        """Return which items have a text in a field, bool [N]; the array is shared by all who ask."""
        if field not in self._known:
            self._known[field] = np.array([bool(text) for text in self[field]], np.bool_)
        return self._known[field]


NO_TEXTS = ItemTexts(pa.table({}))


@dataclass(frozen=True)
class CatalogueItem:
    """What a task on items makes an example of: an item of the catalogue, and the texts of all of them."""

    item: int
    texts: ItemTexts = NO_TEXTS

    def text(self, field: Field, *, target: bool = False) -> Text:
        """Return what the catalogue says of the item in a field; `target` as in `Text`."""
        return Text(self.texts[field][self.item], target, field)


@dataclass(frozen=True)
class Window:
    """What a task on histories makes an example of: a window of a training history.

    Args:
        items: item indices, oldest first.
        first_target: the position that the window owns first; the ones before belong to an earlier window.
        texts: of the whole catalogue.
        draw: a number in 0..1 that decides where an example leaves something to chance.
        learned: bool, of each position, whether it may be learned; None: all of them may.
    """

    items: NDArray[np.integer]
    first_target: int
    texts: ItemTexts = NO_TEXTS
    draw: float = 0.0
    learned: NDArray[np.bool_] | None = None

    def text(self, field: Field, item: int, *, target: bool = False) -> Text:
        """Return what the catalogue says of an item in a field; `target` as in `Text`."""
        return Text(self.texts[field][item], target, field)

    def targets(self) -> NDArray[np.bool_]:
        """Return which positions of the window may be a target: those it owns, if they may be learned."""
        # The first item of all follows nothing that was read.
        owned: NDArray[np.bool_] = np.arange(len(self.items)) >= max(self.first_target, 1)
        return owned if self.learned is None else owned & self.learned

    def drawn_target(self, *, read: Field | None = None, written: Field | None = None) -> DrawnTarget | None:
        """Return the item at one of the positions of `targets`, drawn, and the last items before it.

        Args:
            read: the field of the items before it that is read: one of them, at least, must have it. Those that have
                none are left out. None: the items themselves are read.
            written: the field of the item that is written, so it must have it. None: the item itself is written.

        Returns:
            None where no position will do.
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
    """An item of a history, and at most PROMPT_ITEMS items before it."""

    before: NDArray[np.integer]
    item: int


@dataclass(frozen=True)
class ItemTask:
    """A task on the catalogue: each item is an example.

    Args:
        parts: what is read and written of an item, in order; the task's task token is before it.
        needs: fields that it reads or writes. An item that lacks one of them is no example.
        evaluation: how `trialign evaluate` scores the task. It asks by all parts but the last, which is the right
            answer: an item that is searched for in the whole catalogue (`finds`: recall) or a text that is written
            (`writes`: exact match, overlap of words). None: not at all.
    """

    parts: Callable[[CatalogueItem], list[Part]]
    needs: tuple[Field, ...]
    evaluation: Literal["finds", "writes"] | None = None
    source: ClassVar[Literal["items"]] = "items"
    lists: ClassVar[None] = None

    def given(self, record: Record, texts: ItemTexts, *_: Any) -> CatalogueItem:
        """Return a record of a block as the task takes it; what only histories need is ignored."""
        return CatalogueItem(int(record["item"]), texts)

    def render(self, given: Given) -> list[Part]:
        """Return `parts`, none where the item is no example."""
        assert isinstance(given, CatalogueItem), given
        return self.parts(given) if all(given.texts[field][given.item] for field in self.needs) else []


@dataclass(frozen=True)
class HistoryTask:
    """A task on training histories, window by window. `trialign evaluate` ranks held-out items by `history_to_item`.

    Args:
        parts: as in `ItemTask`. No parts: no example.
        needs: fields that it reads or writes.
        lists: the same as `parts` for many records of a block at once, where it is a single item list: not needed, but
            fast.
    """

    parts: Callable[[Window], list[Part]]
    needs: tuple[Field, ...] = ()
    lists: Callable[[Records, NDArray[np.int64]], ItemLists] | None = None
    source: ClassVar[Literal["train"]] = "train"

    def given(
        self, record: Record, texts: ItemTexts, draw: float = 0.0, learned: NDArray[np.bool_] | None = None
    ) -> Window:
        """Return a record of a block as the task takes it; arguments as in `Window`."""
        return Window(np.asarray(record["items"]), int(record["first_target"]), texts, draw, learned)

    def render(self, given: Given) -> list[Part]:
        """Return `parts`."""
        assert isinstance(given, Window), given
        return self.parts(given)


Given = CatalogueItem | Window
Task = ItemTask | HistoryTask
