"""Checks before a job is queued, of faults that would otherwise show after hours in the queue."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from trialign.cluster import slurm
from trialign.cluster.record import FOLDER, JobSpec, jobs_of
from trialign.config.config import Config
from trialign.config.stages import identity_of, planned, stage_folder
from trialign.errors import ConfigError, StageError, suggest
from trialign.lock import living_owner
from trialign.manifest import MANIFEST
from trialign.stage import require_same_settings


def check_settings(config: Config, jobs: Sequence[JobSpec]) -> None:
    """Refuse faults that the config alone shows.

    Raises:
        ConfigError: no cluster is named, one process is asked for several ranks, or nodes have too few GPUs.
    """
    cluster, runtime = config.cluster, config.runtime
    if cluster.name == "none":
        raise ConfigError(
            "no cluster is named",
            rule="a site is a file of conf/cluster/",
            remedy="add cluster=NAME, e.g. cluster=minicluster after `make minicluster`",
        )
    if "\\" in str(config.run):
        raise ConfigError(
            f"run={config.run} with a backslash",
            rule="Slurm writes logs below the run directory, and reads a backslash in their paths as its own",
            remedy="choose another run=DIR",
        )
    for job in jobs:
        world_size = job.nodes * job.tasks_per_node
        if runtime.strategy == "single" and world_size != 1:
            raise ConfigError(
                f"runtime.strategy=single with {world_size} ranks (runtime.nodes x runtime.devices) of {job.name}",
                rule="`single` is one process",
                remedy="set runtime.strategy=ddp or a stage of ZeRO, or one node and one device",
            )
        if job.gpus_per_node > cluster.gpus_per_node:
            need = -(-world_size // cluster.gpus_per_node)
            raise ConfigError(
                f"runtime.devices={runtime.devices} with cluster.gpus_per_node={cluster.gpus_per_node}",
                rule="every rank has a GPU of its own: tasks per node x 1 GPU is what a node has, or less",
                remedy=f"set runtime.devices={cluster.gpus_per_node} runtime.nodes={need}",
            )


def check_finished(config: Config, jobs: Sequence[JobSpec]) -> None:
    """Refuse settings that a stage of the run was not made with, as the stage itself would once its job has waited.

    Raises:
        StageError: a stage is finished, or a training of it was killed, with other settings and `rebuild` is off.
    """
    if config.rebuild:
        return
    for job in jobs:
        stages = (
            [verb for verb in planned(config) if verb not in config.from_stage]
            if job.verb == "pipeline"
            else [job.verb]
        )
        for verb in stages:
            require_same_settings(stage_folder(verb, config), identity_of(verb, config))


def begun_anew(config: Config, jobs: Sequence[JobSpec]) -> str | None:
    """Return the warning that preemption or the time limit loses the work of stages without checkpoints, or None.

    Finished stages are left out: their jobs end in seconds.
    """
    names = [job.name for job in jobs if not job.saves and not (Path(job.stage) / MANIFEST).exists()]
    if not names:
        return None
    limit = f"cluster.time={config.cluster.time}" if config.cluster.time else "the partition's; set cluster.time"
    return (
        f"{', '.join(names)}: cannot save half-way; begun anew by a preemption, and whole within the time limit "
        f"({limit}) or not at all"
    )


def check_partition(config: Config, jobs: Sequence[JobSpec]) -> None:
    """Refuse a partition that does not exist, or whose nodes cannot hold the jobs.

    Raises:
        ConfigError: either.
    """
    known, name = slurm.partitions(), config.cluster.partition
    if name is None:
        return  # the cluster's default; sbatch judges
    if name not in known:
        raise ConfigError(
            f"cluster.partition={name} does not exist on this cluster",
            rule="jobs are queued in a partition that `sinfo` lists",
            remedy=suggest(name, known),
        )
    there = known[name]
    for job in jobs:
        wanted = {
            "nodes": (job.nodes, there.num_nodes, "runtime.nodes"),
            "GPUs per node": (job.gpus_per_node, there.gpus, "runtime.devices or cluster.gpus_per_node"),
            "cores per node": (job.tasks_per_node * job.cpus_per_task, there.cpus, "cluster.cpus_per_task"),
        }
        for what, (asked, has, setting) in wanted.items():
            if asked > has:
                raise ConfigError(
                    f"{job.name} asks for {asked} {what}, partition {name} has {has}",
                    rule="tasks x GPUs and cores fit the nodes",
                    remedy=f"lower {setting}, or choose another cluster.partition: {', '.join(sorted(known))}",
                )


def check_run(run: Path, jobs: Sequence[JobSpec]) -> None:
    """Refuse a run directory that cannot be written, or that a living process or a queued job works in.

    Raises:
        StageError: either, with the name of who does.
    """
    folder = run / FOLDER
    try:
        (folder / "log").mkdir(parents=True, exist_ok=True)
        probe = folder / f".probe-{os.getpid()}"
        probe.write_text("")
        probe.unlink()
    except OSError as cause:
        raise StageError(
            f"{run} cannot be written: {cause}",
            rule="a run directory is a writable folder that all nodes see",
            remedy="choose another run=DIR, or fix its permissions",
        ) from cause
    recorded = jobs_of(run)
    now = slurm.states(list(recorded.values()))
    for job in jobs:
        stage = Path(job.stage)
        if stage.is_dir() and (owner := living_owner(stage)):
            raise _in_use(run, job.name, str(owner))
        queued = recorded.get(job.name)
        if queued is not None and now[queued] not in slurm.ENDED:
            raise _in_use(run, job.name, f"job {queued}, {now[queued]}")


def _in_use(run: Path, name: str, who: str) -> StageError:
    return StageError(
        f"{run}: {name} is in use by {who}",
        rule="one job per stage of a run",
        remedy=f"wait for it (trialign status run={run}), end it (scancel), or choose another run=DIR",
    )
