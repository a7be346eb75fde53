"""What a source of data hands over, whatever it was: events, a catalogue, pictures, and the truth where it is known."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import ibis
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray


class Oracle(Protocol):
    """Whoever knows how choices are made; only a generated world has one."""

    def next_item(self, history: list[str]) -> NDArray[np.float64]:
        """Return the exact probability of every item to come next.

        Args:
            history: item keys, oldest first; empty for a user who has chosen nothing yet.

        Returns:
            N probabilities that sum to one, in the order of the rows of `RawData.items`.

        Raises:
            DataError: a key of the history is not in the catalogue.
        """
        ...


@dataclass(frozen=True)
class RawData:
    """A catalogue and its events as they were found.

    Attributes:
        events: one row per event: `user` string, `item` string, `order` int64.
        items: one row per item: `item`, `title`, `description`, `brand` strings, `categories` list<string>; what
            an item lacks is "" or [].
        images: yields (item, encoded picture) in any order, items without a picture absent; None where the source has
            no pictures at all.
        has_clock: `order` is a time in seconds, comparable between users; else a rank within the user's list.
        oracle: the exact choice probabilities, where the world is known.
    """

    events: ibis.Table
    items: pa.Table
    images: Callable[[], Iterator[tuple[str, bytes]]] | None
    has_clock: bool
    oracle: Oracle | None = None


class Source(Protocol):
    """Where a catalogue and its events come from."""

    def sources(self) -> dict[str, Path]:
        """Return the outside files that are read, by role; {} for a generated world.

        Raises:
            DataError: one of them does not exist.
        """
        ...

    def load(self, folder: Path) -> RawData:
        """Read the events and the catalogue.

        Args:
            folder: where a generated world writes its raw files; others leave it alone.

        Raises:
            DataError: a file cannot be read as what it claims to be.
        """
        ...
