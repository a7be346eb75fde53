"""The prompts of RL: the training positions that supervised training held out, in a seeded order."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from trialign.data.dataset import Dataset
from trialign.errors import ConfigError, DataError
from trialign.runtime.seeding import derive
from trialign.stream.blocks import Records
from trialign.stream.order import Permutation
from trialign.stream.rl_holdout import held_out_for_rl
from trialign.types import Items


class PromptBatch(NamedTuple):
    """A batch of prompts: histories and their next items."""

    histories: list[Items]
    targets_B: NDArray[np.int64]


class Prompts:
    """The held-out positions of a dataset, in a new shuffled order for every epoch.

    Memory: 4 bytes per event of the training windows and 8 per prompt.

    Args:
        dataset: the prepared dataset.
        share: `train.rl_holdout` of the generator that is trained further.
        seed: of the order.

    Raises:
        ConfigError: nothing was held out.
        DataError: a target is not an item of the catalogue.
    """

    def __init__(self, dataset: Dataset, share: float, seed: int) -> None:
        store = dataset.store("train")
        self._seed = seed
        parts, begins, ends = [], [], []
        before = 0
        for block in range(store.num_blocks):
            records = Records(store.read(block))
            everything = np.arange(len(records))
            items, lengths = records.lists("items", everything)
            starts = np.cumsum(lengths) - lengths
            # As in the task, the first item of a history has nothing before it to predict it from.
            first = np.maximum(records.numbers("first_target", everything), 1)
            owned = np.arange(len(items)) >= np.repeat(starts + first, lengths)
            places = np.flatnonzero(owned & held_out_for_rl(records, everything, share))
            begins.append(before + np.repeat(starts, lengths)[places])
            ends.append(before + places)
            parts.append(items)
            before += len(items)
        self._flat = np.concatenate(parts)
        self._begins, self._ends = np.concatenate(begins), np.concatenate(ends)
        _check(self._flat[self._ends], dataset.num_items, share)

    def __len__(self) -> int:
        return len(self._ends)

    def at(self, places: NDArray[np.int64]) -> PromptBatch:
        """Return the prompts at indices of an endless sequence of shuffled epochs."""
        epochs, offsets = np.divmod(places, len(self))
        numbers = np.empty_like(places)
        for epoch in np.unique(epochs).tolist():
            order = Permutation(len(self), derive(self._seed, "prompts", epoch))
            numbers[epochs == epoch] = order(offsets[epochs == epoch])
        spans = zip(self._begins[numbers].tolist(), self._ends[numbers].tolist(), strict=True)
        histories = [self._flat[begin:end] for begin, end in spans]
        return PromptBatch(histories, self._flat[self._ends[numbers]].astype(np.int64))


def _check(targets: NDArray[np.int32], num_items: int, share: float) -> None:
    if not len(targets):
        raise ConfigError(
            f"no position was held out from supervised training (train.rl_holdout={share})",
            rule="reinforcement learning asks what supervised training has not answered",
            remedy="train with train.rl_holdout=0.2, then run this again",
        )
    if (worst := int(targets.max())) >= num_items or int(targets.min()) < 0:
        raise DataError(
            f"target {worst} of a catalogue of {num_items} items",
            rule="what a user chose is in the catalogue",
            remedy="run `trialign prepare` again",
        )
