"""Base of the counting baselines: counts over train histories, exact top-k with ties, and the file format."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from trialign.errors import DataError
from trialign.files import write_atomically
from trialign.foreign import parse_json
from trialign.types import NO_ITEM, Items

_CELLS = 1 << 21
"""Scores held at once: users are ranked in chunks of at most this many users x items, about 60 MB."""


def count_items(histories: Sequence[Items], num_items: int) -> NDArray[np.int64]:
    """Return popularity_N: how often each item occurs in the histories."""
    return np.bincount(np.concatenate([*histories, np.empty(0, np.int32)]), minlength=num_items)


def count_pairs(histories: Sequence[Items], num_items: int, distance: int) -> sp.csr_array:
    """Return counts_NN of how often item b (column) is exactly `distance` events after item a (row)."""
    items = np.concatenate([*histories, np.empty(0, np.int32)])
    owners = np.repeat(np.arange(len(histories)), [len(history) for history in histories])
    together = owners[distance:] == owners[:-distance]
    pairs = (items[:-distance][together], items[distance:][together])
    return sp.csr_array((np.ones(len(pairs[0]), np.int64), pairs), shape=(num_items, num_items))


class CountingRanker(ABC):
    """Base class of rankers whose scores are sums of non-negative counts.

    Ties are ordered by popularity in the train histories, then by item index. Items without counts score 0, so the same
    rule is the fallback: they follow by popularity, and every history has a full ranking, also the empty one. Scores
    are added in double and compared in single precision, so sums that differ by rounding alone are ties.

    Args:
        popularity_N: how often each item occurs in the train histories.
        pairs_NN: counts of item pairs, for baselines that use them.
    """

    name: ClassVar[str]

    def __init__(self, popularity_N: NDArray[np.int64], pairs_NN: sp.csr_array | None = None) -> None:
        self.popularity_N = popularity_N
        self.pairs_NN = pairs_NN
        self._by_popularity_N = np.lexsort((np.arange(self.num_items), -popularity_N)).astype(np.int32)
        # N for the most popular item, down to 1.
        self._precedence_N = np.empty(self.num_items, np.uint64)
        self._precedence_N[self._by_popularity_N] = np.arange(self.num_items, 0, -1)

    @property
    def num_items(self) -> int:
        """N, size of the catalogue."""
        return len(self.popularity_N)

    @property
    def options(self) -> dict[str, Any]:
        """The settings of the fit, as keyword arguments of the constructor."""
        return {}

    @abstractmethod
    def score(self, histories: list[Items]) -> NDArray[np.float64]:
        """Return scores_BN >= 0."""

    def rank(
        self, histories: list[Items], k: int, *, exclude: Sequence[Items] | None
    ) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
        """Return the `k` best items and their scores; see `trialign.types.Ranker`."""
        items_BK = np.full((len(histories), k), NO_ITEM, np.int32)
        scores_BK = np.full((len(histories), k), -np.inf, np.float32)
        num_ranked = min(k, self.num_items)
        chunk = max(1, _CELLS // self.num_items)
        for start in range(0, len(histories), chunk):
            rows = slice(start, start + chunk)
            items_BK[rows, :num_ranked], scores_BK[rows, :num_ranked] = self._rank_chunk(
                histories[rows], num_ranked, None if exclude is None else exclude[rows]
            )
        return items_BK, scores_BK

    def _rank_chunk(
        self, histories: list[Items], k: int, exclude: Sequence[Items] | None
    ) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
        scores_BN = self.score(histories).astype(np.float32)
        assert not np.signbit(scores_BN).any(), "the bits of a float keep its order only if it is positive"
        # A unique integer per item, ordered by score, then precedence, so that any partition finds the same top k.
        keys_BN = (scores_BN.view(np.uint32).astype(np.uint64) << np.uint64(32)) | self._precedence_N
        if exclude is not None:
            users = np.repeat(np.arange(len(exclude)), [len(items) for items in exclude])
            keys_BN[users, np.concatenate(exclude)] = 0
        keys_BN.partition(self.num_items - k, axis=1)
        keys_BK = np.sort(keys_BN[:, self.num_items - k :], axis=1)[:, ::-1]
        precedence_BK = (keys_BK & np.uint64(0xFFFFFFFF)).astype(np.int64)
        excluded_BK = precedence_BK == 0
        items_BK = self._by_popularity_N[(self.num_items - precedence_BK) % self.num_items]
        scores_BK = (keys_BK >> np.uint64(32)).astype(np.uint32).view(np.float32)
        return np.where(excluded_BK, np.int32(NO_ITEM), items_BK), np.where(excluded_BK, np.float32(-np.inf), scores_BK)

    def save(self, folder: Path) -> None:
        """Write `counts.safetensors` and `baseline.json` into `folder`."""
        folder.mkdir(parents=True, exist_ok=True)
        arrays = {"popularity": self.popularity_N}
        if self.pairs_NN is not None:
            parts = ("data", "indices", "indptr")
            arrays |= {f"pairs.{part}": getattr(self.pairs_NN, part) for part in parts}
        save_file(arrays, folder / "counts.safetensors")
        record = {"name": self.name, "num_items": self.num_items, "options": self.options}
        write_atomically(folder / "baseline.json", json.dumps(record, indent=2) + "\n")

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read what `save` wrote, bit for bit.

        Raises:
            DataError: the folder holds no such baseline, or another one.
        """
        try:
            record = parse_json((folder / "baseline.json").read_text())
            arrays = load_file(folder / "counts.safetensors")
            found, num_items, options = record["name"], record["num_items"], record["options"]
        except (OSError, ValueError, KeyError, TypeError, SafetensorError) as cause:
            raise _unreadable(f"{folder} cannot be read: {cause}") from cause
        if found != cls.name or len(arrays.get("popularity", ())) != num_items:
            raise _unreadable(f"{folder} holds a '{found}' over {num_items} items, not a whole '{cls.name}'")
        if "pairs.data" not in arrays:
            return cls(arrays["popularity"], **options)
        parts = (arrays["pairs.data"], arrays["pairs.indices"], arrays["pairs.indptr"])
        return cls(arrays["popularity"], sp.csr_array(parts, shape=(num_items, num_items)), **options)


def _unreadable(value: str) -> DataError:
    return DataError(
        value,
        rule="a fitted baseline is baseline.json and counts.safetensors, as `trialign baselines` writes them",
        remedy="run `trialign baselines` again with rebuild=true",
    )
