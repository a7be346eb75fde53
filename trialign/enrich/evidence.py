"""What the enrich stage left for the stages after it, as plain lists in the order of the items."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import pyarrow.parquet as pq

CAPTIONS, INTERESTS = "captions.parquet", "interests.parquet"


class Evidence(NamedTuple):
    """One entry per item; lists without an entry where the stage did not make such evidence.

    `captions`: "" where there is none; `interests`: strongest first; `confidences`: as many, 0..1.
    """

    captions: list[str]
    interests: list[list[str]]
    confidences: list[list[float]]


def load_evidence(folder: Path) -> Evidence:
    """Read what a finished enrich stage made."""
    captions: list[str] = []
    interests: list[list[str]] = []
    confidences: list[list[float]] = []
    if (folder / CAPTIONS).exists():
        captions = pq.read_table(folder / CAPTIONS, columns=["caption"])["caption"].to_pylist()
    if (folder / INTERESTS).exists():
        table = pq.read_table(folder / INTERESTS, columns=["interests", "confidences"])
        interests, confidences = table["interests"].to_pylist(), table["confidences"].to_pylist()
    return Evidence(captions, interests, confidences)
