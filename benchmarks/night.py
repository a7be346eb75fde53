"""A bad night on a real Slurm: three trainings meet what ends trainings, and must end with the undisturbed run's bytes.

    python -m benchmarks.night --json benchmarks/results/night.json

It starts clusters of three virtual nodes (docs/cluster.md) and makes the tiny world of the tests. Each training runs
once in peace and once disturbed:

| training | meets |
|---|---|
| `two_nodes`, two ranks (ddp) | slow saves, a killed rank, two preemptions, a killed node |
| `one_node`, one rank | a time limit in the middle of a save, then a full disk |
| `no_requeue`, two ranks, where no job may be queued again | a killed rank, a warning |

Slow and full disks are made for the ranks alone: `os.fsync`, which every save ends with, waits or raises ENOSPC as a
file says. Where the full disk ends the job for good, the same `trialign submit` is typed again, as an operator would.
"""

from __future__ import annotations

import hashlib
import json
import os
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from trialign.launch.doctor import TINY
from trialign.slurm.minicluster import Minicluster

from benchmarks.record import Row, alone, arguments, record
from trialign.cluster import slurm
from trialign.cluster.record import FOLDER, jobs_of, reached

PATIENCE = 600.0
BEFORE = ("prepare", "enrich", "embed", "quantize", "assign")
SETTINGS = [*TINY, "embed/image=none", "runtime.threads=1", "train.steps=160", "runtime.checkpoint_every=10"]
TWO_RANKS = ["runtime.nodes=2", "runtime.strategy=ddp"]

DISK = '''"""The disk of the ranks: `slow N` waits N seconds where a file is brought to disk, `full` has no room."""
import errno, os, pathlib, time
_fsync, _state = os.fsync, pathlib.Path(__file__).with_name("disk")
def fsync(file):
    word, _, seconds = _state.read_text().partition(" ") if _state.exists() else ("", "", "")
    if word == "full":
        raise OSError(errno.ENOSPC, "No space left on device")
    if word == "slow":
        time.sleep(float(seconds))
    _fsync(file)
os.fsync = fsync
'''


@dataclass(frozen=True)
class Night:
    """One cluster, one world, one disk.

    Attributes:
        folder: of all of it.
        cluster: where the jobs run.
    """

    folder: Path
    cluster: Minicluster

    def trialign(self, *words: str) -> str:
        """Run the command line as an operator would; return what it prints."""
        command = [sys.executable, "-m", "trialign.launch.cli", *words]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(f"{shlex.join(words)}\nended with {done.returncode}\n{done.stdout}{done.stderr}")
        return done.stdout

    def submit(self, run: Path, *more: str) -> str:
        """Submit the training of a run; return its job."""
        world = [f"from.{verb}={self.folder / 'world'}" for verb in BEFORE if verb in ("prepare", "assign")]
        python = f"cluster.environment.PYTHONPATH={self.folder}"
        self.trialign("submit", "train", "cluster=minicluster", f"run={run}", python, *SETTINGS, *world, *more)
        return jobs_of(run)["train"]

    def disk(self, state: str) -> None:
        """Make the ranks' disk slow or full; "" for neither."""
        (self.folder / "disk").write_text(state)

    def finish(self, run: Path) -> None:
        """Wait until the run's last job has ended."""

        def over() -> bool:
            job = jobs_of(run)["train"]
            return slurm.states([job])[job] in slurm.ENDED and outcomes(run)[-1] in ("done", "failed", "gave up")

        wait(over, f"{run} to end")

    def starts(self, run: Path, number: int) -> None:
        """Wait until an attempt has begun."""
        wait(lambda: len(outcomes(run)) >= number, f"attempt {number} of {run}")

    def saves(self, run: Path) -> None:
        """Wait for a checkpoint that is not there yet."""
        before = reached(run / "train")
        wait(lambda: reached(run / "train") > before, f"a save after step {before} of {run}")


def main() -> None:
    """Print what every training went through, and write the rows."""
    chosen = arguments(__doc__ or "").parse_args()
    with tempfile.TemporaryDirectory(prefix="night-") as name:
        folder = Path(name)
        (folder / "sitecustomize.py").write_text(DISK)
        rows = [*with_cluster(folder, two_nodes, one_node), *with_cluster(folder, no_requeue, requeue=False)]
    record(rows, chosen.json)


def with_cluster(folder: Path, *trainings: Callable[[Night], tuple[Path, Path]], requeue: bool = True) -> list[Row]:
    """Run trainings on a cluster of their own; each returns its disturbed and its undisturbed run."""
    cluster = Minicluster(folder / f"cluster{requeue:d}")
    cluster.start(requeue=requeue)
    os.environ.update(cluster.environment())
    night = Night(folder, cluster)
    try:
        for verb in BEFORE:
            night.trialign(verb, f"run={folder / 'world'}", *SETTINGS)
        return [row for training in trainings for row in told(night, training)]
    finally:
        cluster.stop()


