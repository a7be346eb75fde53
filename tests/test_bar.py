"""A bar at a pseudo terminal: what somebody sees there, and that lines do not tear it."""

from __future__ import annotations

import os
import pty
import re
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from trialign.bar import bar
from trialign.progress import Intervals, Progress, telling

_STEERED = re.compile(r"\x1b\[(\?25[lh]|[0-9;]*m)")


class Terminal:
    """A pseudo terminal that remembers what was written to it."""

    def __init__(self) -> None:
        self._ours, theirs = pty.openpty()
        self.stream = os.fdopen(theirs, "w")
        self._written, self._news = b"", threading.Condition()
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        with suppress(OSError):  # nobody holds the other end any more
            while data := os.read(self._ours, 4096):
                with self._news:
                    self._written += data
                    self._news.notify_all()

    def await_text(self, text: str) -> list[str]:
        """Return the screen as soon as it shows `text`."""
        with self._news:
            assert self._news.wait_for(lambda: text in "\n".join(self._screen()), timeout=60), self._screen()
            return self._screen()

    def close(self) -> list[str]:
        """Return the screen as it is left."""
        self.stream.close()
        self._reader.join()
        os.close(self._ours)
        return self._screen()

    def _screen(self) -> list[str]:
        """Return the lines as a terminal shows them: codes that the bar uses are obeyed, others stay there."""
        lines, row = [""], 0
        text = _STEERED.sub("", self._written.decode(errors="ignore"))
        for part in re.findall(r"\x1b\[2K|\x1b\[1A|\r\n|\r|[^\x1b\r\n]+|.", text, re.DOTALL):
            if part == "\x1b[2K":
                lines[row] = ""
            elif part == "\x1b[1A":
                row -= 1
            elif part == "\r\n":
                row += 1
                lines += [""] * (row == len(lines))
            elif part != "\r":
                lines[row] += part
        return [line.rstrip() for line in lines]


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Iterator[Terminal]:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    monkeypatch.setattr("trialign.bar._PATIENCE", 0.0)
    terminal = Terminal()
    yield terminal
    if not terminal.stream.closed:
        terminal.close()


def test_a_terminal_shows_what_is_counted_with_lines_above_and_is_left_without_a_bar(terminal: Terminal) -> None:
    with bar(terminal.stream, wanted=True) as above, telling("embed", None, Intervals()):
        assert above is not None
        with Progress("text vectors", 1000) as progress:
            progress.add(250)
            progress.note = "loss 1.5"
            terminal.await_text("250/1,000")
            above("  a line of the log, " + 80 * "longer")
            with Progress("searches", 4) as inner:
                inner.add()
                shown = terminal.await_text("1/4")
            assert shown[0] == "  a line of the log, " + 80 * "longer", "not wrapped, so that it can be copied"
            stage, outer, within = shown[1:4]
            assert stage.startswith("embed ")
            assert re.search(r"text vectors .*━.* 250/1,000  [\d.,]+/(s|min)  .* left  loss 1\.5$", outer)
            assert within.startswith("searches ")
            above("another")
            terminal.await_text("another")
    assert [line for line in terminal.close() if line] == [shown[0], "another"]


@pytest.mark.parametrize(
    ("variables", "wanted"), [({"SLURM_JOB_ID": "7"}, True), ({"TERM": "dumb"}, True), ({}, False)]
)
def test_no_bar_where_nobody_looks(
    variables: dict[str, str], wanted: bool, terminal: Terminal, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with bar(terminal.stream, wanted=wanted) as above:
        assert above is None
    assert terminal.close() == [""]
    with (tmp_path / "file").open("w") as file, bar(file, wanted=True) as above:
        assert above is None
