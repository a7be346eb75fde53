"""Plan the Slurm jobs of a verb, each with the ranks and GPUs that its stage can use (`config/stages.py`)."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from trialign.cluster.record import JobSpec
from trialign.config.checks import check_pipeline
from trialign.config.compose import as_override
from trialign.config.config import Config
from trialign.config.stages import planned, runtime_of, stage_folder
from trialign.config.verbs import STAGES
from trialign.errors import ConfigError, suggest
from trialign.manifest import code_revision


def jobs_for(verb: str | None, config: Config, overrides: Sequence[str]) -> list[JobSpec]:
    """Return the jobs of `trialign submit VERB`, in the order of the stages; a pipeline is one job per stage.

    Finished stages of the run are among them: they answer in seconds, and say so if something changed.

    Args:
        verb: a stage or `pipeline`.
        config: the composed config.
        overrides: of the command line, handed to every job; its paths as absolute ones.

    Raises:
        ConfigError: the verb is none that can be submitted, or the stages of the pipeline cannot work.
    """
    if verb == "pipeline":
        check_pipeline(config, planned(config))
        return [job_for(stage, config, overrides) for stage in planned(config) if stage not in config.from_stage]
    if verb not in STAGES:
        raise ConfigError(
            f"trialign submit {verb or ''}".rstrip(),
            rule="a stage, or the pipeline, is submitted: trialign submit VERB cluster=NAME run=DIR",
            remedy=suggest(verb or "", [*STAGES, "pipeline"]),
        )
    return [job_for(verb, config, overrides)]


def job_for(verb: str, config: Config, overrides: Sequence[str]) -> JobSpec:
    """Return the job of one verb; a whole pipeline in one job has one rank."""
    cluster, stages = config.cluster, planned(config) if verb == "pipeline" else [verb]
    nodes, devices = 1, 1
    if verb == "pipeline":
        check_pipeline(config, stages)
    else:
        runtime = runtime_of(verb, config)
        nodes, devices = runtime.nodes, runtime.devices
    on_gpus = cluster.gpus_per_node > 0 and config.runtime.accelerator != "cpu"
    gpus = on_gpus and any(STAGES[stage].gpu(config) for stage in stages)
    program = cluster.program or [sys.executable, "-m", "trialign.launch.cli"]
    return JobSpec(
        name=verb,
        verb=verb,
        run=str(config.run),
        stage=str(config.run if verb == "pipeline" else stage_folder(verb, config)),
        command=[*program, verb, *_pinned(config, overrides)],
        workdir=str(Path.cwd()),
        nodes=nodes,
        tasks_per_node=devices,
        cpus_per_task=cluster.cpus_per_task,
        gpus_per_node=devices if gpus else 0,
        srun=list(cluster.srun),
        python=cluster.python or sys.executable,
        health_check=cluster.health_check,
        leave_seconds=float(cluster.leave_seconds),
        saves=verb == "pipeline" or STAGES[verb].saves,
        watchdog_seconds=60.0 * cluster.watchdog_minutes,
        max_restarts=cluster.max_restarts,
        revision=code_revision(),
    )


def _pinned(config: Config, overrides: Sequence[str]) -> list[str]:
    """Return the overrides with absolute paths for the run, `from.STAGE` and the data.

    A container may start in another working directory, where a relative path is another folder.
    """
    paths = {"run": config.run, **{f"from.{verb}": folder for verb, folder in config.from_stage.items()}}
    root: str | None = getattr(config.data, "root", None)  # a class from outside may have one too
    if root is not None:
        paths["data.root"] = Path(root).expanduser().absolute()
    others = [word for word in overrides if word.partition("=")[0].lstrip("+") not in paths]
    return [*others, *(as_override(key, str(path)) for key, path in paths.items())]
