"""Which events are held out, and how long histories are cut into windows. Arithmetic on lengths, nothing else."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Lengths = NDArray[np.int64]


@dataclass(frozen=True)
class Cuts:
    """Where each of U histories is cut.

    Events before `validation` are for training, those in `validation : test` are the targets of validation, those from
    `test` on the targets of test. A user who is not evaluated has both cuts at the end of the history.

    Attributes:
        validation: int64 [U].
        test: int64 [U].
    """

    validation: Lengths
    test: Lengths


@dataclass(frozen=True)
class Windows:
    """Windows over U histories, in order.

    Attributes:
        histories: int64 [S], the history of each window.
        starts: int64 [S], its first position in that history.
        lengths: int64 [S].
        first_target: int32 [S]: positions of the window from here on belong to it, the ones before to an earlier one.
    """

    histories: NDArray[np.int64]
    starts: Lengths
    lengths: Lengths
    first_target: NDArray[np.int32]


def leave_one_out(lengths: Lengths, min_events: int) -> Cuts:
    """Hold out the last event for test and the one before for validation.

    Args:
        lengths: int64 [U], events of each user.
        min_events: users with fewer are trained on whole and not evaluated; at least 3, so that something is left.
    """
    assert min_events >= 3, min_events
    evaluated = lengths >= min_events
    return Cuts(validation=lengths - 2 * evaluated, test=lengths - evaluated)


SPLITS: dict[str, Callable[[Lengths, int], Cuts]] = {"leave_one_out": leave_one_out}


def windows(lengths: Lengths, max_history: int) -> Windows:
    """Cut histories into windows of `max_history` that overlap by half; a shorter history is one window.

    Every position of a history is a target in exactly one window, and every window but a history's first has
    `max_history // 2` positions of context before its targets. A history's last window may be shorter than the others.

    Args:
        lengths: int64 [U], at least 1.
        max_history: at least 2.
    """
    assert max_history >= 2, max_history
    overlap = max_history // 2
    stride = max_history - overlap
    num_windows = 1 + -(-np.maximum(lengths - max_history, 0) // stride)
    histories = np.repeat(np.arange(len(lengths)), num_windows)
    number = np.arange(len(histories)) - np.repeat(np.cumsum(num_windows) - num_windows, num_windows)
    starts = number * stride
    return Windows(
        histories=histories,
        starts=starts,
        lengths=np.minimum(lengths[histories] - starts, max_history),
        first_target=np.where(number == 0, 0, overlap).astype(np.int32),
    )
