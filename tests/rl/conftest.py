"""A small trained generator of either item encoding that has kept something back, and what its training needs."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.tools import NUM_ITEMS, RING_SETTINGS, ring_dataset, settings_of, train_ring
from trialign.config.rl import RLConfig
from trialign.config.runtime import RuntimeConfig
from trialign.config.train import StreamConfig
from trialign.data.dataset import Dataset
from trialign.rl.start import Start
from trialign.rl.train import reinforce
from trialign.semid.table import SIDTable

SHARE = 0.4

SETTINGS: dict[str, Any] = {
    "seed": 0,
    "objective": "grpo",
    "rewards": {"hit": 1.0, "prefix": 0.5},
    "sampler": "distinct",
    "group_size": 4,
    "prompts_per_step": 8,
    "num_iterations": 2,
    "steps": 6,
    "clip_ratio": 0.2,
    "kl_coef": 1e-3,
    "scale_rewards": True,
    "reference": None,
    "lora": None,
    "learning_rate": 3e-3,
    "weight_decay": 0.0,
    "betas": [0.9, 0.98],
    "warmup": 0.1,
    "max_grad_norm": 1.0,
    "validation": {"every": 3, "users": 0, "num_beams": 50, "patience": 0, "batch_size": 32},
    "stopping_guards": {"recall_drop": 0.9, "entropy_share": 0.0, "kl": 100.0, "zero_variance": 1.0},
    "stream": RING_SETTINGS["stream"],
    "runtime": RING_SETTINGS["runtime"] | {"log_every": 2},
}


def reinforced(
    start: Start, folder: Path, *, seed: int, stream: dict[str, Any], runtime: dict[str, Any], **settings: Any
) -> dict[str, Any]:
    """Train by settings as plain mappings, e.g. `**SETTINGS | {"steps": 3}`."""
    return reinforce(
        start,
        folder,
        settings_of(RLConfig, settings),
        settings_of(StreamConfig, stream),
        settings_of(RuntimeConfig, runtime),
        seed=seed,
    )


@pytest.fixture(scope="session")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return ring_dataset(tmp_path_factory.mktemp("dataset"))


@pytest.fixture(scope="session")
def table(dataset: Dataset) -> SIDTable:
    codes_NL = np.stack(np.unravel_index(np.arange(NUM_ITEMS) * 2, (3, 3, 3)), axis=1)
    return SIDTable(codes_NL, 3, dataset.keys, "reassign")


@pytest.fixture(scope="session")
def trained(dataset: Dataset, table: SIDTable, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Start]:
    """Return a function from an item encoding to a generator that knows a little of the ring.

    With the repeat term it would know too much: of a ring that nobody has gone round, few items are left.
    """
    known: dict[str, Start] = {}

    def find(encoding: str, *, repeats: bool = False, steps: int = 8) -> Start:
        name = f"{encoding}-{repeats}-{steps}"
        if name not in known:
            folder = tmp_path_factory.mktemp(name)
            items = RING_SETTINGS["items"] | {"encoding": encoding, "joint_nodes": 6, "repeats": repeats}
            tasks = {"history_to_item": 1.0, "title_to_item": 1.0, "item_to_title": 1.0}
            own = {"items": items, "tasks": tasks, "rl_holdout": SHARE, "steps": steps}
            train_ring(dataset, {}, table, folder, **RING_SETTINGS | own)
            known[name] = Start(dataset, table, folder, SHARE)
        return known[name]

    return find


@pytest.fixture
def settings() -> dict[str, Any]:
    return deepcopy(SETTINGS)
