"""The stages in order: finished ones are skipped, those of another run taken, or made there for all who share them."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from trialign.config.compose import Config
from trialign.config.stages import locate_stage, planned
from trialign.manifest import MANIFEST, Manifest, Stage


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
    done, verbs = [], planned(config)
    for number, verb in enumerate(verbs, start=1):
        folder = locate_stage(config, verb)
        shared = verb in config.from_stage
        if shared and (folder / MANIFEST).exists():
            done.append(StageRun(verb, "taken", 0.0, folder, Manifest.read(folder)))
            continue
        announce(f"[{number}/{len(verbs)}] {verb}" + (f", into {folder}" if shared else ""))
        started = time.monotonic()
        stage = scripts[verb](_there(config, verb, folder) if shared else config)
        seconds = time.monotonic() - started
        outcome = "built" if stage.built else "skipped"
        done.append(StageRun(verb, outcome, seconds, stage.folder, stage.read()))
    return done


def _there(config: Config, verb: str, folder: Path) -> Config:
    """Return the config by which a stage reads what it does here, and writes into another run."""
    others = {other: locate_stage(config, other) for other in planned(config) if other != verb}
    return replace(config, run=folder.parent, from_stage=others)
