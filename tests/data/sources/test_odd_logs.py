"""Odd logs, from file to dataset: what the place of a row in its file, or a twin of it, may not change."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from trialign.config.data import DataConfig
from trialign.data.prepare import prepare
from trialign.data.sources import Tables
from trialign.errors import DataError
from trialign.progress import Progress

Make = Callable[..., tuple[Path, dict[str, Any]]]


@pytest.fixture
def made(tmp_path: Path, tables: Callable[..., Tables], settings: DataConfig) -> Make:
    """Return a function that writes the lines of a log, prepares it, and returns the dataset's folder and counts."""

    def make(lines: list[str], *, header: str = "user,item,time", **changes: Any) -> tuple[Path, dict[str, Any]]:
        known = {name: changes.pop(name) for name in list(changes) if name in _PREPARE}
        (tmp_path / "events.csv").write_text("\n".join([header, *lines]) + "\n")
        folder = tmp_path / f"made-{len(list(tmp_path.iterdir()))}"
        folder.mkdir()
        return folder, prepare(tables(**changes), folder, replace(settings, **known))

    return make


_PREPARE = (
    "split",
    "last_n",
    "cut_shares",
    "min_user_interactions",
    "min_item_interactions",
    "repeated_events",
    "max_bad_events",
)


def _bytes(folder: Path) -> dict[str, str]:
    """Return a hash of every file below a folder."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.mark.parametrize(
    "settings_of",
    [
        {"split": "last_n", "last_n": 2},
        {"split": "temporal", "cut_shares": [0.6, 0.8]},
        {"min_user_interactions": 3, "min_item_interactions": 9},
    ],
)
def test_the_order_of_a_logs_rows_changes_no_byte_of_the_dataset(made: Make, settings_of: dict[str, Any]) -> None:
    draws = np.random.default_rng(1)
    lines = [
        f"u{draws.integers(40)},{'abc'[draws.integers(3)]},{1_700_000_000 + draws.integers(9)}" for _ in range(400)
    ]
    folder, counts = made(lines, **settings_of)
    assert counts["events_in_ties"] > 100
    for order in (sorted(lines), sorted(lines, reverse=True), [lines[row] for row in draws.permutation(len(lines))]):
        again, found = made(order, **settings_of)
        assert _bytes(again) == _bytes(folder)
        assert found == counts


def _log(num_users: int = 50, step: int = 1000) -> list[str]:
    """Return lines of six events per user, `step` seconds apart."""
    draws = np.random.default_rng(2)
    chosen = draws.integers(3, size=(num_users, 6))
    return [
        f"u{user},{'abc'[item]},{1_700_006_400 + place * step}"
        for user, items in enumerate(chosen)
        for place, item in enumerate(items)
    ]


def test_a_log_that_stands_twice_makes_the_dataset_of_one(made: Make, caplog: pytest.LogCaptureFixture) -> None:
    once, counts = made(_log())
    twice, found = made(_log() * 2)
    assert _bytes(twice) == _bytes(once)
    assert found == counts | {"events_repeated": 300}
    assert "300 repeated events of 600: the same user, item and time; dropped" in caplog.text
    # Before the core: each user has six events, not twelve.
    with pytest.raises(DataError, match="no event is left"):
        made(_log() * 2, min_user_interactions=7)


def test_repeats_are_kept_and_counted_or_refused(made: Make) -> None:
    _, counts = made(_log() * 2, repeated_events="keep")
    assert counts.items() >= {"events": 600, "events_repeated": 300}.items()
    with pytest.raises(DataError, match=r"300 repeated events of 600.*\n.*\n.*data\.repeated_events=drop"):
        made(_log() * 2, repeated_events="refuse")
    made(_log(), repeated_events="refuse")


@pytest.mark.parametrize(
    "settings_of",
    [{}, {"repeated_events": "keep"}, {"min_item_interactions": 100}, {"split": "temporal", "cut_shares": [0.6, 0.8]}],
)
def test_the_count_of_events_ends_at_its_total(
    made: Make, settings_of: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    ended = []

    class Told(Progress):
        def __exit__(self, *cause: Any) -> None:
            ended.append((self.what, self.done, self.total))
            super().__exit__(*cause)

    monkeypatch.setattr("trialign.data.prepare.Progress", Told)
    counts = made(_log() * 2, **settings_of)[1]
    assert ended == [("events written", counts["events"], counts["events"])]


def test_a_second_purchase_is_no_repeat(made: Make) -> None:
    rows = ["u,a,1700000000.25", "u,a,1700000000.5", "u,a,1700000001", "v,a,1700000000.25", "u,b,1700000000.25"]
    assert made(rows)[1].items() >= {"events": 5, "events_repeated": 0}.items()
    tied = {"header": "user,item,time,line", "columns": {"tie": "line"}}
    rows = ["u,a,1700000000,1", "u,a,1700000000,2", "u,a,1700000000,2"]
    assert made(rows, **tied)[1].items() >= {"events": 2, "events_repeated": 1}.items()
    ranks = made(["u,a,1", "u,a,1"], columns={"time": None, "rank": "time"})[1]
    assert ranks.items() >= {"events": 2, "events_repeated": 0}.items()


@pytest.mark.parametrize(("step", "told"), [(86_400, True), (1000, False)])
def test_repeats_of_a_log_of_days_are_said_to_be_uncertain(
    made: Make, caplog: pytest.LogCaptureFixture, step: int, told: bool
) -> None:
    made(_log(step=step) * 2)
    assert ("times are no finer than a day" in caplog.text) is told


BAD = {
    "a time in the future": ("u0,a,4000000000", "times lie in the future, e.g. user=u0 item=a order=4000000000"),
    "no item": ("u0,,1700000000", "events have no item, e.g. user=u0"),
    "a time that is none": ("u0,a,soon", "rows hold no time that can be read, e.g. that of user 'u0', item 'a', time"),
}


@pytest.mark.parametrize(("row", "message"), BAD.values(), ids=BAD)
def test_a_few_bad_events_are_left_out_and_counted_more_are_refused(
    made: Make, caplog: pytest.LogCaptureFixture, row: str, message: str
) -> None:
    right = _log(num_users=1665, step=977)
    clean, _ = made(right)
    folder, counts = made([*right, *[row] * 10])
    assert _bytes(folder) == _bytes(clean)
    assert list(counts["bad_events"].values()) == [10]
    assert f"10 bad events of 10000 are left out: 10 of 10000 {message}" in caplog.text
    for lines, changes in (([*right[1:], *[row] * 11], {}), ([*right, row], {"max_bad_events": 0})):
        with pytest.raises(DataError, match=re.escape(message)) as refused:
            made(lines, **changes)
        # The remedy works as it is printed, and says what it costs.
        assert "or lose these" in refused.value.remedy
        share = float(refused.value.remedy.rpartition("data.max_bad_events=")[2])
        assert made(lines, **changes | {"max_bad_events": share})[1]["events"] in (9989, 9990)


def test_bad_events_count_together(made: Make) -> None:
    lines = [*_log(num_users=1665), *[row for row, _ in BAD.values()] * 4]
    with pytest.raises(DataError, match=r"4 of 10002 rows hold no time(.|\n)*max_bad_events=0\.0012"):
        made(lines)
