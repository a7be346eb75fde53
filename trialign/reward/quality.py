"""How good an item's interests are: the mean of their probabilities, weighted by confidence (method.md 8)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from trialign.errors import DataError

QUALITY = "quality.parquet"


def item_quality(
    probabilities: Sequence[Sequence[float]], confidences: Sequence[Sequence[float]]
) -> list[float | None]:
    """Return `sum conf p / sum conf` of every item; None if an item has no interest of positive confidence."""
    found: list[float | None] = []
    for mine, weights in zip(probabilities, confidences, strict=True):
        total = float(sum(weights))
        found.append(float(np.dot(mine, weights)) / total if total > 0 else None)
    return found


def write_quality(folder: Path, quality: Sequence[float | None], probabilities: Sequence[Sequence[float]]) -> None:
    """Write `quality.parquet`: `item` int32, `quality` float32 (null without interests) and `probabilities`.

    Args:
        folder: the stage's.
        quality: as `item_quality` returns it.
        probabilities: per item, the probability of each of its interests to be good.
    """
    columns = {
        "item": pa.array(range(len(quality)), pa.int32()),
        "quality": pa.array([None if q is None else np.float32(q) for q in quality], pa.float32()),
        "probabilities": pa.array(probabilities, pa.list_(pa.float32())),
    }
    pq.write_table(pa.table(columns), folder / QUALITY)


def load_quality(folder: Path) -> NDArray[np.float64]:
    """Return the quality of every item; 0, which gives no bonus, for an item without interests.

    Raises:
        DataError: there is no such table.
    """
    column = _read(folder)["quality"].to_pylist()
    return np.array([0.0 if value is None else value for value in column], np.float64)


def load_probabilities(folder: Path) -> list[list[float]]:
    """Return, for every item, the probability of each interest to be good; errors as `load_quality`."""
    found: list[list[float]] = _read(folder)["probabilities"].to_pylist()
    return found


def _read(folder: Path) -> pa.Table:
    path = folder / QUALITY
    if not path.exists():
        raise DataError(
            f"{path} does not exist", rule="the reward stage writes it", remedy="run `trialign reward` for that run"
        )
    return pq.read_table(path)
