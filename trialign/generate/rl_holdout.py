"""Select the training positions that supervised training learns if some are held out for reinforcement learning."""

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
    """An `Encode` under which held-out positions are never targets of any task; they are still read as inputs.

    Args:
        encode: as `Template.encode_many`, without the texts; it gets the mask of learned positions as `learned`.
        tasks: names, in the order of their numbers.
        share: share of the histories' positions that is held out.
        only: True to learn only the held-out positions; False to learn only the others.
    """

    def __init__(self, encode: Callable[..., Examples], tasks: list[str], share: float, *, only: bool = False) -> None:
        self._encode = encode
        self._of_histories = [load_task(name).source == "train" for name in tasks]
        self._share = share
        self._only = only

    def __call__(self, task: int, records: Records, chosen: NDArray[np.int64], *more: Any) -> Examples:
        """Encode the chosen records of a block as examples."""
        if not self._of_histories[task]:
            return self._encode(task, records, chosen, *more)
        learned = held_out_for_rl(records, chosen, self._share) == self._only
        _, lengths = records.lists("items", chosen)
        return self._encode(task, records, chosen, *more, learned=np.split(learned, np.cumsum(lengths)[:-1]))
