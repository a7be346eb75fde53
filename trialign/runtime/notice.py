"""Handle signals from the start of the process: save and stop (SIGUSR1 in a Slurm job), and Ctrl-C.

A training saves and ends (`preemption.py`), a pipeline ends between two stages. Other stages ignore the request until
they are killed. A training after its last step first saves its outputs, then ends. Imports nothing heavy.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

from trialign.errors import TrialignError

SIGNALS = (signal.SIGTERM, signal.SIGUSR1)
"""What schedulers send before they take a node away."""

INTERRUPTED = 130
"""Exit code after Ctrl-C, as shells have it."""


class PreemptedError(TrialignError):
    """The process was asked to save and stop, and has saved; the exit code asks for a requeue of the job."""

    exit_code = 75


class SavedError(TrialignError):
    """Ctrl-C: the training has saved a checkpoint and ends."""

    exit_code = INTERRUPTED


class Interrupted(BaseException):  # no error; Lightning turns KeyboardInterrupt into an exit code of 1
    """Ctrl-C where nothing can be saved."""


_heard = False
_over = False  # a training is over, and its outputs are being saved


def listen() -> None:
    """Install the signal handlers; called once, by the command line."""
    process = os.getpid()

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        if os.getpid() == process:  # a terminal sends it to children too; this process ends them
            signal.signal(signal.SIGINT, signal.SIG_DFL)  # the next one ends at once
            raise Interrupted

    signal.signal(signal.SIGINT, interrupt)
    if "SLURM_STEP_ID" in os.environ:
        signal.signal(signal.SIGUSR1, hear)


@contextmanager
def saved_first() -> Iterator[None]:
    """Defer SIGNALS to the end of the block once a training in it is over; until then keep their default effect."""
    global _over
    _over, process = False, os.getpid()

    def hear_or_end(number: int, frame: FrameType | None) -> None:
        if _over and os.getpid() == process:
            hear(number, frame)
        else:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)

    replaced = [number for number in SIGNALS if signal.getsignal(number) == signal.SIG_DFL]
    for number in replaced:
        signal.signal(number, hear_or_end)
    try:
        yield
    finally:
        _over = False
        for number in replaced:
            signal.signal(number, signal.SIG_DFL)


def training_is_over() -> None:
    """Defer signals from now on, until the outputs of the training are saved."""
    global _over
    _over = True


def hear(_number: int, _frame: FrameType | None) -> None:
    """Record that this process was asked to save and stop; a signal handler."""
    global _heard
    _heard = True


def preemption_requested() -> bool:
    """Return whether this process was asked to save and stop."""
    return _heard


def exit_for_requeue(done: str) -> NoReturn:
    """End the process at a point where no work is lost.

    Args:
        done: what was done before, as a phrase.

    Raises:
        PreemptedError: always.
    """
    global _heard
    _heard = False  # the request is handled
    raise PreemptedError(
        f"preempted, {done}",
        rule=f"exit code {PreemptedError.exit_code}: queue me again",
        remedy="the same command continues from there",
    )
