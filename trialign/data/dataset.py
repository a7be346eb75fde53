"""The prepared dataset, as every later stage reads it."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from trialign.data.images import PictureIndex, read_images
from trialign.errors import DataError
from trialign.stream.blocks import arrays_of
from trialign.stream.shards import BlockStore
from trialign.types import EvaluationSplit, Items, Split

StoreName = Literal["train", "validation", "test", "users", "items"]


@dataclass(frozen=True)
class Evaluation:
    """The users of one split, in hash order.

    Attributes:
        users: B user keys.
        histories: B item-index arrays, oldest first, the last window of each history.
        targets: B item-index arrays, what came next.
        older: B item-index arrays, the distinct items that were chosen before the window and are not in it.
    """

    users: list[str]
    histories: list[Items]
    targets: list[Items]
    older: list[Items]

    def first(self, num_users: int) -> Evaluation:
        """Return the first users with all of their examples: a fair sample, as users are in hash order."""
        names = list(dict.fromkeys(self.users))[:num_users]
        end = len(self.users) - self.users[::-1].index(names[-1])
        return Evaluation(self.users[:end], self.histories[:end], self.targets[:end], self.older[:end])

    @cached_property
    def seen(self) -> list[Items]:
        """B item-index arrays: all items that each user had ever chosen."""
        return [_joined(older, history) for older, history in zip(self.older, self.histories, strict=True)]


@dataclass(frozen=True, slots=True)
class Example:
    """One example of a split, by the keys of its items.

    Attributes:
        user: the user's key.
        history: what the user had chosen, oldest first, the last window of it.
        targets: what came next. Of the train split, every one is predicted from all that is before it.
        older: the distinct items that were chosen before the window and are not in it; () in the train split.

    Examples:
        >>> example = next(run.dataset.examples("test"))
        >>> len(example.targets), example.targets[0] in example.history
        (1, False)
    """

    user: str
    history: tuple[str, ...]
    targets: tuple[str, ...]
    older: tuple[str, ...] = ()


@dataclass(frozen=True)
class User:
    """A user as of now, held-out events included.

    Attributes:
        history: item indices, oldest first, the last window of everything the user chose.
        times: int64, of these events.
        older: the distinct items that were chosen before the window and are not in it.
    """

    history: Items
    times: NDArray[np.int64]
    older: Items

    @property
    def seen(self) -> Items:
        """All items that the user ever chose."""
        return _joined(self.older, self.history)


def _users(batch: pa.RecordBatch) -> list[User]:
    return list(map(User, *(arrays_of(batch[name]) for name in ("items", "times", "older"))))


def _joined(older: Items, history: Items) -> Items:
    return np.concatenate([older, history]) if len(older) else history


class _History(NamedTuple):
    """Items and the times they were ordered by."""

    items: Items
    times: NDArray[np.int64]

    def continued(self, record: _History, first_target: int) -> _History | None:
        """Return this history extended by a record of the same user, None if the record is of another history.

        A window begins with the end of the window before it, up to its first target. Ready examples count time in
        places, which tell what a record repeats: it may also hold all of the history so far.
        """
        for overlap in (first_target, int((self.times >= record.times[0]).sum())):
            repeats = np.array_equal(self.items[-overlap:], record.items[:overlap])
            if overlap and repeats and np.array_equal(self.times[-overlap:], record.times[:overlap]):
                return _History(
                    np.concatenate([self.items, record.items[overlap:]]),
                    np.concatenate([self.times, record.times[overlap:]]),
                )
        return None


class Dataset:
    """The dataset that `trialign prepare` wrote.

    Args:
        folder: the stage's directory.

    Attributes:
        items: the catalogue as an Arrow table, row n for item index n.
        keys: the N keys of the items, by index.

    Raises:
        DataError: it holds no item table, or was written by a version with another format.

    Examples:
        >>> dataset = trialign.Dataset("runs/quickstart/prepare")
        >>> dataset.keys[dataset.item_of("item-0000007")]
        'item-0000007'
        >>> dataset.items.column_names[:3]
        ['item', 'key', 'title']
        >>> sum(len(example.targets) for example in dataset.examples("validation"))
        40
    """

    def __init__(self, folder: Path | str) -> None:
        folder = Path(folder)
        path = folder / "items.parquet"
        if not path.exists():
            raise DataError(
                f"{path} does not exist",
                rule="a prepared dataset holds an item table",
                remedy="run `trialign prepare` for that run first",
            )
        self.folder = folder
        self.store("items")  # refuses another format
        self.items: pa.Table = pq.read_table(path)
        self.keys: list[str] = self.items["key"].to_pylist()
        self.num_items = len(self.keys)

    def store(self, name: StoreName) -> BlockStore:
        """Return the blocks of a split, of the users as of now, or of the item table."""
        return BlockStore(self.folder / name)

    def examples(self, split: Split) -> Iterator[Example]:
        """Yield the examples of a split, in hash order of their users; one block is in memory at a time."""
        for batch in self._batches(split):
            users, rows = batch["user"].to_pylist(), [self._keys_of(items) for items in arrays_of(batch["items"])]
            if split == "train":
                for user, keys, first in zip(users, rows, batch["first_target"].to_pylist(), strict=True):
                    yield Example(user, keys[:first], keys[first:])
            else:
                targets, older = (map(self._keys_of, arrays_of(batch[name])) for name in ("targets", "older"))
                yield from map(Example, users, rows, targets, older)

    def evaluation(self, split: EvaluationSplit) -> Evaluation:
        """Return the users of a held-out split with their histories and targets."""
        found = Evaluation([], [], [], [])
        for batch in self._batches(split):
            found.users.extend(batch["user"].to_pylist())
            found.histories.extend(arrays_of(batch["items"]))
            found.targets.extend(arrays_of(batch["targets"]))
            found.older.extend(arrays_of(batch["older"]))
        return found

    def train_histories(self) -> list[Items]:
        """Return every whole train history, joined again from its records, in hash order.

        A user has one; where ready examples were given, as many as there are that do not continue each other.
        """
        histories: list[Items] = []
        user, joined = None, _History(np.empty(0, np.int32), np.empty(0, np.int64))
        for batch in self._batches("train"):
            records = zip(batch["user"].to_pylist(), *map(arrays_of, (batch["items"], batch["times"])), strict=True)
            for first, (owner, items, times) in zip(batch["first_target"].to_numpy(), records, strict=True):
                record = _History(items, times)
                longer = joined.continued(record, int(first)) if owner == user else None
                if longer is None and user is not None:
                    histories.append(joined.items)
                user, joined = owner, record if longer is None else longer
        return histories if user is None else [*histories, joined.items]

    def user(self, key: str) -> User:
        """Return a user as of now; one or two blocks are read.

        Raises:
            DataError: the logs hold no such user.
        """
        return self.users_of([key])[0]

    def users_of(self, keys: Sequence[str]) -> list[User]:
        """Return users as of now, in the order of their keys; every block that may hold one of them is read once.

        Raises:
            DataError: the logs hold no user of one of the keys.
        """
        store = self.store("users")
        in_block: dict[int, list[str]] = {}
        for key in dict.fromkeys(keys):
            for block in store.blocks_of(key):
                in_block.setdefault(block, []).append(key)
        found: dict[str, User] = {}
        for block, wanted in sorted(in_block.items()):
            batch = store.read(block)
            rows = pc.index_in(pa.array(wanted, pa.string()), batch["user"])
            here = [(key, row) for key, row in zip(wanted, rows.to_pylist(), strict=True) if row is not None]
            users = _users(batch.take(pa.array([row for _, row in here], pa.int64())))
            found |= zip((key for key, _ in here), users, strict=True)
        for key in keys:
            if key not in found:
                raise DataError(
                    f"no user '{key}' in the logs",
                    rule="users are named as in the interaction log",
                    remedy=f"e.g. {store.read(0)['user'][0].as_py()}; or name items: recommend.items=[...]",
                )
        return [found[key] for key in keys]

    def users(self, start: int, stop: int) -> tuple[list[str], list[User]]:
        """Return the keys of users and the users as of now, by their places in hash order; only their blocks are read.

        Examples:
            >>> keys, users = run.dataset.users(0, 3)
            >>> len(keys), len(users[0].history) > 0
            (3, True)
        """
        store = self.store("users")
        keys: list[str] = []
        users: list[User] = []
        for block in range(start // store.records_per_block, -(-stop // store.records_per_block)):
            first = block * store.records_per_block
            batch = store.read(block)
            batch = batch[max(0, start - first) : stop - first]
            keys += batch["user"].to_pylist()
            users += _users(batch)
        return keys, users

    def held_out(self, key: str, split: EvaluationSplit) -> tuple[User, Items] | None:
        """Return a user as of the last held-out event of a split, and what came next; None where none was held out."""
        store = self.store(split)
        for block in reversed(store.blocks_of(key)):
            batch = store.read(block)
            if (rows := np.flatnonzero(pc.equal(batch["user"], key).to_numpy(zero_copy_only=False))).size:
                items, times, older, targets = (
                    batch[name][int(rows[-1])].values.to_numpy() for name in ("items", "times", "older", "targets")
                )
                return User(items, times, older), targets
        return None

    def images(self) -> Iterator[tuple[int, bytes]]:
        """Yield (item index, encoded picture), items without a picture absent."""
        return read_images(self.folder / "images")

    def picture(self, item: int) -> bytes | None:
        """Return the encoded picture of an item, None where it has none."""
        return self._pictures.read(item)

    def oracle(self, split: EvaluationSplit) -> pa.Table | None:
        """Return each user's best attainable recall and NDCG; None if the choice probabilities are not known."""
        path = self.folder / "oracle" / f"{split}.parquet"
        return pq.read_table(path) if path.exists() else None

    def truth(self) -> dict[str, list[str | None]]:
        """Return the true attributes of the items of a generated world, None where nothing shows one; else {}.

        For evaluation, never for training.
        """
        path = self.folder / "oracle" / "items.parquet"
        return pq.read_table(path).drop_columns(["item"]).to_pydict() if path.exists() else {}

    def stock(self, allowed: Sequence[str] | None, blocked: Sequence[str] | None) -> NDArray[np.bool_] | None:
        """Return which items may be recommended, bool [N]: those that are allowed and not blocked.

        Args:
            allowed: keys of items; None: all.
            blocked: keys of items; None: none.

        Returns:
            None where all may be.

        Raises:
            DataError: no item has one of the keys.

        Examples:
            >>> stock_N = run.dataset.stock(None, ["item-0000007"])
            >>> int(stock_N.sum()), len(stock_N)
            (63, 64)
        """
        if allowed is None and not blocked:
            return None
        stock_N = np.full(self.num_items, allowed is None)
        stock_N[[self.item_of(key) for key in allowed or ()]] = True
        stock_N[[self.item_of(key) for key in blocked or ()]] = False
        return stock_N

    def item_of(self, key: str) -> int:
        """Return the index of an item.

        Raises:
            DataError: no item has this key.
        """
        if key not in self._item_of:
            near = difflib.get_close_matches(key, self.keys, n=3, cutoff=0.6)
            raise DataError(
                f"no item '{key}' among {self.num_items}",
                rule="items are named by their keys in the catalogue",
                remedy=f"did you mean {', '.join(near)}?"
                if near
                else f"see the column `key` of {self.folder}/items.parquet",
            )
        return self._item_of[key]

    @cached_property
    def _pictures(self) -> PictureIndex:
        return PictureIndex(self.folder / "images")

    @cached_property
    def _item_of(self) -> dict[str, int]:
        return {key: item for item, key in enumerate(self.keys)}

    def _keys_of(self, items: Items) -> tuple[str, ...]:
        return tuple(self.keys[item] for item in items)

    def _batches(self, name: StoreName) -> Iterator[pa.RecordBatch]:
        store = self.store(name)
        return (store.read(block) for block in range(store.num_blocks))
