"""The table of verbs: the command line, its help, Slurm jobs and the pipeline derive from it.

A stage is a verb that writes a folder of a run. A new verb is an entry here, a script `launch/VERB.py` with a function
`run(config)` and, where it has settings of its own, a dataclass that is a field of `Config` (config.py).
`tests/layout/test_verbs.py` says which of them is missing. Everything else derives from the table: `trialign --help`,
`from.STAGE`, the root configs that Hydra composes, `submit`, `status`, the order of a pipeline, the table of verbs in
docs/configuration.md. Imports nothing heavy.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from trialign.config.config import Config

CLIP_OF_ENRICH = "enrich.clip"
"""As `embed.image.model` or `embed.joint.model`: the small CLIP that the enrich stage trained."""


def _always(_config: Config) -> bool:
    return True


def _never(_config: Config) -> bool:
    return False


def reads_enriched_evidence(config: Config) -> bool:
    """Return whether `embed` reads captions or interests."""
    return config.embed.interests or not {"caption", "interests"}.isdisjoint(config.embed.evidence)


def _embeds_by_enrich(config: Config) -> bool:
    encoders = config.embed.encoders().values()
    return reads_enriched_evidence(config) or any(found.files().get("model") == CLIP_OF_ENRICH for found in encoders)


def _drops_unlikely_interests(config: Config) -> bool:
    return config.embed.min_probability > 0


def _trains_on_evidence(config: Config) -> bool:
    return bool(config.train.tasks.enriched)


def _reads_vectors(config: Config) -> bool:
    return bool(config.train.items.features)


def _probes_evidence(config: Config) -> bool:
    """Return whether evaluation probes the generator's grounding in captions or interests."""
    known = _trains_on_evidence(config) or config.enrich.interests is not None
    return config.evaluate.grounding.items > 0 and known


def _evaluates(generator: str) -> Callable[[Config], bool]:
    return lambda config: config.evaluate.generator == generator


def _exports(generator: str) -> Callable[[Config], bool]:
    return lambda config: config.export.generator == generator


def _is_enriched(config: Config) -> bool:
    return config.enrich.captions is not None or config.enrich.interests is not None


def _codes_by_quantizer(config: Config) -> bool:
    return config.assign.index is None


def _quantizer_trains(config: Config) -> bool:
    return config.quantize._target_.endswith(".RQVAEQuantizer")


def _quantizer_uses_a_gpu(config: Config) -> bool:
    return not config.quantize._target_.endswith(".RQKMeansQuantizer")


def _rewards_quality(config: Config) -> bool:
    rewards = config.rl.rewards
    return config.rl.objective == "grpo" and any(rewards[name] for name in rewards if name.startswith("quality"))


@dataclass(frozen=True, kw_only=True)
class Verb:
    """A command, `trialign NAME`.

    Args:
        help: what it does, in one line.
        reads: groups of the config that it reads; of a stage, those that do not determine its numbers.
        resumes: whether it takes the settings of the run that `run=DIR` names.
        root: root settings that differ from those of the other verbs.
    """

    help: str
    reads: tuple[str, ...] = ()
    resumes: bool = False
    root: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class StageSpec(Verb):
    """A verb that writes a folder of a run: its place in the graph of stages, and the ranks and GPUs it can use.

    Args:
        inputs: stages that it reads.
        inputs_if: stages that it reads only where its config asks for what they made.
        groups: groups of the config that determine its numbers; they are hashed into its manifest.
        seeded: whether the root `seed` determines them too.
        ranks: whether it runs on all ranks of `runtime`; every other stage is one process.
        gpu: whether a GPU makes it faster.
        saves: whether it saves its state when asked to stop; the others begin again, or with the parts they left.
        optional: whether a pipeline runs it only where another stage reads what it makes.
    """

    inputs: tuple[str, ...]
    groups: tuple[str, ...]
    reads: tuple[str, ...] = ("runtime",)
    resumes: bool = True
    inputs_if: Mapping[str, Callable[[Config], bool]] = field(default_factory=dict)
    seeded: bool = False
    ranks: Callable[[Config], bool] = _never
    gpu: Callable[[Config], bool] = _never
    saves: bool = False
    optional: bool = False


_TRACKED = ("runtime", "tracking")

