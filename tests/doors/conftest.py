"""How a door is opened: a command is typed in an empty folder, in this process."""

from __future__ import annotations

import gc
import shlex
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from trialign.launch import cli

from tests.doors.door import Run, Said


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Iterator[Run]:
    """Return what types a command behind `trialign`, in an empty folder and in this process, and hears the answer."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("TRIALIGN_DATA", raising=False)
    listening = signal.getsignal(signal.SIGINT)
    gc.disable()  # Hydra copies so many small objects that looking for garbage is a sixth of the time

    def typed(command: str) -> Said:
        monkeypatch.setattr(sys, "argv", ["trialign", *shlex.split(command)])
        capfd.readouterr()
        code: Any = 0
        try:
            cli.main()
        except SystemExit as ended:
            code = ended.code
        return Said(code or 0, *capfd.readouterr())

    yield typed
    gc.enable()
    signal.signal(signal.SIGINT, listening)
