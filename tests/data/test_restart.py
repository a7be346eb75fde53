from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from trialign.config.data import DataConfig
from trialign.data.dataset import Dataset
from trialign.data.prepare import PARTITIONED
from trialign.errors import DataError
from trialign.stage import Stage
from trialign.stream.shards import TarWriter

World = Callable[..., tuple[Dataset, dict[str, Any]]]
ROWS = [(f"u{user}", "pqr"[item], place) for user in range(30) for place, item in enumerate((0, 1, 2, user % 3, 1))]


def _files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.fixture
def attempt(tmp_path: Path, settings: DataConfig) -> Callable[..., Path]:
    """Return a function that runs the stage once more in the same folder."""
    from trialign.data.prepare import prepare

    log = tmp_path / "log"
    log.write_text("events")

    def run(source: Any, name: str = "prepare") -> Path:
        source.files = {"log": log}
        stage = Stage.open("prepare", tmp_path / name, asdict(settings), sources=source.files)
        with stage.building(keep=[PARTITIONED]) as folder:
            stage.counts |= prepare(source, folder, settings)
        return folder

    return run


class BrokenError(Exception):
    """Stands for whatever ends a process."""


def test_a_finished_spread_is_used_and_the_result_is_the_same(
    attempt: Callable[..., Path], source_of: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = _files(attempt(source_of(ROWS), "whole"))
    with monkeypatch.context() as patch:
        patch.setattr("trialign.data.histories.EventWriter.write", _fail(BrokenError()))
        with pytest.raises(BrokenError):
            attempt(source_of(ROWS))
    # The second attempt has no way to compute the spread again.
    monkeypatch.setattr("trialign.data.prepare.partition_by_user", _fail(AssertionError()))
    folder = attempt(source_of(ROWS))
    again = _files(folder)
    assert {name: data for name, data in again.items() if name != "manifest.json"} == {
        name: data for name, data in whole.items() if name != "manifest.json"
    }


@pytest.mark.parametrize("text", ["more events", "EVENTS"], ids=["longer", "of the same length"])
def test_a_spread_of_other_files_is_made_again(
    attempt: Callable[..., Path],
    source_of: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    text: str,
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("trialign.data.histories.EventWriter.write", _fail(BrokenError()))
        with pytest.raises(BrokenError):
            attempt(source_of(ROWS[:-10]))
    (tmp_path / "log").write_text(text)
    os.utime(tmp_path / "log", (1.0, 1.0))
    assert len(Dataset(attempt(source_of(ROWS))).train_histories()) == 30


def test_a_half_made_spread_is_made_again(
    attempt: Callable[..., Path], source_of: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("trialign.data.events._keep_items", _fail(BrokenError()))
        with pytest.raises(BrokenError):
            attempt(source_of(ROWS))
    assert len(Dataset(attempt(source_of(ROWS))).train_histories()) == 30


@pytest.mark.parametrize("kind", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_named_and_the_next_attempt_goes_on(
    attempt: Callable[..., Path], source_of: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, kind: int
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(TarWriter, "add", _fail(OSError(kind, os.strerror(kind))))
        with pytest.raises(DataError, match=r"the disk is full while writing below .*prepare.*\n.*\n.*continues"):
            attempt(source_of(ROWS))
    monkeypatch.setattr("trialign.data.prepare.partition_by_user", _fail(AssertionError()))
    assert len(Dataset(attempt(source_of(ROWS))).train_histories()) == 30


def test_memory_that_does_not_suffice_is_named(world: World) -> None:
    chance = np.random.default_rng(0)
    rows = [(f"user {user} with a long name", "p", 1) for user in chance.integers(0, 200_000, 200_000)]
    with pytest.raises(DataError, match=r"do not fit into data\.memory=12MB.*\n.*\n.*raise data\.memory"):
        world(rows, memory="12MB", threads=1)


def _fail(error: BaseException) -> Callable[..., None]:
    def fail(*_: object, **__: object) -> None:
        raise error

    return fail


_COMMAND = """
import sys
from trialign.launch.cli import main
sys.argv[0] = "trialign"
main()
"""


def test_a_killed_command_goes_on_where_it_was(tmp_path: Path) -> None:
    (tmp_path / "inter.json").write_text(_lists(1500))
    (tmp_path / "item.json").write_text("{" + ", ".join(f'"{item}": {{}}' for item in range(50)) + "}")
    settings = ["prepare", "data=interjson", f"data.root={tmp_path}", "data.block_records=1", "data.shard_blocks=4"]
    settings += ["data.interactions=inter.json", "data.items=item.json"]

    def start(run: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen([sys.executable, "-c", _COMMAND, *settings, f"run={tmp_path / run}"])

    victim = start("killed")
    # Hundreds of shards follow the first: the process is killed in the midst of them.
    begun, deadline = tmp_path / "killed" / "prepare" / "train" / "shards-000003.tar", time.monotonic() + 120
    while not begun.exists() and victim.poll() is None and time.monotonic() < deadline:
        pass
    victim.send_signal(signal.SIGKILL)
    assert victim.wait() == -signal.SIGKILL
    assert (tmp_path / "killed" / "prepare" / PARTITIONED / "finished.json").exists()
    assert not (tmp_path / "killed" / "prepare" / "manifest.json").exists()
    assert start("killed").wait() == 0
    assert start("whole").wait() == 0
    folders = [tmp_path / run / "prepare" for run in ("killed", "whole")]
    killed, whole = ({n: d for n, d in _files(folder).items() if n != "manifest.json"} for folder in folders)
    assert killed == whole


def _lists(num_users: int) -> str:
    chance = np.random.default_rng(2)
    lists = (f'"u{user}": {chance.integers(0, 50, 5).tolist()}' for user in range(num_users))
    return "{" + ", ".join(lists) + "}"
