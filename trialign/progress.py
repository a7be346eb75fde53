"""Progress of a stage: lines in the log, and a heartbeat file that the watchdog of a job and `status` read.

A long piece of work counts what it has done, by a `Progress`. No timer reports: stuck work reports
nothing, which reveals it. The module needs nothing but Python's standard library, as a job's supervisor
may run outside the container of the ranks.
"""

from __future__ import annotations

import json
import logging
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sized
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

from trialign.foreign import parse_json

log = logging.getLogger("trialign")

T = TypeVar("T")

BEAT = "progress.json"
"""The file in a stage's folder, while the stage is made."""
BAR = "trialign_bar"
"""What a record of the log has that says no more than a bar does at the same time."""


def count_of(number: int, noun: str) -> str:
    """Return a number with its noun: 1 step, 2,000 steps."""
    return f"{number:,} {noun}" + "s" * (number != 1)


@dataclass(frozen=True)
class Intervals:
    """How often progress is reported, in seconds.

    Attributes:
        beat: between two beats.
        line: between two lines in a log.
    """

    beat: float = 5.0
    line: float = 60.0


@dataclass(frozen=True)
class Heartbeat:
    """A heartbeat: the progress of a stage at one time.

    Attributes:
        stage: the verb.
        what: what is counted now, e.g. `users ranked by sasrec`.
        done: how much of it is done, by earlier attempts too.
        total: how much there is; None where that is not known.
        rate: done per second in this attempt; None before anything is.
        seconds_left: of what is counted now, at this rate; None where it cannot be known.
        number: which of the stage's counts this is, from 1.
        within: what is counted in the middle of it, as a line, e.g. a validation; None most of the time.
        advances: rises whenever something was counted; a beat with the same number is of a stage that is stuck.
        seconds: since the attempt began.
        at: when the beat was written, in seconds since 1970 by the clock of the stage's machine.
        rank: which rank counted; the first counts for all.
        attempt: differs from attempt to attempt.
    """

    stage: str
    what: str
    done: int
    total: int | None
    rate: float | None
    seconds_left: float | None
    number: int
    within: str | None
    advances: int
    seconds: float
    at: float
    rank: int
    attempt: str

    @property
    def place(self) -> tuple[int, int]:
        """How far the stage is, comparable between attempts at the same stage: a larger one is further."""
        return self.number, self.done

    def __str__(self) -> str:
        line = _line(self.what, self.done, self.total, self.rate, self.seconds_left)
        return f"{line} ({self.within})" if self.within else line


def read_progress(folder: Path) -> Heartbeat | None:
    """Return the last heartbeat of the stage that is built in `folder`; None if none can be read."""
    try:
        found = parse_json((folder / BEAT).read_text())
        return Heartbeat(**{field.name: found[field.name] for field in fields(Heartbeat)})
    except (OSError, ValueError, KeyError, TypeError):  # none yet, half of one after a power cut, another version's
        return None


