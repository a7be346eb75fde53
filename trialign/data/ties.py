"""Ties: events of one user with equal times, whose order the log does not define.

The order of a file's rows, or of item keys, often leaks what a recommender must predict: logs are sorted by item, and
keys count up with the age or popularity of items. So neither decides ties: a hash of user, item and time does.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from trialign.data.tables import DuckTables
from trialign.stream.order import number_of_key


def find_ties(order: Sequence[NDArray[np.int64]]) -> NDArray[np.bool_]:
    """Return tied_E: whether an event has the same order as the event before it.

    Args:
        order: int64 [E] each: the user of sorted events, their time, and what else orders them; at least one event.
    """
    tied_E = np.ones(len(order[0]), np.bool_)
    tied_E[0] = False
    for values in order:
        tied_E[1:] &= values[1:] == values[:-1]
    return tied_E


def in_ties(tied_E: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return which events have the same order as the event before or after them."""
    found_E = tied_E.copy()
    found_E[:-1] |= tied_E[1:]
    return found_E


def hash_keys(keys: pa.Array | pa.ChunkedArray, tables: DuckTables) -> NDArray[np.uint64]:
    """Return half of each key's md5."""
    hashed = tables.con.from_arrow(pa.table({"key": keys})).project("md5_number_lower(key) AS hash")
    hashes: NDArray[np.uint64] = hashed.to_arrow_table()["hash"].to_numpy()
    return hashes


def shuffle_ties(
    items: NDArray[np.int32],
    tied_E: NDArray[np.bool_],
    times: NDArray[np.int64],
    user_hashes: NDArray[np.uint64],
    item_hashes_N: NDArray[np.uint64],
) -> NDArray[np.int32]:
    """Return the items of sorted events with those of each tie in the order of a hash of user, item and time.

    Args:
        items: int32 [E]; ascending within a tie, so that equal hashes make no difference between two logs.
        tied_E: from `find_ties`.
        times: int64 [E].
        user_hashes: [E], of the key of each event's user.
        item_hashes_N: of the key of each item.
    """
    rows = np.flatnonzero(in_ties(tied_E))
    chosen = items[rows]
    draws = number_of_key(user_hashes[rows], item_hashes_N[chosen], times[rows])
    shuffled = items.copy()
    shuffled[rows] = chosen[np.lexsort((draws, np.cumsum(~tied_E[rows])))]
    return shuffled
