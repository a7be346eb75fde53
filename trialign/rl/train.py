"""The stage `rl`: from a trained generator and the positions it has not learned to a better one."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trialign.data.dataset import Dataset
from trialign.data.module import LaneDataModule
from trialign.decode.index import PrefixIndex
from trialign.decode.path import Trie
from trialign.errors import ConfigError
from trialign.generate.adapters import add_adapters, merge_adapters
from trialign.generate.artefact import TrainedGenerator, load_generator, save_generator
from trialign.generate.model import Generator
from trialign.generate.module import GeneratorModule
from trialign.generate.train import BEST, fit, fitted_stream
from trialign.generate.validation import Validation
from trialign.reward.functions import wanted
from trialign.rl.control import continued, sources
from trialign.rl.module import PolicyModule, RolloutDataModule, Watch
from trialign.rl.prompts import Prompts
from trialign.rl.reference import frozen_copy, load_reference
from trialign.rl.rollout import Policy
from trialign.rl.source import RolloutSource
from trialign.rl.tripwires import Limits
from trialign.semid.table import SIDTable

logger = logging.getLogger(__name__)

CUTOFFS = (1, 10, 50)


@dataclass(frozen=True)
class Start:
    """What training starts from: the dataset, its semantic IDs, a finished generator, and what it has not learned.

    Attributes:
        folder: the finished train stage.
        share: of the positions that it kept back.
        quality_N: of the items' interests, where the reward stage judged them.
    """

    dataset: Dataset
    sids: SIDTable
    folder: Path
    share: float
    quality_N: NDArray[np.floating] | None = None


def reinforce(
    start: Start,
    folder: Path,
    *,
    seed: int,
    objective: str,
    reference: str | None,
    lora: Mapping[str, Any] | None,
    validation: Mapping[str, Any],
    steps: int,
    clip: float,
    stream: Mapping[str, Any],
    runtime: Mapping[str, Any],
    learning_rate: float,
    weight_decay: float,
    betas: list[float],
    warmup: float,
    **method: Any,
) -> dict[str, Any]:
    """Train a generator further and save it into `folder`, the best by validation, its start included.

    Args:
        start: what it starts from.
        folder: an existing directory.
        seed: of rollouts, adapters and the order of prompts.
        objective: `grpo`, or `sft`, the control.
        reference: another finished generator to stay near; None: the start.
        lora: fields of `LoraConfig`; None trains everything.
        validation: fields of `WatchConfig`.
        steps: optimizer steps.
        clip: largest gradient norm.
        stream: fields of `StreamConfig`, for the control.
        runtime: fields of `RuntimeConfig`.
        learning_rate: as `GeneratorModule`, and the three after it.
        weight_decay: ditto.
        betas: ditto.
        warmup: ditto.
        method: the other fields of `RLConfig`.

    Returns:
        Counts for the manifest.

    Raises:
        ConfigError: settings that do not fit each other or the data, or nothing was kept back.
    """
    trained = load_generator(start.folder, start.sids)
    index = PrefixIndex.from_codes(start.sids.codes_NL, start.sids.codebook_size)
    watch = _watch(validation, start.dataset, trained, index, folder)
    generator = trained.generator
    beside = None if objective == "sft" else _reference(reference, start, generator)
    if lora is not None:
        add_adapters(generator.backbone, seed=seed, **lora)
    optimizer: dict[str, Any] = {
        "num_steps": steps,
        "learning_rate": learning_rate,
        "weight_decay": weight_decay,
        "betas": betas,
        "warmup": warmup,
    }
    module: GeneratorModule
    data: RolloutDataModule | LaneDataModule
    if objective == "sft":
        stream, runtime = fitted_stream(sources(start), stream, runtime)
        module, data = continued(start, trained, folder, seed, stream, runtime, optimizer)
        lanes = stream["lanes"]
    else:
        assert beside is not None
        trie = Trie.of(index)
        policy, other = (Policy(found, trained.template, trie) for found in (generator, beside))
        module, data = _grpo(start, policy, other, seed, steps, runtime, optimizer, **method)
        lanes = method["prompts"]
    # A batch that is left out would be drawn again: rollouts come of the weights, not of a place in a stream.
    runtime = {**runtime, "on_spike": "stop"}
    trainer = fit(module, data, folder, seed, steps, clip, lanes, [watch], precision="32-true", **runtime)
    counts: dict[str, Any] = {"steps": trainer.global_step, "validation": watch.counts(), "start": watch.measured[0]}
    if isinstance(module, PolicyModule) and isinstance(data, RolloutDataModule):
        place = data.source.place
        counts |= {"prompts": place.cursor, "groups_skipped": place.skipped, "stopped": module.stopped}
    watch.restore(module)
    if trainer.is_global_zero:
        merge_adapters(module.evaluated.backbone)
        save_generator(folder, TrainedGenerator(module.evaluated, trained.template, trained.max_history), start.sids)
    return counts


def _grpo(
    start: Start,
    policy: Policy,
    reference: Policy,
    seed: int,
    steps: int,
    runtime: Mapping[str, Any],
    optimizer: Mapping[str, Any],
    *,
    rewards: Mapping[str, float],
    sampler: str,
    group: int,
    prompts: int,
    uses: int,
    clip_ratio: float,
    kl: float,
    normalise: bool,
    tripwires: Mapping[str, float],
) -> tuple[PolicyModule, RolloutDataModule]:
    weights = wanted(rewards)
    micro, ranks = runtime["micro_rows"], runtime["nodes"] * runtime["devices"]
    _check(group, prompts, start.dataset.num_items, micro, ranks)
    asked = Prompts(start.dataset, start.share, seed)
    size = f"{len(asked):,} kept-back positions, {steps:,} steps of {prompts} prompts x {group} rollouts"
    logger.info("  %s, used %d times", size, uses)
    _freeze_text_head(policy.generator)
    source = RolloutSource(
        policy,
        reference,
        asked,
        weights,
        start.sids.codes_NL,
        start.quality_N,
        group=group,
        num_groups=prompts // ranks,
        micro=micro,
        uses=uses,
        num_steps=steps,
        sampler=sampler,
        normalise=normalise,
        seed=seed,
    )
    module = PolicyModule(
        policy, rewards=list(weights), clip=clip_ratio, kl_weight=kl, limits=Limits(**tripwires), **optimizer
    )
    return module, RolloutDataModule(source)


def _reference(named: str | None, start: Start, policy: Generator) -> Generator:
    if named is None:
        return frozen_copy(policy)
    return load_reference(Path(named).expanduser(), policy, start.folder, start.sids)


def _watch(
    settings: Mapping[str, Any], dataset: Dataset, trained: TrainedGenerator, index: PrefixIndex, folder: Path
) -> Watch:
    validation = Validation(
        dataset.evaluation("validation"),
        trained.template,
        index,
        num_users=settings["users"],
        num_beams=settings["num_beams"],
        max_history=trained.max_history,
        batch_size=settings["batch_size"],
        cutoffs=CUTOFFS,
    )
    return Watch(validation, every=settings["every"], patience=settings["patience"], best=folder / BEST)


def _freeze_text_head(generator: Generator) -> None:
    """Leave out what no item depends on: a text head that is not the input table too never meets a gradient."""
    head = generator.backbone.get_output_embeddings()
    if head.weight is not generator.backbone.get_input_embeddings().weight:
        head.requires_grad_(False)
    if generator.own is not None:
        generator.own.head.requires_grad_(False)


def _check(group: int, prompts: int, num_items: int, micro: int, ranks: int) -> None:
    if group > num_items:
        raise ConfigError(
            f"rl.group={group} of a catalogue of {num_items} items",
            rule="the rollouts of a prompt are distinct items",
            remedy=f"set rl.group={num_items} or less",
        )
    if prompts % (micro * ranks):
        nearest = max(1, round(prompts / (micro * ranks))) * micro * ranks
        raise ConfigError(
            f"rl.prompts={prompts} is not divisible by ranks x runtime.micro_rows = {ranks} x {micro}",
            rule="every rank takes whole micro-batches of every step",
            remedy=f"set rl.prompts={nearest}, or a smaller runtime.micro_rows",
        )
