"""The stage `train`: from a dataset and its semantic IDs to a generator on disk."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Mapping, Sequence
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import torch

from trialign.data.dataset import Dataset
from trialign.data.lanes import Encode, LaneSource
from trialign.data.module import LaneDataModule, TrainedRows
from trialign.data.order import accumulation, fitting_lanes
from trialign.decode.index import PrefixIndex
from trialign.embed.evidence import item_texts
from trialign.embed.store import Modality
from trialign.generate.adapters import add_adapters, merge_adapters
from trialign.generate.artefact import TrainedGenerator, save_generator
from trialign.generate.backbone import (
    add_dropout,
    build_backbone,
    described_backbone,
    embedding_scale,
    pretrained_backbone,
    require_positions,
    text_table,
)
from trialign.generate.items import build_items, item_features
from trialign.generate.mixture import left_out, open_sources
from trialign.generate.model import Generator, OwnTokens, text_vectors
from trialign.generate.module import GeneratorModule, Validate
from trialign.generate.ranker import require_room
from trialign.generate.task import ItemTexts
from trialign.generate.template import Template
from trialign.generate.tokenizer import TextTokenizer
from trialign.generate.validation import Validation
from trialign.generate.withhold import Withholding
from trialign.manifest import MACHINE
from trialign.runtime.callbacks import GradientNorm, MachineUse, StepClock, training_flops
from trialign.runtime.checkpoint import TrainingCheckpoints, from_newest
from trialign.runtime.device import device_of, require_precision
from trialign.runtime.loss_watch import LossWatch, avoided
from trialign.runtime.preemption import Preemption
from trialign.runtime.seeds import StepSeeds
from trialign.runtime.tracking import MEMORY
from trialign.runtime.trainer import build_trainer
from trialign.runtime.universal import fingerprint, resume_from
from trialign.semid.table import SIDTable
from trialign.stage import CHECKPOINTS

logger = logging.getLogger(__name__)

BEST = f"{CHECKPOINTS}/best.safetensors"
"""The best weights so far, while training goes on."""


def train(
    dataset: Dataset,
    modalities: Mapping[str, Modality],
    sids: SIDTable,
    folder: Path,
    *,
    captions: Sequence[str] = (),
    seed: int,
    max_history: int,
    backbone: Mapping[str, Any],
    items: Mapping[str, Any],
    tasks: Mapping[str, float],
    mixture: str = "proportional",
    temperature: float = 1.0,
    epochs: float,
    steps: int | None,
    clip: float,
    precision: str,
    keep_back: float = 0.0,
    lora: Mapping[str, Any] | None = None,
    validation: Mapping[str, Any] | None = None,
    stream: Mapping[str, Any],
    runtime: Mapping[str, Any],
    max_title_tokens: int,
    max_caption_tokens: int = 64,
    **optimizer: Any,
) -> dict[str, Any]:
    """Train a generator and save it into `folder`.

    Args:
        dataset: the prepared dataset.
        modalities: its items' vectors; read where `items` asks for features.
        sids: the semantic IDs of its items.
        folder: an existing directory.
        captions: of the items; none where no task reads them.
        seed: of weights, dropout and the order of the rows.
        max_history: items of the dataset's windows, so of the longest history that will be read.
        backbone: fields of `ScratchConfig`, `DescribedConfig` or `PretrainedConfig`.
        items: fields of `ItemsConfig`.
        tasks: weight of every task; `open_sources` says what it means under the mixture.
        mixture: as `open_sources`.
        temperature: as `open_sources`.
        epochs: passes over the mixture, converted to steps.
        steps: optimizer steps; given, it overrides `epochs`.
        clip: largest gradient norm.
        precision: Lightning's name of it.
        keep_back: share of the positions of the histories that is read but not learned.
        lora: fields of `LoraConfig`; None trains everything.
        validation: fields of `ValidationConfig`; None or `every` = 0 trains to the end.
        stream: fields of `StreamConfig`.
        runtime: fields of `RuntimeConfig`; and `tracking`, where the training is to be followed in W&B.
        max_title_tokens: a longer title is cut.
        max_caption_tokens: a longer caption is cut.
        optimizer: learning_rate, weight_decay, betas and warmup of `GeneratorModule`.

    Returns:
        Counts for the manifest.

    Raises:
        ConfigError: settings that do not fit each other or the data.
    """
    require_precision(precision, device_of(runtime["accelerator"]))
    texts = ItemTexts(dataset.items["title"].to_pylist(), captions)
    sources = open_sources(dataset, texts, tasks, mixture=mixture, temperature=temperature)
    stream, runtime = fitted_stream(sources, stream, runtime)
    names = [source.name for source in sources]
    limits = {"max_title_tokens": max_title_tokens, "max_caption_tokens": max_caption_tokens}
    options = dict(items)
    options["features_NF"] = item_features(modalities, options.pop("features"))
    row_tokens = stream["row_tokens"]
    generator, template = build(
        dataset, sids, names, seed, limits, row_tokens, options, captions=captions, lora=lora, **backbone
    )
    template.require_room()
    require_room(max_history, template.encoding.positions_per_item, row_tokens)
    watch = _validate(validation, dataset, template, sids, max_history, folder)
    encode: Encode = partial(template.encode_many, texts)
    if keep_back:
        encode = Withholding(encode, names, keep_back)
    data = stream_rows(sources, encode, folder, seed, runtime["micro_rows"], **stream)
    num_steps = steps or data.steps(epochs)
    counts = _sizes(generator, template, num_steps, stream) | {"left_out": left_out(texts, names)}
    module = GeneratorModule(generator, tasks=names, num_steps=num_steps, **optimizer)
    watching = [] if watch is None else [watch]
    trainer = fit(
        module, data, folder, seed, num_steps, clip, stream["lanes"], watching, precision=precision, **runtime
    )
    counts |= {"tasks": module.figures()} | data.damage()
    if batches := avoided(folder):
        counts["avoided_batches"] = batches
    if watch is not None:
        counts |= {"steps": trainer.global_step, "validation": watch.counts()}
        watch.restore(module)
    if trainer.is_global_zero:
        _save(folder, module.evaluated, template, max_history, sids)
    return counts


def _save(folder: Path, generator: Generator, template: Template, max_history: int, sids: SIDTable) -> None:
    """Write the generator; what only an unfinished attempt needs goes when the stage has its manifest."""
    merge_adapters(generator.backbone)
    save_generator(folder, TrainedGenerator(generator, template, max_history), sids)


def _sizes(generator: Generator, template: Template, num_steps: int, stream: Mapping[str, Any]) -> dict[str, Any]:
    """Return how large the training will be, and say it."""
    parameters = list(generator.parameters())
    counts: dict[str, Any] = {
        "steps": num_steps,
        "lanes": stream["lanes"],
        "parameters": sum(parameter.numel() for parameter in parameters),
        "trained": sum(parameter.numel() for parameter in parameters if parameter.requires_grad),
        "text_tokens": template.tokenizer.size,
    }
    rows = f"{stream['lanes']} rows of {stream['row_tokens']} tokens"
    logger.info("  %s parameters, %s steps of %s", f"{counts['parameters']:,}", f"{num_steps:,}", rows)
    return counts


def fitted_stream(
    sources: Sequence[LaneSource], stream: Mapping[str, Any], runtime: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return fields of `StreamConfig` and `RuntimeConfig` with no more lanes than the smallest task has examples.

    Raises:
        ConfigError: see `fitting_lanes`.
    """
    smallest = min(sources, key=lambda source: source.store.num_records)
    ranks, micro_rows = runtime["nodes"] * runtime["devices"], runtime["micro_rows"]
    lanes, micro_rows = fitting_lanes(stream["lanes"], ranks, micro_rows, smallest.store.num_records)
    if lanes < stream["lanes"]:
        words = "  %d lanes, not stream.lanes=%d: task '%s' has %d examples"
        logger.info(words, lanes, stream["lanes"], smallest.name, smallest.store.num_records)
    return {**stream, "lanes": lanes}, {**runtime, "micro_rows": micro_rows}


