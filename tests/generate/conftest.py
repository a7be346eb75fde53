"""A generator small enough to build in every test, and a world where item n is followed by item n + 1."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from tests.tools import NUM_ITEMS, RING_SETTINGS, catalogue_texts, ring_dataset
from trialign.config.train import ScratchConfig
from trialign.data.dataset import Dataset
from trialign.decode.index import PrefixIndex
from trialign.generate.backbone import build_backbone, text_table
from trialign.generate.encodings.build import build_items
from trialign.generate.encodings.tokens import TokensRows
from trialign.generate.model import Generator
from trialign.generate.template import Template
from trialign.generate.tokenizer import TextTokenizer
from trialign.semid.table import SIDTable
from trialign.semid.tokens import TokenSpace

if TYPE_CHECKING:
    from transformers import PreTrainedModel

TITLES = [f"{color} {thing}" for color in ("red", "green", "blue") for thing in ("cup", "lamp", "chair", "rug")]
TOKENS = {"encoding": "tokens", "id_embedding": False, "joint_nodes": 0, "features_NF": None}
TEXTS = catalogue_texts(TITLES)
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
    return Template(tokenizer, TokensRows(sids.codes_NL, space), TASKS, max_title_tokens=16)


@pytest.fixture(scope="session")
def make_generator(tokenizer: TextTokenizer, sids: SIDTable) -> Callable[..., Generator]:
    def make(
        architecture: str = "qwen3",
        dropout: float = 0.0,
        seed: int = 0,
        options: dict[str, Any] | None = None,
        backbone: PreTrainedModel | None = None,
    ) -> Generator:
        backbone = backbone or build_backbone(
            ScratchConfig(dropout, architecture, hidden_size=16, num_layers=2, num_heads=2, intermediate_size=32),
            vocab_size=tokenizer.size,
            max_positions=64,
            seed=seed,
        )
        items = build_items(sids, text_table(backbone).detach(), seed=seed, **(TOKENS | (options or {})))
        generator = Generator(backbone, items, dropout=dropout)
        # transformers starts weights so small that attention hardly matters; a test of who sees whom needs it to.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            for parameter in generator.parameters():
                if parameter.ndim > 1:
                    torch.nn.init.normal_(parameter, std=0.3)
        return generator

    return make


@pytest.fixture(scope="session")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return ring_dataset(tmp_path_factory.mktemp("dataset"))


@pytest.fixture
def other_test_targets(tmp_path: Path) -> Dataset:
    (tmp_path / "dataset").mkdir()
    return ring_dataset(tmp_path / "dataset", last_by=1)


@pytest.fixture(scope="session")
def table(dataset: Dataset) -> SIDTable:
    codes_NL = np.stack(np.unravel_index(np.arange(NUM_ITEMS) * 2, (3, 3, 3)), axis=1)
    return SIDTable(codes_NL, 3, dataset.keys, "reassign")


@pytest.fixture
def settings() -> dict[str, Any]:
    return deepcopy(RING_SETTINGS)
