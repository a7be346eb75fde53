"""Queue jobs: check, estimate, render and store the scripts, and submit them by sbatch."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

from trialign.cluster import slurm
from trialign.cluster.preflight import check_partition, check_run
from trialign.cluster.record import JobSpec, note_job
from trialign.cluster.render import render
from trialign.config.config import Config
from trialign.config.stages import needed_by
from trialign.files import write_atomically


def submit(jobs: Sequence[JobSpec], config: Config, say: Callable[[str], None]) -> dict[str, str]:
    """Queue jobs, each after those whose stages it reads.

    Args:
        jobs: in the order of the stages.
        config: the composed config, its settings checked.
        say: called with lines for the terminal.

    Returns:
        Name -> job number; nothing in a dry run, which prints the scripts instead.

    Raises:
        TrialignError: something cannot work; nothing was queued.
    """
    if config.cluster.dry_run:
        for job in jobs:
            say(_script(job, config))
        return {}
    slurm.require_slurm()
    check_partition(config, jobs)
    check_run(config.run, jobs)
    scripts = {job.name: keep(job, config) for job in jobs}
    for script in scripts.values():
        slurm.ask("sbatch", "--test-only", str(script))
    queued: dict[str, str] = {}
    for job in jobs:
        after = [queued[stage] for stage in needed_by(job.verb, config) if stage in queued]
        options = [f"--dependency=afterok:{':'.join(after)}"] if after else []
        queued[job.name] = slurm.submit(scripts[job.name], *options)
        note_job(job.folder, job.name, queued[job.name], after=after)
        say(f"  {job.name:<10} job {queued[job.name]}" + (f"  after {', '.join(after)}" if after else ""))
    return queued


def keep(job: JobSpec, config: Config) -> Path:
    """Write the spec, the config and the script of a job to the run directory; return the script's path."""
    job.save()
    write_config(job.folder / f"{job.name}.config.json", config)
    script = job.folder / f"{job.name}.sbatch"
    write_atomically(script, _script(job, config))
    return script


def write_config(path: Path, config: Config) -> None:
    """Write the resolved config."""
    plain = asdict(config)
    del plain["identity"]  # a copy of other fields
    write_atomically(path, json.dumps(plain, indent=2, default=str) + "\n")


def _script(job: JobSpec, config: Config) -> str:
    specs = shlex.quote(str(job.folder / f"{job.name}.json"))
    return render(job, config.cluster, specs=specs, environment={}, log=job.folder / "log")
