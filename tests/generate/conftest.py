"""A generator small enough to build in every test, and a world where item n is followed by item n + 1."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import ibis
import numpy as np
import pyarrow as pa
import pytest
import torch

from trialign.data.dataset import Dataset
from trialign.data.prepare import prepare
from trialign.data.source import RawData
from trialign.decode.index import PrefixIndex
from trialign.generate.backbone import build_backbone, text_table
from trialign.generate.encoding import TokensEncoding
from trialign.generate.items import build_items
from trialign.generate.model import Generator
from trialign.generate.template import Template
from trialign.generate.tokenizer import TextTokenizer
from trialign.semid.table import SIDTable
from trialign.semid.tokens import TokenSpace

TITLES = [f"{colour} {thing}" for colour in ("red", "green", "blue") for thing in ("cup", "lamp", "chair", "rug")]
TOKENS = {"encoding": "tokens", "id_embedding": False, "joint_nodes": 0, "features_NF": None}
TASKS = ["history_to_item", "title_to_item", "item_to_title"]


@pytest.fixture(scope="session")
def sids() -> SIDTable:
    draws = np.random.default_rng(0)
    codes_NL = np.stack(np.unravel_index(draws.choice(125, size=len(TITLES), replace=False), (5, 5, 5)), axis=1)
    codebooks_LKD = draws.normal(size=(3, 5, 4)).astype(np.float32)
    return SIDTable(codes_NL, 5, [f"item {number}" for number in range(len(TITLES))], "reassign", codebooks_LKD)


@pytest.fixture(scope="session")
def index(sids: SIDTable) -> PrefixIndex:
    return PrefixIndex.from_codes(sids.codes_NL, sids.codebook_size)


@pytest.fixture(scope="session")
def tokenizer() -> TextTokenizer:
    return TextTokenizer.train(TITLES, vocab_size=300)


@pytest.fixture(scope="session")
def template(tokenizer: TextTokenizer, sids: SIDTable) -> Template:
    space = TokenSpace(tokenizer.size, sids.num_levels, sids.codebook_size)
    return Template(tokenizer, TokensEncoding(sids.codes_NL, space), TASKS, max_title_tokens=16)


@pytest.fixture(scope="session")
def make_generator(tokenizer: TextTokenizer, sids: SIDTable) -> Callable[..., Generator]:
    def make(
        architecture: str = "qwen3", dropout: float = 0.0, seed: int = 0, options: dict[str, Any] | None = None
    ) -> Generator:
        backbone = build_backbone(
            architecture,
            hidden_size=16,
            num_layers=2,
            num_heads=2,
            intermediate_size=32,
            dropout=dropout,
            vocab_size=tokenizer.size,
            max_positions=64,
            seed=seed,
        )
        _, items = build_items(sids, text_table(backbone).detach(), seed=seed, **(TOKENS | (options or {})))
        generator = Generator(backbone, items, dropout=dropout)
        # transformers starts weights so small that attention hardly matters; a test of who sees whom needs it to.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            for parameter in generator.parameters():
                if parameter.ndim > 1:
                    torch.nn.init.normal_(parameter, std=0.3)
        return generator

    return make


NUM_ITEMS, NUM_USERS, LENGTH = 12, 60, 6

SETTINGS: dict[str, Any] = {
    "seed": 0,
    "max_history": 8,
    "backbone": {
        "architecture": "qwen3",
        "hidden_size": 32,
        "num_layers": 1,
        "num_heads": 2,
        "intermediate_size": 64,
        "dropout": 0.1,
        "vocab_size": 300,
    },
    "items": {"encoding": "tokens", "id_embedding": False, "features": False, "joint_nodes": 0},
    "tasks": {"history_to_item": 1.0, "title_to_item": 1.0, "item_to_title": 0.5},
    "epochs": 1.0,
    "steps": None,
    "learning_rate": 1e-2,
    "weight_decay": 0.05,
    "betas": [0.9, 0.98],
    "warmup": 0.05,
    "clip": 1.0,
    "precision": "32-true",
    "max_title_tokens": 16,
    "stream": {"lanes": 4, "row_tokens": 64, "window": 32, "workers": 0},
    "runtime": {
        "accelerator": "cpu",
        "devices": 1,
        "strategy": "single",
        "micro_rows": 2,
        "log_every": 10,
        "progress": False,
    },
}


class Ring:
    """A source of data: each user walks on from item to item; with a seed, each user's last item is drawn at random."""

    def __init__(self, last_by: int | None = None) -> None:
        self._draws = None if last_by is None else np.random.default_rng(last_by)

    def sources(self) -> dict[str, Path]:
        return {}

    def load(self, folder: Path) -> RawData:
        events = [
            {"user": f"u{user:02d}", "item": f"{(user + step) % NUM_ITEMS:02d}", "order": step}
            for user in range(NUM_USERS)
            for step in range(LENGTH)
        ]
        if self._draws is not None:
            for event in events[LENGTH - 1 :: LENGTH]:
                event["item"] = f"{self._draws.integers(NUM_ITEMS):02d}"
        items = [
            {"item": f"{item:02d}", "title": f"thing {item}", "description": "", "brand": "", "categories": []}
            for item in range(NUM_ITEMS)
        ]
        schema = pa.schema(
            {name: pa.string() for name in ("item", "title", "description", "brand")}
            | {"categories": pa.list_(pa.string())}
        )
        table = pa.Table.from_pylist(items, schema=schema)
        return RawData(events=ibis.memtable(pa.Table.from_pylist(events)), items=table, images=None, has_clock=False)


def prepared(folder: Path, last_by: int | None = None) -> Dataset:
    sizes = {"block_records": 16, "shard_blocks": 2, "images_per_shard": 10, "buckets": 1}
    options = {"split": "leave_one_out", "min_events": 3, "max_history": 8, "missing_items": "refuse"}
    prepare(Ring(last_by), folder, **options, **sizes)
    return Dataset(folder)


@pytest.fixture(scope="session")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return prepared(tmp_path_factory.mktemp("dataset"))


@pytest.fixture
def other_test_targets(tmp_path: Path) -> Dataset:
    (tmp_path / "dataset").mkdir()
    return prepared(tmp_path / "dataset", last_by=1)


@pytest.fixture(scope="session")
def table(dataset: Dataset) -> SIDTable:
    codes_NL = np.stack(np.unravel_index(np.arange(NUM_ITEMS) * 2, (3, 3, 3)), axis=1)
    return SIDTable(codes_NL, 3, dataset.keys, "reassign")


@pytest.fixture
def settings() -> dict[str, Any]:
    return deepcopy(SETTINGS)
