"""Which events are held out, and how long histories are cut into windows. Arithmetic on lengths, nothing else."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from trialign.types import EvaluationSplit

Lengths = NDArray[np.int64]


@dataclass(frozen=True)
class Targets:
    """Which positions of U histories are the targets of a split: `begin : end`, none where both are equal.

    Attributes:
        begin: int64 [U]; what is before is the history that a ranker reads.
        end: int64 [U].
    """

    begin: Lengths
    end: Lengths


@dataclass(frozen=True)
class Cuts:
    """How each of U histories is divided.

    Attributes:
        train: int64 [U], events before are trained on.
        held: the targets of validation and of test, none of them before `train`.
    """

    train: Lengths
    held: dict[EvaluationSplit, Targets]


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


def last_n(lengths: Lengths, n: int, min_eval_events: int) -> Cuts:
    """Hold out the last n events for test and the n before them for validation; n = 1 is leave-one-out.

    Args:
        lengths: int64 [U], events of each user.
        n: targets of a user.
        min_eval_events: users with fewer are trained on whole and not evaluated. So are those with n events or fewer,
            who have no history to read; those with 2n or fewer have no validation targets, for the same reason.
    """
    tested = (lengths >= min_eval_events) & (lengths > n)
    test = lengths - n * tested
    validation = test - n * (tested & (lengths > 2 * n))
    return Cuts(train=validation, held={"validation": Targets(validation, test), "test": Targets(test, lengths)})


def temporal(before_first: Lengths, before_second: Lengths, lengths: Lengths, min_eval_events: int) -> Cuts:
    """Train on what happened before the first of two times; targets are all of a user's events between and after.

    Nothing later than the first time is ever trained on: the held-out events of a user who is not evaluated, because
    no history or too few events are before them, are not used at all.

    Args:
        before_first: int64 [U], a user's events before the first time.
        before_second: int64 [U], those before the second.
        lengths: int64 [U], all of them.
        min_eval_events: users with fewer are not evaluated.
    """
    enough = lengths >= min_eval_events

    def targets(begin: Lengths, end: Lengths) -> Targets:
        return Targets(begin, np.where(enough & (begin > 0), end, begin))

    held: dict[EvaluationSplit, Targets] = {
        "validation": targets(before_first, before_second),
        "test": targets(before_second, lengths),
    }
    return Cuts(train=before_first, held=held)


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
