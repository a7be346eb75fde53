"""What a command says is kept in its run, as plain text, and never a reason to fail."""

from __future__ import annotations

import io
import logging
import sys
from pathlib import Path

import pytest
from trialign.launch.cli import _log_plainly

from trialign.progress import BAR
from trialign.transcript import CONSOLE, recorded


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def kept(run: Path) -> list[str]:
    return (run / CONSOLE).read_text().splitlines()


def test_attempts_stand_one_after_the_other_each_with_its_start(tmp_path: Path) -> None:
    for attempt in range(2):
        with recorded() as transcript:
            transcript.keep(tmp_path, ["trialign", "train", "run=a b"])
            print("step", attempt)
            print("a warning", file=sys.stderr)
    first, *lines = kept(tmp_path)
    assert first.startswith("--- 2")
    assert first.endswith(": trialign train 'run=a b'")
    assert [line for line in lines if not line.startswith("---")] == ["step 0", "a warning", "step 1", "a warning"]
    assert sum(line.startswith("---") for line in lines) == 1


def test_text_is_kept_as_a_terminal_shows_it_at_the_end(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = "\x1b[1mbold\x1b[0m\n 10 %\r100 %\n\x1b]0;title\x07a\tb\x07\r\n"
    with recorded() as transcript:
        transcript.keep(tmp_path, ["trialign"])
        for letter in said:
            sys.stdout.write(letter)
    assert kept(tmp_path)[1:] == ["bold", "100 %", "a\tb\\x07"]
    assert capsys.readouterr().out == said, "the terminal gets it as it was"


def test_nothing_is_made_by_a_command_that_makes_no_run_and_nothing_is_lost_before(tmp_path: Path) -> None:
    run = tmp_path / "run"
    with recorded() as transcript:
        transcript.keep(run, ["trialign", "prepare"])
        print("before")
        assert not run.exists()
        run.mkdir()
        print("after")
    assert kept(run)[1:] == ["before", "after"]


def test_what_cannot_be_kept_is_told_once_and_stops_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / CONSOLE).mkdir()
    with recorded() as transcript:
        transcript.keep(tmp_path, ["trialign"])
        print("one\ntwo")
    out, err = capsys.readouterr()
    assert out == "one\ntwo\n"
    assert err.count("is not kept") == 1


def test_at_a_bar_whole_lines_stand_above_it_and_what_it_says_itself_is_kept_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    terminal, above = Terminal(), list[str]()
    monkeypatch.setattr("sys.stdout", terminal)
    monkeypatch.setattr(logging.getLogger("trialign"), "handlers", [])
    with recorded() as transcript:
        transcript.keep(tmp_path, ["trialign"])
        _log_plainly("stdout")
        log = logging.getLogger("trialign.of.a.test")
        with transcript.below(above.append):
            print("be", end="")
            print("gun")
            log.info("60 of 150", extra={BAR: True})
            log.info("built")
        log.info("120 of 150", extra={BAR: True})
    assert above == ["begun", "built"]
    assert terminal.getvalue() == "120 of 150\n"
    assert kept(tmp_path)[1:] == ["begun", "60 of 150", "built", "120 of 150"]
