"""The rules by which docs/session.py shortens what it prints; a session itself takes minutes, and Slurm."""

from __future__ import annotations

import re
import runpy
from pathlib import Path
from typing import Any

import pytest

CHECKOUT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def session() -> dict[str, Any]:
    return runpy.run_path(str(CHECKOUT / "docs" / "session.py"))


def test_of_many_lines_alike_three_are_shown(session: dict[str, Any]) -> None:
    epochs = [f"  sasrec: epoch {number} of 9" for number in range(1, 10)]
    lines = ["[1/8] prepare", *epochs, "", "", "", "", "", "[2/8] embed"]
    assert session["shortened"](lines, 20) == [
        "[1/8] prepare",
        *epochs[:2],
        "[... 6 lines]",
        epochs[-1],
        *[""] * 5,
        "[2/8] embed",
    ]
    rows = [f"│ 0.00{number} │ item │" for number in range(4)]
    assert session["shortened"](rows, 20) == rows


def test_what_is_still_long_keeps_its_last_line_and_counts_all_that_is_missing(session: dict[str, Any]) -> None:
    lines = [*"abcdef", *["x 1", "x 2", "x 3", "x 4", "x 5"], "end"]
    assert session["shortened"](lines, 5) == ["a", "b", "c", "[... 8 lines]", "end"]


def test_times_folders_and_revisions_are_left_out(session: dict[str, Any]) -> None:
    folder = Path("/home/ann/shop")
    output = f"""stages, 12 s
│ train │ built │   17.8 │ /home/ann/shop/runs/mine/train │
cd /home/ann/shop
  revision: 6d04a4b6adb1 (quickstart)
{CHECKOUT}/launch of pid 412, 59:48 left, 2026-11-30 10:48:24, 4 of 12 steps
seed 2026, N@10 0.1168

"""
    assert session["plain"](output, folder) == [
        "stages, -- s",
        "│ train │ built │   --.- │ runs/mine/train                │",
        "cd FOLDER",
        "CHECKOUT/launch of pid ---, --:-- left, ----------" + " --:--:--, 4 of 12 steps",
        "seed 2026, N@10 0.1168",
    ]


def test_a_refused_command_is_not_one_to_paste(session: dict[str, Any]) -> None:
    step = session["Step"]("", "trialign train x=1")
    assert session["shown"](step, 0, ["done"]) == "    trialign train x=1\n\n      done"
    assert session["shown"](step, 2, ["no"]) == "```console\n$ trialign train x=1\n\nno\n```"


def test_the_page_has_every_command_of_the_script_and_no_path_of_a_machine(session: dict[str, Any]) -> None:
    page = (CHECKOUT / "docs" / "session.md").read_text()
    steps = [step for part in session["PARTS"].values() for step in part]
    lines = {line.strip().removeprefix("$ ") for line in page.splitlines()}
    assert not [line.strip() for step in steps for line in step.command.splitlines() if line.strip() not in lines], (
        "docs/session.md is older than docs/session.py"
    )
    assert not re.search(r"/(tmp|home|root)/", page)
