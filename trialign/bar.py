"""A progress bar in the terminal: the current work, how much is done, the rate, and the time left.

It is drawn at the bottom of the terminal from `progress.counted()`, and gone when nothing is counted.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TextIO

from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from trialign.progress import Progress, counted, duration
from trialign.terminal import moving

_PATIENCE = 1.0
"""Seconds that a count has lasted when its bar appears: shorter ones would only flicker."""
_WIDTH = 20


@contextmanager
def bar(stream: TextIO, *, wanted: bool) -> Iterator[Callable[[str], None] | None]:
    """Draw the bar on `stream` while the block runs; what is yielded writes a line above it.

    Args:
        stream: standard error; if it is not a terminal, nothing is drawn and None is yielded.
        wanted: whether to draw it at all.
    """
    if not (wanted and _looked_at(stream)):
        yield None
        return
    terminal = moving(stream)
    with Live(
        console=terminal,
        get_renderable=_drawn,
        transient=True,
        redirect_stdout=False,
        redirect_stderr=False,
        vertical_overflow="crop",
    ):
        yield lambda line: terminal.print(Text.from_ansi(line), soft_wrap=True)


def _looked_at(stream: TextIO) -> bool:
    """Return whether the stream is a terminal that can move its cursor, and not the log of a job."""
    return stream.isatty() and "SLURM_JOB_ID" not in os.environ and os.environ.get("TERM") not in ("dumb", "unknown")


def _drawn() -> Table:
    """Return a line for the stage, and one for each of its counts that is open, the outermost first."""
    lines = Table.grid(padding=(0, 1), expand=True)
    lines.add_column(no_wrap=True, overflow="ellipsis", ratio=1)
    lines.add_column(no_wrap=True)
    lines.add_column(no_wrap=True)
    for progress in counted():
        if progress.seconds >= _PATIENCE:
            shape = ProgressBar(progress.total, progress.done, width=_WIDTH) if progress.total else ""
            lines.add_row(progress.what, shape, _told(progress))
    return lines


def _told(progress: Progress) -> str:
    """Return the figures of `str(progress)` in short form."""
    rate, left = progress.rate(), progress.seconds_left()
    words = [
        f"{progress.done:,}" + ("" if progress.total is None else f"/{progress.total:,}")
        if progress.total or progress.done
        else ""
    ]
    if rate is not None:
        words.append(f"{rate:,.1f}/s" if rate >= 1 else f"{60 * rate:.1f}/min")
    words.append(duration(progress.seconds) if left is None else f"{duration(left)} left")
    return "  ".join(filter(None, [*words, progress.note]))
