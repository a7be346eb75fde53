"""Ground truth of a generated world (method.md 11): the attributes of its items, and the best possible metrics.

The ceiling is what a ranker that knew the true choice probabilities would reach on each user.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from trialign.data.source import Oracle
from trialign.ranking import CUTOFFS


def ceiling(probabilities_N: NDArray[np.float64]) -> dict[str, float]:
    """Return the expected Recall@K and NDCG@K of ranking by the true probabilities of the one next item.

    recall@K is the sum of the K largest, ndcg@K the sum of p_(k) / log2(k + 1) over them.
    """
    best = np.sort(probabilities_N)[::-1][: max(CUTOFFS)]
    gains = best / np.log2(np.arange(len(best)) + 2)
    found = {f"recall@{k}": float(best[:k].sum()) for k in CUTOFFS}
    return found | {f"ndcg@{k}": float(gains[:k].sum()) for k in CUTOFFS}


class OracleWriter:
    """Collects the ceiling of every user of one split, and writes it.

    Args:
        oracle: knows p(next | history).
        keys: item keys by index.
    """

    def __init__(self, oracle: Oracle, keys: list[str]) -> None:
        self._oracle = oracle
        self._keys = keys
        self._rows: list[dict[str, str | float]] = []

    def add(self, user: str, history: NDArray[np.int32]) -> None:
        """Ask the oracle about one user's whole observed history (item indices, oldest first)."""
        probabilities_N = self._oracle.next_item([self._keys[item] for item in history])
        self._rows.append({"user": user, **ceiling(probabilities_N)})

    def write(self, path: Path) -> None:
        """Write one row per user, in the order they came."""
        path.parent.mkdir(parents=True, exist_ok=True)
        figures = {name: pa.float64() for name in ceiling(np.ones(1))}
        schema = pa.schema({"user": pa.string(), **figures})
        pq.write_table(pa.Table.from_pylist(self._rows, schema=schema), path)


def write_truth(truth: pa.Table, keys: pa.ChunkedArray, path: Path) -> None:
    """Write the true attributes of the items, in the order of the catalogue.

    Args:
        truth: see RawData.
        keys: of the catalogue's items; each has a row in `truth`.
        path: the file.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(truth.take(pc.index_in(keys, truth["item"].combine_chunks())), path)
