"""A generator of encoding `tokens` on the ring, exported: scratch or continued from a model with tokens of its own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import AutoConfig

from tests.tools import NUM_ITEMS, ring_dataset
from trialign.config.export import ExportConfig
from trialign.config.train import LoraConfig, ScratchConfig
from trialign.data.dataset import Dataset
from trialign.export.export import export
from trialign.export.form import Source
from trialign.generate.adapters import add_adapters, merge_adapters
from trialign.generate.backbone import ARCHITECTURES, backbone_from_config, build_backbone, text_table
from trialign.generate.encodings.build import build_items
from trialign.generate.model import AddedTokens, Generator, text_vectors
from trialign.generate.save_load import TrainedGenerator, save_generator
from trialign.generate.task import ItemTexts
from trialign.generate.template import Template
from trialign.generate.tokenizer import TextTokenizer
from trialign.semid.table import SIDTable
from trialign.stage import Stage

TASKS = ["history_to_item", "title_to_item", "item_to_title"]
MAX_HISTORY = 4
SHAPE = ScratchConfig(0.0, "qwen3", hidden_size=16, num_layers=2, num_heads=2, intermediate_size=32)


@pytest.fixture(scope="session")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return ring_dataset(tmp_path_factory.mktemp("dataset"))


@pytest.fixture(scope="session")
def sids(dataset: Dataset) -> SIDTable:
    codes_NL = np.stack(np.unravel_index(np.arange(NUM_ITEMS) * 2, (3, 3, 3)), axis=1)
    return SIDTable(codes_NL, 3, dataset.keys, "reassign")


def reader(titles: list[str]) -> Tokenizer:
    """Return a tokenizer as a hub holds it, which opens every text by a token."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    learning = trainers.BpeTrainer(vocab_size=290, special_tokens=["<s>"], initial_alphabet=alphabet)
    tokenizer.train_from_iterator(titles, learning)
    tokenizer.post_processor = processors.TemplateProcessing("<s> $A", special_tokens=[("<s>", 0)])
    return tokenizer


def shake(module: torch.nn.Module) -> None:
    """Draw large weights: those that transformers starts with are so small that attention hardly matters."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for parameter in module.parameters():
            if parameter.ndim > 1:
                torch.nn.init.normal_(parameter, std=0.3)


def tiny(dataset: Dataset, sids: SIDTable, architecture: str, *, kind: str, tied: bool) -> TrainedGenerator:
    """Return a generator with random weights and a repeat bias; `kind` is scratch, pretrained or lora."""
    titles, own = dataset.items["title"].to_pylist(), None
    if kind == "scratch":
        tokenizer = TextTokenizer.train(titles, vocab_size=300)
        shape = ScratchConfig(0.0, architecture, hidden_size=16, num_layers=2, num_heads=2, intermediate_size=32)
        backbone = build_backbone(shape, vocab_size=tokenizer.size, max_positions=64, seed=0)
    else:
        read = reader(titles)
        sizes = {"vocab_size": read.get_vocab_size() + 5, "tie_word_embeddings": tied, "bos_token_id": 0}
        config = AutoConfig.for_model(architecture, **ARCHITECTURES[architecture](SHAPE, 64), **sizes)
        backbone = backbone_from_config(config, dropout=0.0, seed=0)
        tokenizer = TextTokenizer.with_added_tokens(read, sizes["vocab_size"])
        own = AddedTokens(len(tokenizer.own), text_table(backbone), backbone.get_output_embeddings().weight, 0)
        if kind == "lora":
            add_adapters(backbone, LoraConfig(rank=4, dropout=0.0), seed=0)
    vectors_VD = text_vectors(backbone, own)
    settings = {"encoding": "tokens", "id_embedding": False, "joint_nodes": 0, "features_NF": None, "repeats": True}
    items = build_items(sids, vectors_VD, seed=0, **settings)
    generator = Generator(backbone, items, dropout=0.0, own=own)
    shake(generator)
    merge_adapters(backbone)
    assert items.repeats is not None
    items.repeats.learned.data.fill_(-0.05)
    return TrainedGenerator(generator, Template(tokenizer, items.rows, TASKS, max_title_tokens=16), MAX_HISTORY)


MakeSource = Callable[..., Source]


@pytest.fixture(scope="session")
def make_source(dataset: Dataset, sids: SIDTable, tmp_path_factory: pytest.TempPathFactory) -> MakeSource:
    """Return a function that trains nothing, but finishes a stage `train` that holds such a generator."""

    def make(architecture: str = "qwen3", *, kind: str = "scratch", tied: bool = True) -> Source:
        folder = tmp_path_factory.mktemp("run") / "train"
        stage = Stage.open("train", folder, {"train": {"backbone": {"architecture": architecture}}})
        with stage.building() as place:
            save_generator(place, tiny(dataset, sids, architecture, kind=kind, tied=tied), sids)
        return Source(dataset, ItemTexts(dataset.items), sids, folder)

    return make


@pytest.fixture(scope="session")
def source(make_source: MakeSource) -> Source:
    return make_source()


def write_bundle(source: Source, folder: Path, dtype: str = "float32") -> Path:
    stage = Stage.open("export", folder, {"export": {"dtype": dtype}}, inputs={"train": source.folder})
    with stage.building() as place:
        stage.counts |= export(source, place, ExportConfig(dtype=dtype))
    return folder


@pytest.fixture(scope="session")
def bundle(source: Source, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_bundle(source, tmp_path_factory.mktemp("bundle") / "export")
