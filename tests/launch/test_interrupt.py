"""Ctrl-C on the command line, by real processes."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest
from trialign.launch.doctor import TINY

LONG = ["train.steps=3000", "runtime.line_seconds=1"]
"""A minute's training at least, were nobody to interrupt it."""


@pytest.mark.parametrize(
    ("at", "says"),
    [("[1/8] prepare", "what was finished stays finished"), ("steps: ", "interrupted, saved after step")],
)
def test_ctrl_c_ends_with_a_word_and_130(tmp_path: Path, at: str, says: str) -> None:
    """A stage that cannot save ends where it is, a training behind a save; neither by a traceback."""
    run = tmp_path / "run"
    # Its own group, as a shell's job has: what typing Ctrl-C reaches.
    process = subprocess.Popen(
        [sys.executable, "-u", "-m", "trialign.launch.cli", "pipeline", f"run={run}", *TINY, "embed/image=none", *LONG],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None
    seen = []
    for line in process.stdout:
        seen.append(line)
        if at in line:
            process.send_signal(signal.SIGINT)
            break
    told = "".join(seen) + process.stdout.read()
    assert process.wait() == 130, told
    assert says in told
    assert "Traceback" not in told
    if "saved" in says:
        assert list((run / "train" / "checkpoints").glob("step-*.json"))
