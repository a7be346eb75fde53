"""Co-occurrence of items in histories."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.sparse import csr_array

from trialign.types import Items


def co_occurrence(histories: Sequence[Items], num_items: int, window: int) -> csr_array:
    """Return the symmetric [N, N] sums of 1 / distance over pairs of positions at most `window` apart.

    An item next to itself does not count.
    """
    total_NN = csr_array((num_items, num_items), dtype=np.float64)
    if not histories:
        return total_NN
    items = np.concatenate(histories)
    users = np.repeat(np.arange(len(histories)), [len(history) for history in histories])
    for distance in range(1, min(window, max(map(len, histories)) - 1) + 1):
        earlier, later = items[:-distance], items[distance:]
        together = (users[:-distance] == users[distance:]) & (earlier != later)
        rows, columns = earlier[together], later[together]
        weights = np.full(len(rows), 1.0 / distance)
        total_NN += csr_array((weights, (rows, columns)), shape=(num_items, num_items))
    both_NN = csr_array(total_NN + total_NN.T)
    both_NN.eliminate_zeros()
    return both_NN