STAGES: dict[str, StageSpec] = {
    "prepare": StageSpec(
        help="catalog and interaction logs -> dataset",
        inputs=(),
        groups=("data",),
    ),
    "baselines": StageSpec(
        help="dataset -> fitted baselines: counts, SASRec",
        inputs=("prepare",),
        groups=("baselines",),
        seeded=True,
    ),
    "enrich": StageSpec(
        help="dataset -> captions, interests and the small CLIP, where asked for",
        inputs=("prepare",),
        groups=("enrich",),
        reads=_TRACKED,
        gpu=_is_enriched,
    ),
    "reward": StageSpec(
        help="interests -> a model that judges them, and the quality of every item",
        inputs=("prepare", "enrich"),
        groups=("reward",),
        reads=_TRACKED,
        seeded=True,
        gpu=_always,
        optional=True,
    ),
    "embed": StageSpec(
        help="dataset -> one vector per item and modality",
        inputs=("prepare",),
        inputs_if={"enrich": _embeds_by_enrich, "reward": _drops_unlikely_interests},
        groups=("embed",),
        gpu=_always,
    ),
    "quantize": StageSpec(
        help="vectors -> residual quantizer",
        inputs=("embed",),
        groups=("quantize",),
        reads=_TRACKED,
        seeded=True,
        ranks=_quantizer_trains,
        gpu=_quantizer_uses_a_gpu,
    ),
    "assign": StageSpec(
        help="quantizer -> one unique semantic ID per item, quality.json",
        inputs=("prepare",),
        inputs_if={"enrich": _is_enriched, "embed": _codes_by_quantizer, "quantize": _codes_by_quantizer},
        groups=("assign",),
        reads=_TRACKED,
    ),
    "train": StageSpec(
        help="dataset and semantic IDs -> generator",
        inputs=("prepare", "assign"),
        inputs_if={"embed": _reads_vectors, "enrich": _trains_on_evidence},
        groups=("train", "stream"),
        reads=_TRACKED,
        seeded=True,
        ranks=_always,
        gpu=_always,
        saves=True,
    ),
    "rl": StageSpec(
        help="generator -> a better one, by reinforcement learning on positions that training held out",
        inputs=("prepare", "assign", "train"),
        inputs_if={"reward": _rewards_quality},
        groups=("rl", "stream"),
        reads=_TRACKED,
        seeded=True,
        ranks=_always,
        gpu=_always,
        saves=True,
        optional=True,
    ),
    "evaluate": StageSpec(
        help="generator and baselines -> metrics.json, the table, a page",
        inputs=("prepare", "assign", "baselines"),
        inputs_if={"train": _evaluates("train"), "rl": _evaluates("rl"), "enrich": _probes_evidence},
        groups=("evaluate",),
        reads=_TRACKED,
        gpu=_always,
    ),
    "export": StageSpec(
        help="generator -> a folder that transformers, vLLM or a graph runtime serve, with a certificate",
        inputs=("prepare", "assign"),
        inputs_if={"train": _exports("train"), "rl": _exports("rl"), "enrich": _trains_on_evidence},
        groups=("export",),
        optional=True,
    ),
}
"""In the order they run: each after what it reads, the cheap ones first, so that a mistake costs little."""

REQUIRED = tuple(verb for verb, stage in STAGES.items() if not stage.optional)
"""Stages of every pipeline."""

HASHED = frozenset(group for stage in STAGES.values() for group in stage.groups)
"""Groups whose settings, unless declared otherwise, belong to a stage's identity."""

_ALL_GROUPS = tuple(dict.fromkeys(group for stage in STAGES.values() for group in (*stage.groups, *stage.reads)))

COMMANDS: dict[str, Verb] = {
    "report": Verb(
        help="finished runs -> one table and page that compare them",
        reads=("report",),
        root={"run": "."},  # a comparison belongs to no run
    ),
    "recommend": Verb(
        help="a user, or typed items -> recommended items with titles",
        reads=("recommend", "runtime"),
        resumes=True,
    ),
    "serve": Verb(
        help="a finished run, or an exported folder -> a service over HTTP",
        reads=("serve", "runtime"),
        resumes=True,
        root={"run": "."},  # an exported folder belongs to no run
    ),
    "pipeline": Verb(
        help="all stages in order; finished ones are skipped, optional ones run where another reads them",
        reads=(*_ALL_GROUPS, "recommend"),
        resumes=True,
    ),
    "submit": Verb(
        help="a stage, or the pipeline as a chain of jobs, on a Slurm cluster",
        reads=("cluster", "runtime"),
        resumes=True,
    ),
    "status": Verb(help="a run or a sweep: stages, jobs, nodes, time left, progress, the last attempt, logs"),
    "doctor": Verb(
        help="what this machine offers, and a proof that nothing connects out", reads=("doctor",), root={"run": "."}
    ),
}
"""Verbs that write no stage."""

VERBS: dict[str, Verb] = {**STAGES, **COMMANDS}
"""In the order of `trialign --help`."""
