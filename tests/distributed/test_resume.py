"""A killed training goes on from its checkpoint and ends, bit for bit, as if nobody had killed it."""

from __future__ import annotations

import csv
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from trialign.data.dataset import Dataset
from trialign.data.module import TrainedRows
from trialign.errors import ConfigError
from trialign.generate.train import train
from trialign.runtime.preemption import PreemptedError
from trialign.semid.table import SIDTable
from trialign.testing import NUM_ITEMS, RING_SETTINGS, ring_dataset, run_ranks

STEPS, EVERY = 9, 3


def settings(**runtime: Any) -> dict[str, Any]:
    # Eight lanes, so that two micro-batches and more make a step; dropout, clipping and three tasks are on.
    stream = RING_SETTINGS["stream"] | {"lanes": 8, "ledger": True}
    return RING_SETTINGS | {
        "steps": STEPS,
        "validation": {"every": 2, "users": 0, "num_beams": 10, "patience": 0, "batch_size": 32},
        "stream": stream,
        "runtime": RING_SETTINGS["runtime"] | {"checkpoint_every": EVERY, "log_every": 2} | runtime,
    }


def train_ring(
    dataset: Path, folder: Path, runtime: dict[str, Any], kill_at: int | None, number: int = signal.SIGKILL
) -> None:
    """Train; the first rank is sent a signal after the given micro-batch. Runs on every rank."""
    if kill_at is not None:
        mark = TrainedRows.on_train_batch_end

        def marked(self: TrainedRows, trainer: Any, module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
            mark(self, trainer, module, outputs, batch, batch_idx)
            if batch_idx == kill_at and os.environ.get("RANK", "0") == "0":
                os.kill(os.getpid(), number)

        TrainedRows.on_train_batch_end = marked  # type: ignore[method-assign]
    folder.mkdir(exist_ok=True)
    found = Dataset(dataset)
    codes_NL = np.stack(np.unravel_index(np.arange(NUM_ITEMS) * 2, (3, 3, 3)), axis=1)
    try:
        train(found, {}, SIDTable(codes_NL, 3, found.keys, "reassign"), folder, **settings(**runtime))
    except PreemptedError as asked:
        sys.exit(asked.exit_code)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dataset")
    ring_dataset(folder)
    return folder


def outcome(folder: Path) -> tuple[bytes, list[dict[str, str]], list[str]]:
    """Return the weights, the log and what was trained on."""
    with (folder / "log" / "metrics.csv").open() as file:
        log = list(csv.DictReader(file))
    ledger = [line for path in (folder / "ledger").iterdir() for line in path.read_text().splitlines()]
    return (folder / "generator.safetensors").read_bytes(), log, sorted(ledger)


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
    assert [int(line["step"]) for line in whole[1] if line["loss"]] == [1, 3, 5, 7]
    assert not (tmp_path / "killed" / "checkpoints").exists()


def rows_by_step(folder: Path) -> dict[int, list[str]]:
    """Return what every step was trained on, whichever rank held it."""
    steps: dict[int, list[str]] = {}
    for line in outcome(folder)[2]:
        steps.setdefault(json.loads(line)["step"], []).append(line)
    return steps


def test_two_ranks_then_one_then_two_see_the_rows_of_two(dataset: Path, tmp_path: Path) -> None:
    two, one = {"strategy": "ddp", "devices": 2}, {"strategy": "single", "devices": 1}
    run_ranks(train_ring, 2, dataset, tmp_path / "whole", two, None)
    folder = tmp_path / "changing"
    run_ranks(train_ring, 2, dataset, folder, two, 4 * 2 + 0)  # killed in step 5, saved at 3
    run_ranks(train_ring, 1, dataset, folder, one, 7 * 4 + 1)  # goes on from 3, killed in step 8, saved at 6
    assert run_ranks(train_ring, 2, dataset, folder, two, None) == [0, 0]
    assert rows_by_step(folder) == rows_by_step(tmp_path / "whole")
    assert [int(line["step"]) for line in outcome(folder)[1] if line["loss"]] == [1, 3, 5, 7]


def test_a_zero_checkpoint_refuses_other_ranks(dataset: Path, tmp_path: Path) -> None:
    run_ranks(train_ring, 2, dataset, tmp_path, {"strategy": "zero2", "devices": 2}, 4 * 2)
    with pytest.raises(ConfigError, match="is of zero2 on 2 ranks, this is single on 1"):
        train_ring(dataset, tmp_path, {"strategy": "single", "devices": 1}, None)


def test_a_damaged_checkpoint_is_skipped_and_the_one_before_leads_to_the_same_end(
    dataset: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    runtime = {"strategy": "single", "devices": 1}
    run_ranks(train_ring, 1, dataset, tmp_path / "whole", runtime, None)
    run_ranks(train_ring, 1, dataset, tmp_path / "killed", runtime, 7 * 4)
    newest = tmp_path / "killed" / "checkpoints" / "step-00000006" / "state"
    content = bytearray(newest.read_bytes())
    content[len(content) // 2] ^= 1
    newest.write_bytes(content)
    train_ring(dataset, tmp_path / "killed", runtime, None)
    assert "step-00000006 is skipped: state holds other bytes than were written" in caplog.text
    assert outcome(tmp_path / "killed") == outcome(tmp_path / "whole")


def test_killed_while_saving_it_goes_on_from_the_checkpoint_before(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runtime = {"strategy": "single", "devices": 1}
    run_ranks(train_ring, 1, dataset, tmp_path / "whole", runtime, None)
    rename = Path.rename

    def killed(self: Path, target: Path) -> Path:
        if target.name == "step-00000006":
            os.kill(os.getpid(), signal.SIGKILL)
        return rename(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", killed)
        assert run_ranks(train_ring, 1, dataset, tmp_path / "killed", runtime, None) == [-signal.SIGKILL]
    assert (tmp_path / "killed" / "checkpoints" / "partial").is_dir()
    train_ring(dataset, tmp_path / "killed", runtime, None)
    assert outcome(tmp_path / "killed") == outcome(tmp_path / "whole")


@pytest.mark.parametrize(("strategy", "world_size"), [("single", 1), ("ddp", 2), ("zero2", 2)])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_asked_to_make_room_all_ranks_save_and_ask_to_be_queued_again(
    dataset: Path, tmp_path: Path, strategy: str, world_size: int, number: signal.Signals
) -> None:
    runtime = {"strategy": strategy, "devices": world_size, "checkpoint_every": 0}
    run_ranks(train_ring, world_size, dataset, tmp_path / "whole", runtime, None)
    inside = 4 // world_size * 4  # in the fifth step, whose count is taken already: the sixth carries the word
    found = run_ranks(train_ring, world_size, dataset, tmp_path / "moved", runtime, inside, number)
    assert found[0] == 75
    assert [path.name for path in (tmp_path / "moved" / "checkpoints").glob("*.json")] == ["step-00000006.json"]
    assert run_ranks(train_ring, world_size, dataset, tmp_path / "moved", runtime, None) == [0] * world_size
    assert outcome(tmp_path / "moved") == outcome(tmp_path / "whole")
