"""Run the stages in order: skip finished ones, and build those that `from.STAGE` shares once, in their own run."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from trialign.config.config import Config
from trialign.config.quantize import RQKMeansConfig, RQVAEConfig
from trialign.config.stages import locate_stage, planned
from trialign.config.verbs import reads_enriched_evidence
from trialign.errors import DataError
from trialign.lock import HeldError, living_owner
from trialign.manifest import MANIFEST, Manifest
from trialign.progress import Progress, read_progress, telling
from trialign.runtime.notice import exit_for_requeue, preemption_requested
from trialign.runtime.ranks import launched_rank
from trialign.stage import Stage

_LOOK = 2.0
_SAY = 60.0
"""Seconds between two looks at who makes a shared stage, and two lines about it: a silent job counts as stuck."""


@dataclass(frozen=True)
class StageRun:
    """What the pipeline did with one stage."""

    verb: str
    outcome: str
    seconds: float
    folder: Path
    manifest: Manifest


def run_pipeline(
    config: Config,
    scripts: Mapping[str, Callable[[Config], Stage]],
    announce: Callable[[str], None],
    checks: Mapping[str, Callable[[Config], None]] | None = None,
) -> list[StageRun]:
    """Run every planned stage in this process.

    Args:
        config: the composed config, the same for all stages.
        scripts: verb -> `run(config)`, handed in by launch/.
        announce: called with a line at the start of each stage.
        checks: verb -> a check to run once its stage is finished, before the next one starts.

    Returns:
        One record per stage, in order.
    """
    verbs, first = planned(config), launched_rank() == 0
    runs: list[StageRun] = []
    if first:
        config.run.mkdir(parents=True, exist_ok=True)
    with telling("pipeline", config.run if first else None, config.runtime.intervals):
        for number, verb in enumerate(verbs, start=1):
            if preemption_requested() and runs:
                exit_for_requeue(f"ended after {runs[-1].verb}")
            runs.append(_stage_run(verb, f"{number}/{len(verbs)}", config, scripts, announce))
            if checks and verb in checks:
                checks[verb](config)
    return runs


def _stage_run(
    verb: str,
    number: str,
    config: Config,
    scripts: Mapping[str, Callable[[Config], Stage]],
    announce: Callable[[str], None],
) -> StageRun:
    with Progress(f"stage {number}, {verb}") as progress:
        folder = locate_stage(config, verb)
        shared = verb in config.from_stage
        if not (shared and (folder / MANIFEST).exists()):
            announce(f"[{number}] {verb}" + (f", into {folder}" if shared else ""))
        started = time.monotonic()
        if shared:
            stage = _made_once(partial(scripts[verb], _there(config, verb, folder)), folder, announce, progress)
        else:
            stage = scripts[verb](config)
        seconds = time.monotonic() - started
        if stage is None:
            return StageRun(verb, "taken", seconds, folder, Manifest.read(folder))
        return StageRun(verb, "built" if stage.built else "skipped", seconds, stage.folder, stage.read())


def _made_once(
    make: Callable[[], Stage], folder: Path, announce: Callable[[str], None], progress: Progress
) -> Stage | None:
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
            progress.moved()
        time.sleep(_LOOK)
    return None


def _there(config: Config, verb: str, folder: Path) -> Config:
    """Return the config with which a stage reads the same inputs but writes into another run."""
    others = {other: locate_stage(config, other) for other in planned(config) if other != verb}
    return replace(config, run=folder.parent, from_stage=others)


def require_evidence(config: Config) -> None:
    """Refuse a catalogue that lacks what embed and train are asked to read, before any stage works on it.

    The remedy is for all that they would refuse, one after the other.

    Raises:
        DataError: it does, or it holds one item.
    """
    if all((locate_stage(config, verb) / MANIFEST).exists() for verb in ("embed", "train")):
        return
    from trialign.data.dataset import Dataset  # torch comes with these
    from trialign.embed.evidence import item_texts, lacking, nothing_of, without
    from trialign.generate.mixture import in_words, tasks_without_texts

    items, features = Dataset(locate_stage(config, "prepare")).items, config.train.items.features
    if len(items) < 2:
        raise DataError(
            f"the catalogue holds {len(items)} item",
            rule="a recommender chooses between two items at least",
            remedy="name a catalogue of more items (data.items), or lower data.min_user_interactions and "
            "data.min_item_interactions",
        )
    own = [name for name in config.embed.evidence if name in items.column_names]
    told = reads_enriched_evidence(config) or any(item_texts(items, own))
    names = lacking(config.embed, items, told=told)
    tasks = tasks_without_texts(items, config.train.tasks.weights())
    remedies = [without(config.embed, names)] if names else []
    quantize = config.quantize
    weights = quantize.weights.by_modality() if isinstance(quantize, RQVAEConfig | RQKMeansConfig) else {}
    remedies += [f"quantize.weights.{name}=1" for name in names if weights.get(name, 1) not in (0, 1)]
    left = [name for name in features if name not in names]
    if left != features:
        remedies.append(f"'train.items.features=[{','.join(left)}]'")
    remedies += [f"train.tasks.{name}=0" for name in tasks]
    if remedies:
        fields = (field for lacked in tasks.values() for field in lacked)
        found = [nothing_of(names, len(items))] * bool(names) + [f"no item has {in_words(fields, 'or')}"] * bool(tasks)
        raise DataError(
            "; ".join(found),
            rule="every modality that is embedded, and every task, has at least one item that it can read",
            remedy=f"set {' '.join(remedies)}",
        )