def told(night: Night, training: Callable[[Night], tuple[Path, Path]]) -> list[Row]:
    """Run a training twice, print what `status` says of it, and compare what came out."""
    disturbed, peaceful = training(night)
    equal = sha256(disturbed) == sha256(peaceful)
    story = ", ".join(outcomes(disturbed))
    print(f"\n{training.__name__}: {story}\n{night.trialign('status', f'run={disturbed}')}", flush=True)
    return [
        alone(f"night.{training.__name__}.equal", story, float(equal), "equal bytes"),
        alone(f"night.{training.__name__}.attempts", story, float(len(outcomes(disturbed))), "attempts"),
    ]


def two_nodes(night: Night) -> tuple[Path, Path]:
    """Slow saves; a rank dies, more important jobs come twice, a node dies."""
    run, peaceful = night.folder / "two", night.folder / "two-peaceful"
    night.submit(peaceful, *TWO_RANKS)
    night.finish(peaceful)
    night.disk("slow 0.5")
    job = night.submit(run, *TWO_RANKS)
    night.starts(run, 1)
    night.saves(run)
    os.kill(process_of(job, rank=1), signal.SIGKILL)
    for attempt in (2, 3):
        night.starts(run, attempt)
        night.saves(run)
        urgent(night.folder)
    night.starts(run, 4)
    night.saves(run)
    node = slurm.nodes_of(slurm.ask("squeue", "-h", "-o", "%N", "-j", job).strip())[0]
    night.cluster.kill_node(node)
    night.finish(run)
    night.cluster.start_node(node)
    night.disk("")
    return run, peaceful


def one_node(night: Night) -> tuple[Path, Path]:
    """The time limit comes in the middle of a save; then the disk is full, and somebody makes room."""
    run, peaceful = night.folder / "one", night.folder / "one-peaceful"
    night.submit(peaceful)
    night.finish(peaceful)
    job = night.submit(run, "cluster.leave_seconds=45")
    night.starts(run, 1)
    night.saves(run)
    night.disk("slow 600")  # no save ends any more
    slurm.ask("scontrol", "update", f"JobId={job}", "TimeLimit=1")
    wait(lambda: outcomes(run)[0] != "runs", "the time limit")
    night.disk("")
    slurm.ask("scontrol", "update", f"JobId={job}", "TimeLimit=60")
    night.starts(run, 2)
    night.saves(run)
    night.disk("full")
    wait(lambda: slurm.states([job])[job] in slurm.ENDED, "the full disk")
    night.disk("")
    night.submit(run)
    night.finish(run)
    return run, peaceful


def no_requeue(night: Night) -> tuple[Path, Path]:
    """A rank dies and a warning comes where no job may be queued again."""
    run, peaceful = night.folder / "forbidden", night.folder / "forbidden-peaceful"
    night.submit(peaceful, *TWO_RANKS)
    night.finish(peaceful)
    job = night.submit(run, *TWO_RANKS)
    night.starts(run, 1)
    night.saves(run)
    os.kill(process_of(job, rank=1), signal.SIGKILL)
    night.starts(run, 2)
    night.saves(run)
    slurm.ask("scancel", "--signal=USR1", "--batch", jobs_of(run)["train"])
    night.starts(run, 3)
    night.finish(run)
    return run, peaceful


def outcomes(run: Path) -> list[str]:
    """Return how the attempts at a run's training ended, whatever job they were of; the last one may run."""
    log = run / FOLDER / "train.attempts.jsonl"
    found: list[str] = []
    for line in map(json.loads, log.read_text().splitlines() if log.exists() else ()):
        if line["event"] == "start":
            if found[-1:] == ["runs"]:
                found[-1] = "lost"
            found.append("runs")
        else:
            found[-1:] = [line["outcome"]]
    return found


def process_of(job: str, rank: int) -> int:
    """Return the process of a rank."""
    wanted = {f"SLURM_JOB_ID={job}".encode(), f"SLURM_PROCID={rank}".encode()}
    for entry in Path("/proc").iterdir():
        try:
            ours = entry.name.isdigit() and b"trialign.launch.cli" in (entry / "cmdline").read_bytes()
            if ours and wanted <= set((entry / "environ").read_bytes().split(b"\0")):
                return int(entry.name)
        except OSError:
            continue
    raise SystemExit(f"rank {rank} of job {job} has no process")


def urgent(folder: Path) -> None:
    """Queue a moment's work for all nodes that is more important than ours."""
    script = folder / "urgent.sbatch"
    script.write_text("#!/bin/sh\n#SBATCH --output=/dev/null\nsleep 1\n")
    slurm.submit(script, "--partition=high", "--nodes=3", "--exclusive")


def sha256(run: Path) -> str:
    """Return the digest of the weights that a run ended with."""
    return hashlib.sha256((run / "train" / "generator.safetensors").read_bytes()).hexdigest()


def wait(ready: Callable[[], bool], what: str) -> None:
    """Wait until something is so."""
    end = time.monotonic() + PATIENCE
    while not ready():
        if time.monotonic() > end:
            raise SystemExit(f"waited {PATIENCE:.0f} s for {what}")
        time.sleep(0.1)


if __name__ == "__main__":
    main()
