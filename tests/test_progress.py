"""How far a stage is: what is counted reaches the log and the beat, and nothing else makes a beat."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from trialign.progress import BEAT, Intervals, Progress, count_of, read_progress, telling, tracked
from trialign.stage import Stage

OFTEN = Intervals(beat=0.0, line=1000.0)


class Clock:
    """Seconds that pass when a test says so."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr("trialign.progress.time.monotonic", clock)
    return clock


def test_a_beat_says_what_is_counted_how_fast_and_how_long_it_will_take(tmp_path: Path, clock: Clock) -> None:
    with telling("evaluate", tmp_path, OFTEN), Progress("users", 1000) as progress:
        progress.add(100, reused=True)
        clock.now += 10
        progress.add(300)
        # 300 made in 10 s are 30 a second: 600 more take 20 s.
        beat = read_progress(tmp_path)
        assert beat is not None
        assert (beat.stage, beat.what, beat.done, beat.total) == ("evaluate", "users", 400, 1000)
        assert (beat.rate, beat.seconds_left, beat.seconds) == (30.0, 20.0, 10.0)
        assert str(beat) == "users: 400 of 1,000, 30.0 a second, 20 s left"


def test_what_counts_nothing_of_its_own_tells_its_time_alone(
    clock: Clock, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trialign.progress.log.propagate", True)
    told = telling("pipeline", None, Intervals(line=60.0))
    with caplog.at_level("INFO", logger="trialign"), told, Progress("stage 7/8, train"):
        clock.now += 78.6
    assert [record.getMessage() for record in caplog.records] == ["  stage 7/8, train: 1 min 19 s"]


def test_only_what_is_counted_makes_a_beat_rise(tmp_path: Path, clock: Clock) -> None:
    seen = []
    with telling("quantize", tmp_path, OFTEN), Progress("passes", 5) as progress:
        for counted in (1, 0, 0, 1):
            clock.now += 60
            progress.add(counted)
            beat = read_progress(tmp_path)
            assert beat is not None
            seen.append(beat.advances)
    assert seen[0] == seen[1] == seen[2] < seen[3]


def test_beats_are_written_no_more_often_than_asked(tmp_path: Path, clock: Clock) -> None:
    written = set()
    with telling("train", tmp_path, Intervals(beat=5.0)), Progress("steps", 100) as progress:
        for _ in range(100):
            clock.now += 0.25
            progress.add()
            written.add((tmp_path / BEAT).read_bytes())
    assert len(written) == 6  # 25 s: one at the beginning, one every 5 s


def test_what_is_counted_inside_is_told_within_the_whole(tmp_path: Path) -> None:
    with telling("train", tmp_path, OFTEN), Progress("steps", 10) as steps:
        steps.add(3)
        for _ in tracked(range(4), "validation users"):
            beat = read_progress(tmp_path)
            assert beat is not None
            assert (beat.what, beat.done, beat.number) == ("steps", 3, 1)
            assert beat.within is not None
            assert beat.within.startswith("validation users: ")


def test_counts_inside_of_what_has_no_total_are_counts_of_the_stage(tmp_path: Path) -> None:
    numbers = []
    with telling("embed", tmp_path, OFTEN), Progress("all"):
        for total in (3, 2):
            with Progress("items", total) as progress, Progress("a part", 1):
                progress.add()
                beat = read_progress(tmp_path)
                assert beat is not None
                numbers.append(beat.number)
    assert numbers == [2, 3]


def test_what_a_stage_counts_moves_the_pipeline_around_it(tmp_path: Path) -> None:
    run, stage = tmp_path / "run", tmp_path / "train"
    run.mkdir()
    stage.mkdir()
    seen = []
    with telling("pipeline", run, OFTEN), Progress("stage 1/1, train"), telling("train", stage, OFTEN):
        for _ in tracked(range(3), "steps"):
            beat = read_progress(run)
            assert beat is not None
            seen.append(beat.advances)
    assert seen[0] < seen[1] < seen[2]


def test_the_place_of_a_stage_rises_from_count_to_count(tmp_path: Path) -> None:
    places = []
    with telling("prepare", tmp_path, OFTEN):
        for total in (3, 2):
            with Progress("rows", total) as progress:
                for _ in range(total):
                    progress.add()
                    beat = read_progress(tmp_path)
                    assert beat is not None
                    places.append(beat.place)
    assert places == sorted(set(places)) == [(1, 1), (1, 2), (1, 3), (2, 1), (2, 2)]


def test_a_log_has_a_line_per_interval_and_one_at_the_end_of_what_took_long(
    clock: Clock, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trialign.progress.log.propagate", True)
    with caplog.at_level("INFO", logger="trialign"), telling("embed", None, Intervals(line=60.0)):
        for items in (150, 3):
            with Progress("items", items) as progress:
                for _ in range(items):
                    clock.now += 1
                    progress.add()
    assert [record.getMessage() for record in caplog.records] == [
        "  items: 60 of 150, 1.0 a second, 1 min 30 s left",
        "  items: 120 of 150, 1.0 a second, 30 s left",
        "  items: 150 in 2 min 30 s",
    ]


def test_the_beat_of_a_stage_goes_with_it_and_stays_where_it_broke_off(tmp_path: Path) -> None:
    def stage(name: str) -> Stage:
        return Stage.open(name, tmp_path / name, {}, intervals=OFTEN)

    whole, broken = stage("embed"), stage("train")
    with whole.building() as folder:
        for _ in tracked(range(3), "items"):
            assert read_progress(folder) is not None
    assert read_progress(whole.folder) is None
    assert BEAT not in whole.read().files

    def break_off() -> None:
        with broken.building(), Progress("steps", 10) as progress:
            progress.add(7)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        break_off()
    left = read_progress(broken.folder)
    assert left is not None
    assert left.place == (1, 7)
    with stage("train").building() as folder:
        assert read_progress(folder) is None, "of the attempt before"


@pytest.mark.parametrize("text", ["", "{", "[]", json.dumps({"stage": "train"})])
def test_a_beat_that_cannot_be_read_is_none(tmp_path: Path, text: str) -> None:
    (tmp_path / BEAT).write_text(text)
    assert read_progress(tmp_path) is None
    assert read_progress(tmp_path / "not there") is None


def test_a_number_has_its_noun() -> None:
    assert [count_of(number, "step") for number in (0, 1, 2000)] == ["0 steps", "1 step", "2,000 steps"]
