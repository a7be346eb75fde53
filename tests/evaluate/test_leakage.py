"""Baselines see train events only: through the prepared dataset, not through a split made for the test."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from trialign.config.data import InterJsonConfig
from trialign.config.evaluate import BaselinesConfig, SASRecConfig
from trialign.data.dataset import Dataset
from trialign.data.prepare import prepare
from trialign.data.sources import InterJson
from trialign.evaluate.baselines import BASELINES, fit_baseline

NUM_ITEMS = 30


def fitted(logs: dict[str, list[int]], folder: Path) -> dict[str, bytes]:
    folder.mkdir()
    (folder / "inter.json").write_text(json.dumps(logs))
    (folder / "item.json").write_text(json.dumps({str(item): {"title": f"item {item}"} for item in range(NUM_ITEMS)}))
    dataset = folder / "prepare"
    dataset.mkdir()
    settings = InterJsonConfig(
        root=str(folder),
        interactions="inter.json",
        items="item.json",
        max_history=6,
        block_records=16,
        shard_blocks=2,
        buckets=1,
    )
    prepare(InterJson(settings), dataset, settings)
    histories = Dataset(dataset).train_histories()
    for name in BASELINES:
        settings = BaselinesConfig(sasrec=SASRecConfig(epochs=1, dim=8))
        fit_baseline(
            name, histories, [f"color {item % 5} size {item // 5}x" for item in range(NUM_ITEMS)], settings
        ).save(folder / name)
    return {name: next((folder / name).glob("*.safetensors")).read_bytes() for name in BASELINES}


@pytest.fixture
def logs() -> dict[str, list[int]]:
    generator = np.random.default_rng(0)
    return {str(user): generator.integers(0, NUM_ITEMS, 3 + user % 15).tolist() for user in range(60)}


@pytest.mark.parametrize("place", [-1, -2])
def test_shuffled_held_out_items_change_no_fitted_baseline(
    logs: dict[str, list[int]], place: int, tmp_path: Path
) -> None:
    shuffled = {user: list(items) for user, items in logs.items()}
    held_out = [items[place] for items in logs.values()]
    for items, other in zip(shuffled.values(), np.random.default_rng(1).permutation(held_out).tolist(), strict=True):
        items[place] = other
    assert shuffled != logs
    assert fitted(shuffled, tmp_path / "shuffled") == fitted(logs, tmp_path / "logs")


def test_one_changed_train_event_changes_every_fitted_baseline(logs: dict[str, list[int]], tmp_path: Path) -> None:
    changed = {user: list(items) for user, items in logs.items()}
    changed["14"][5] = (changed["14"][5] + 1) % NUM_ITEMS
    before, after = fitted(logs, tmp_path / "logs"), fitted(changed, tmp_path / "changed")
    assert all(before[name] != after[name] for name in BASELINES)


def test_baselines_count_every_train_event_of_windowed_histories_once(
    logs: dict[str, list[int]], tmp_path: Path
) -> None:
    fitted(logs, tmp_path / "logs")
    popularity = BASELINES["popularity"].load(tmp_path / "logs" / "popularity").popularity_N
    train = [item for items in logs.values() for item in items[:-2]]
    assert popularity.tolist() == np.bincount(train, minlength=NUM_ITEMS).tolist()
