"""The stage `train`: train a generator on a dataset and its semantic IDs, and save it."""

from __future__ import annotations

import logging
from pathlib import Path

from trialign.config.runtime import RuntimeConfig
from trialign.config.tracking import Tracking
from trialign.config.train import StreamConfig, TrainConfig, ValidationConfig
from trialign.decode.index import PrefixIndex
from trialign.foreign import Json
from trialign.generate.adapters import merge_adapters
from trialign.generate.build import Prepared, TrainingData, prepare_training
from trialign.generate.fit import BEST, fit
from trialign.generate.module import GeneratorModule, Validate
from trialign.generate.save_load import TrainedGenerator, save_generator
from trialign.generate.template import Template
from trialign.generate.validation import Validation
from trialign.progress import count_of
from trialign.runtime.device import device_of, require_precision
from trialign.runtime.loss_watch import skipped_batches
from trialign.runtime.trainer import Plan
from trialign.stream.order import accumulation

logger = logging.getLogger(__name__)


def train(
    data: TrainingData,
    folder: Path,
    settings: TrainConfig,
    stream: StreamConfig,
    runtime: RuntimeConfig,
    *,
    seed: int,
    tracking: Tracking | None = None,
) -> dict[str, Json]:
    """Train a generator and save it into `folder`.

    Args:
        data: the training data.
        folder: an existing directory.
        settings: of the generator, its tasks and its optimizer.
        stream: of the rows.
        runtime: ranks, checkpoints, logging.
        seed: of weights, dropout and the order of the rows.
        tracking: what W&B logs; None leaves it out.

    Returns:
        Counts for the manifest.

    Raises:
        ConfigError: settings that do not fit each other or the data.
    """
    require_precision(settings.precision, device_of(runtime.accelerator))
    made = prepare_training(data, folder, settings, stream, runtime, seed=seed)
    watch = _validate(settings.validation, data, made.template, folder)
    counts: dict[str, Json] = {**_sizes(made), "left_out": made.left_out}
    module = GeneratorModule(made.generator, settings, tasks=made.template.tasks, num_steps=made.num_steps)
    ranks = runtime.nodes * runtime.devices
    plan = Plan(
        max_steps=made.num_steps,
        accumulate=accumulation(made.stream.global_batch_size, ranks, made.runtime.micro_batch_size),
        max_grad_norm=settings.max_grad_norm,
        precision=settings.precision,
    )
    watching = [] if watch is None else [watch]
    trainer = fit(module, made.rows, folder, plan, made.runtime, seed=seed, watching=watching, tracking=tracking)
    counts |= {"tasks": module.figures(), **made.rows.damage()}
    if batches := skipped_batches(folder):
        counts["skipped_batches"] = batches
    if watch is not None:
        counts |= {"steps": trainer.global_step, "validation": watch.counts()}
        watch.restore(module)
    if trainer.is_global_zero:
        # Files that only an unfinished attempt needs are removed when the stage writes its manifest.
        merge_adapters(module.evaluated.backbone)
        save_generator(folder, TrainedGenerator(module.evaluated, made.template, data.max_history), data.sids)
    return counts


def _sizes(made: Prepared) -> dict[str, int]:
    """Log the sizes of the training and return them."""
    parameters = list(made.generator.parameters())
    counts = {
        "steps": made.num_steps,
        "global_batch_size": made.stream.global_batch_size,
        "parameters": sum(parameter.numel() for parameter in parameters),
        "trained": sum(parameter.numel() for parameter in parameters if parameter.requires_grad),
        "text_tokens": made.template.tokenizer.size,
    }
    rows = f"{count_of(made.stream.global_batch_size, 'row')} of {made.stream.seq_len} tokens"
    logger.info("  %s parameters, %s of %s", f"{counts['parameters']:,}", count_of(made.num_steps, "step"), rows)
    return counts


def _validate(settings: ValidationConfig, data: TrainingData, template: Template, folder: Path) -> Validate | None:
    """Return the callback that validates, or None if validation is off."""
    if settings.every == 0:
        logger.info("  trains to the end: no validation is asked for (train.validation.every)")
        return None
    validation = Validation(
        data.dataset.evaluation("validation"),
        template,
        PrefixIndex.from_codes(data.sids.codes_NL, data.sids.codebook_size),
        num_users=settings.users,
        num_beams=settings.num_beams,
        max_history=data.max_history,
        batch_size=settings.batch_size,
    )
    return Validate(validation, every=settings.every, patience=settings.patience, best=folder / BEST)
