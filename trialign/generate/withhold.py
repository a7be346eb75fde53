"""Which positions of the training histories are learned where some are kept back for reinforcement learning."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from trialign.data.blocks import Records
from trialign.data.keep_back import kept_back
from trialign.data.lanes import Encode
from trialign.data.rows import Examples
from trialign.errors import ConfigError
from trialign.generate.encoding import ItemEncoding
from trialign.generate.task import Task
from trialign.generate.tasks import load_task


class Withholding:
    """An `Encode` whose examples are those of another, the loss taken on other positions; all of them are still read.

    Args:
        encode: what is changed.
        encoding: how its items stand in a row.
        tasks: names, in the order of their numbers.
        share: of the positions of the histories that is kept back.
        only: learn the kept-back positions and no others; else the others and not these.

    Raises:
        ConfigError: a task takes targets from histories in a way that nothing can be kept back from.
    """

    def __init__(
        self, encode: Encode, encoding: ItemEncoding, tasks: list[str], share: float, *, only: bool = False
    ) -> None:
        self._encode = encode
        self._encoding = encoding
        self._tasks: list[Task] = [load_task(name) for name in tasks]
        self._share = share
        self._only = only
        for name, task in zip(tasks, self._tasks, strict=True):
            if task.source == "train" and task.lists is None:
                raise ConfigError(
                    f"train.keep_back={share} with the task {name}",
                    rule="what is kept back from one task is seen by no other",
                    remedy=f"set train.tasks.{name}=0, or train.keep_back=0",
                )

    def __call__(self, task: int, records: Records, chosen: NDArray[np.int64], *more: Any) -> Examples:
        """Return what the other makes of the chosen records of a block, its targets changed."""
        found = self._encode(task, records, chosen, *more)
        if self._tasks[task].source != "train":
            return found
        learned = kept_back(records, chosen, self._share) == self._only
        is_item = np.ones(len(found.tokens), np.bool_)
        is_item[found.starts] = False  # there stands the marker
        targets = found.targets.copy()
        targets[is_item] &= self._encoding.spread(learned)
        # An example without a target takes no room in a row.
        lengths = np.where(np.logical_or.reduceat(targets, found.starts), found.lengths, 0)
        return Examples(found.tokens, targets, found.starts, lengths, found.tasks)
