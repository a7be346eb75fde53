"""Killed between two uses of the same rollouts, it ends as if it had not been; accumulation changes nothing."""

from __future__ import annotations

import csv
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.tools import run_ranks
from trialign.rl.module import Watch
from trialign.rl.start import Start
from trialign.stream.module import TrainedRows

from .conftest import reinforced


def learn(start: Start, folder: Path, settings: dict[str, Any], kill_at: int | None) -> None:
    """Train; the first rank is killed after the given micro-batch. Runs on every rank."""
    mark = TrainedRows.on_train_batch_end

    def marked(self: TrainedRows, trainer: Any, module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        mark(self, trainer, module, outputs, batch, batch_idx)
        if batch_idx == kill_at and os.environ.get("RANK", "0") == "0":
            os.kill(os.getpid(), signal.SIGKILL)

    TrainedRows.on_train_batch_end = marked  # type: ignore[method-assign]
    Watch.restore = lambda self, module: None  # type: ignore[method-assign]  # the last weights, were they the best or not
    folder.mkdir(exist_ok=True)
    reinforced(start, folder, **settings)


def outcome(folder: Path) -> tuple[bytes, list[dict[str, str]]]:
    with (folder / "log" / "metrics.csv").open() as file:
        return (folder / "generator.safetensors").read_bytes(), list(csv.DictReader(file))


@pytest.mark.parametrize(
    ("encoding", "strategy", "world_size", "every"),
    # Step 3 is the second use of the rollouts of step 2, so a checkpoint after step 3 of 4 holds rollouts half used.
    [("tokens", "single", 1, 3), ("position", "single", 1, 4), ("tokens", "ddp", 2, 3), ("position", "zero2", 2, 3)],
)
def test_killed_it_ends_as_if_it_had_not_been(
    encoding: str,
    strategy: str,
    world_size: int,
    every: int,
    trained: Callable[[str], Start],
    settings: dict[str, Any],
    tmp_path: Path,
) -> None:
    runtime = {"strategy": strategy, "devices": world_size, "checkpoint_every": every, "log_every": 1}
    settings |= {"runtime": settings["runtime"] | runtime, "steps": 6}
    accumulation = settings["prompts_per_step"] // world_size // settings["runtime"]["micro_batch_size"]
    start, inside = trained(encoding), 4 * accumulation + accumulation - 1  # after step 5
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert run_ranks(learn, world_size, start, whole, settings, None) == [0] * world_size
    assert -signal.SIGKILL in run_ranks(learn, world_size, start, killed, settings, inside)
    assert not (killed / "generator.safetensors").exists()
    assert run_ranks(learn, world_size, start, killed, settings, None) == [0] * world_size
    assert outcome(whole)[0] == outcome(killed)[0]
    assert outcome(whole)[1] == outcome(killed)[1]
    assert [line["step"] for line in outcome(whole)[1] if line["loss"]] == [str(step) for step in range(6)]


@pytest.mark.parametrize(("strategy", "encoding"), [("single", "tokens"), ("zero1", "position"), ("zero2", "tokens")])
def test_four_micro_batches_are_one_large_one(
    strategy: str, encoding: str, trained: Callable[[str], Start], settings: dict[str, Any], tmp_path: Path
) -> None:
    settings |= {"steps": 3}  # clipping and the second use are on
    weights = []
    for micro in (8, 2):
        settings["runtime"] = settings["runtime"] | {"strategy": strategy, "micro_batch_size": micro}
        folder = tmp_path / str(micro)
        assert run_ranks(learn, 1, trained(encoding), folder, settings, None) == [0]
        weights.append(load_file(folder / "generator.safetensors"))
    started = load_file(trained(encoding).folder / "generator.safetensors")
    assert max((weights[0][name] - found).abs().max() for name, found in started.items()) > 1e-4
    for name, found in weights[0].items():
        torch.testing.assert_close(weights[1][name], found, atol=2e-5, rtol=1e-3, msg=name)
