"""How far a long piece of work is, how fast it goes and how long it will take, told now and then."""

from __future__ import annotations

import logging
import time

log = logging.getLogger("trialign")

_SECONDS_BETWEEN_LINES = 10.0


class Pace:
    """Counts what is done.

    Args:
        what: the work, e.g. `captions`.
        total: how much there is, in items.
    """

    def __init__(self, what: str, total: int) -> None:
        self._what, self._total = what, total
        self._done = self._reused = 0
        self._started = self._told = time.monotonic()

    def add(self, count: int = 1, *, reused: bool = False) -> None:
        """Count items that are done; those that were `reused` cost nothing and say nothing about the rate."""
        self._done += count
        self._reused += count * reused
        now = time.monotonic()
        if now - self._told >= _SECONDS_BETWEEN_LINES and self._done > self._reused:
            self._told = now
            log.info("  %s", self.line(now - self._started))

    def line(self, seconds: float) -> str:
        """Return the line to tell after `seconds`."""
        rate = (self._done - self._reused) / seconds
        minutes, rest = divmod(round((self._total - self._done) / rate), 60)
        return (
            f"{self._what}: {self._done} of {self._total} items, {rate:.1f} a second, {minutes} min {rest:02d} s left"
        )
