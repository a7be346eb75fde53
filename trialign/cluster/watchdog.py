"""Detect a stuck stage: by its heartbeats, not by its files, since a loop without progress may write too."""

from __future__ import annotations

import time
from pathlib import Path

from trialign.progress import BEAT, Heartbeat, read_progress

_BELOW = (BEAT, f"*/{BEAT}", f"*/*/{BEAT}")
"""A job's folder is a stage's, evaluate's with one below for each split, or a whole run's."""


class Watchdog:
    """Detects a stage without progress.

    Args:
        folder: of the stage, or of the run where a job makes all stages.
        seconds: time without progress after which a stage is stuck, by the clock of this machine.
    """

    def __init__(self, folder: Path, seconds: float) -> None:
        self._folder, self._seconds = folder, seconds
        self._last: Heartbeat | None = None
        self._counted, self._since = self._look(), time.monotonic()

    def stands_still(self) -> bool:
        """Return whether the stage has made no progress for too long."""
        counted, now = self._look(), time.monotonic()
        if counted != self._counted:
            self._counted, self._since = counted, now
        return now - self._since > self._seconds

    def __str__(self) -> str:
        silence = f"nothing was counted for {time.monotonic() - self._since:.0f} s"
        return f"{silence}; " + (f"the last beat: {self._last.stage}, {self._last}" if self._last else "no beat yet")

    def _look(self) -> dict[Path, tuple[str, int, int]]:
        paths = [path for pattern in _BELOW for path in self._folder.glob(pattern)]
        beats = {path: beat for path in paths if (beat := read_progress(path.parent)) is not None}
        if beats:
            self._last = max(beats.values(), key=lambda beat: beat.at)
        return {path: (beat.attempt, beat.number, beat.advances) for path, beat in beats.items()}
