"""The graph of stages under a config: where each stage lies, what it reads, which settings identify it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

from trialign.config.runtime import RuntimeConfig
from trialign.config.tracking import Tracking
from trialign.config.verbs import REQUIRED, STAGES
from trialign.errors import StageError
from trialign.foreign import Json
from trialign.manifest import MANIFEST, Manifest
from trialign.stage import Stage, finished_and_gone

if TYPE_CHECKING:
    from trialign.config.config import Config


def planned(config: Config) -> list[str]:
    """Return the stages of a pipeline in the order they run, without optional ones that no other stage reads."""
    wanted = set(REQUIRED)
    while further := {needed for verb in wanted for needed in needed_by(verb, config)} - wanted:
        wanted |= further
    return [verb for verb in STAGES if verb in wanted]


def model_files(role: str, name: str | None) -> dict[str, Path]:
    """Return the files of a model that is named by path, by role: a stage's identity covers their content.

    A model that is named otherwise has none.
    """
    path = Path(str(name)).expanduser()
    files = [path] if path.is_file() else sorted(file for file in path.glob("*") if file.is_file())
    return {f"{role}/{file.name}": file for file in files}


def needed_by(verb: str, config: Config) -> list[str]:
    """Return the stages that `verb` reads under this config."""
    spec = STAGES[verb]
    return [*spec.inputs, *(other for other, asked in spec.inputs_if.items() if asked(config))]


def runtime_of(verb: str, config: Config) -> RuntimeConfig:
    """Return the runtime settings of a stage: `runtime`, reduced to one rank for a stage of one process."""
    if STAGES[verb].ranks(config):
        return config.runtime
    return replace(config.runtime, nodes=1, devices=1, strategy="single")


def locate_stage(config: Config, verb: str) -> Path:
    """Return the folder of a stage: of this run, or of the run that `from.<verb>` names."""
    return folder_of(verb, config.run, config.from_stage)


def folder_of(verb: str, run: Path, from_stage: Mapping[str, Path]) -> Path:
    """Return the folder of a stage, like `locate_stage`, but without a `Config`."""
    if verb in from_stage:
        folder = from_stage[verb]
        # from.embed=RUN and from.embed=RUN/embed mean the same; a run may itself be called embed.
        return folder if folder.name == verb and not (folder / verb / "manifest.json").exists() else folder / verb
    return run / verb


def damage(config: Config) -> StageError | None:
    """Return the error for a finished stage with missing or truncated files, None if all stages are whole."""
    for verb in STAGES:
        folder = locate_stage(config, verb)
        if (folder / MANIFEST).exists() and (gone := Manifest.read(folder).not_whole(folder)):
            return finished_and_gone(folder, gone, f"run `trialign {verb} run={folder.parent} rebuild=true`")
    return None


def stage_folder(verb: str, config: Config) -> Path:
    """Return the folder that a verb of this run writes."""
    return config.run / verb / config.evaluate.split if verb == "evaluate" else config.run / verb


def identity_of(verb: str, config: Config) -> dict[str, Json]:
    """Return the settings that determine a stage's numbers, as its manifest has them."""
    spec = STAGES[verb]
    identity: dict[str, Json] = {group: config.identity[group] for group in spec.groups}
    return identity | {"seed": config.seed} if spec.seeded else identity


def recorded_of(verb: str, config: Config) -> dict[str, Json]:
    """Return the settings next to a stage's identity that can change its numbers, dotted, as its manifest has them."""
    spec = STAGES[verb]
    own = {f"{group}.{key}": value for group in spec.groups for key, value in config.recorded[group].items()}
    used = ["threads", *(["accelerator"] if spec.gpu(config) else [])]
    of_ranks = config.recorded["runtime"] if spec.ranks(config) else used
    return own | {f"runtime.{key}": value for key, value in config.recorded["runtime"].items() if key in of_ranks}


def open_stage(verb: str, config: Config, *, sources: dict[str, Path] | None = None) -> Stage:
    """Open the stage `verb` of this run and check its inputs; it is `finished` if nothing is left to do.

    Args:
        verb: a key of STAGES.
        config: the composed config.
        sources: files from outside the run that the stage reads, by role.

    Raises:
        StageError: an input is not finished, or the stage was finished from something else and `rebuild` is off.
    """
    return Stage.open(
        verb,
        stage_folder(verb, config),
        identity_of(verb, config),
        inputs={needed: locate_stage(config, needed) for needed in needed_by(verb, config)},
        sources=sources,
        recorded=recorded_of(verb, config),
        intervals=config.runtime.intervals,
        rebuild=config.rebuild,
    )


def tracking_of(config: Config, stage: Stage) -> Tracking | None:
    """Return the tracking settings of a stage, None if W&B is off."""
    if not config.tracking.wandb:
        return None
    return Tracking(
        run=config.run,
        stage=stage.name,
        project=config.tracking.project,
        # A sweep on Slurm passes its group to all members: their directories may be nested differently.
        group=config.tracking.group or os.environ.get("WANDB_RUN_GROUP") or config.run.parent.name,
        config={**stage.config, "runtime": asdict(config.runtime)},
    )
