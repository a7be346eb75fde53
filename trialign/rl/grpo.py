"""Group-relative policy optimization (Shao et al. 2024, GRPO) on the positions that supervised training held out."""

from __future__ import annotations

import logging

from trialign.config.rl import RLConfig
from trialign.config.runtime import RuntimeConfig
from trialign.decode.path import Trie
from trialign.errors import ConfigError
from trialign.foreign import Json
from trialign.generate.model import Generator
from trialign.generate.save_load import TrainedGenerator
from trialign.progress import count_of
from trialign.reward.functions import wanted
from trialign.rl.module import PolicyModule, RolloutDataModule
from trialign.rl.prompts import Prompts
from trialign.rl.rollout import Policy
from trialign.rl.source import RolloutSource
from trialign.rl.start import Objective, Start

logger = logging.getLogger(__name__)


def group_relative(
    start: Start,
    trained: TrainedGenerator,
    reference: Generator,
    trie: Trie,
    settings: RLConfig,
    runtime: RuntimeConfig,
    *,
    seed: int,
) -> Objective:
    """Return the policy and its rollouts; arguments as `reinforce`.

    Raises:
        ConfigError: settings that do not fit each other or the data, or nothing was held out.
    """
    weights, ranks = wanted(settings.rewards), runtime.nodes * runtime.devices
    _check(settings, start.dataset.num_items, runtime.micro_batch_size, ranks)
    prompts = Prompts(start.dataset, start.share, seed)
    size = f"{count_of(settings.steps, 'step')} of {settings.prompts_per_step} prompts x {settings.group_size} rollouts"
    times = count_of(settings.num_iterations, "time")
    logger.info("  %s held-out positions, %s, used %s", f"{len(prompts):,}", size, times)
    _freeze_text_head(trained.generator)
    policy = Policy(trained.generator, trained.template, trie)
    source = RolloutSource(
        policy,
        Policy(reference, trained.template, trie),
        prompts,
        weights,
        start.sids.codes_NL,
        start.quality_N,
        settings,
        num_groups=settings.prompts_per_step // ranks,
        micro=runtime.micro_batch_size,
        seed=seed,
    )
    module = PolicyModule(policy, settings, rewards=list(weights))

    def counts() -> dict[str, Json]:
        place = source.place
        return {"prompts": place.cursor, "groups_skipped": place.skipped, "stopped": module.stopped}

    return Objective(module, RolloutDataModule(source), settings.prompts_per_step, runtime, counts)


def _freeze_text_head(generator: Generator) -> None:
    """Freeze an untied text head: no item depends on it, so it would never have a gradient."""
    head = generator.backbone.get_output_embeddings()
    if head.weight is not generator.backbone.get_input_embeddings().weight:
        head.requires_grad_(False)
    if generator.own is not None:
        generator.own.head.requires_grad_(False)


def _check(settings: RLConfig, num_items: int, micro: int, ranks: int) -> None:
    if settings.group_size > num_items:
        raise ConfigError(
            f"rl.group_size={settings.group_size} of a catalogue of {num_items} items",
            rule="the rollouts of a prompt are distinct items",
            remedy=f"set rl.group_size={num_items} or less",
        )
    if settings.prompts_per_step % (micro * ranks):
        nearest = max(1, round(settings.prompts_per_step / (micro * ranks))) * micro * ranks
        raise ConfigError(
            f"rl.prompts_per_step={settings.prompts_per_step} is not divisible by ranks x "
            f"runtime.micro_batch_size = {ranks} x {micro}",
            rule="every rank takes whole micro-batches of every step",
            remedy=f"set rl.prompts_per_step={nearest}, or a smaller runtime.micro_batch_size",
        )
