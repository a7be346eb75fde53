"""A real Slurm of three virtual nodes, and a tiny world to run on it."""

from __future__ import annotations

import os
import random
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from trialign.launch import doctor
from trialign.slurm.minicluster import Minicluster

from trialign.cluster import slurm
from trialign.cluster.plan import job_for
from trialign.cluster.record import FOLDER, JobSpec, attempts_of, jobs_of, note_job
from trialign.cluster.render import render
from trialign.config.compose import compose
from trialign.config.config import Config

NODES = ("n1", "n2", "n3")
TINY = [*doctor.TINY, "embed/image=none", "runtime.threads=1", "evaluate.baselines=[popularity]"]
STAGES_BEFORE = ("prepare", "enrich", "embed", "quantize", "assign", "baselines")


class Slurm:
    """What the tests do with the cluster."""

    def __init__(self, cluster: Minicluster) -> None:
        self.cluster = cluster

    def trialign(self, *arguments: str, fails: bool = False) -> str:
        """Run the command line as a user would; return what it says."""
        command = [sys.executable, "-m", "trialign.launch.cli", *arguments]
        done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
        assert (done.returncode != 0) == fails, done.stdout + done.stderr
        return done.stdout + done.stderr

    def submit(self, verb: str, run: Path, *overrides: str) -> str:
        """Submit a verb; return the number of its job, "" for a chain."""
        self.trialign("submit", verb, "cluster=minicluster", f"run={run}", *TINY, *overrides)
        return jobs_of(run).get(verb, "")

    def wait(self, ready: Callable[[], object], what: str, seconds: float = 300.0) -> None:
        """Wait until something is so."""
        end = time.monotonic() + seconds
        while not ready():
            assert time.monotonic() < end, f"{what}: not within {seconds:.0f} s\n{self.cluster.status()}"
            time.sleep(0.05)

    def state(self, job: str) -> str:
        return slurm.states([job])[job]

    def finish(self, run: Path, *jobs: str) -> None:
        """Wait until jobs have ended, and demand that they ended well."""
        self.wait(lambda: all(self.state(job) in slurm.ENDED for job in jobs), f"jobs {jobs}")
        logs = "\n".join(f"== {path.name}\n{path.read_text()[-3000:]}" for path in (run / FOLDER / "log").iterdir())
        assert {self.state(job) for job in jobs} == {"COMPLETED"}, logs

    def rank_process(self, job: str, rank: int) -> int | None:
        """Return the process of a rank."""
        wanted = {f"SLURM_JOB_ID={job}".encode(), f"SLURM_PROCID={rank}".encode()}
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                try:
                    told = set((entry / "environ").read_bytes().split(b"\0"))
                    ours = b"trialign.launch.cli" in (entry / "cmdline").read_bytes().split(b"\0")
                except OSError:
                    continue
                if ours and wanted <= told:
                    return int(entry.name)
        return None


def settings(run: Path, *overrides: str) -> Config:
    return compose("submit", [f"run={run}", "cluster=minicluster", *overrides])


def queue(run: Path, command: str, **changes: object) -> str:
    """Queue a job whose ranks run a shell command; return its number."""
    config = settings(run)
    (run / FOLDER / "log").mkdir(parents=True, exist_ok=True)
    plain = {"command": ["sh", "-c", command], "health_check": False, "max_restarts": 1}
    spec: JobSpec = replace(job_for("train", config, []), **{**plain, **changes})
    script = spec.folder / "train.sbatch"
    specs = shlex.quote(str(spec.save()))
    script.write_text(render(spec, config.cluster, specs=specs, environment={}, log=spec.folder / "log"))
    job = slurm.submit(script)
    note_job(spec.folder, "train", job)
    return job


def ended(cluster: Slurm, job: str) -> str:
    cluster.wait(lambda: cluster.state(job) in slurm.ENDED, f"the end of job {job}")
    return cluster.state(job)


def outcomes(run: Path, name: str, job: str) -> list[str]:
    """Return how the attempts of a job ended; `lost` where nobody could say."""
    found: list[str] = []
    for line in attempts_of(run / FOLDER, name, job):
        if line["event"] == "start":
            found.append("lost")
        elif line["outcome"] == "gave up":  # before it started anything
            found.append("gave up")
        else:
            found[-1] = line["outcome"]
    return found


def steps_saved(run: Path) -> int:
    """Return the step of the newest checkpoint."""
    return max((int(path.stem[5:]) for path in (run / "train" / "checkpoints").glob("step-*.json")), default=0)


def pause() -> None:
    """Pass a random moment, so that what follows meets a training anywhere: in a step, in a save."""
    time.sleep(random.random() * 0.4)


@contextmanager
def started(folder: Path, **settings: Any) -> Iterator[Slurm]:
    """Start a cluster, and let Slurm's commands speak to it."""
    if shutil.which("slurmctld", path=f"{os.environ['PATH']}:/usr/sbin") is None:
        message = "Slurm's daemons are not installed (slurmctld slurmd slurm-client munge)"
        if "slurm" in os.environ.get("TRIALIGN_REQUIRE", "").split(","):
            pytest.fail(f"TRIALIGN_REQUIRE demands slurm, but {message}")
        pytest.skip(message)
    made = Minicluster(folder)
    made.start(nodes=len(NODES), cpus=2, **settings)
    with pytest.MonkeyPatch.context() as patch:
        for name, value in made.environment().items():
            patch.setenv(name, value)
        try:
            yield Slurm(made)
        finally:
            made.stop()


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Slurm]:
    with started(tmp_path_factory.mktemp("slurm")) as found:
        yield found
