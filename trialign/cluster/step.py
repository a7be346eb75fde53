"""The `srun` that starts the ranks of a job; like the supervisor, it needs nothing but Python's standard library."""

from __future__ import annotations

from trialign.cluster.record import JobSpec


def step(spec: JobSpec, job: str) -> list[str]:
    """Return the command that starts the ranks of a job; `job` is its number."""
    log = unexpanded(str(spec.folder / "log" / f"{spec.name}_"))
    return [
        "srun",
        f"--nodes={spec.nodes}",
        f"--ntasks-per-node={spec.tasks_per_node}",
        f"--ntasks={spec.nodes * spec.tasks_per_node}",
        f"--cpus-per-task={spec.cpus_per_task}",  # not inherited from sbatch in Slurm 22.05 to 23.02
        "--kill-on-bad-exit=1",  # or the other ranks would wait for a dead one
        "--wait=0",  # ranks exit with 0 after the manifest is written: the first may still be uploading to W&B
        f"--output={log}{job}_%t.log",
        "--open-mode=append",
        *spec.srun,
        *spec.command,
    ]


def unexpanded(path: str) -> str:
    """Return a path in which Slurm expands nothing: `%` opens its own symbols, as `%j`."""
    return path.replace("%", "%%")
