"""The graph of stages: what each reads, and which settings are part of its identity."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trialign.config.embed import MODALITIES
from trialign.config.runtime import RuntimeConfig
from trialign.errors import StageError
from trialign.manifest import MANIFEST, Manifest
from trialign.stage import Stage, finished_and_gone

if TYPE_CHECKING:
    from trialign.config.compose import Config


def _always(config: Config) -> bool:  # noqa: ARG001
    return True


def _never(config: Config) -> bool:  # noqa: ARG001
    return False


@dataclass(frozen=True)
class StageSpec:
    """A stage's place in the graph, and what of a cluster it can use.

    Args:
        inputs: verbs whose finished stages it reads.
        groups: config groups that determine its numbers.
        seeded: whether the root `seed` does too.
        inputs_if: verbs that it reads only where its config asks for what they made.
        ranks: whether it runs on all ranks of `runtime`; every other stage is one process.
        gpu: whether a GPU makes it faster.
        saves: whether it saves itself when asked to make room; the others begin anew, or with the parts they left.
    """

    inputs: tuple[str, ...]
    groups: tuple[str, ...]
    seeded: bool = False
    inputs_if: Mapping[str, Callable[[Config], bool]] = field(default_factory=dict)
    ranks: Callable[[Config], bool] = _never
    gpu: Callable[[Config], bool] = _never
    saves: bool = False


CLIP_OF_ENRICH = "enrich.clip"
"""As `embed.image.model` or `embed.joint.model`: the small CLIP that the enrich stage trained."""


def reads_enriched_evidence(config: Config) -> bool:
    """Return whether captions or interests are part of what is embedded."""
    return config.embed["interests"] or not {"caption", "interests"}.isdisjoint(config.embed["evidence"])


def _embeds_by_enrich(config: Config) -> bool:
    encoders = (config.embed[modality] or {} for modality in MODALITIES)
    return reads_enriched_evidence(config) or any(found.get("model") == CLIP_OF_ENRICH for found in encoders)


def _reads_captions(config: Config) -> bool:
    return bool(config.train.tasks.read_captions)


def _asks_of_evidence(config: Config) -> bool:
    """Return whether evaluation asks what the generator understands of captions or interests."""
    asked = _reads_captions(config) or config.enrich.interests is not None
    return config.evaluate.understanding.items > 0 and asked


def _is_enriched(config: Config) -> bool:
    return config.enrich.captions is not None or config.enrich.interests is not None


def _codes_by_quantizer(config: Config) -> bool:
    return config.assign.index is None


def _quantizer_trains(config: Config) -> bool:
    return str(config.quantize["_target_"]).endswith(".RQVAEQuantizer")


def _quantizer_counts(config: Config) -> bool:
    return str(config.quantize["_target_"]).endswith(".RQKMeansQuantizer")


def _rewards_quality(config: Config) -> bool:
    rewards = config.rl.rewards
    return config.rl.objective == "grpo" and any(rewards[name] for name in rewards if name.startswith("quality"))


STAGES: dict[str, StageSpec] = {
    "prepare": StageSpec(inputs=(), groups=("data",)),
    "baselines": StageSpec(inputs=("prepare",), groups=("baselines",), seeded=True),
    "enrich": StageSpec(inputs=("prepare",), groups=("enrich",), gpu=_is_enriched),
    "embed": StageSpec(
        inputs=("prepare",),
        groups=("embed",),
        inputs_if={"enrich": _embeds_by_enrich, "reward": lambda config: config.embed["least_chance"] > 0},
        gpu=_always,
    ),
    "quantize": StageSpec(
        inputs=("embed",),
        groups=("quantize",),
        seeded=True,
        ranks=_quantizer_trains,
        gpu=lambda config: not _quantizer_counts(config),
    ),
    "assign": StageSpec(
        inputs=("prepare",),
        groups=("assign",),
        inputs_if={"enrich": _is_enriched, "embed": _codes_by_quantizer, "quantize": _codes_by_quantizer},
    ),
    "train": StageSpec(
        inputs=("prepare", "assign"),
        groups=("train", "stream"),
        seeded=True,
        inputs_if={"embed": lambda config: bool(config.train.items.features), "enrich": _reads_captions},
        ranks=_always,
        gpu=_always,
        saves=True,
    ),
    "evaluate": StageSpec(
        inputs=("prepare", "assign", "baselines"),
        groups=("evaluate",),
        inputs_if={
            "train": lambda config: config.evaluate.generator == "train",
            "rl": lambda config: config.evaluate.generator == "rl",
            "enrich": _asks_of_evidence,
        },
        gpu=_always,
    ),
}
"""In the order they run: each after what it reads, the cheap ones first, so that a mistake costs little."""

ASKED_FOR: dict[str, StageSpec] = {
    "reward": StageSpec(inputs=("prepare", "enrich"), groups=("reward",), seeded=True, gpu=_always),
    "rl": StageSpec(
        inputs=("prepare", "assign", "train"),
        groups=("rl", "stream"),
        seeded=True,
        inputs_if={"reward": _rewards_quality},
        ranks=_always,
        gpu=_always,
        saves=True,
    ),
}
"""Stages that run where one of the others reads what they make, or by commands of their own."""

ALL_STAGES: dict[str, StageSpec] = STAGES | ASKED_FOR
"""Every stage there is: what can be submitted, shown, and named by `from.STAGE`."""


def planned(config: Config) -> list[str]:
    """Return the stages of a pipeline in the order they run: all of STAGES, and before each what it asks for."""
    order: list[str] = []

    def add(verb: str) -> None:
        for asked in needed_by(verb, config):
            if asked in ASKED_FOR and asked not in order:
                add(asked)
        order.append(verb)

    for verb in STAGES:
        add(verb)
    return order


def model_files(role: str, name: str | None) -> dict[str, Path]:
    """Return the files of a model named by path, by role: their content, not their name, decides what is made by them.

    A name that is no path has none.
    """
    path = Path(str(name)).expanduser()
    files = [path] if path.is_file() else sorted(file for file in path.glob("*") if file.is_file())
    return {f"{role}/{file.name}": file for file in files}


def needed_by(verb: str, config: Config) -> list[str]:
    """Return the stages that `verb` reads under this config."""
    spec = ALL_STAGES[verb]
    return [*spec.inputs, *(other for other, asked in spec.inputs_if.items() if asked(config))]


def runtime_of(verb: str, config: Config) -> RuntimeConfig:
    """Return `runtime` as a stage can use it: a stage of one process has one rank, whatever the run sets for others."""
    if ALL_STAGES[verb].ranks(config):
        return config.runtime
    return replace(config.runtime, nodes=1, devices=1, strategy="single")


def locate_stage(config: Config, verb: str) -> Path:
    """Return the folder of a stage: of this run, or of the run that `from.<verb>` names."""
    return folder_of(verb, config.run, config.from_stage)


def folder_of(verb: str, run: Path, from_stage: Mapping[str, Path]) -> Path:
    """Return the folder of a stage, as `locate_stage` does before there is a `Config`."""
    if verb in from_stage:
        folder = from_stage[verb]
        # from.embed=RUN and from.embed=RUN/embed both say what is meant; a run may itself be called embed.
        return folder if folder.name == verb and not (folder / verb / "manifest.json").exists() else folder / verb
    return run / verb


def damage(config: Config) -> StageError | None:
    """Return what to say of a finished stage that lost a file, or part of one: where a reader stumbles over it."""
    for verb in ALL_STAGES:
        folder = locate_stage(config, verb)
        if (folder / MANIFEST).exists() and (gone := Manifest.read(folder).not_whole(folder)):
            return finished_and_gone(folder, gone, f"run `trialign {verb} run={folder.parent} rebuild=true`")
    return None


def stage_folder(verb: str, config: Config) -> Path:
    """Return the folder that a verb of this run writes."""
    return config.run / verb / config.evaluate.split if verb == "evaluate" else config.run / verb


def identity_of(verb: str, config: Config) -> dict[str, Any]:
    """Return the settings that determine a stage's numbers, as its manifest has them."""
    spec = ALL_STAGES[verb]
    identity: dict[str, Any] = {group: config.identity[group] for group in spec.groups}
    return identity | {"seed": config.seed} if spec.seeded else identity


def recorded_of(verb: str, config: Config) -> dict[str, Any]:
    """Return the settings beside a stage's identity that can change its numbers, dotted, as its manifest has them."""
    spec = ALL_STAGES[verb]
    own = {f"{group}.{key}": value for group in spec.groups for key, value in config.recorded[group].items()}
    used = ["threads", *(["accelerator"] if spec.gpu(config) else [])]
    of_ranks = config.recorded["runtime"] if spec.ranks(config) else used
    return own | {f"runtime.{key}": value for key, value in config.recorded["runtime"].items() if key in of_ranks}


def open_stage(verb: str, config: Config, *, sources: dict[str, Path] | None = None) -> Stage:
    """Return the stage `verb` of this run, its inputs found and checked, `finished` if nothing is left to do.

    Args:
        verb: a key of ALL_STAGES.
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
