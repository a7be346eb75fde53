"""Words from outside to this process, heard from its start: make room (SIGUSR1 in a Slurm job), and Ctrl-C.

A training answers them by a save (`preemption.py`), a pipeline between two stages. What can do neither works on until
it is ended. Imports nothing heavy.
"""

from __future__ import annotations

import os
import signal
from types import FrameType
from typing import NoReturn

from trialign.errors import TrialignError

INTERRUPTED = 130
"""Exit code after Ctrl-C, as shells have it."""


class PreemptedError(TrialignError):
    """The process was asked to make room and has saved itself; the exit code asks to be queued again."""

    exit_code = 75


class SavedError(TrialignError):
    """Ctrl-C: the training has saved itself and ends."""

    exit_code = INTERRUPTED


class Interrupted(BaseException):  # no error; Lightning turns KeyboardInterrupt into an exit code of 1
    """Ctrl-C where nothing can be saved."""


_heard = False


def listen() -> None:
    """Listen from now on; called once, by the command."""
    process = os.getpid()

    def interrupt(number: int, frame: FrameType | None) -> None:  # noqa: ARG001
        if os.getpid() == process:  # children hear it too where it is typed; this process ends them
            signal.signal(signal.SIGINT, signal.SIG_DFL)  # the next one ends at once
            raise Interrupted

    signal.signal(signal.SIGINT, interrupt)
    if "SLURM_STEP_ID" in os.environ:
        signal.signal(signal.SIGUSR1, _hear)


def asked_for_room() -> bool:
    """Return whether this process was asked to make room."""
    return _heard


def make_room(done: str) -> NoReturn:
    """End where nothing is lost.

    Args:
        done: what was done before, as a phrase.

    Raises:
        PreemptedError: always.
    """
    raise PreemptedError(
        f"asked to make room, {done}",
        rule=f"exit code {PreemptedError.exit_code}: queue me again",
        remedy="the same command goes on from there",
    )


def _hear(number: int, frame: FrameType | None) -> None:  # noqa: ARG001
    global _heard
    _heard = True
