"""A successor: a job that takes over from another one that Slurm does not requeue.

The successor runs the same script in the same folder once the job it succeeds has ended, and its attempts count
together with those before it. Jobs that depend on the job then depend on its successor.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from trialign.cluster import slurm
from trialign.cluster.record import JobSpec, last_jobs, note_job


def queue_successor(spec: JobSpec, script: Path, job: str, *, exclude: Sequence[str] = ()) -> str:
    """Queue the successor of a job that still runs and return its number.

    Args:
        spec: of the job.
        script: what `sbatch` was given for it.
        job: its number, `ARRAY_TASK` for an element of an array.
        exclude: all nodes to leave out.

    Raises:
        ClusterError: Slurm does not take it.
    """
    task = job.partition("_")[2]
    options = [f"--dependency=afterany:{job}", *([f"--array={task}"] if task else [])]
    if exclude:
        options.append(f"--exclude={','.join(exclude)}")
    number = slurm.submit(script, *options)
    successor = f"{number}_{task}" if task else number
    # The log of an array's element lies in the folder of its sweep.
    record = last_jobs(Path(spec.run)).get(spec.name)
    if record is not None and "sweep" in record:
        note_job(spec.folder, spec.name, successor, succeeds=job, sweep=record["sweep"])
    else:
        note_job(spec.folder, spec.name, successor, succeeds=job)
    return successor


def hand_over(job: str, successor: str) -> list[str]:
    """Make the jobs that depend on a job depend on its successor; return those that Slurm refuses to change."""
    name = re.compile(rf"(?<![\d_]){re.escape(job)}(?![\d_])")
    left = []
    for waiting, dependency in slurm.dependencies().items():
        if waiting != successor and name.search(dependency):
            try:
                slurm.ask("scontrol", "update", f"JobId={waiting}", f"Dependency={name.sub(successor, dependency)}")
            except slurm.ClusterError:
                left.append(waiting)
    return left
