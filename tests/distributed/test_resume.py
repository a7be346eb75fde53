"""A killed training goes on from its checkpoint and ends, bit for bit, as if nobody had killed it."""

from __future__ import annotations

import csv
import json
import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.json
import pytest

from trialign.data.dataset import Dataset
from trialign.data.module import TrainedRows
from trialign.generate.train import train
from trialign.semid.table import SIDTable
from trialign.testing import NUM_ITEMS, RING_SETTINGS, ring_dataset, run_ranks

STEPS, EVERY = 9, 3


def settings(**runtime: Any) -> dict[str, Any]:
    # Eight lanes, so that two micro-batches and more make a step; dropout, clipping and three tasks are on.
    stream = RING_SETTINGS["stream"] | {"lanes": 8, "ledger": True}
    return RING_SETTINGS | {
        "steps": STEPS,
        "stream": stream,
        "runtime": RING_SETTINGS["runtime"] | {"checkpoint_every": EVERY, "log_every": 1} | runtime,
    }


def train_ring(dataset: Path, folder: Path, runtime: dict[str, Any], kill_at: int | None) -> None:
    """Train, or be killed in the given micro-batch; runs on every rank."""
    if kill_at is not None:
        mark = TrainedRows.on_train_batch_end

        def marked(self: TrainedRows, trainer: Any, module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
            mark(self, trainer, module, outputs, batch, batch_idx)
            if batch_idx == kill_at and os.environ.get("RANK", "0") == os.environ.get("KILLED_RANK", "0"):
                os.kill(os.getpid(), signal.SIGKILL)

        TrainedRows.on_train_batch_end = marked  # type: ignore[method-assign]
    folder.mkdir(exist_ok=True)
    found = Dataset(dataset)
    codes_NL = np.stack(np.unravel_index(np.arange(NUM_ITEMS) * 2, (3, 3, 3)), axis=1)
    train(found, {}, SIDTable(codes_NL, 3, found.keys, "reassign"), folder, **settings(**runtime))


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return ring_dataset(tmp_path_factory.mktemp("dataset"))


def outcome(folder: Path) -> tuple[bytes, list[dict[str, str]], list[str]]:
    """Return the weights, the log and what was trained on."""
    with (folder / "log" / "metrics.csv").open() as file:
        log = list(csv.DictReader(file))
    ledger = [line for path in sorted((folder / "ledger").iterdir()) for line in pyarrow.json.read_json(path).to_pylist()]
    return (folder / "generator.safetensors").read_bytes(), log, sorted(json.dumps(line) for line in ledger)


@pytest.mark.parametrize(
    ("strategy", "world_size", "kill_at"),
    [
        ("single", 1, 4 * 4 + 2),  # in the fifth step, inside its window of four micro-batches
        ("ddp", 2, 4 * 2 + 0),
        ("zero1", 2, 4 * 2 + 0),
        ("zero2", 2, 7 * 2 + 0),
    ],
)
def test_killed_inside_a_window_it_ends_as_if_it_had_not_been(
    dataset: Path, tmp_path: Path, strategy: str, world_size: int, kill_at: int
) -> None:
    runtime = {"strategy": strategy, "devices": world_size}
    assert run_ranks(train_ring, world_size, dataset, tmp_path / "whole", runtime, None) == [0] * world_size
    assert -signal.SIGKILL in run_ranks(train_ring, world_size, dataset, tmp_path / "killed", runtime, kill_at)
    assert not (tmp_path / "killed" / "generator.safetensors").exists()
    assert run_ranks(train_ring, world_size, dataset, tmp_path / "killed", runtime, None) == [0] * world_size
    whole, killed = outcome(tmp_path / "whole"), outcome(tmp_path / "killed")
    assert whole[0] == killed[0]
    assert whole[1] == killed[1]
    assert whole[2] == killed[2]
    assert [int(line["step"]) for line in whole[1]] == list(range(STEPS))
    assert not (tmp_path / "killed" / "checkpoints").exists()