def stream_rows(
    sources: Sequence[LaneSource],
    encode: Encode,
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
        encode,
        num_lanes=lanes,
        seed=seed,
        micro_rows=micro_rows,
        ledger=folder / "ledger" if ledger else None,
        avoid=avoided(folder),
        **shape,
    )


def fit(
    module: GeneratorModule,
    data: Any,
    folder: Path,
    seed: int,
    num_steps: int,
    clip: float,
    num_lanes: int,
    watching: Sequence[Validate],
    *,
    micro_rows: int,
    devices: int,
    nodes: int,
    strategy: str,
    checkpoint_activations: bool,
    checkpoint_every: int,
    on_spike: str,
    spike: float,
    patience_minutes: float,
    precision: str,
    **runtime: Any,
) -> Any:
    """Train, from the newest checkpoint of a killed attempt where there is one; return the Lightning Trainer.

    `data` is a datamodule that marks what was trained on, and names the records of a batch, as `LaneDataModule` does.
    """
    if checkpoint_activations:
        module.generator.backbone.gradient_checkpointing_enable({"use_reentrant": False})
    model, token_flops = fingerprint(module), training_flops(module.generator.backbone)
    saved = TrainingCheckpoints(folder / CHECKPOINTS, strategy=strategy, model=model, every=checkpoint_every)

    def attempt(checkpoint: Path | None) -> Any:
        ranks, clock = nodes * devices, StepClock()
        resumed = resume_from(
            checkpoint, strategy=strategy, world_size=ranks, model=model, patience=60.0 * patience_minutes
        )
        trainer = build_trainer(
            folder,
            max_steps=num_steps,
            accumulate=accumulation(num_lanes, ranks, micro_rows),
            clip=clip,
            devices=devices,
            nodes=nodes,
            callbacks=[
                *resumed.checks,
                StepSeeds(seed),
                LossWatch(folder, policy=on_spike, spike=spike),
                TrainedRows(),
                GradientNorm(),
                MachineUse(clock, folder / "log" / MACHINE, token_flops=token_flops, precision=precision),
                *watching,
                saved,
                Preemption(saved),
            ],
            strategy=strategy,
            universal=resumed.universal,
            done_steps=resumed.steps,
            precision=precision,
            clock=clock,
            memory=folder / CHECKPOINTS / MEMORY,
            **runtime,
        )
        trainer.fit(module, datamodule=data, ckpt_path=resumed.state, weights_only=True)
        return trainer

    return from_newest(folder / CHECKPOINTS, attempt)


