"""The stage `train`: from a dataset and its semantic IDs to a generator on disk."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from trialign.data.dataset import Dataset
from trialign.data.lanes import LaneSource
from trialign.data.module import LaneDataModule, TrainedRows
from trialign.data.order import accumulation
from trialign.embed.evidence import item_texts
from trialign.embed.store import Modality
from trialign.generate.artefact import TrainedGenerator, save_generator
from trialign.generate.backbone import build_backbone, text_table
from trialign.generate.items import build_items, item_features
from trialign.generate.mixture import open_sources
from trialign.generate.model import Generator
from trialign.generate.module import GeneratorModule
from trialign.generate.ranker import require_room
from trialign.generate.template import Template
from trialign.generate.tokenizer import TextTokenizer
from trialign.runtime.checkpoint import (
    CHECKPOINTS,
    STATE,
    TrainingCheckpoints,
    newest_checkpoint,
    require_same_ranks,
    step_of,
)
from trialign.runtime.preemption import Preemption
from trialign.runtime.seeds import StepSeeds
from trialign.runtime.trainer import build_trainer
from trialign.semid.table import SIDTable

logger = logging.getLogger(__name__)


def train(
    dataset: Dataset,
    modalities: Mapping[str, Modality],
    sids: SIDTable,
    folder: Path,
    *,
    seed: int,
    max_history: int,
    backbone: Mapping[str, Any],
    items: Mapping[str, Any],
    tasks: Mapping[str, float],
    epochs: float,
    steps: int | None,
    clip: float,
    precision: str,
    max_title_tokens: int,
    stream: Mapping[str, Any],
    runtime: Mapping[str, Any],
    **optimizer: Any,
) -> dict[str, Any]:
    """Train a generator from scratch and save it into `folder`.

    Args:
        dataset: the prepared dataset.
        modalities: its items' vectors; read where `items` asks for features.
        sids: the semantic IDs of its items.
        folder: an existing directory.
        seed: of weights, dropout and the order of the rows.
        max_history: items of the dataset's windows, so of the longest history that will be read.
        backbone: fields of `BackboneConfig`.
        items: fields of `ItemsConfig`.
        tasks: task -> multiple of the proportional mixture.
        epochs: passes over the mixture, converted to steps.
        steps: optimizer steps; given, it overrides `epochs`.
        clip: largest gradient norm.
        precision: Lightning's name of it.
        max_title_tokens: a longer title is cut.
        stream: fields of `StreamConfig`.
        runtime: fields of `RuntimeConfig`.
        optimizer: learning_rate, weight_decay, betas and warmup of `GeneratorModule`.

    Returns:
        Counts for the manifest.

    Raises:
        ConfigError: settings that do not fit each other or the data.
    """
    sources = open_sources(dataset, tasks)
    names = [source.name for source in sources]
    options = dict(items)
    options["features_NF"] = item_features(modalities) if options.pop("features") else None
    generator, template = build(dataset, sids, names, seed, max_title_tokens, stream["row_tokens"], options, **backbone)
    require_room(max_history, template.encoding.positions_per_item, stream["row_tokens"])
    data = stream_rows(sources, template, folder, seed, runtime["micro_rows"], **stream)
    num_steps = steps or data.steps(epochs)
    counts = {
        "steps": num_steps,
        "parameters": sum(parameter.numel() for parameter in generator.parameters()),
        "text_tokens": template.tokenizer.size,
    }
    size = (
        f"{counts['parameters']:,} parameters, {num_steps:,} steps of {stream['lanes']} rows of {stream['row_tokens']}"
    )
    logger.info("  %s tokens", size)
    module = GeneratorModule(generator, tasks=names, num_steps=num_steps, **optimizer)
    trainer = fit(module, data, folder, seed, num_steps, clip, stream["lanes"], precision=precision, **runtime)
    counts |= data.damage()
    if trainer.is_global_zero:
        save_generator(folder, TrainedGenerator(generator, template, max_history), sids)
        shutil.rmtree(folder / CHECKPOINTS, ignore_errors=True)
    return counts


def stream_rows(
    sources: Sequence[LaneSource],
    template: Template,
    folder: Path,
    seed: int,
    micro_rows: int,
    *,
    lanes: int,
    ledger: bool = False,
    **shape: Any,
) -> LaneDataModule:
    """Return the rows of all tasks; `lanes`, `ledger` and `shape` are the fields of `StreamConfig`."""
    return LaneDataModule(
        sources,
        template.encode_many,
        num_lanes=lanes,
        seed=seed,
        micro_rows=micro_rows,
        ledger=folder / "ledger" if ledger else None,
        **shape,
    )


def fit(
    module: GeneratorModule,
    data: LaneDataModule,
    folder: Path,
    seed: int,
    num_steps: int,
    clip: float,
    num_lanes: int,
    *,
    micro_rows: int,
    devices: int,
    strategy: str,
    checkpoint_every: int,
    **runtime: Any,
) -> Any:
    """Train, from the newest checkpoint of a killed attempt where there is one; return the Lightning Trainer."""
    checkpoint = newest_checkpoint(folder / CHECKPOINTS)
    done = 0 if checkpoint is None else step_of(checkpoint)
    if checkpoint is not None:
        require_same_ranks(checkpoint, strategy=strategy, world_size=devices)
        logger.info("  going on from step %d of an attempt that did not finish", done)
    checkpoints = TrainingCheckpoints(folder / CHECKPOINTS, strategy=strategy, every=checkpoint_every)
    trainer = build_trainer(
        folder,
        max_steps=num_steps,
        accumulate=accumulation(num_lanes, devices, micro_rows),
        clip=clip,
        devices=devices,
        callbacks=[StepSeeds(seed), TrainedRows(), checkpoints, Preemption(checkpoints)],
        strategy=strategy,
        done_steps=done,
        **runtime,
    )
    state = None if checkpoint is None else checkpoint / STATE
    trainer.fit(module, datamodule=data, ckpt_path=state, weights_only=True)
    return trainer


def build(
    dataset: Dataset,
    sids: SIDTable,
    tasks: Sequence[str],
    seed: int,
    max_title_tokens: int,
    max_positions: int,
    items: Mapping[str, Any],
    *,
    vocab_size: int,
    dropout: float,
    **sizes: Any,
) -> tuple[Generator, Template]:
    """Return an untrained generator and how it reads records.

    `items` as `build_items` takes them, `sizes` as `build_backbone`.
    """
    tokenizer = TextTokenizer.train(item_texts(dataset.items), vocab_size=vocab_size)
    decoder = build_backbone(
        vocab_size=tokenizer.size, max_positions=max_positions, dropout=dropout, seed=seed, **sizes
    )
    encoding, modules = build_items(sids, text_table(decoder).detach(), seed=seed, **items)
    template = Template(tokenizer, encoding, tasks, max_title_tokens)
    return Generator(decoder, modules, dropout=dropout), template
