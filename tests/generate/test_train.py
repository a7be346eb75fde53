"""The whole stage on a world where item n is followed by item n + 1: trained, saved, read back, better than chance."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import ibis
import numpy as np
import pyarrow as pa
import pytest

from trialign.data.dataset import Dataset
from trialign.data.prepare import prepare
from trialign.data.source import RawData
from trialign.errors import ConfigError
from trialign.generate.artefact import load_ranker
from trialign.generate.train import train
from trialign.semid.table import SIDTable

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
        "checkpoint_every": 0,
        "log_every": 10,
        "progress": False,
    },
}


class Ring:
    """A source of data: each user walks on from item to item."""

    def sources(self) -> dict[str, Path]:
        return {}

    def load(self, folder: Path) -> RawData:
        events = [
            {"user": f"u{user:02d}", "item": f"{(user + step) % NUM_ITEMS:02d}", "order": step}
            for user in range(NUM_USERS)
            for step in range(LENGTH)
        ]
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


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    folder = tmp_path_factory.mktemp("dataset")
    sizes = {"block_records": 16, "shard_blocks": 2, "images_per_shard": 10, "buckets": 1}
    prepare(Ring(), folder, split="leave_one_out", min_events=3, max_history=8, missing_items="refuse", **sizes)
    return Dataset(folder)


@pytest.fixture(scope="module")
def table(dataset: Dataset) -> SIDTable:
    codes_NL = np.stack(np.unravel_index(np.arange(NUM_ITEMS) * 2, (3, 3, 3)), axis=1)
    return SIDTable(codes_NL, 3, dataset.keys, "reassign")


def test_trained_saved_and_read_back_it_ranks_the_next_item(dataset: Dataset, table: SIDTable, tmp_path: Path) -> None:
    counts = train(dataset, {}, table, tmp_path, **SETTINGS | {"steps": 120})
    assert counts["steps"] == 120
    with next(tmp_path.rglob("metrics.csv")).open() as file:
        log = list(csv.DictReader(file))
    assert [int(line["step"]) for line in log] == list(range(9, 120, 10))
    assert float(log[-1]["share/history_to_item"]) > 0.7
    ranker = load_ranker(tmp_path, table, num_beams=NUM_ITEMS, batch_size=32, device="cpu")
    walks = [np.arange(start, start + 3, dtype=np.int32) % NUM_ITEMS for start in range(NUM_ITEMS)]
    items, _ = ranker.rank(walks, 1, exclude_seen=False)
    assert (items[:, 0] == (np.arange(NUM_ITEMS) + 3) % NUM_ITEMS).mean() > 0.7
    with pytest.raises(ConfigError, match="items from 12 beams"):
        ranker.rank(walks, 13, exclude_seen=False)


def test_the_same_seed_gives_the_same_bytes_and_another_does_not(
    dataset: Dataset, table: SIDTable, tmp_path: Path
) -> None:
    weights = []
    for name, seed in (("one", 0), ("again", 0), ("other", 1)):
        folder = tmp_path / name
        train(dataset, {}, table, folder, **SETTINGS | {"steps": 3, "seed": seed})
        weights.append((folder / "generator.safetensors").read_bytes())
    assert weights[0] == weights[1] != weights[2]


def test_epochs_become_steps(dataset: Dataset, table: SIDTable, tmp_path: Path) -> None:
    counts = train(dataset, {}, table, tmp_path, **SETTINGS | {"epochs": 2.0})
    # 60 windows of 4 items are 13 tokens each; titles add 12 x 1.5 short examples; a row holds 64 tokens.
    tokens = 60 * 13 + 12 * 1.5 * 9
    assert counts["steps"] == pytest.approx(2 * tokens / (4 * 64), rel=0.5)


def test_histories_that_do_not_fit_a_row_are_refused_before_training(
    dataset: Dataset, table: SIDTable, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=r"set stream\.row_tokens=66 or more"):
        train(dataset, {}, table, tmp_path, **SETTINGS | {"max_history": 21})
    assert list(tmp_path.iterdir()) == []
