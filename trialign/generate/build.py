"""Build an untrained generator and its stream of training rows, for `train` and for its estimate."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import torch

from trialign.config.runtime import RuntimeConfig
from trialign.config.train import (
    ConfigFileConfig,
    PretrainedConfig,
    ScratchConfig,
    StreamConfig,
    TrainConfig,
)
from trialign.data.dataset import Dataset
from trialign.embed.evidence import field_texts, item_texts
from trialign.embed.store import Modality, load
from trialign.enrich.evidence import Evidence, load_evidence
from trialign.generate.adapters import add_adapters
from trialign.generate.backbone import (
    add_dropout,
    backbone_from_file,
    build_backbone,
    embedding_scale,
    pretrained_backbone,
    require_positions,
    text_table,
)
from trialign.generate.encodings.build import build_items, item_features
from trialign.generate.mixture import left_out, open_sources
from trialign.generate.model import AddedTokens, Generator, text_vectors
from trialign.generate.ranker import require_room
from trialign.generate.rl_holdout import RLHoldout
from trialign.generate.task import ItemTexts
from trialign.generate.template import Template
from trialign.generate.tokenizer import TextTokenizer
from trialign.manifest import Manifest
from trialign.runtime.loss_watch import skipped_batches
from trialign.runtime.transformers import PreTrainedModel
from trialign.semid.table import SIDTable
from trialign.stream.lanes import Encode, LaneSource
from trialign.stream.module import LaneDataModule
from trialign.stream.order import fitting_lanes

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainingData:
    """The data that a generator is trained on.

    Args:
        dataset: the prepared dataset.
        sids: the semantic IDs of its items.
        max_history: most items of a window of the dataset, and so of any history that is read.
        modalities: vectors of the items; used if `train.items.features` names them.
        enriched: captions and interests of the items; None if no task reads them.
    """

    dataset: Dataset
    sids: SIDTable
    max_history: int
    modalities: Mapping[str, Modality] = field(default_factory=dict)
    enriched: Evidence | None = None


def load_training_data(folders: Mapping[str, Path]) -> TrainingData:
    """Load the training data from `folders`, those of the finished stages that training reads."""
    return TrainingData(
        Dataset(folders["prepare"]),
        SIDTable.load(folders["assign"]),
        max_history=Manifest.read(folders["prepare"]).setting("data.max_history", int),
        modalities=load(folders["embed"]) if "embed" in folders else {},
        enriched=load_evidence(folders["enrich"]) if "enrich" in folders else None,
    )


class Prepared(NamedTuple):
    """An untrained generator and its training rows.

    `stream` and `runtime` are as configured, but with no more lanes than the smallest task has examples. `left_out`:
    for each task, the number of items that lack a text it needs.
    """

    generator: Generator
    template: Template
    rows: LaneDataModule
    num_steps: int
    stream: StreamConfig
    runtime: RuntimeConfig
    left_out: dict[str, int]


def prepare_training(
    data: TrainingData,
    folder: Path,
    settings: TrainConfig,
    stream: StreamConfig,
    runtime: RuntimeConfig,
    *,
    seed: int,
    weights: bool = True,
) -> Prepared:
    """Build the generator and open the rows that it learns from.

    Args:
        data: what it learns from.
        folder: of the stage; the sample log is written to it, the batches to skip are read from it.
        settings: of the generator and its tasks.
        stream: of the rows.
        runtime: ranks and rows per forward pass.
        seed: of initial weights and the order of the rows.
        weights: False builds the decoder and the items' features on the device `meta`, to count parameters.

    Raises:
        ConfigError: settings that do not fit each other or the data.
    """
    texts = ItemTexts(data.dataset.items, data.enriched)
    sources = open_sources(
        data.dataset, texts, settings.tasks.weights(), mixture=settings.mixture, temperature=settings.temperature
    )
    stream, runtime = fitted_stream(sources, stream, runtime)
    names = [source.name for source in sources]
    generator, template = build_generator(data, settings, names, seq_len=stream.seq_len, seed=seed, weights=weights)
    template.require_room()
    require_room(data.max_history, template.rows.positions_per_item, stream.seq_len)
    encode: Encode = partial(template.encode_many, texts)
    if settings.rl_holdout:
        encode = RLHoldout(encode, names, settings.rl_holdout)
    rows = stream_rows(sources, encode, folder, stream, seed=seed, micro_batch_size=runtime.micro_batch_size)
    num_steps = settings.steps or rows.steps(settings.epochs)
    return Prepared(generator, template, rows, num_steps, stream, runtime, left_out(texts, names))


def fitted_stream(
    sources: Sequence[LaneSource], stream: StreamConfig, runtime: RuntimeConfig
) -> tuple[StreamConfig, RuntimeConfig]:
    """Return the settings with no more lanes than the smallest task has examples.

    Raises:
        ConfigError: see `fitting_lanes`.
    """
    smallest = min(sources, key=lambda source: source.store.num_records)
    ranks = runtime.nodes * runtime.devices
    lanes, micro_batch_size = fitting_lanes(
        stream.global_batch_size, ranks, runtime.micro_batch_size, smallest.store.num_records
    )
    if lanes < stream.global_batch_size:
        words = "  %d lanes, not stream.global_batch_size=%d: task '%s' has %d examples"
        logger.info(words, lanes, stream.global_batch_size, smallest.name, smallest.store.num_records)
    return replace(stream, global_batch_size=lanes), replace(runtime, micro_batch_size=micro_batch_size)


def stream_rows(
    sources: Sequence[LaneSource],
    encode: Encode,
    folder: Path,
    stream: StreamConfig,
    *,
    seed: int,
    micro_batch_size: int,
) -> LaneDataModule:
    """Return the rows of all tasks; `folder` is the stage's."""
    sample_log = folder / "sample_log" if stream.sample_log else None
    return LaneDataModule(
        sources,
        encode,
        stream,
        seed=seed,
        micro_batch_size=micro_batch_size,
        sample_log=sample_log,
        skip=skipped_batches(folder),
    )


