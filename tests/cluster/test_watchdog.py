"""What the watchdog takes for being still."""

from __future__ import annotations

from pathlib import Path

import pytest

from trialign.cluster.watchdog import Watchdog
from trialign.progress import BEAT, Intervals, Progress, telling

OFTEN = Intervals(beat=0.0)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [0.0]
    monkeypatch.setattr("trialign.cluster.watchdog.time.monotonic", lambda: now[0])
    return now


@pytest.mark.parametrize("below", ["", "train", "evaluate/test"])
def test_a_stage_lives_as_long_as_it_counts(tmp_path: Path, clock: list[float], below: str) -> None:
    stage = tmp_path / below
    stage.mkdir(parents=True, exist_ok=True)
    watchdog = Watchdog(tmp_path, 60.0)
    with telling("train", stage, OFTEN), Progress("steps", 9) as progress:
        for _ in range(4):
            clock[0] += 59.0
            progress.add()
            assert not watchdog.stands_still()
        clock[0] += 61.0
        (stage / BEAT).touch()
        (stage / "metrics.csv").write_text("a loop that goes nowhere may write")
        assert watchdog.stands_still()
        last = "the last beat: train, steps: 4 of 9, 1.0 a minute, 4 min 55 s left"
        assert str(watchdog) == f"nothing was counted for 61 s; {last}"


def test_a_stage_that_never_beat_stands_still(tmp_path: Path, clock: list[float]) -> None:
    watchdog = Watchdog(tmp_path / "run", 60.0)
    assert not watchdog.stands_still()
    clock[0] = 61.0
    assert watchdog.stands_still()
    assert str(watchdog) == "nothing was counted for 61 s; no beat yet"


def test_the_beat_of_an_attempt_before_is_no_life(tmp_path: Path, clock: list[float]) -> None:
    with telling("train", tmp_path / "elsewhere", OFTEN):
        (tmp_path / "elsewhere").mkdir()
        with Progress("steps", 9) as progress:
            progress.add()
            (tmp_path / BEAT).write_bytes((tmp_path / "elsewhere" / BEAT).read_bytes())
    watchdog = Watchdog(tmp_path, 60.0)
    clock[0] = 61.0
    assert watchdog.stands_still()
