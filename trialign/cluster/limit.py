"""The time limit of a job: when its ranks must be asked to save, and when it is too late for that.

Slurm does not queue a job again that ran into its limit, and cancels those that wait for it. So the supervisor asks
earlier than Slurm would, where saves are slow, and has a job that is still not done queued again a moment before.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from trialign.cluster.record import AttemptEvent

_SAVES = 2.0
"""Saves that fit between the word and the limit: the step under way has to end first, and no save is like another."""

_LOOK = 30.0
"""Seconds between two looks at the limit, which may be moved, and at how long saves take."""


class TimeLimit:
    """The time limit of a job, and how near it is.

    Args:
        end: returns when Slurm ends the job, in seconds since 1970; None if it does not.
        stage: whose saves are measured.
        earlier: the events of earlier attempts; one that was out of time shows how long a save takes at least.
        leave: seconds before the end at which it is too late.
        began: when the attempt began.
    """

    def __init__(
        self,
        end: Callable[[], float | None],
        stage: Path,
        earlier: Sequence[AttemptEvent],
        *,
        leave: float,
        began: float,
    ) -> None:
        self._ask, self._stage, self._leave, self._began = end, stage, leave, began
        self._longer = max((line.get("saved_for", 0.0) for line in earlier), default=0.0)
        self._end: float | None = None
        self._first: float | None = None
        self._lead = 0.0
        self._looked = -_LOOK

    def is_near(self, now: float) -> bool:
        """Return whether the ranks must be asked to save now."""
        self._look()
        return self._end is not None and now >= self._end - self._lead

    def is_reached(self, now: float) -> bool:
        """Return whether it is too late to save; asks Slurm again, as the limit may have been extended."""
        self._look()
        if self._end is None or now < self._end - self._leave:
            return False
        self._look(again=True)
        return self._end is not None and now >= self._end - self._leave

    @property
    def moved_up(self) -> bool:
        """Whether Slurm moved the time limit closer since the attempt began, to preempt the job."""
        return self._first is not None and self._end is not None and self._end < self._first

    def _look(self, *, again: bool = False) -> None:
        if not again and time.monotonic() - self._looked < _LOOK:
            return
        self._looked = time.monotonic()
        self._end = self._ask()
        self._first = self._end if self._first is None else self._first
        if self._end is not None:
            slowest = max(self._longer, slowest_save(self._stage))
            # At least half of the time is for work, or a job would only save.
            self._lead = min(_SAVES * slowest + self._leave, (self._end - self._began) / 2)


def slowest_save(stage: Path) -> float:
    """Return the seconds of the slowest save among the checkpoints below a folder, 0 if there are none."""
    seconds = [0.0]
    for index in [*stage.glob("checkpoints/step-*.json"), *stage.glob("*/checkpoints/step-*.json")]:
        try:
            seconds.append(float(json.loads(index.read_text()).get("seconds", 0.0)))
        except (OSError, ValueError):  # removed meanwhile
            continue
    return max(seconds)
