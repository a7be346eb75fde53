"""One modality of a catalogue by one encoder."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from trialign.data.dataset import Dataset
from trialign.embed import store
from trialign.embed.batches import PROGRESS, BatchEncoder, Rows, write_rows
from trialign.embed.evidence import item_texts
from trialign.embed.store import Modality

KEPT = tuple(f"{name}{end}" for name in ("text", "image") for end in (".npy", store.PRESENT, PROGRESS))
"""Files that a killed stage hands on; see `batches`."""


@dataclass(frozen=True)
class Evidence:
    """What an encoder of one modality is given.

    Attributes:
        arguments: positional arguments of the encoder.
        total: items that have something to encode.
    """

    arguments: tuple[Any, ...]
    total: int


def evidence_of(modality: str, dataset: Dataset) -> Evidence:
    """Return what the catalogue holds for `text`, `image` or `collaborative`."""
    if modality == "text":
        texts = item_texts(dataset.items)
        return Evidence((texts,), sum(map(bool, texts)))
    if modality == "image":
        return Evidence((dataset.images(), dataset.keys), int(np.sum(dataset.items["has_image"].to_numpy())))
    return Evidence((dataset.train_histories(), dataset.num_items), dataset.num_items)


def embed(modality: str, encoder: Any, dataset: Dataset, folder: Path) -> Modality:
    """Write one modality's vectors into `folder` and return them.

    Args:
        modality: `text`, `image` or `collaborative`.
        encoder: a `BatchEncoder`, or one whose `encode` takes the whole of the evidence and returns a `Modality`.
        dataset: the catalogue.
        folder: the stage's directory.

    Raises:
        DataError: the evidence cannot be encoded, or no item has any.
    """
    evidence = evidence_of(modality, dataset)
    if not isinstance(encoder, BatchEncoder):
        found: Modality = encoder.encode(*evidence.arguments)
        store.save(folder, {modality: found}, dataset.keys)
        return found

    def rows_after(skip: int) -> Iterator[Rows]:
        return encoder.rows(*evidence.arguments, skip=skip)

    return write_rows(rows_after, folder, modality, dataset.keys, total=evidence.total)
