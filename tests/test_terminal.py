"""Tables that are piped keep each text in one line, for whoever searches it."""

from __future__ import annotations

from pathlib import Path

import pytest
from rich.table import Table
from trialign.launch.cli import script

from trialign.config.compose import compose
from trialign.terminal import console

LONG = "/a/long/path" * 30


def test_a_table_in_a_pipe_is_not_wrapped(capsys: pytest.CaptureFixture[str]) -> None:
    table = Table("stage", "folder")
    table.add_row("train", f"{LONG} with spaces {LONG}")
    console().print(table)
    assert f"{LONG} with spaces {LONG}" in capsys.readouterr().out


def test_status_shows_the_path_of_a_run_whole(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / ("of a run with a long name " * 5)
    run.mkdir()
    script("status")(compose("status", [f"run='{run}'"]))
    assert str(run) in capsys.readouterr().out
