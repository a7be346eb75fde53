"""Training positions that supervised training leaves to reinforcement learning, chosen by a key (method.md 9).

Whether a position is held out depends on its user, item and time alone: not on the seed, the rank, or the window that
it is read in. So every variant of a comparison holds out the same ones, and a larger share holds the smaller ones.
"""

from __future__ import annotations

import zlib

import numpy as np
from numpy.typing import NDArray

from trialign.stream.blocks import Records
from trialign.stream.order import number_of_key


def held_out_for_rl(records: Records, chosen: NDArray[np.int64], share: float) -> NDArray[np.bool_]:
    """Return which positions of some training windows are held out, side by side as `records.lists` gives them.

    Args:
        records: a block of training windows.
        chosen: which of them.
        share: of all positions, 0 to 1.
    """
    items, lengths = records.lists("items", chosen)
    times, _ = records.lists("times", chosen)
    users = np.array([zlib.crc32(str(user).encode()) for user in records.keys(chosen)], np.int64)
    found: NDArray[np.bool_] = number_of_key(np.repeat(users, lengths), items, times) < share
    return found
