"""What a service reads from a run's dataset when it is asked for it, as long as the dataset is what was loaded."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import TypeVar

from trialign.data.dataset import Dataset, User
from trialign.manifest import MANIFEST
from trialign.serve.refusal import RefusedError
from trialign.types import Items

Found = TypeVar("Found")


class Lookup:
    """Users and pictures of a dataset.

    Every method raises RefusedError where the dataset was made again since it was loaded: its items may have other
    indices.

    Args:
        dataset: of the run.
    """

    def __init__(self, dataset: Dataset) -> None:
        self._dataset, self._manifest = dataset, dataset.folder / MANIFEST
        self._loaded = self._stamp()

    def user(self, key: str) -> User:
        """As `Dataset.user`."""
        return self._unchanged(lambda: self._dataset.user(key))

    def held_out(self, key: str) -> tuple[User, Items] | None:
        """As `Dataset.held_out` of the test split."""
        return self._unchanged(lambda: self._dataset.held_out(key, "test"))

    def some_user(self) -> str:
        """Return the key of a user at random."""
        store = self._dataset.store("users")
        block = self._unchanged(lambda: store.read(random.randrange(store.num_blocks)))
        key: str = random.choice(block["user"]).as_py()
        return key

    def picture(self, item: int) -> bytes | None:
        """As `Dataset.picture`."""
        return self._unchanged(lambda: self._dataset.picture(item))

    def _unchanged(self, read: Callable[[], Found]) -> Found:
        if (before := self._stamp()) == self._loaded:
            found = read()
            if self._stamp() == before:
                return found
        raise RefusedError(
            503,
            "the dataset was made again since it was loaded",
            rule="users are read from the run that is served",
            remedy='POST /reload, or send the history: {"items": [KEY, KEY]}',
        )

    def _stamp(self) -> tuple[int, int] | None:
        try:
            status = self._manifest.stat()
        except FileNotFoundError:
            return None
        return status.st_ino, status.st_mtime_ns
