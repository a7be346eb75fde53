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
from trialign.decode.index import PrefixIndex
from trialign.embed.evidence import item_texts
from trialign.embed.store import Modality
from trialign.generate.adapters import add_adapters, merge_adapters
from trialign.generate.artefact import TrainedGenerator, save_generator
from trialign.generate.backbone import (
    add_dropout,
    build_backbone,
    described_backbone,
    pretrained_backbone,
    require_positions,
    text_table,
)
from trialign.generate.items import build_items, item_features
from trialign.generate.mixture import open_sources
from trialign.generate.model import Generator, OwnTokens, text_vectors
from trialign.generate.module import GeneratorModule, StopAtNonFinite, Validate
from trialign.generate.ranker import require_room
from trialign.generate.template import Template
from trialign.generate.tokenizer import TextTokenizer
from trialign.generate.validation import Validation
from trialign.runtime.callbacks import MACHINE, GradientNorm, MachineUse, StepClock, training_flops
from trialign.runtime.checkpoint import (
    CHECKPOINTS,
    STATE,
    TrainingCheckpoints,
    newest_checkpoint,
    require_same_ranks,
    step_of,
)
from trialign.runtime.device import device_of, require_precision
from trialign.runtime.preemption import Preemption
from trialign.runtime.seeds import StepSeeds
from trialign.runtime.tracking import MEMORY
from trialign.runtime.trainer import build_trainer
from trialign.semid.table import SIDTable

logger = logging.getLogger(__name__)

