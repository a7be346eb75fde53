"""When ranks are asked to save before the time limit, by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from trialign.cluster.limit import TimeLimit, slowest_save


def saved(stage: Path, **seconds: float) -> Path:
    folder = stage / "checkpoints"
    folder.mkdir(parents=True)
    for name, took in seconds.items():
        (folder / f"step-{name[1:]:0>8}.json").write_text(json.dumps({"seconds": took, "files": {}}))
    return stage


@pytest.mark.parametrize(
    ("end", "saves", "earlier", "asked_at"),
    [
        (1000.0, {}, [], 990.0),  # nothing is known of saves: Slurm's own word comes earlier
        (1000.0, {"s1": 100.0, "s2": 150.0}, [], 690.0),  # two of the slowest, and the ten seconds before the end
        (1000.0, {"s1": 100.0}, [{"saved_for": 200.0}], 590.0),  # one that was not done after 200 s
        (1000.0, {"s1": 900.0}, [], 500.0),  # half of the time is for work
    ],
)
def test_the_word_comes_as_early_as_saves_are_slow(
    tmp_path: Path, end: float, saves: dict[str, float], earlier: list[dict[str, Any]], asked_at: float
) -> None:
    limit = TimeLimit(lambda: end, saved(tmp_path, **saves), earlier, leave=10.0, began=0.0)
    assert not limit.is_near(asked_at - 1.0)
    assert limit.is_near(asked_at)
    assert not limit.is_reached(989.0)
    assert limit.is_reached(990.0)


def test_a_limit_that_is_moved_at_the_last_moment_is_no_end(tmp_path: Path) -> None:
    ends = iter([1000.0, 2000.0, 900.0])
    limit = TimeLimit(lambda: next(ends), tmp_path, [], leave=10.0, began=0.0)
    assert not limit.is_reached(995.0)
    assert not limit.moved_up
    assert limit.is_reached(1995.0)  # nearer than it was: another job wants the room
    assert limit.moved_up


def test_without_a_limit_nobody_is_asked(tmp_path: Path) -> None:
    limit = TimeLimit(lambda: None, tmp_path, [], leave=10.0, began=0.0)
    assert not limit.is_near(1e12)
    assert not limit.is_reached(1e12)


def test_saves_of_a_stage_and_of_the_stages_of_a_run_are_measured(tmp_path: Path) -> None:
    saved(tmp_path / "run" / "train", s1=3.0, s2=2.0)
    assert slowest_save(tmp_path / "run" / "train") == slowest_save(tmp_path / "run") == 3.0
    assert slowest_save(tmp_path) == 0.0
