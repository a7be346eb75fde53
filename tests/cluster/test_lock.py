"""One writer per folder: who is refused, who takes over, and that of many takers one succeeds."""

from __future__ import annotations

import json
import logging
import multiprocessing
import os
import time
from pathlib import Path
from typing import Any

import pytest

import trialign.lock as lock
from trialign.errors import StageError
from trialign.lock import Owner, living_owner, locked

FORK = multiprocessing.get_context("fork")


def hold(folder: Path, ready: Any) -> None:
    with locked(folder):
        ready.set()
        time.sleep(60)


@pytest.fixture
def killed(tmp_path: Path) -> int:
    """A folder whose owner was killed; its number."""
    ready = FORK.Event()
    process = FORK.Process(target=hold, args=(tmp_path, ready))
    process.start()
    assert ready.wait(20)
    process.kill()
    process.join()
    assert process.pid is not None
    return process.pid


def write_lock(folder: Path, number: int = 1, silent: float = 0.0, **changes: Any) -> Path:
    """Write the lock of somebody else, last touched `silent` seconds ago."""
    owner = {"pid": 4711, "started": "1", "machine": "elsewhere/1", "host": "node17", "job": "12"} | changes
    path = folder / f".lock.{number:04d}"
    path.write_text(json.dumps(owner))
    then = time.time() - silent
    os.utime(path, (then, then))
    return path


def test_a_second_writer_is_refused_with_the_name_of_the_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "77")
    with locked(tmp_path):
        assert living_owner(tmp_path) is not None
        with pytest.raises(StageError, match=rf"job 77, pid {os.getpid()} on "), locked(tmp_path):
            pass
    assert living_owner(tmp_path) is None
    assert list(tmp_path.iterdir()) == []


def test_the_lock_of_a_killed_process_is_taken_over_and_that_is_said(
    tmp_path: Path, killed: int, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING), locked(tmp_path):
        assert f"is taken over from pid {killed} on " in caplog.text
        assert [path.name for path in tmp_path.iterdir()] == [".lock.0002"]


def test_a_process_number_that_is_used_again_is_another_process(tmp_path: Path) -> None:
    write_lock(tmp_path, pid=os.getpid(), started="1", machine=lock._machine())
    with locked(tmp_path):
        assert [path.name for path in tmp_path.iterdir()] == [".lock.0002"], "taken over"


def test_a_process_that_ended_and_was_not_waited_for_is_no_more() -> None:
    process = FORK.Process(target=int)
    process.start()
    assert process.pid is not None
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    assert lock.started(process.pid) is None
    process.join()


def test_a_process_may_call_itself_anything() -> None:
    name, before = Path("/proc/self/comm"), lock.started(os.getpid())
    known = name.read_text()
    name.write_text("a) b (c")
    try:
        assert lock.started(os.getpid()) == before
        assert before is not None
        assert int(before) > 0, "ticks since the machine started"
    finally:
        name.write_text(known)


def test_what_takers_leave_for_a_moment_is_no_file_of_the_stage() -> None:
    for name in (".lock.0001", ".lock.draft-node17-4711", ".lock.clock-node17-4711"):
        assert lock.is_lock(Path("run/train") / name)
    assert not lock.is_lock(Path("run/train/lock.0001"))


def test_on_another_machine_silence_decides(tmp_path: Path) -> None:
    path = write_lock(tmp_path)
    with pytest.raises(StageError, match="job 12, pid 4711 on node17"), locked(tmp_path):
        pass
    os.utime(path, (time.time() - lock.SILENT - 1,) * 2)
    with locked(tmp_path):
        pass


def test_a_job_that_is_queued_again_waits_for_its_lost_node_to_fall_silent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lock, "SILENT", 2.0)
    monkeypatch.setenv("SLURM_JOB_ID", "12")
    path = write_lock(tmp_path, job="12")
    with locked(tmp_path):
        assert not path.exists()


def test_a_held_lock_beats(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock, "HEARTBEAT", 0.05)
    with locked(tmp_path):
        (path,) = tmp_path.glob(".lock.0*")
        os.utime(path, (1.0, 1.0))
        end = time.monotonic() + 20
        while path.stat().st_mtime < 2.0:
            assert time.monotonic() < end
            time.sleep(0.02)


def lose(folder: Path) -> None:
    lock.HEARTBEAT = 0.05
    with locked(folder):
        next(folder.glob(".lock.0*")).unlink()
        time.sleep(60)


def test_who_lost_the_lock_writes_no_more(tmp_path: Path) -> None:
    process = FORK.Process(target=lose, args=(tmp_path,))
    process.start()
    process.join(30)
    assert process.exitcode == 1


def take(folder: Path, start: Any, tried: Any, won: Any) -> None:
    start.wait()
    try:
        with locked(folder):
            with won.get_lock():
                won.value += 1
            tried.wait(30)  # hold on until everybody has tried
    except StageError:
        tried.wait(30)


def test_of_many_who_find_a_dead_owner_one_takes_over(tmp_path: Path, killed: int) -> None:
    for _ in range(5):
        start, tried, won = FORK.Barrier(8), FORK.Barrier(8), FORK.Value("i", 0)
        takers = [FORK.Process(target=take, args=(tmp_path, start, tried, won)) for _ in range(8)]
        for taker in takers:
            taker.start()
        for taker in takers:
            taker.join(60)
        assert [taker.exitcode for taker in takers] == [0] * 8
        assert won.value == 1
        write_lock(tmp_path, silent=lock.SILENT + 1)


def test_an_owner_reads_like_a_sentence() -> None:
    assert str(Owner(5, "1", "m", "laptop", "")) == "pid 5 on laptop"