class Progress:
    """Counts what is done of a long piece of work, and reports it as progress of the current stage.

    A block: `with Progress("users", 6000) as progress: ... progress.add(1024)`. Inside another one that has a total it
    is reported as a part of that. It may be given a `note`, which is reported behind the count, e.g. the loss.

    Args:
        what: the work, e.g. `captions`.
        total: how much there is; None where that is not known.
    """

    def __init__(self, what: str, total: int | None = None) -> None:
        self.what, self.total = what, total
        self.done = self._reused = 0
        self.note = ""
        self._started = time.monotonic()

    def __enter__(self) -> Self:
        self._teller = _current
        self._teller.open(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, cause: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._teller.close(self, whole=kind in (None, GeneratorExit))  # a loop may end early

    def add(self, count: int = 1, *, reused: bool = False) -> None:
        """Count what is done; what is `reused` cost no time and does not count for the rate."""
        if count:
            self.done += count
            self._reused += count * reused
            self._teller.advanced()

    def moved(self) -> None:
        """Report that the work continues, because it writes, though no further unit is complete."""
        self._teller.advanced()

    def reach(self, done: int) -> None:
        """Set the count to `done`, for work that keeps a count of its own."""
        self.add(max(0, done - self.done))

    def rate(self) -> float | None:
        """Return what was done per second, None before anything was."""
        seconds = time.monotonic() - self._started
        made = self.done - self._reused
        return made / seconds if made and seconds else None

    def seconds_left(self) -> float | None:
        """Return how long the rest will take at this rate."""
        rate = self.rate()
        return None if rate is None or self.total is None else max(0, self.total - self.done) / rate

    @property
    def seconds(self) -> float:
        """Since it began."""
        return time.monotonic() - self._started

    def __str__(self) -> str:
        line = _line(self.what, self.done, self.total, self.rate(), self.seconds_left())
        return f"{line}, {self.note}" if self.note else line


@contextmanager
def watched(look: Callable[[threading.Event], None]) -> Iterator[None]:
    """Call `look` in a thread next to the block, for work that cannot count itself; its event is set at the end."""
    ended = threading.Event()
    thread = threading.Thread(target=look, args=(ended,), daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def tracked(pieces: Iterable[T], what: str, total: int | None = None) -> Iterator[T]:
    """Yield `pieces` and count each once it is processed; give `total` if they have no length."""
    if total is None and isinstance(pieces, Sized):
        total = len(pieces)
    with Progress(what, total) as progress:
        for piece in pieces:
            yield piece
            progress.add()


@contextmanager
def telling(stage: str, folder: Path | None, intervals: Intervals, number: int = 0) -> Iterator[_Teller]:
    """Report what is counted in the block as progress of `stage`; heartbeats go to `folder`, if there is one.

    Inside another such block, as a stage of a pipeline is, the outer one reports too. `number` counts of the stage came
    before the block; how many there were after it, what is yielded says.
    """
    global _current
    before, _current = _current, _Teller(stage, folder, intervals, _current, number)
    try:
        yield _current
    finally:
        _current = before
    if folder is not None:
        (folder / BEAT).unlink(missing_ok=True)


def counted() -> list[Progress]:
    """Return all open counts, the outermost first, beginning with those of the command's own stage."""
    tellers: list[_Teller] = []
    teller: _Teller | None = _current
    while teller is not None:
        tellers.insert(0, teller)
        teller = teller.outer
    stages = [told.whole for told in tellers if told.whole.what][:1]
    return stages + [progress for told in tellers for progress in list(told.open_progress)]


class _Teller:
    """Reports the progress of one attempt at a stage."""

    def __init__(
        self, stage: str, folder: Path | None, intervals: Intervals, outer: _Teller | None = None, number: int = 0
    ) -> None:
        self.outer, self._stage, self._folder, self._intervals = outer, stage, folder, intervals
        self.whole, self.open_progress = Progress(stage), list[Progress]()
        self.number, self._advances = number, 0
        self._began = self._told = time.monotonic()
        self._beaten = -intervals.beat
        self._lock = threading.RLock()  # a second thread may look at how far a query is

    def open(self, progress: Progress) -> None:
        with self._lock:
            if all(other.total is None for other in self.open_progress):
                self.number += 1
            self.open_progress.append(progress)
            self._told = time.monotonic()
            self.advanced()

    def close(self, progress: Progress, *, whole: bool) -> None:
        with self._lock:
            if not whole:
                self.beat()  # how far it came
            self.open_progress.remove(progress)
            if whole and progress.seconds >= self._intervals.line:
                counted = f"{progress.done:,} in " if progress.done else ""  # a whole stage counts nothing of its own
                log.info("  %s: %s%s", progress.what, counted, duration(progress.seconds))

    def advanced(self) -> None:
        with self._lock:
            self._advances += 1
            now = time.monotonic()
            if not self.open_progress:
                return
            if self is _current and now - self._told >= self._intervals.line:
                self._told = now
                log.info("  %s", str(self.open_progress[-1]), extra={BAR: True})  # as it is now
            if now - self._beaten >= self._intervals.beat:
                self.beat()
            if self.outer is not None:
                self.outer.advanced()

    def beat(self) -> None:
        """Write the heartbeat file, if there is a folder for it and something is counted."""
        if self._folder is None or not self.open_progress:
            return
        path = self._folder / BEAT
        whole = next((progress for progress in self.open_progress if progress.total is not None), self.open_progress[0])
        inner = self.open_progress[self.open_progress.index(whole) + 1 :]
        self._beaten = time.monotonic()
        beat = Heartbeat(
            stage=self._stage,
            what=whole.what,
            done=whole.done,
            total=whole.total,
            rate=whole.rate(),
            seconds_left=whole.seconds_left(),
            number=self.number,
            within=str(inner[-1]) if inner else None,
            advances=self._advances,
            seconds=self._beaten - self._began,
            at=time.time(),
            rank=0,
            attempt=_attempt(),
        )
        aside = path.with_name(path.name + ".partial")
        try:
            # Not fsynced: a heartbeat that a power cut loses belongs to a stage that was killed too.
            aside.write_text(json.dumps(asdict(beat)) + "\n")
            aside.replace(path)
        except OSError as cause:  # no reason to fail: the stage itself may need no more disk space
            log.warning("the beat %s cannot be written: %s", path, cause)


_current = _Teller("", None, Intervals())


def _line(what: str, done: int, total: int | None, rate: float | None, left: float | None) -> str:
    words = [f"{what}: {done:,}" + ("" if total is None else f" of {total:,}")]
    if rate is not None:
        words.append(f"{rate:,.1f} a second" if rate >= 1 else f"{60 * rate:.1f} a minute")
    if left is not None:
        words.append(f"{duration(left)} left")
    return ", ".join(words)


def duration(seconds: float) -> str:
    """Return a duration in words, e.g. `1 min 30 s`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"


def _attempt() -> str:
    if "SLURM_JOB_ID" in os.environ:
        return f"{os.environ['SLURM_JOB_ID']}.{os.environ.get('SLURM_RESTART_COUNT', '0')}"
    return f"pid {os.getpid()}"
