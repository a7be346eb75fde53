"""The whole stage on a world where item n is followed by item n + 1: trained, saved, read back, better than chance."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.tools import train_ring
from trialign.data.dataset import Dataset
from trialign.errors import ConfigError
from trialign.generate.save_load import load_ranker
from trialign.semid.table import SIDTable

NUM_ITEMS = 12


def test_trained_saved_and_read_back_it_ranks_the_next_item(
    dataset: Dataset, table: SIDTable, settings: dict[str, Any], tmp_path: Path
) -> None:
    counts = train_ring(dataset, {}, table, tmp_path, **settings | {"steps": 120})
    assert counts["steps"] == 120
    with next(tmp_path.rglob("metrics.csv")).open() as file:
        log = list(csv.DictReader(file))
    assert [int(line["step"]) for line in log] == list(range(9, 120, 10))
    assert float(log[-1]["share/history_to_item"]) > 0.7
    ranker = load_ranker(tmp_path, table, num_beams=NUM_ITEMS, batch_size=32, device="cpu")
    walks = [np.arange(start, start + 3, dtype=np.int32) % NUM_ITEMS for start in range(NUM_ITEMS)]
    items, _ = ranker.rank(walks, 1, exclude=None)
    assert (items[:, 0] == (np.arange(NUM_ITEMS) + 3) % NUM_ITEMS).mean() > 0.7
    with pytest.raises(ConfigError, match="items from 12 beams"):
        ranker.rank(walks, 13, exclude=None)


def test_the_same_seed_gives_the_same_bytes_and_another_does_not(
    dataset: Dataset, table: SIDTable, settings: dict[str, Any], tmp_path: Path
) -> None:
    weights = []
    for name, seed in (("one", 0), ("again", 0), ("other", 1)):
        folder = tmp_path / name
        train_ring(dataset, {}, table, folder, **settings | {"steps": 3, "seed": seed})
        weights.append((folder / "generator.safetensors").read_bytes())
    assert weights[0] == weights[1] != weights[2]


def test_epochs_become_steps(dataset: Dataset, table: SIDTable, settings: dict[str, Any], tmp_path: Path) -> None:
    counts = train_ring(dataset, {}, table, tmp_path, **settings | {"epochs": 2.0})
    # 60 windows of 4 items are 13 tokens each; titles add 12 x 1.5 short examples; a row holds 64 tokens.
    # A quarter of the windows is met a second time, as some two titles and a third.
    tokens = 60 * 13 + 12 * 1.5 * 9 + 15 * 3 * 6
    assert counts["steps"] == pytest.approx(2 * tokens / (4 * 64), rel=0.1)


def test_histories_that_do_not_fit_a_row_are_refused_before_training(
    dataset: Dataset, table: SIDTable, settings: dict[str, Any], tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=r"set stream\.seq_len=66 or more"):
        train_ring(dataset, {}, table, tmp_path, **settings | {"max_history": 21})
    assert list(tmp_path.iterdir()) == []
