"""The stages in order: finished ones are skipped, those of another run taken, or made there for all who share them."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from trialign.config.compose import Config
from trialign.config.stages import locate_stage, planned
from trialign.lock import HeldError, living_owner
from trialign.manifest import MANIFEST, Manifest, Stage
from trialign.progress import Pace, read_progress, telling
from trialign.runtime.notice import asked_for_room, make_room
from trialign.runtime.ranks import launched_rank

_LOOK = 2.0
_SAY = 60.0
"""Seconds between two looks at who makes a shared stage, and two lines about it: a silent job counts as stuck."""


@dataclass(frozen=True)
class StageRun:
    """What the pipeline did about one stage."""

    verb: str
    outcome: str
    seconds: float
    folder: Path
    manifest: Manifest


def run_pipeline(
    config: Config, scripts: Mapping[str, Callable[[Config], Stage]], announce: Callable[[str], None]
) -> list[StageRun]:
    """Run every stage that is planned in this process.

    Args:
        config: the composed config, the same for all stages.
        scripts: verb -> `run(config)`, handed in by launch/.
        announce: called with a line at the start of each stage.

    Returns:
        One record per stage, in order.
    """
    verbs, first = planned(config), launched_rank() == 0
    runs: list[StageRun] = []
    if first:
        config.run.mkdir(parents=True, exist_ok=True)
    with telling("pipeline", config.run if first else None, config.runtime.intervals):
        for number, verb in enumerate(verbs, start=1):
            if asked_for_room() and runs:
                make_room(f"ended after {runs[-1].verb}")
            runs.append(_stage_run(verb, f"{number}/{len(verbs)}", config, scripts, announce))
    return runs


def _stage_run(
    verb: str,
    number: str,
    config: Config,
    scripts: Mapping[str, Callable[[Config], Stage]],
    announce: Callable[[str], None],
) -> StageRun:
    with Pace(f"stage {number}, {verb}") as pace:
        folder = locate_stage(config, verb)
        shared = verb in config.from_stage
        if not (shared and (folder / MANIFEST).exists()):
            announce(f"[{number}] {verb}" + (f", into {folder}" if shared else ""))
        started = time.monotonic()
        if shared:
            stage = _made_once(partial(scripts[verb], _there(config, verb, folder)), folder, announce, pace)
        else:
            stage = scripts[verb](config)
        seconds = time.monotonic() - started
        if stage is None:
            return StageRun(verb, "taken", seconds, folder, Manifest.read(folder))
        return StageRun(verb, "built" if stage.built else "skipped", seconds, stage.folder, stage.read())


def _made_once(make: Callable[[], Stage], folder: Path, announce: Callable[[str], None], pace: Pace) -> Stage | None:
    """Make a stage that several runs share; None if it is there, or was made by another run while this one waited."""
    said, counted = -_SAY, 0
    while not (folder / MANIFEST).exists():
        owner = living_owner(folder)
        if owner is None:
            try:
                return make()
            except HeldError:  # by one that came a moment earlier
                time.sleep(_LOOK)
                continue
        if time.monotonic() - said >= _SAY:
            announce(f"  waiting for {owner}, which makes it")
            said = time.monotonic()
        # Another job's progress is this one's too: its watchdog looks here.
        if (beat := read_progress(folder)) is not None and beat.advances != counted:
            counted = beat.advances
            pace.moved()
        time.sleep(_LOOK)
    return None


def _there(config: Config, verb: str, folder: Path) -> Config:
    """Return the config by which a stage reads what it does here, and writes into another run."""
    others = {other: locate_stage(config, other) for other in planned(config) if other != verb}
    return replace(config, run=folder.parent, from_stage=others)
