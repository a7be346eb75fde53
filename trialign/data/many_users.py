"""Users in blocks of a fixed size, for whom items are recommended: all of the logs, or those that a file names."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
import pyarrow as pa

from trialign.data.dataset import Dataset, User
from trialign.data.sources.columns import as_key, as_keys
from trialign.data.sources.formats import Dialect, read_rows, readable
from trialign.errors import DataError, listing

BLOCK = 4096
"""Users of every block but the last. Fixed, so that what is written does not depend on who writes it."""
_SEPARATOR = " "
"""Between the items of a history that is one text, as in the ready examples of `data=examples`."""


class UserBlock(NamedTuple):
    """The users of one block and their keys."""

    number: int
    keys: list[str]
    users: list[User]


class ManyUsers(Protocol):
    """Users in blocks of `size`, the last one shorter."""

    num_users: int
    size: int

    def blocks(self, wanted: Callable[[int], bool]) -> Iterator[UserBlock]:
        """Yield the blocks whose number is wanted, in order; one is in memory at a time."""
        ...


class AllUsers:
    """Every user of the logs as of now, in hash order.

    Args:
        dataset: that `prepare` made.
        size: users of a block.
    """

    def __init__(self, dataset: Dataset, size: int = BLOCK) -> None:
        self._dataset, self.size = dataset, size
        self.num_users = dataset.store("users").num_records

    def blocks(self, wanted: Callable[[int], bool]) -> Iterator[UserBlock]:
        """See `ManyUsers`."""
        for number, start in enumerate(range(0, self.num_users, self.size)):
            if wanted(number):
                yield UserBlock(number, *self._dataset.users(start, min(start + self.size, self.num_users)))


class UsersOfFile:
    """The users that a file names, in its order: users of the logs, or histories that it brings.

    Args:
        dataset: that `prepare` made.
        path: Parquet, CSV, TSV or JSON lines with a column `user`, and a column `items` (keys, oldest first) where the
            histories are not those of the logs.
        size: users of a block.

    Raises:
        DataError: it cannot be read as what it claims to be, or has no column `user`.
    """

    def __init__(self, dataset: Dataset, path: Path, size: int = BLOCK) -> None:
        self._dataset, self._path, self.size = dataset, path, size
        if not path.is_file():
            raise DataError(
                f"recommend.users={path} is not a file",
                rule="recommend.users is `all`, or a file of users: Parquet, CSV or JSON lines",
                remedy="fix the path, or set recommend.users=all",
            )
        (part,) = read_rows([path], None, Dialect())
        if "user" not in part.table.columns:
            raise DataError(
                f"{path} has no column 'user'",
                rule="a file of users names one in every row; a column `items` may bring the history",
                remedy=f"add or rename that column; {listing(part.table.columns)}",
            )
        rows = {"user": as_key(part.table["user"], [path])}
        if "items" in part.table.columns:
            rows["items"] = as_keys(part.table["items"], _SEPARATOR, [path])
        self._rows = part.table.select(**rows)
        with readable([path]):
            self.num_users = int(self._rows.count().execute())

    def blocks(self, wanted: Callable[[int], bool]) -> Iterator[UserBlock]:
        """See `ManyUsers`.

        Raises:
            DataError: a row names no user, a user that the logs do not hold, or an item that the catalogue does not.
        """
        for number, batch in enumerate(self._batches()):
            if not wanted(number):
                continue
            keys = batch["user"].to_pylist()
            if None in keys:
                row = number * self.size + keys.index(None) + 1
                raise DataError(
                    f"row {row:,} of {self._path} names no user",
                    rule="a user is named by text or an integer",
                    remedy="name it, or leave the row out",
                )
            yield UserBlock(number, keys, self._users(batch, keys))

    def _users(self, batch: pa.RecordBatch, keys: list[str]) -> list[User]:
        if "items" not in batch.schema.names:
            return self._dataset.users_of(keys)
        nothing, none = np.empty(0, np.int64), np.empty(0, np.int32)
        lists = (batch["items"][row].as_py() or () for row in range(len(keys)))
        return [
            User(np.array([self._dataset.item_of(key) for key in items], np.int32), nothing, none) for items in lists
        ]

    def _batches(self) -> Iterator[pa.RecordBatch]:
        """Yield the rows, `size` at a time whatever the reader's own batches are."""
        pending: list[pa.RecordBatch] = []
        with readable([self._path]):
            for batch in self._rows.to_pyarrow_batches(chunk_size=self.size):
                pending.append(batch)
                while sum(part.num_rows for part in pending) >= self.size:
                    rows = pa.concat_batches(pending)
                    yield rows[: self.size]
                    pending = [rows[self.size :]]
            if sum(part.num_rows for part in pending):
                yield pa.concat_batches(pending)