BEST = "best.safetensors"
"""The best weights so far, while training goes on; a killed attempt hands them on."""


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
    lora: Mapping[str, Any] | None = None,
    validation: Mapping[str, Any] | None = None,
    stream: Mapping[str, Any],
    runtime: Mapping[str, Any],
    **optimizer: Any,
) -> dict[str, Any]:
    """Train a generator and save it into `folder`.

    Args:
        dataset: the prepared dataset.
        modalities: its items' vectors; read where `items` asks for features.
        sids: the semantic IDs of its items.
        folder: an existing directory.
        seed: of weights, dropout and the order of the rows.
        max_history: items of the dataset's windows, so of the longest history that will be read.
        backbone: fields of `ScratchConfig`, `DescribedConfig` or `PretrainedConfig`.
        items: fields of `ItemsConfig`.
        tasks: task -> multiple of the proportional mixture.
        epochs: passes over the mixture, converted to steps.
        steps: optimizer steps; given, it overrides `epochs`.
        clip: largest gradient norm.
        precision: Lightning's name of it.
        max_title_tokens: a longer title is cut.
        lora: fields of `LoraConfig`; None trains everything.
        validation: fields of `ValidationConfig`; None or `every` = 0 trains to the end.
        stream: fields of `StreamConfig`.
        runtime: fields of `RuntimeConfig`; and `tracking`, where the training is to be followed in W&B.
        optimizer: learning_rate, weight_decay, betas and warmup of `GeneratorModule`.

    Returns:
        Counts for the manifest.

    Raises:
        ConfigError: settings that do not fit each other or the data.
    """
    require_precision(precision, device_of(runtime["accelerator"]))
    sources = open_sources(dataset, tasks)
    names = [source.name for source in sources]
    options = dict(items)
    options["features_NF"] = item_features(modalities, options.pop("features"))
    generator, template = build(
        dataset, sids, names, seed, max_title_tokens, stream["row_tokens"], options, lora=lora, **backbone
    )
    require_room(max_history, template.encoding.positions_per_item, stream["row_tokens"])
    watch = _validate(validation, dataset, template, sids, max_history, folder)
    data = stream_rows(sources, template, folder, seed, runtime["micro_rows"], **stream)
    num_steps = steps or data.steps(epochs)
    counts: dict[str, Any] = {
        "steps": num_steps,
        "parameters": sum(parameter.numel() for parameter in generator.parameters()),
        "trained": sum(parameter.numel() for parameter in generator.parameters() if parameter.requires_grad),
        "text_tokens": template.tokenizer.size,
    }
    size = (
        f"{counts['parameters']:,} parameters, {num_steps:,} steps of {stream['lanes']} rows of {stream['row_tokens']}"
    )
    logger.info("  %s tokens", size)
    module = GeneratorModule(generator, tasks=names, num_steps=num_steps, **optimizer)
    watching = [] if watch is None else [watch]
    trainer = fit(
        module, data, folder, seed, num_steps, clip, stream["lanes"], watching, precision=precision, **runtime
    )
    counts |= data.damage()
    if watch is not None:
        counts |= {"steps": trainer.global_step, "validation": watch.counts()}
        watch.restore(module)
    if trainer.is_global_zero:
        merge_adapters(module.evaluated.backbone)
        save_generator(folder, TrainedGenerator(module.evaluated, template, max_history), sids)
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
    watching: Sequence[Validate],
    *,
    micro_rows: int,
    devices: int,
    strategy: str,
    checkpoint_every: int,
    precision: str,
    **runtime: Any,
) -> Any:
    """Train, from the newest checkpoint of a killed attempt where there is one; return the Lightning Trainer."""
    checkpoint = newest_checkpoint(folder / CHECKPOINTS)
    done = 0 if checkpoint is None else step_of(checkpoint)
    if checkpoint is not None:
        require_same_ranks(checkpoint, strategy=strategy, world_size=devices)
        logger.info("  going on from step %d of an attempt that did not finish", done)
    token_flops, clock = training_flops(module.generator.backbone), StepClock()
    checkpoints = TrainingCheckpoints(folder / CHECKPOINTS, strategy=strategy, every=checkpoint_every)
    trainer = build_trainer(
        folder,
        max_steps=num_steps,
        accumulate=accumulation(num_lanes, devices, micro_rows),
        clip=clip,
        devices=devices,
        callbacks=[
            StepSeeds(seed),
            StopAtNonFinite(),
            TrainedRows(),
            GradientNorm(),
            MachineUse(clock, folder / "log" / MACHINE, token_flops=token_flops, precision=precision),
            *watching,
            checkpoints,
            Preemption(checkpoints),
        ],
        strategy=strategy,
        done_steps=done,
        precision=precision,
        clock=clock,
        memory=folder / CHECKPOINTS / MEMORY,
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
    row_tokens: int,
    items: Mapping[str, Any],
    *,
    dropout: float,
    lora: Mapping[str, Any] | None = None,
    **backbone: Any,
) -> tuple[Generator, Template]:
    """Return an untrained generator and how it reads records.

    `items` as `build_items` takes them; `dropout` and `backbone` are the fields of `ScratchConfig`, `DescribedConfig`
    or `PretrainedConfig`, told apart by the field that only they have.
    """
    own = None
    if "model" in backbone:
        decoder, reader = pretrained_backbone(backbone["model"])
        require_positions(decoder.config, row_tokens)
        table_VD = text_table(decoder)
        tokenizer = TextTokenizer.beside(reader, len(table_VD))
        own = OwnTokens(len(tokenizer.own), table_VD, decoder.get_output_embeddings().weight, seed)
        if lora is not None:
            add_adapters(decoder, seed=seed, **lora)
        add_dropout(decoder, dropout)
    else:
        tokenizer = TextTokenizer.train(item_texts(dataset.items), vocab_size=backbone.pop("vocab_size"))
        sizes: dict[str, Any] = {
            "vocab_size": tokenizer.size,
            "max_positions": row_tokens,
            "dropout": dropout,
            "seed": seed,
        }
        decoder = (described_backbone if "file" in backbone else build_backbone)(**backbone, **sizes)
    vectors_VD = text_vectors(decoder, own)
    # A pretrained backbone is used to vectors as long as its own, which the codes start with.
    read_scale = 1.0 if own is not None else vectors_VD.shape[1] ** 0.5
    encoding, modules = build_items(sids, vectors_VD, seed=seed, read_scale=read_scale, **items)
    template = Template(tokenizer, encoding, tasks, max_title_tokens)
    # A pretrained model comes in eval mode, and Lightning leaves every module in the mode that it finds.
    return Generator(decoder, modules, dropout=dropout, own=own).train(), template


def _validate(
    settings: Mapping[str, Any] | None,
    dataset: Dataset,
    template: Template,
    sids: SIDTable,
    max_history: int,
    folder: Path,
) -> Validate | None:
    """Return what watches the training, None where nothing is asked for; `settings` as `ValidationConfig`."""
    if settings is None or settings["every"] == 0:
        logger.info("  trains to the end: no validation is asked for (train.validation.every)")
        return None
    validation = Validation(
        dataset.evaluation("validation"),
        template,
        PrefixIndex.from_codes(sids.codes_NL, sids.codebook_size),
        num_users=settings["users"],
        num_beams=settings["num_beams"],
        max_history=max_history,
        batch_size=settings["batch_size"],
    )
    return Validate(validation, every=settings["every"], patience=settings["patience"], best=folder / BEST)
