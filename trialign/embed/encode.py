"""Encode one modality of a catalogue, and the items' interests with the text encoder."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
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


@dataclass(frozen=True)
class Evidence:
    """The input of one modality's encoder.

    Attributes:
        arguments: positional arguments of the encoder.
        total: items that have something to encode.
    """

    arguments: tuple[Any, ...]
    total: int


def evidence_of(modality: str, dataset: Dataset, texts: Sequence[str], before: Mapping[str, Modality]) -> Evidence:
    """Return the encoder's input for `text`, `image`, `joint` or `collaborative`; arguments as `embed`."""
    arguments: tuple[Any, ...]
    if modality == "text":
        arguments = (texts,)
    elif modality == "collaborative":
        arguments = (dataset.train_histories(), dataset.num_items, before.get("text"))
    elif modality == "image":
        arguments = (dataset.images(), dataset.keys)
    else:
        arguments = (dataset.images(), texts, dataset.keys)
    return Evidence(arguments, _total(modality, dataset, texts))


def _total(modality: str, dataset: Dataset, texts: Sequence[str]) -> int:
    """Return how many items have something to encode."""
    if modality == "collaborative":
        return dataset.num_items
    told_N, pictured_N = np.array(list(map(bool, texts))), dataset.items["has_image"].to_numpy()
    return int(np.sum({"text": told_N, "image": pictured_N, "joint": pictured_N | told_N}[modality]))


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
    evidence = evidence_of(modality, dataset, texts, before)
    if not isinstance(encoder, BatchEncoder):
        found: Modality = encoder.encode(*evidence.arguments)
        store.save(folder, {modality: found}, dataset.keys)
        return found

    def rows_after(skip: int) -> Iterator[Rows]:
        return encoder.rows(*evidence.arguments, skip=skip)

    return write_rows(rows_after, folder, modality, dataset.keys, total=evidence.total)


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
