"""Encode a catalogue in batches that are written to disk as they come, so that a killed stage continues where it was.

`<modality>.npy` and `<modality>.present.npy` are written in place, memory-mapped. `<modality>.progress.json` says how
many rows are safe on disk; it is written after them, at most every few seconds.
"""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from trialign.embed.store import PRESENT, Modality
from trialign.errors import DataError
from trialign.files import write_atomically
from trialign.progress import Progress

log = logging.getLogger("trialign")

PROGRESS = ".progress.json"
Rows = tuple[Sequence[int], NDArray[np.float32]]
"""Item indices and their vectors [B, D]."""


@runtime_checkable
class BatchEncoder(Protocol):
    """An encoder that is not fitted on the catalogue and encodes items independently, so it can resume at any item."""

    notes: list[str]
    """What a reader of the manifest should know; complete before the first row."""

    def rows(self, *evidence: object, skip: int) -> Iterator[Rows]:
        """Yield (items, vectors) without the first `skip` items, in an order that depends on the evidence alone."""
        ...


def write_rows(
    rows_after: Callable[[int], Iterator[Rows]],
    folder: Path,
    modality: str,
    item_keys: Sequence[str],
    *,
    total: int,
    seconds_between_saves: float = 5.0,
    without: str | None = None,
) -> Modality:
    """Write an encoder's vectors to disk as they come, resuming a killed attempt; return them memory-mapped.

    Args:
        rows_after: given a number of rows to skip, yields (items, vectors) of the others, always in the same order.
        folder: an existing directory; it may hold the files of a killed attempt.
        modality: its name.
        item_keys: the catalogue's key of each item.
        total: number of rows, skipped ones included.
        seconds_between_saves: the most work that a kill undoes.
        without: the setting that leaves the modality out; None: embed/<modality>=none.

    Raises:
        DataError: there is nothing to encode, or a vector is not finite.
    """
    without = without or f"embed/{modality}=none"
    store = _Rows(folder, modality, len(item_keys))
    with Progress(f"{modality} vectors", total) as progress:
        progress.add(store.done, reused=True)
        saved = time.monotonic()
        for items, vectors_BD in rows_after(store.done):
            if not np.isfinite(vectors_BD).all():
                first = items[int(np.flatnonzero(~np.isfinite(vectors_BD).all(axis=1))[0])]
                raise DataError(
                    f"the {modality} vector of item {item_keys[first]!r} holds NaN or infinity",
                    rule="vectors are finite",
                    remedy=f"fix that item's evidence or the model that encodes it, or set {without}",
                )
            store.add(items, vectors_BD)
            progress.add(len(items))
            if time.monotonic() - saved >= seconds_between_saves:
                store.save()
                saved = time.monotonic()
    if not store.done:
        raise DataError(
            f"no item has what the {modality} modality is made from",
            rule="a modality describes at least one item",
            remedy=f"leave it out with {without}",
        )
    store.save()
    return store.close()


class _Rows:
    """The three files of a modality that is being written."""

    def __init__(self, folder: Path, modality: str, num_items: int) -> None:
        self._vectors = folder / f"{modality}.npy"
        self._present = folder / f"{modality}{PRESENT}"
        self._progress = folder / f"{modality}{PROGRESS}"
        self._num_items = num_items
        self._vectors_ND: np.memmap[tuple[int, int], np.dtype[np.float32]] | None = None
        self._present_N = np.zeros(num_items, np.bool_)
        self.done = 0
        if self._progress.exists():
            self.done = json.loads(self._progress.read_text())["rows"]
            self._vectors_ND = np.load(self._vectors, mmap_mode="r+", allow_pickle=False)
            self._present_N = np.load(self._present, allow_pickle=False)
            log.info("  %s: continues after %d rows of an attempt that was interrupted", modality, self.done)

    def add(self, items: Sequence[int], vectors_BD: NDArray[np.float32]) -> None:
        if self._vectors_ND is None:
            shape = (self._num_items, vectors_BD.shape[1])
            self._vectors_ND = np.lib.format.open_memmap(self._vectors, mode="w+", dtype=np.float32, shape=shape)
            with self._vectors.open("r+b") as file:
                # On a full disk, a write to a memory map kills the process silently; reserving space raises an error.
                os.posix_fallocate(file.fileno(), 0, self._vectors.stat().st_size)
        self._vectors_ND[items], self._present_N[items] = vectors_BD, True
        self.done += len(items)

    def save(self) -> None:
        assert self._vectors_ND is not None
        self._vectors_ND.flush()
        # Rows after the count are encoded again, so which of them are marked present already does not matter.
        # The new file replaces the old one in one step, so a kill leaves one or the other, never half a file.
        unfinished = self._present.with_suffix(".unfinished")
        with unfinished.open("wb") as file:
            np.save(file, self._present_N, allow_pickle=False)
        unfinished.replace(self._present)
        write_atomically(self._progress, json.dumps({"rows": self.done}))

    def close(self) -> Modality:
        self._vectors_ND = None
        return Modality(np.load(self._vectors, mmap_mode="r", allow_pickle=False), self._present_N)
