"""What an attempt that continues takes from the one before: lines of its log, and no checkpoint of another model."""

from __future__ import annotations

import csv
import json
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from torch import nn

from trialign.config.runtime import RuntimeConfig
from trialign.errors import ConfigError
from trialign.runtime.checkpoint import STATE, CheckpointIndex, TrainingCheckpoints
from trialign.runtime.tracking import past_figures
from trialign.runtime.trainer import Plan, build_trainer
from trialign.runtime.universal import Resumed, fingerprint, resume_from


def test_the_log_goes_on_behind_the_step_of_the_checkpoint(tmp_path: Path) -> None:
    """Lines count steps from 0, so that three steps taken are lines 0 to 2."""
    (tmp_path / "log").mkdir()
    lines = [{"step": step, "loss": 5.0 - step} for step in range(5)]
    with (tmp_path / "log" / "metrics.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, ["step", "loss"])
        writer.writeheader()
        writer.writerows(lines)
    build_trainer(tmp_path, RuntimeConfig(accelerator="cpu"), Plan(max_steps=9), resumed=Resumed(steps=3))
    with (tmp_path / "log" / "metrics.csv").open(newline="") as file:
        assert [line["step"] for line in csv.DictReader(file)] == ["0", "1", "2"]


def test_figures_of_the_past_are_told_apart_and_the_later_line_counts() -> None:
    log = [{"step": "1", "loss": "4.0", "rate": ""}, {"step": "1", "loss": "3.5"}, {"step": "2", "loss": "3"}]
    machine = [{"step": "1", "loss": "7"}, {"step": "half a li"}]
    assert past_figures(log, machine) == {1: {"loss": 3.5, "machine/loss": 7.0}, 2: {"loss": 3.0}}


def test_micro_batches_are_counted_as_these_ranks_would_have(tmp_path: Path) -> None:
    counts = {name: dict.fromkeys(("ready", "started", "processed", "completed"), 40) for name in ("current", "total")}
    checkpoint = {"global_step": 10, "loops": {"fit_loop": {"epoch_loop.batch_progress": counts}}}
    trainer = cast(Any, SimpleNamespace(accumulate_grad_batches=2))
    saves = TrainingCheckpoints(tmp_path, strategy="ddp", model="", every=5)
    saves.on_load_checkpoint(trainer, cast(Any, None), checkpoint)
    assert counts["current"] == counts["total"] == dict.fromkeys(("ready", "started", "processed", "completed"), 20)


def test_a_model_that_is_trained_otherwise_is_another_model(tmp_path: Path) -> None:
    whole, frozen = nn.Linear(2, 3), nn.Linear(2, 3)
    frozen.bias.requires_grad_(False)
    path = tmp_path / "step-00000004"
    path.mkdir()
    written = CheckpointIndex("single", fingerprint(whole), world_size=1, seconds=0.1, files={})
    path.with_suffix(".json").write_text(json.dumps(asdict(written)))
    settings: dict[str, Any] = {"strategy": "single", "world_size": 1, "patience": 1.0}
    assert resume_from(path, model=fingerprint(nn.Linear(2, 3)), **settings).state == path / STATE
    with pytest.raises(ConfigError, match="is of another model"):
        resume_from(path, model=fingerprint(frozen), **settings)
