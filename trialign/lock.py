"""One writer per folder, also where processes of several machines share the file system.

The kernel's file locks are off or local on many cluster file systems. What works on all of them is that one of several
`link` calls on the same name succeeds. A lock is a file `.lock.N` that says who holds the folder; the highest number
counts. Its owner touches it every HEARTBEAT seconds. Who finds a dead owner does not take its file away, but links the
next number: of several takers one succeeds, the others see a living owner.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import platform
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path

from trialign.errors import StageError

log = logging.getLogger(__name__)

HEARTBEAT = 10.0
"""Seconds between two touches of a held lock."""

SILENT = 60.0
"""Seconds without a touch after which an owner on another machine counts as dead."""

PREFIX = ".lock."

LOCK_JOB = "TRIALIGN_JOB"
"""Names the job to the ranks of a supervisor: one that takes over from another has another number in Slurm."""


class HeldError(StageError):
    """Another process holds the folder, or had it a moment ago."""


@dataclass(frozen=True)
class Owner:
    """Who holds a folder.

    Attributes:
        pid: the process, as its machine numbers it.
        started: when it started, in the kernel's ticks: process numbers are used again.
        machine: the boot and the process namespace that `pid` means something in.
        host: for people.
        job: the Slurm job, or "".
    """

    pid: int
    started: str
    machine: str
    host: str
    job: str

    def __str__(self) -> str:
        return f"{f'job {self.job}, ' if self.job else ''}pid {self.pid} on {self.host}"


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the lock of a folder while the block runs, with heartbeats.

    Raises:
        HeldError: a living process holds it.
    """
    path = _acquire(folder)
    done = threading.Event()
    beat = threading.Thread(target=_beat, args=(path, done), daemon=True)
    beat.start()
    try:
        yield
    finally:
        done.set()
        beat.join()
        path.unlink(missing_ok=True)


def living_owner(folder: Path) -> Owner | None:
    """Return the living process that holds a folder, or None."""
    path = _newest(folder)
    owner = None if path is None else _read(path)
    return owner if path is not None and owner is not None and _lives(path, owner) else None


def is_lock(path: Path) -> bool:
    """Return whether a file is a lock rather than an output of a stage."""
    return path.name.startswith(PREFIX)


def started(pid: int) -> str | None:
    """Return when a process of this machine started, None if it no longer exists."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    except OSError:
        return None
    return None if fields[0] == "Z" else fields[19]


def _acquire(folder: Path) -> Path:
    pid, job = os.getpid(), os.environ.get(LOCK_JOB) or os.environ.get("SLURM_JOB_ID", "")
    mine = Owner(pid, started(pid) or "", _machine(), platform.node(), job)
    draft = folder / f"{PREFIX}draft-{mine.host}-{mine.pid}"
    draft.write_text(json.dumps(asdict(mine)))
    try:
        while True:
            before = _newest(folder)
            owner = None if before is None else _read(before)
            if before is not None and owner is not None:
                if _lives(before, owner):
                    if owner.job and owner.job == mine.job and owner.machine != mine.machine:
                        # Slurm requeued this very job: its remains on a lost node stop their heartbeat soon.
                        log.info("waiting for what is left of %s to fall silent", owner)
                        time.sleep(1.0)
                        continue
                    raise HeldError(
                        f"{folder} is being written by another process ({owner})",
                        rule="one writer per stage folder",
                        remedy="wait for it or stop it, or choose another run=DIR",
                    )
                log.warning("the lock of %s is taken over from %s, which is no more", folder, owner)
            path = folder / f"{PREFIX}{1 if before is None else _number(before) + 1:04d}"
            try:
                os.link(draft, path)
            except FileExistsError:
                continue
            if _newest(folder) != path:  # meanwhile another process linked a higher number
                path.unlink()
                continue
            for older in _locks(folder)[:-1]:
                older.unlink(missing_ok=True)
            return path
    finally:
        draft.unlink()


def _beat(path: Path, done: threading.Event) -> None:
    while not done.wait(HEARTBEAT):
        try:
            os.utime(path)
        except FileNotFoundError:
            # This process was stopped for so long that another took over; two must not write.
            log.error("lost the lock %s to another process; stopping at once", path)
            os._exit(1)
        except OSError as cause:
            log.warning("the lock %s cannot be touched: %s", path, cause)


def _lives(path: Path, owner: Owner) -> bool:
    if owner.machine == _machine():
        return started(owner.pid) == owner.started
    probe = path.with_name(f"{PREFIX}clock-{platform.node()}-{os.getpid()}")
    probe.touch()  # both times by the file server's clock
    try:
        return probe.stat().st_mtime - path.stat().st_mtime < SILENT
    except FileNotFoundError:
        return False
    finally:
        probe.unlink()


def _read(path: Path) -> Owner | None:
    """Return the owner that a lock names; None if it was released meanwhile."""
    with contextlib.suppress(FileNotFoundError):
        return Owner(**json.loads(path.read_text()))
    return None


def _newest(folder: Path) -> Path | None:
    return next(reversed(_locks(folder)), None)


def _locks(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob(f"{PREFIX}*") if path.name.removeprefix(PREFIX).isdigit())


def _number(path: Path) -> int:
    return int(path.name.removeprefix(PREFIX))


@cache
def _machine() -> str:
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return f"{boot}/{Path('/proc/self/ns/pid').readlink()}"
