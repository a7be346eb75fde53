"""What a training says of its machine and of its gradient."""

from __future__ import annotations

import csv
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from tests.tools import NUM_ITEMS, RING_SETTINGS, ring_dataset, train_ring
from trialign.config.runtime import RuntimeConfig
from trialign.runtime.callbacks import GradientNorm, StepCallback, StepClock, _append, training_flops
from trialign.runtime.lightning import pl
from trialign.runtime.trainer import Plan, build_trainer
from trialign.runtime.transformers import AutoConfig, AutoModelForCausalLM
from trialign.semid.table import SIDTable


class Line(pl.LightningModule):
    """Loss w . x, whose gradient by w is x."""

    def __init__(self) -> None:
        super().__init__()
        self.weights_D = nn.Parameter(torch.zeros(2))

    def training_step(self, batch: torch.Tensor, batch_idx: int) -> torch.Tensor:
        return (batch[0] @ self.weights_D).sum()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def test_a_step_begins_and_ends_once_however_many_micro_batches_it_has(tmp_path: Path) -> None:
    told: list[tuple[str, int]] = []

    class Steps(StepCallback):
        def on_step_start(self, trainer: pl.Trainer, module: pl.LightningModule, step: int) -> None:
            told.append(("start", step))

        def on_step_end(self, trainer: pl.Trainer, module: pl.LightningModule, step: int) -> None:
            told.append(("end", step))

    plan = Plan(max_steps=2, accumulate=3)
    trainer = build_trainer(tmp_path, RuntimeConfig(accelerator="cpu"), plan, callbacks=[Steps()])
    trainer.fit(Line(), torch.utils.data.DataLoader(torch.ones(6, 1, 2), batch_size=1))
    assert told == [("start", 0), ("end", 1), ("start", 1), ("end", 2)]


def test_the_gradient_is_measured_over_the_whole_step_and_before_it_is_clipped(tmp_path: Path) -> None:
    # Two micro-batches a step, each divided by two: (3, 0), (0, 4) give (1.5, 2); then (6, 0), (0, 8).
    points_ND = torch.tensor([[3.0, 0.0], [0.0, 4.0], [6.0, 0.0], [0.0, 8.0]])
    trainer = build_trainer(
        tmp_path,
        RuntimeConfig(accelerator="cpu", log_every=1),
        Plan(max_steps=2, accumulate=2, max_grad_norm=0.1),
        callbacks=[GradientNorm()],
    )
    trainer.fit(Line(), torch.utils.data.DataLoader(points_ND[:, None], batch_size=1))
    with (tmp_path / "log" / "metrics.csv").open() as file:
        assert [float(line["gradient_norm"]) for line in csv.DictReader(file)] == pytest.approx([2.5, 5.0])


def test_the_clock_tells_training_from_waiting_and_leaves_out_the_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("trialign.runtime.callbacks.time.perf_counter", lambda: now[0])
    clock = StepClock()
    for action, seconds in (
        ("[_TrainingEpochLoop].train_dataloader_next", 1.0),
        ("run_training_batch", 4.0),
        ("[Callback]TrainingCheckpoints.on_train_batch_start", 100.0),
        ("[_EvaluationLoop].val_next", 100.0),
    ):
        clock.start(action)
        now[0] += seconds
        clock.stop(action)
    clock.start("run_training_batch")
    now[0] += 2.0
    assert clock.take() == (6.0, 1.0)
    now[0] += 3.0
    clock.stop("run_training_batch")
    assert clock.take() == (3.0, 0.0)


def test_a_token_costs_six_per_weight_that_learns_and_four_per_one_that_does_not() -> None:
    sizes = {"n_positions": 16, "n_embd": 8, "n_layer": 2, "n_head": 2}
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model("gpt2", vocab_size=50, **sizes))
    weights = 2 * (3 * 8 * 8 + 8 * 8 + 2 * 8 * 32)  # query, key, value; output; feed-forward. No tables, no head.
    assert training_flops(model) == 6 * weights
    for parameter in model.transformer.h[0].parameters():
        parameter.requires_grad_(False)
    assert training_flops(model) == 5 * weights


def test_a_training_leaves_a_line_per_log_line_with_figures_that_can_be(tmp_path: Path) -> None:
    (tmp_path / "dataset").mkdir()
    dataset = ring_dataset(tmp_path / "dataset")
    codes_NL = np.stack(np.unravel_index(np.arange(NUM_ITEMS) * 2, (3, 3, 3)), axis=1)
    runtime = RING_SETTINGS["runtime"] | {"log_every": 2}
    table = SIDTable(codes_NL, 3, dataset.keys, "reassign")
    train_ring(dataset, {}, table, tmp_path, **RING_SETTINGS | {"steps": 5, "runtime": runtime})
    with (tmp_path / "log" / "machine.csv").open() as file:
        lines = [{name: float(value) for name, value in line.items()} for line in csv.DictReader(file)]
    # The last step has a line, though it falls between two.
    assert [line["step"] for line in lines] == [1, 3, 4]
    with (tmp_path / "log" / "metrics.csv").open() as file:
        losses = {int(line["step"]): float(line["loss"]) for line in csv.DictReader(file)}
    assert list(losses) == [1, 3, 4]
    assert all(map(math.isfinite, losses.values()))
    for line in lines:
        assert 0 <= line["data_wait"] < 1
        assert line["tokens_per_second"] > 0
        # One layer of Qwen 32 wide: four matrices of attention, three of the feed-forward.
        assert line["flops_per_second"] / line["tokens_per_second"] == pytest.approx(6 * (4 * 32 * 32 + 3 * 32 * 64))
        assert line["memory_bytes"] > 2**26


def test_an_attempt_on_another_kind_of_machine_keeps_every_figure_in_its_column(tmp_path: Path) -> None:
    path = tmp_path / "log" / "machine.csv"
    for values in (
        {"step": 1.0, "memory": 5.0},
        {"step": 3.0, "mfu": 0.5, "memory": 6.0},
        {"step": 5.0, "memory": 7.0},
    ):
        _append(path, values)
    with path.open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert [(line["step"], line["mfu"], line["memory"]) for line in lines] == [
        ("1.0", "", "5.0"),
        ("3.0", "0.5", "6.0"),
        ("5.0", "", "7.0"),
    ]