def build_generator(
    data: TrainingData,
    settings: TrainConfig,
    tasks: Sequence[str],
    *,
    seq_len: int,
    seed: int,
    weights: bool = True,
) -> tuple[Generator, Template]:
    """Return an untrained generator and its template; arguments as `prepare_training`."""
    decoder, tokenizer, own = _backbone(data, settings, seq_len=seq_len, seed=seed, weights=weights)
    vectors_VD = text_vectors(decoder, own)
    # The codes' vectors start with the norm of the backbone's own embeddings, which a pretrained one expects.
    text_scale = embedding_scale(decoder)
    read_scale = text_scale if own is not None else vectors_VD.shape[1] ** 0.5
    encoding = build_items(
        data.sids,
        vectors_VD,
        seed=seed,
        encoding=settings.items.encoding,
        id_embedding=settings.items.id_embedding,
        joint_nodes=settings.items.joint_nodes,
        features_NF=item_features(data.modalities, settings.items.features, weights=weights),
        read_scale=read_scale,
        text_scale=text_scale,
        repeats=settings.items.repeats,
    )
    template = Template(
        tokenizer,
        encoding.rows,
        tasks,
        max_title_tokens=settings.max_title_tokens,
        max_caption_tokens=settings.max_caption_tokens,
        seq_len=seq_len,
    )
    # `from_pretrained` returns a model in eval mode, and Lightning keeps each module's mode.
    return Generator(decoder, encoding, dropout=settings.backbone.dropout, own=own).train(), template


def _backbone(
    data: TrainingData, settings: TrainConfig, *, seq_len: int, seed: int, weights: bool
) -> tuple[PreTrainedModel, TextTokenizer, AddedTokens | None]:
    """Return the decoder, its tokenizer, and for a pretrained decoder the vectors of the added tokens."""
    backbone = settings.backbone
    if isinstance(backbone, PretrainedConfig):
        decoder, reader = pretrained_backbone(backbone.model, weights=weights)
        require_positions(decoder.config, seq_len)
        table_VD = text_table(decoder)
        tokenizer = TextTokenizer.with_added_tokens(reader, len(table_VD))
        read_VD = table_VD * embedding_scale(decoder)
        own = AddedTokens(len(tokenizer.own), read_VD, decoder.get_output_embeddings().weight, seed)
        if settings.lora is not None:
            add_adapters(decoder, settings.lora, seed=seed)
        add_dropout(decoder, backbone.dropout)
        return decoder, tokenizer, own
    assert isinstance(backbone, ScratchConfig | ConfigFileConfig)
    items = data.dataset.items
    texts = chain(item_texts(items), *(field_texts(field, items, data.enriched) for field in settings.tasks.enriched))
    tokenizer = TextTokenizer.train(texts, vocab_size=backbone.vocab_size)
    build = backbone_from_file if isinstance(backbone, ConfigFileConfig) else build_backbone
    with contextlib.nullcontext() if weights else torch.device("meta"):
        decoder = build(backbone, vocab_size=tokenizer.size, max_positions=seq_len, seed=seed)  # type: ignore[arg-type]
    return decoder, tokenizer, None