def build(
    dataset: Dataset,
    sids: SIDTable,
    tasks: Sequence[str],
    seed: int,
    limits: Mapping[str, int],
    row_tokens: int,
    items: Mapping[str, Any],
    *,
    dropout: float,
    captions: Sequence[str] = (),
    lora: Mapping[str, Any] | None = None,
    weights: bool = True,
    **backbone: Any,
) -> tuple[Generator, Template]:
    """Return an untrained generator and how it reads records; without `weights`, its decoder takes no memory.

    `limits` are `max_title_tokens` and `max_caption_tokens`; `items` as `build_items` takes them; `dropout` and
    `backbone` are the fields of `ScratchConfig`, `DescribedConfig` or `PretrainedConfig`, told apart by the field that
    only they have.
    """
    own = None
    if "model" in backbone:
        decoder, reader = pretrained_backbone(backbone["model"], weights=weights)
        require_positions(decoder.config, row_tokens)
        table_VD = text_table(decoder)
        tokenizer = TextTokenizer.beside(reader, len(table_VD))
        read_VD = table_VD * embedding_scale(decoder)
        own = OwnTokens(len(tokenizer.own), read_VD, decoder.get_output_embeddings().weight, seed)
        if lora is not None:
            add_adapters(decoder, seed=seed, **lora)
        add_dropout(decoder, dropout)
    else:
        texts = chain(item_texts(dataset.items), captions)
        tokenizer = TextTokenizer.train(texts, vocab_size=backbone.pop("vocab_size"))
        sizes: dict[str, Any] = {
            "vocab_size": tokenizer.size,
            "max_positions": row_tokens,
            "dropout": dropout,
            "seed": seed,
        }
        with contextlib.nullcontext() if weights else torch.device("meta"):
            decoder = (described_backbone if "file" in backbone else build_backbone)(**backbone, **sizes)
    vectors_VD = text_vectors(decoder, own)
    # A pretrained backbone is used to vectors as long as its own, which the codes start with.
    text_scale = embedding_scale(decoder)
    read_scale = text_scale if own is not None else vectors_VD.shape[1] ** 0.5
    encoding, modules = build_items(sids, vectors_VD, seed=seed, read_scale=read_scale, text_scale=text_scale, **items)
    template = Template(tokenizer, encoding, tasks, **limits, row_tokens=row_tokens)
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
