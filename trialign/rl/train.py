"""The stage `rl`: train a generator further on its held-out positions, by GRPO or as the supervised control."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from trialign.config.rl import RLConfig, WatchConfig
from trialign.config.runtime import RuntimeConfig
from trialign.config.tracking import Tracking
from trialign.config.train import StreamConfig
from trialign.data.dataset import Dataset
from trialign.decode.index import PrefixIndex
from trialign.decode.path import Trie
from trialign.foreign import Json
from trialign.generate.adapters import add_adapters, merge_adapters
from trialign.generate.fit import BEST, fit
from trialign.generate.model import Generator
from trialign.generate.save_load import TrainedGenerator, load_generator, save_generator
from trialign.generate.validation import Validation
from trialign.rl.grpo import group_relative
from trialign.rl.module import Watch
from trialign.rl.reference import frozen_copy, load_reference
from trialign.rl.sft import supervised
from trialign.rl.start import Start
from trialign.runtime.trainer import Plan
from trialign.stream.order import accumulation

CUTOFFS = (1, 10, 50)


def reinforce(
    start: Start,
    folder: Path,
    settings: RLConfig,
    stream: StreamConfig,
    runtime: RuntimeConfig,
    *,
    seed: int,
    tracking: Tracking | None = None,
) -> dict[str, Json]:
    """Train a generator further and save the best by validation into `folder`; the start counts as a candidate.

    Args:
        start: the trained generator and its data.
        folder: an existing directory.
        settings: objective, rewards, optimizer, validation.
        stream: of the rows of the control.
        runtime: ranks, checkpoints, logging.
        seed: of rollouts, adapters and the order of prompts.
        tracking: what W&B logs; None leaves it out.

    Returns:
        Counts for the manifest.

    Raises:
        ConfigError: settings that do not fit each other or the data, or nothing was held out.
    """
    trained = load_generator(start.folder, start.sids)
    if trained.generator.items.repeats is not None:
        # How often users choose again is known from what they did; at its rate, rewards would soon undo it.
        trained.generator.items.repeats.requires_grad_(requires_grad=False)
    index = PrefixIndex.from_codes(start.sids.codes_NL, start.sids.codebook_size)
    watch = _watch(settings.validation, start.dataset, trained, index, folder)
    # A skipped batch would be sampled again: rollouts depend on the weights, not on a position in a stream.
    runtime = replace(runtime, on_loss_spike="stop")
    if settings.objective == "sft":
        _adapt(trained.generator, settings, seed)
        objective = supervised(start, trained, folder, settings, stream, runtime, seed=seed)
    else:
        reference = _reference(settings.reference, start, trained.generator)
        _adapt(trained.generator, settings, seed)
        objective = group_relative(start, trained, reference, Trie.from_index(index), settings, runtime, seed=seed)
    module, runtime = objective.module, objective.runtime
    ranks = runtime.nodes * runtime.devices
    plan = Plan(
        max_steps=settings.steps,
        accumulate=accumulation(objective.global_batch_size, ranks, runtime.micro_batch_size),
        max_grad_norm=settings.max_grad_norm,
    )
    trainer = fit(module, objective.data, folder, plan, runtime, seed=seed, watching=[watch], tracking=tracking)
    counts: dict[str, Json] = {"steps": trainer.global_step, "validation": watch.counts(), "start": watch.measured[0]}
    counts |= objective.counts()
    watch.restore(module)
    if trainer.is_global_zero:
        merge_adapters(module.evaluated.backbone)
        save_generator(folder, TrainedGenerator(module.evaluated, trained.template, trained.max_history), start.sids)
    return counts


def _adapt(generator: Generator, settings: RLConfig, seed: int) -> None:
    if settings.lora is not None:
        add_adapters(generator.backbone, settings.lora, seed=seed)


def _reference(named: str | None, start: Start, policy: Generator) -> Generator:
    """Return the reference generator of the KL term: another finished one, or a frozen copy of the start."""
    if named is None:
        return frozen_copy(policy)
    return load_reference(Path(named).expanduser(), policy, start.folder, start.sids)


def _watch(
    settings: WatchConfig, dataset: Dataset, trained: TrainedGenerator, index: PrefixIndex, folder: Path
) -> Watch:
    validation = Validation(
        dataset.evaluation("validation"),
        trained.template,
        index,
        num_users=settings.users,
        num_beams=settings.num_beams,
        max_history=trained.max_history,
        batch_size=settings.batch_size,
        cutoffs=CUTOFFS,
    )
    return Watch(validation, every=settings.every, patience=settings.patience, best=folder / BEST)
