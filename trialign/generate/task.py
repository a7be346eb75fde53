"""What a task is: how one record of the dataset becomes something to read and something to write."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from trialign.stream.blocks import Record, Records

Kind = Literal["title", "caption"]

PROMPT_ITEMS = 10
"""Items before a drawn position that are read, the last ones (method.md 6, tasks 4 to 6)."""


@dataclass(frozen=True)
class Text:
    """A piece of text, closed by an end token that is learned, or read, with it.

    Args:
        text: what is written of an item; longer than its kind may be, it is cut.
        target: whether the generator learns to write it.
        kind: what it is.
    """

    text: str
    target: bool = False
    kind: Kind = "title"


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
    def read(cls, items: NDArray[np.integer]) -> ItemList:
        """Return items that are read."""
        return cls(items, np.zeros(len(items), np.bool_))

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
    """What is written of every item of the catalogue.

    Args:
        titles: one per item; "" where there is none.
        captions: likewise; none at all is the same as only empty ones.
    """

    def __init__(self, titles: Sequence[str], captions: Sequence[str] = ()) -> None:
        assert len(captions) in (0, len(titles)), (len(captions), len(titles))
        # Blanks alone are no title.
        self.titles = [title.strip() for title in titles]
        self.captions = [caption.strip() for caption in captions] or [""] * len(titles)
        self._known = {
            "title": np.array([bool(title) for title in self.titles]),
            "caption": np.array([bool(caption) for caption in self.captions]),
        }

    def known(self, *kinds: Kind) -> NDArray[np.bool_]:
        """Return which items have a text of every one of these kinds, bool [N]."""
        found = np.ones(len(self.titles), np.bool_)
        for kind in kinds:
            found &= self._known[kind]
        return found


NO_TEXTS = ItemTexts([])


@dataclass(frozen=True)
class Given:
    """What a task makes an example of.

    Args:
        record: a window of a history (`items`, `first_target`), or an item of the catalogue (`item`).
        texts: what is written of the items.
        draw: a number in 0..1 that decides where an example leaves something to chance.
        learned: bool, of each position of a window, whether it may be learned; None: all of them may.
    """

    record: Record
    texts: ItemTexts = NO_TEXTS
    draw: float = 0.0
    learned: NDArray[np.bool_] | None = None

    @property
    def item(self) -> int:
        """The item of the catalogue."""
        return int(self.record["item"])

    def targets(self) -> NDArray[np.bool_]:
        """Return which positions of the window may be a target: those it owns, if they may be learned."""
        # The first item of all follows nothing that was read.
        owned: NDArray[np.bool_] = np.arange(len(self.record["items"])) >= max(self.record["first_target"], 1)
        return owned if self.learned is None else owned & self.learned

    def drawn_target(self, *, read_titles: bool, written_title: bool) -> tuple[NDArray[Any], int] | None:
        """Return the item at one of the positions of `targets`, drawn, and the last items before it.

        Args:
            read_titles: the titles of the items before it are read: one of them, at least, must have one. Those that
                have none are left out.
            written_title: its own title is written, so it must have one.

        Returns:
            (at most PROMPT_ITEMS items, the item), or None where no position will do.
        """
        items = np.asarray(self.record["items"])
        possible = self.targets()
        if read_titles or written_title:
            titled = self.texts.known("title")[items]
            if written_title:
                possible &= titled
            if read_titles:
                before = np.concatenate([[0], np.cumsum(titled)])
                places = np.arange(len(items))
                possible &= before[places] > before[np.maximum(places - PROMPT_ITEMS, 0)]
        places = np.flatnonzero(possible)
        if not len(places):
            return None
        place = int(places[int(self.draw * len(places))])
        last = items[max(place - PROMPT_ITEMS, 0) : place]
        return last[self.texts.known("title")[last]] if read_titles else last, int(items[place])


@dataclass(frozen=True)
class Task:
    """One way of reading a record.

    Args:
        source: which records it reads: `train`, the windows of training histories, or `items`, the catalogue.
        parts: what is read and written, in order; the task's task token stands before it. No parts: no example.
        needs: kinds of text that it reads or writes. An item that lacks one of them is no example of a task whose
            source is `items`.
        lists: the same as `parts` for many records of a block at once, where it is a single item list: not needed, but
            fast.
    """

    source: Literal["train", "items"]
    parts: Callable[[Given], list[Part]]
    needs: tuple[Kind, ...] = ()
    lists: Callable[[Records, NDArray[np.int64]], ItemLists] | None = None
