"""Which positions of the training histories are learned where some are held out for reinforcement learning."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trialign.generate.tasks import load_task
from trialign.stream.blocks import Records
from trialign.stream.rl_holdout import held_out_for_rl
from trialign.stream.rows import Examples


class RLHoldout:
    """An `Encode` by which no position that is held out is a target of any task; all of them are still read.

    Args:
        encode: as `Template.encode_many`, but for the texts: what is passed so, as `learned`.
        tasks: names, in the order of their numbers.
        share: of the positions of the histories that is held out.
        only: learn the held-out positions and no others; else the others and not these.
    """

    def __init__(self, encode: Callable[..., Examples], tasks: list[str], share: float, *, only: bool = False) -> None:
        self._encode = encode
        self._of_histories = [load_task(name).source == "train" for name in tasks]
        self._share = share
        self._only = only

    def __call__(self, task: int, records: Records, chosen: NDArray[np.int64], *more: Any) -> Examples:
        """Return examples of the chosen records of a block."""
        if not self._of_histories[task]:
            return self._encode(task, records, chosen, *more)
        learned = held_out_for_rl(records, chosen, self._share) == self._only
        _, lengths = records.lists("items", chosen)
        return self._encode(task, records, chosen, *more, learned=np.split(learned, np.cumsum(lengths)[:-1]))
