"""The graph of stages: what each reads, and which settings are part of its identity."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trialign.config.compose import Config
from trialign.manifest import Stage


@dataclass(frozen=True)
class StageSpec:
    """A stage's place in the graph.

    Args:
        inputs: verbs whose finished stages it reads.
        groups: config groups that determine its numbers.
        seeded: whether the root `seed` does too.
    """

    inputs: tuple[str, ...]
    groups: tuple[str, ...]
    seeded: bool = False


STAGES: dict[str, StageSpec] = {
    "prepare": StageSpec(inputs=(), groups=("data",)),
    "baselines": StageSpec(inputs=("prepare",), groups=("baselines",), seeded=True),
    "embed": StageSpec(inputs=("prepare",), groups=("embed",)),
    "quantize": StageSpec(inputs=("embed",), groups=("quantize",), seeded=True),
    "assign": StageSpec(inputs=("prepare", "embed", "quantize"), groups=("assign",)),
    "train": StageSpec(inputs=("prepare", "assign"), groups=("train", "stream"), seeded=True),
    "evaluate": StageSpec(inputs=("prepare", "assign", "train", "baselines"), groups=("evaluate",)),
}
"""In the order they run: each after what it reads, the cheap ones first, so that a mistake costs little."""


def locate_stage(config: Config, verb: str) -> Path:
    """Return the folder of a stage: of this run, or of the run that `from.<verb>` names."""
    if verb in config.from_stage:
        folder = config.from_stage[verb]
        # from.embed=RUN and from.embed=RUN/embed both say what is meant.
        return folder if (folder / "manifest.json").exists() and folder.name == verb else folder / verb
    return config.run / verb


def open_stage(verb: str, config: Config, *, sources: dict[str, Path] | None = None) -> Stage:
    """Return the stage `verb` of this run, its inputs found and checked, `finished` if nothing is left to do.

    Args:
        verb: a key of STAGES.
        config: the composed config.
        sources: files from outside the run that the stage reads, by role.

    Raises:
        StageError: an input is not finished, or the stage was finished from something else and `rebuild` is off.
    """
    spec = STAGES[verb]
    identity: dict[str, Any] = {group: config.identity[group] for group in spec.groups}
    if spec.seeded:
        identity["seed"] = config.seed
    folder = config.run / verb
    if verb == "evaluate":
        folder /= config.evaluate.split
    stage = Stage(
        name=verb,
        folder=folder,
        config=identity,
        inputs={needed: locate_stage(config, needed) for needed in spec.inputs},
        sources=sources or {},
    )
    stage.prepare(rebuild=config.rebuild)
    return stage
