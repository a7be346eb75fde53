"""The interface of a source of data: events, a catalogue, pictures, and the truth of a generated world."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import ibis
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray


class Oracle(Protocol):
    """The true choice probabilities; only a generated world has an oracle."""

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
class Unreadable:
    """Values of one column of a log that could not be parsed; they are null in `RawData.events`.

    Attributes:
        count: how many.
        example: the row of one of them.
        rule: what they should have been.
    """

    count: int
    example: str
    rule: str


@dataclass(frozen=True, kw_only=True)
class RawData:
    """A catalogue and its events, or ready examples, unchecked; exactly one of `events` and `examples` is set.

    Rows may come in any order and hold faults: nulls, unknown items, absurd times. `prepare` sorts, and names what is
    wrong with counts and examples; a source refuses only what it cannot read.

    Attributes:
        items: one row per item: `item`, `title`, `description`, `brand` strings, `categories` list<string>; what
            an item lacks is "" or []. And `caption`, a string, where the source has captions.
        has_clock: `order` is a time in whole seconds since 1970, comparable between users; else a rank within the
            user's list. False where there are examples.
        events: one row per event: `user` string, `item` string, `order` int64, and optionally int64 columns that decide
            among a user's events of equal order: `fine`, the nanoseconds beyond the second, then `tie`. Where nothing
            decides, a hash does (see `ties`).
        unreadable: what is null in `events` and was not in the log, by `user`, `item`, `order`, `tie`.
        examples: one row per ready example of the split `given`: `user` string, `items` list<string> (what the user
            had chosen, oldest first), `target` list<string> (what came next, at least one; a train row has exactly
            one), `split` string: `train`, `validation` or `test`. A user may have any number of rows.
        images: yields (item, encoded picture) in any order, items without a picture absent; None where the source has
            no pictures at all.
        oracle: the exact choice probabilities, where the world is known.
        truth: one row per item of what it is, where the world is known: `item` and any number of string columns, null
            where nothing shows it. For evaluation, never for training.
    """

    items: pa.Table
    has_clock: bool
    events: ibis.Table | None = None
    unreadable: Mapping[str, Unreadable] = field(default_factory=dict)
    examples: ibis.Table | None = None
    images: Callable[[], Iterator[tuple[str, bytes]]] | None = None
    oracle: Oracle | None = None
    truth: pa.Table | None = None


class Source(Protocol):
    """A source of a catalogue and its events."""

    def sources(self) -> dict[str, Path]:
        """Return the outside files that are read, by role; {} for a generated world.

        Raises:
            DataError: one of them does not exist.
        """
        ...

    def load(self, folder: Path) -> RawData:
        """Read the events and the catalogue.

        Logs are read lazily by Ibis' current backend (`ibis.read_parquet(path)`, `ibis.read_csv(...)`,
        `ibis.read_json(...)`), which `prepare` has set under `data.memory` and `data.threads`; `ibis.memtable` is for
        what fits into memory.

        Args:
            folder: where a generated world writes its raw files; others leave it alone.

        Raises:
            DataError: a file cannot be read as what it claims to be.
        """
        ...
