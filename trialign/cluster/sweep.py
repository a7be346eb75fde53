"""A sweep: members of one shape as one throttled array of jobs, each with a run directory of its own.

The same command again resumes a sweep: finished members stay as they are, queued and running ones are left alone, the
rest becomes a new array. Nothing but the run directories is needed for that.
"""

from __future__ import annotations

import os
import shlex
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from trialign.cluster import slurm
from trialign.cluster.plan import job_for
from trialign.cluster.preflight import check_finished, check_partition, check_run, check_settings
from trialign.cluster.record import FOLDER, JobSpec, jobs_of, last_of, note_job
from trialign.cluster.render import render
from trialign.cluster.submit import write_config
from trialign.config.config import Config
from trialign.config.stages import identity_of, stage_folder
from trialign.errors import ConfigError, StageError
from trialign.files import write_atomically
from trialign.manifest import MANIFEST, Manifest

_WAIT = 2.0


@dataclass(frozen=True)
class Member:
    """One member of a sweep: its config, and its job."""

    config: Config
    job: JobSpec


def members_of(verb: str, configs: Sequence[Config], overrides: Sequence[Sequence[str]]) -> list[Member]:
    """Return the members of a sweep.

    Raises:
        ConfigError: they share run directories, differ in what they ask of the cluster, or cannot run in one job each.
    """
    members = [Member(config, job_for(verb, config, words)) for config, words in zip(configs, overrides, strict=True)]
    runs = [member.config.run for member in members]
    if shared := sorted({str(run) for run in runs if runs.count(run) > 1}):
        raise ConfigError(
            f"several members of the sweep have the run directory {', '.join(shared)}",
            rule="every member has a run directory of its own",
            remedy="name it by what is swept, e.g. run='runs/sweep/seed${seed}'",
        )
    shapes = {(job.nodes, job.tasks_per_node, job.cpus_per_task, job.gpus_per_node) for job in (m.job for m in members)}
    if len(shapes) > 1 or len({str(member.config.cluster) for member in members}) > 1:
        raise ConfigError(
            "members of the sweep ask for different nodes, ranks or sites",
            rule="a sweep is one array, whose elements have one shape",
            remedy="sweep runtime.nodes, runtime.devices and cluster one value at a time",
        )
    runtime = members[0].config.runtime
    if verb == "pipeline" and runtime.nodes * runtime.devices > 1:
        raise ConfigError(
            f"a sweep of pipelines with {runtime.nodes} x {runtime.devices} ranks",
            rule="a whole pipeline in one job has one rank",
            remedy="submit what members share once (trialign submit pipeline), then sweep `train` with from.STAGE=DIR",
        )
    return members


def queue(members: Sequence[Member], say: Callable[[str], None]) -> dict[str, str]:
    """Queue the members that are neither finished nor queued, as one array.

    Returns:
        Run directory -> job, of all members that are not finished.

    Raises:
        TrialignError: something cannot work; nothing was queued.
    """
    cluster, verb = members[0].config.cluster, members[0].job.verb
    for member in members:
        check_settings(member.config, [member.job])
    open_ = [member for member in members if not _finished(member)]
    for member in open_:
        check_finished(member.config, [member.job])
    if cluster.dry_run:
        say(_script(open_ or members, Path("DIR")))
        return {}
    slurm.require_slurm()
    known = {str(m.config.run): jobs_of(m.config.run).get(verb) for m in open_}
    states = slurm.states([job for job in known.values() if job])
    live = {run: job for run, job in known.items() if job and states[job] not in slurm.ENDED}
    rest = [member for member in open_ if str(member.config.run) not in live]
    say(
        f"  {len(members)} members: {len(members) - len(open_)} finished, {len(live)} queued already, {len(rest)} to do"
    )
    if not rest:
        return live
    check_partition(rest[0].config, [rest[0].job])
    for member in rest:
        check_run(member.config.run, [member.job])
    folder = _folder(members, verb)
    for number, member in enumerate(rest):
        member.job.save().replace(folder / f"member-{number}.json")
        write_config(member.job.folder / f"{verb}.config.json", member.config)
    script = folder / "array.sbatch"
    write_atomically(script, _script(rest, folder))
    array = slurm.submit(script)
    for number, member in enumerate(rest):
        note_job(member.job.folder, verb, f"{array}_{number}", sweep=str(folder))
        say(f"  job {array}_{number}  {member.config.run}")
    return live | {str(member.config.run): f"{array}_{number}" for number, member in enumerate(rest)}


def wait_for(jobs: dict[str, str], say: Callable[[str], None]) -> None:
    """Wait until the jobs have ended; if the wait is interrupted, the jobs continue.

    Raises:
        StageError: some did not end well.
    """
    last: dict[str, str] = {}
    while True:
        jobs = {run: last_of(Path(run) / FOLDER, job) for run, job in jobs.items()}
        states = slurm.states(list(jobs.values()))
        for run, job in jobs.items():
            if states[job] != last.get(job):
                say(f"  {run}: job {job} {states[job]}")
        last = states
        if all(state in slurm.ENDED for state in states.values()):
            break
        time.sleep(_WAIT)
    if failed := [run for run, job in jobs.items() if states[job] != "COMPLETED"]:
        raise StageError(
            f"{len(failed)} of {len(jobs)} members did not end well: {', '.join(failed)}",
            rule="every member of a sweep is finished",
            remedy=f"read {failed[0]}/{FOLDER}/log, fix it, and give the same command again: finished members stay",
        )


def sweep_name(members: Sequence[Member]) -> str:
    """Return what the sweep is called: the folder that its run directories have in common."""
    return _common(members).name


def _finished(member: Member) -> bool:
    verb = "evaluate" if member.job.verb == "pipeline" else member.job.verb
    folder = stage_folder(verb, member.config)
    return (folder / MANIFEST).exists() and Manifest.read(folder).config == identity_of(verb, member.config)


def _script(members: Sequence[Member], folder: Path) -> str:
    first = members[0]
    limit = first.config.cluster.array_limit
    return render(
        first.job,
        first.config.cluster,
        specs=f"{shlex.quote(str(folder))}/member-$SLURM_ARRAY_TASK_ID.json",
        environment={"WANDB_RUN_GROUP": sweep_name(members)},
        array=f"0-{len(members) - 1}%{limit}",
        log=folder,
    )


def _common(members: Sequence[Member]) -> Path:
    return Path(os.path.commonpath([member.config.run.parent for member in members]))


def _folder(members: Sequence[Member], verb: str) -> Path:
    """Make a new folder for an array: an older one may still be queued, and reads its own."""
    parent, number = _common(members) / FOLDER, 1
    while True:
        folder = parent / f"{verb}-{number:03d}"
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            number += 1
        else:
            return folder
