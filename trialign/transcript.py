"""The console output of a command: standard output and error, above a progress bar if any, recorded in its run.

`console.log` in a run's folder holds it, attempt after attempt, as plain text.
"""

from __future__ import annotations

import os
import platform
import re
import shlex
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO, cast

from trialign.foreign import harmless

CONSOLE = "console.log"
_CODES = re.compile(r"\x1b(\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(\x07|\x1b\\)|[@-_])")
"""What steers a terminal: colors, the cursor, its title."""

Line = Callable[[str], None]


class Transcript:
    """The standard streams of this process while `recorded` runs; see there."""

    def __init__(self) -> None:
        self.process = os.getpid()
        self.above_bar: Line | None = None
        self.out, self.err = Stream(sys.stdout, self), Stream(sys.stderr, self)
        self._path: Path | None = None
        self._waiting: list[str] = []

    def keep(self, run: Path, command: Sequence[str]) -> None:
        """Record the output from now on in a run's folder, once that exists: a refused command makes none."""
        now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        self._path, self._waiting = run / CONSOLE, []
        self.line(f"--- {now}, {platform.node()}, pid {os.getpid()}: {shlex.join(command)}")

    def line(self, text: str) -> None:
        """Append a line; a failed write does not fail the stage, which may itself need no more disk space."""
        if self._path is None:
            return
        self._waiting.append(harmless(_CODES.sub("", text), keep="\t") + "\n")
        if not self._path.parent.is_dir():
            return
        lines, self._waiting = self._waiting, []
        try:
            with self._path.open("a", encoding="utf-8") as file:
                file.write("".join(lines))
        except OSError as cause:
            path, self._path = self._path, None
            self.err.write(f"what is said from here on is not kept: {path} cannot be written: {cause}\n")

    @contextmanager
    def below(self, bar: Line | None) -> Iterator[None]:
        """Write lines for the terminal through `bar` while the block runs; None if no bar is drawn."""
        self.above_bar = bar
        try:
            yield
        finally:
            self.above_bar = None


class Stream:
    """A standard stream whose lines are recorded, and printed above the bar.

    Args:
        raw: the stream itself, which has all else that a stream has.
        transcript: where they are kept.
    """

    def __init__(self, raw: TextIO, transcript: Transcript) -> None:
        self.raw, self._transcript = raw, transcript
        self._begun = ""

    def __getattr__(self, name: str) -> Any:
        return getattr(self.raw, name)

    @property
    def above_bar(self) -> Line | None:
        """The function that writes a line above the bar; None if no bar is drawn on this stream's terminal.

        A process that was forked has none: nobody there gives back the lock that the thread of the bar held then.
        """
        drawn = self._transcript.above_bar
        return drawn if drawn and os.getpid() == self._transcript.process and self.raw.isatty() else None

    def write(self, text: str) -> int:
        """Write `text`; above a bar its last line once it is whole."""
        above = self.above_bar
        if above is None:
            self.raw.write(text)
        for line in self._whole_lines(text):
            if above is not None:
                above(line)
            self._transcript.line(line)
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        """Write one after the other."""
        for line in lines:
            self.write(line)

    def keep(self, text: str) -> None:
        """Record text that the bar already shows, without printing it."""
        for line in text.splitlines():
            self._transcript.line(line)

    def _whole_lines(self, text: str) -> list[str]:
        """Return the lines that `text` ends, each as a terminal shows it: without what it overwrites from the left."""
        *lines, begun = (self._begun + text).split("\n")
        self._begun = begun[begun.rfind("\r", 0, -1) + 1 :]
        return [line.rstrip("\r").rpartition("\r")[2] for line in lines]


@contextmanager
def recorded() -> Iterator[Transcript]:
    """Record standard output and error while the block runs."""
    before = sys.stdout, sys.stderr
    transcript = Transcript()
    sys.stdout, sys.stderr = cast(TextIO, transcript.out), cast(TextIO, transcript.err)
    try:
        yield transcript
    finally:
        sys.stdout, sys.stderr = before
