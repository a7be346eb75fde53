"""What a service serves: a catalogue and a ranker, of a finished run or of an exported bundle."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from trialign.data.dataset import User
from trialign.files import digest_of
from trialign.run import Run
from trialign.serve.schema import Item
from trialign.types import Items


class Rank(Protocol):
    """The `rank` of a ranker, as `Ranker.rank`."""

    def __call__(
        self, histories: list[Items], k: int, *, exclude: Sequence[Items] | None
    ) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
        """Return items_BK and scores_BK."""
        ...


@dataclass(frozen=True)
class Catalogue:
    """The items by index: keys, titles and semantic IDs.

    Args:
        keys: N keys.
        titles: N titles, "" where there is none.
        codes_NL: N semantic IDs.
    """

    keys: Sequence[str]
    titles: pa.Array
    codes_NL: NDArray[Any]

    @cached_property
    def index(self) -> dict[str, int]:
        """The index of every key."""
        return {key: item for item, key in enumerate(self.keys)}

    def search(self, words: str, most: int) -> list[int]:
        """Return the first `most` items whose title has all the words, whatever their case; a key finds its item."""
        if words in self.index:
            return [self.index[words]]
        found = pa.array(np.ones(len(self.keys), dtype=bool))
        for word in words.split():
            found = pc.and_(found, pc.match_substring(self.titles, word, ignore_case=True))
        places: list[int] = pc.indices_nonzero(found)[:most].to_pylist()
        return places

    def item(self, item: int) -> Item:
        """Return an item as answers show it."""
        return Item(item=self.keys[item], title=self.titles[item].as_py(), sid=self.codes_NL[item].tolist())


@dataclass(frozen=True)
class Served:
    """A catalogue and the ranker that was trained on it; an answer is from one such object.

    Args:
        catalogue: its items.
        rank: ranks arrays of item indices.
        digest: tells one bundle or run from another.
        user: returns a user of the logs by key; None where users are not known.
    """

    catalogue: Catalogue
    rank: Rank
    digest: str
    user: Callable[[str], User] | None


def serve_run(run: Run, *, generator: str, num_beams: int, batch_size: int) -> Served:
    """Return what serves a finished run; errors as `Run`.

    Args:
        run: the run, made with the same `generator`.
        generator: the stage whose generator ranks, train or rl.
        num_beams: beams of the search.
        batch_size: histories per search.
    """
    manifest = run.manifest(generator)
    titles = run.dataset.items["title"].combine_chunks()
    return Served(
        Catalogue(run.dataset.keys, titles, run.sids.codes_NL),
        run.ranker(num_beams=num_beams, batch_size=batch_size).rank,
        digest_of({**manifest.lineage, generator: manifest.hash}),
        run.dataset.user,
    )
