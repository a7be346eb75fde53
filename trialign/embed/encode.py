"""Encode one modality of a catalogue, and the items' interests with the text encoder."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from trialign.data.dataset import Dataset
from trialign.embed import store
from trialign.embed.batches import PROGRESS, BatchEncoder, Rows, write_rows
from trialign.embed.store import INTERESTS, Modality

_BATCHED = ("text", "image", "joint")
KEPT = (*(f"{name}{end}" for name in _BATCHED for end in (".npy", store.PRESENT, PROGRESS)), INTERESTS)
"""Files that a killed stage hands on; see `batches`."""


def evidence_of(
    modality: str, dataset: Dataset, texts: Sequence[str], before: Mapping[str, Modality]
) -> tuple[tuple[Any, ...], int]:
    """Return the arguments of a modality's encoder, and how many items have something to encode; see `embed`."""
    told_N, pictured_N = np.array(list(map(bool, texts))), dataset.items["has_image"].to_numpy()
    if modality == "text":
        return (texts,), int(told_N.sum())
    if modality == "image":
        return (dataset.images(), dataset.keys), int(pictured_N.sum())
    if modality == "joint":
        return (dataset.images(), texts, dataset.keys), int((pictured_N | told_N).sum())
    return (dataset.train_histories(), dataset.num_items, before.get("text")), dataset.num_items


def embed(
    modality: str,
    encoder: Any,
    dataset: Dataset,
    texts: Sequence[str],
    folder: Path,
    before: Mapping[str, Modality],
) -> Modality:
    """Write one modality's vectors into `folder` and return them.

    Args:
        modality: `text`, `image`, `joint` or `collaborative`.
        encoder: a `BatchEncoder`, or one whose `encode` takes the whole of the evidence and returns a `Modality`.
        dataset: the catalogue.
        texts: what is known of each item in words.
        folder: the stage's directory.
        before: the modalities that are already embedded; collaborative vectors may use those of texts.

    Raises:
        DataError: the evidence cannot be encoded, or no item has any.
    """
    evidence, total = evidence_of(modality, dataset, texts, before)
    if not isinstance(encoder, BatchEncoder):
        found: Modality = encoder.encode(*evidence)
        store.save(folder, {modality: found}, dataset.keys)
        return found

    def rows_after(skip: int) -> Iterator[Rows]:
        return encoder.rows(*evidence, skip=skip)

    return write_rows(rows_after, folder, modality, dataset.keys, total=total)


def embed_interests(encoder: Any, interests: Sequence[Sequence[str]], folder: Path) -> int:
    """Encode all distinct interests with the text encoder; write their vectors and which interests each item has.

    Args:
        encoder: of the text modality, after it has encoded the texts.
        interests: of each item, strongest first.
        folder: the stage's directory.

    Returns:
        How many items have an interest with a vector.

    Raises:
        DataError: no item has an interest, or none can be encoded.
    """
    distinct = sorted({interest for found in interests for interest in found})
    row_of = {interest: row for row, interest in enumerate(distinct)}
    (folder / INTERESTS).mkdir(exist_ok=True)
    if isinstance(encoder, BatchEncoder):

        def rows_after(skip: int) -> Iterator[Rows]:
            return encoder.rows(distinct, skip=skip)

        total = sum(map(bool, distinct))
        where, without = folder / INTERESTS, "embed.interests=false"
        found = write_rows(rows_after, where, INTERESTS, distinct, total=total, without=without)
    else:
        found = encoder.transform(distinct)
        store.save(folder / INTERESTS, {INTERESTS: found}, distinct)
    store.save_interests(folder, found, [[row_of[interest] for interest in own] for own in interests])
    return sum(any(found.present_N[row_of[interest]] for interest in own) for own in interests)
