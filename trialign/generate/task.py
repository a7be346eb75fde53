"""What a task is: how one record of the dataset becomes something to read and something to write."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from trialign.data.blocks import Record, Records


@dataclass(frozen=True)
class Text:
    """A piece of text, closed by an end token that is learned, or read, with it.

    Args:
        text: may be empty: then the end token alone says that there is none.
        target: whether the generator learns to write it.
    """

    text: str
    target: bool = False


@dataclass(frozen=True)
class ItemList:
    """A run of items.

    Args:
        items: item indices, oldest first.
        targets: bool, as many: whether the generator learns to write each.
    """

    items: NDArray[np.integer]
    targets: NDArray[np.bool_]


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


@dataclass(frozen=True)
class Task:
    """One way of reading a record.

    Args:
        source: which records it reads: `train`, the windows of training histories, or `items`, the catalogue.
        parts: what is read and written, in order; the task's marker stands before it.
        lists: the same for many records of a block at once, where it is a single item list: not needed, but fast.
    """

    source: Literal["train", "items"]
    parts: Callable[[Record], list[Text | ItemList]]
    lists: Callable[[Records, NDArray[np.int64]], ItemLists] | None = None
