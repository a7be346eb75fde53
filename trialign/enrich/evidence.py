"""What the enrich stage said of the items, as later stages read it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pyarrow.parquet as pq


@dataclass(frozen=True)
class Evidence:
    """Captions and interests, one entry per item in index order; an empty list where none were made.

    Args:
        captions: "" where an item has none.
        interests: of each item, strongest first.
        confidences: of each interest, in 0..1.
    """

    captions: list[str]
    interests: list[list[str]]
    confidences: list[list[float]]


def load_evidence(folder: Path) -> Evidence:
    """Read `captions.parquet` and `interests.parquet` of a finished enrich stage, as far as they were made."""
    captions = _columns(folder / "captions.parquet", "caption")
    interests = _columns(folder / "interests.parquet", "interests", "confidences")
    return Evidence(*captions, *interests)


def _columns(path: Path, *names: str) -> list[list]:  # type: ignore[type-arg]  # as typed by the caller
    if not path.exists():
        return [[] for _ in names]
    table = pq.read_table(path, columns=["item", *names]).sort_by("item")
    return [table[name].to_pylist() for name in names]
