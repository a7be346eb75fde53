"""Queries and requests to Slurm, through its own commands."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from trialign.errors import TrialignError

ENDED = (
    "COMPLETED",
    "FAILED",
    "CANCELLED",
    "TIMEOUT",
    "NODE_FAIL",
    "OUT_OF_MEMORY",
    "BOOT_FAIL",
    "DEADLINE",
    "UNKNOWN",
)
"""States that a job does not leave any more; UNKNOWN is a job that Slurm has forgotten."""


class ClusterError(TrialignError):
    """Slurm is not installed, or refused a command."""


@dataclass(frozen=True)
class Partition:
    """A partition, as `sinfo` describes it.

    Attributes:
        num_nodes: of all kinds together.
        cpus: of its largest node.
        gpus: of the node that has most.
    """

    num_nodes: int
    cpus: int
    gpus: int


@dataclass(frozen=True)
class Queued:
    """A job, as the queue describes it; a job that squeue no longer lists has only its state.

    Attributes:
        state: Slurm's word.
        nodes: where it runs.
        left: until its time limit, as Slurm writes it.
        reason: why it waits.
    """

    state: str
    nodes: str
    left: str
    reason: str


def require_slurm() -> None:
    """Refuse a machine without Slurm's commands.

    Raises:
        ClusterError: they are not on PATH.
    """
    if shutil.which("sbatch") is None:
        raise ClusterError(
            "there is no `sbatch` on PATH",
            rule="jobs are submitted where Slurm's commands are",
            remedy='go to a login node, or start a cluster here: eval "$(make -s minicluster)"',
        )


def ask(*command: str) -> str:
    """Run a Slurm command and return its output; the environment of the current Slurm job is not passed on.

    Raises:
        ClusterError: it failed.
    """
    inherited = {name for name in os.environ if name.startswith("SLURM_") and name != "SLURM_CONF"}
    outside = {name: value for name, value in os.environ.items() if name not in inherited}
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60, env=outside)
    except (OSError, subprocess.TimeoutExpired) as cause:
        raise _refused(command, str(cause)) from cause
    if done.returncode:
        raise _refused(command, done.stderr.strip())
    return done.stdout


def submit(script: Path, *options: str) -> str:
    """Queue a script and return the job's number."""
    return ask("sbatch", "--parsable", *options, str(script)).strip().split(";")[0]


def partitions() -> dict[str, Partition]:
    """Return the partitions that can be seen from here, by name."""
    found: dict[str, Partition] = {}
    for line in ask("sinfo", "-h", "-o", "%R|%D|%c|%G").splitlines():
        name, nodes, cpus, gres = line.split("|")
        before = found.get(name, Partition(0, 0, 0))
        found[name] = Partition(
            before.num_nodes + int(nodes), max(before.cpus, int(cpus.rstrip("+"))), max(before.gpus, _gpus(gres))
        )
    return found


def states(jobs: Sequence[str]) -> dict[str, str]:
    """Return the state of every job: from squeue, else from sacct, else UNKNOWN."""
    if not jobs:
        return {}
    queue = ask("squeue", "-h", "--me", "-r", "-t", "all", "-o", "%i|%T")
    found = _table(queue.splitlines())
    if missing := [job for job in jobs if job not in found]:
        try:
            history = ask("sacct", "-n", "-P", "-X", "-o", "JobID,State", "-j", ",".join(missing))
        except ClusterError:  # no accounting on this cluster
            history = ""
        found |= _table(history.splitlines())
    return {job: found.get(job, "UNKNOWN") for job in jobs}


def dependencies() -> dict[str, str]:
    """Return the dependencies of the user's pending jobs, as `sbatch --dependency` takes them."""
    lines = ask("squeue", "-h", "--me", "-r", "-t", "PENDING", "-o", "%i|%E").splitlines()
    told = dict(line.split("|", 1) for line in lines)
    # afterok:7(unfulfilled),afterok:8(unfulfilled)
    return {job: re.sub(r"\([^)]*\)", "", found) for job, found in told.items() if found != "(null)"}


def excluded_nodes(job: str) -> list[str]:
    """Return the nodes that a job excludes, by name."""
    words = ask("scontrol", "-o", "show", "job", job).split()
    nodes = next((word.partition("=")[2] for word in words if word.startswith("ExcNodeList=")), "(null)")
    return [] if nodes == "(null)" else nodes_of(nodes)


def queued(jobs: Sequence[str]) -> dict[str, Queued]:
    """Return the queue's description of every job; see `states`."""
    if not jobs:
        return {}
    lines = ask("squeue", "-h", "--me", "-r", "-t", "all", "-o", "%i|%T|%N|%L|%r").splitlines()
    rows = dict(line.split("|", 1) for line in lines if line)
    return {
        job: Queued(*rows[job].split("|", 3)) if job in rows else Queued(state, "", "", "")
        for job, state in states(jobs).items()
    }


def usable_nodes(partition: str) -> list[str]:
    """Return the nodes of a partition that jobs can run on, now or later."""
    lines = (line.split("|") for line in ask("sinfo", "-h", "-N", "-p", partition, "-o", "%N|%T").splitlines())
    gone = ("down", "drain", "fail", "unk", "maint")
    return [node for node, state in lines if not state.startswith(gone) and not state.endswith("*")]


def end_of(job: str) -> float | None:
    """Return when a running job reaches its time limit, in seconds since 1970; None where Slurm names none."""
    try:
        words = ask("scontrol", "-o", "show", "job", job).split()
        told = next(word.partition("=")[2] for word in words if word.startswith("EndTime="))
        return time.mktime(time.strptime(told, "%Y-%m-%dT%H:%M:%S"))
    except (ClusterError, StopIteration, ValueError):  # the controller is busy, or there is no limit
        return None


def node_address(node: str) -> str:
    """Return the address by which Slurm itself reaches a node; its name need not resolve on the others."""
    words = ask("scontrol", "-o", "show", "node", node).split()
    return next((word.removeprefix("NodeAddr=") for word in words if word.startswith("NodeAddr=")), node)


def nodes_of(nodelist: str) -> list[str]:
    """Expand a Slurm node list, e.g. `n[1-3]`, to names."""
    return ask("scontrol", "show", "hostnames", nodelist).split()


def _table(lines: Iterable[str]) -> dict[str, str]:
    rows = (line.split("|") for line in lines if line)
    return {job: state.split()[0] for job, state in rows}


def _gpus(gres: str) -> int:
    """Return the number of GPUs in e.g. `gpu:a100:8(S:0-1)`."""
    counts = [entry.split("(")[0].split(":")[-1] for entry in gres.split(",") if entry.startswith("gpu")]
    return sum(int(count) for count in counts if count.isdigit())


def _refused(command: Sequence[str], said: str) -> ClusterError:
    return ClusterError(
        f"`{' '.join(command)}` failed: {said}",
        rule="Slurm accepts what it is asked",
        remedy="fix what it names, in conf/cluster/ or on the command line; `sinfo` shows whether the cluster is up",
    )
