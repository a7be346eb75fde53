"""Under the real trainer: gradients are those of one big batch, the log is by task, and a small world is learned."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from tests.tools import catalogue_texts
from trialign.config.runtime import RuntimeConfig
from trialign.config.train import TrainConfig
from trialign.decode.index import PrefixIndex
from trialign.generate.loss import LossSums
from trialign.generate.metrics import TaskMeter
from trialign.generate.model import Generator
from trialign.generate.module import GeneratorModule
from trialign.generate.ranker import GeneratorRanker
from trialign.generate.task import CatalogueItem, Window
from trialign.generate.template import Template
from trialign.runtime.lightning import Callback
from trialign.runtime.trainer import Plan, build_trainer
from trialign.stream.rows import Row, RowBatch, fill_row, pack, stack_rows

TITLES = [f"title {number} of an item" for number in range(12)]
TEXTS = catalogue_texts(TITLES)


def make_rows(template: Template) -> list[Row]:
    """A world where item n is always followed by item n + 1, and every title is told both ways."""
    histories = [np.arange(start, start + 5) % 12 for start in range(12)]
    examples = [template.encode(0, Window(items, 0)) for items in histories]
    examples += [template.encode(task, CatalogueItem(item, TEXTS)) for task in (1, 2) for item in range(12)]
    rows = pack([len(example.tokens) for example in examples], 32)
    return [fill_row([examples[n] for n in row], 32, lane=0, start=0, row=0) for row in rows]


def make_loader(rows: list[Row], micro_batch_size: int, per_step: int, num_steps: int) -> DataLoader[RowBatch]:
    """The same rows step after step, `per_step` micro-batches each."""
    targets = sum(int(row.targets.sum()) for row in rows)
    assert len(rows) == micro_batch_size * per_step
    step = [
        stack_rows(rows[s : s + micro_batch_size], step_targets=targets, first_of_step=s == 0)
        for s in range(0, len(rows), micro_batch_size)
    ]
    return DataLoader(step * num_steps, batch_size=None)  # type: ignore[arg-type]


def make_module(generator: Generator, tasks: list[str], num_steps: int) -> GeneratorModule:
    settings = TrainConfig(learning_rate=1e-2, weight_decay=0.01, betas=[0.9, 0.98], warmup=0.1)
    return GeneratorModule(generator, settings, tasks=tasks, num_steps=num_steps)


class Gradients(Callback):
    """Keeps each step's gradients as they are before clipping."""

    def __init__(self) -> None:
        self.steps: list[dict[str, torch.Tensor]] = []

    def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
        self.steps.append({name: p.grad.clone() for name, p in pl_module.generator.named_parameters()})


@pytest.mark.parametrize("micro_batch_size", [1, 2, 4])
def test_the_trainer_sees_the_gradients_of_one_big_batch(
    micro_batch_size: int, make_generator: Callable[..., Generator], template: Template, tmp_path: Path
) -> None:
    rows = make_rows(template)[:8]
    found = {}
    for size in (micro_batch_size, 8):
        seen = Gradients()
        trainer = build_trainer(
            tmp_path / str(size),
            RuntimeConfig(accelerator="cpu"),
            Plan(max_steps=2, accumulate=8 // size, max_grad_norm=0.1),
            callbacks=[seen],
        )
        trainer.fit(make_module(make_generator(), template.tasks, 2), make_loader(rows, size, 8 // size, 2))
        found[size] = seen.steps
    assert len(found[micro_batch_size]) == len(found[8]) == 2
    torch.testing.assert_close(found[micro_batch_size][0], found[8][0], atol=1e-6, rtol=1e-4)
    assert max(gradient.norm() for gradient in found[8][0].values()) > 0.1  # clipping had something to do


def test_a_small_world_is_learned_and_logged_by_task(
    make_generator: Callable[..., Generator], template: Template, index: PrefixIndex, tmp_path: Path
) -> None:
    rows = make_rows(template)
    rows = rows[: len(rows) // 2 * 2]
    generator = make_generator()
    trainer = build_trainer(
        tmp_path, RuntimeConfig(accelerator="cpu", log_every=25), Plan(max_steps=150, accumulate=2, max_grad_norm=1.0)
    )
    torch.manual_seed(0)
    trainer.fit(make_module(generator, template.tasks, 150), make_loader(rows, len(rows) // 2, 2, 150))
    with next(tmp_path.rglob("metrics.csv")).open() as file:
        log = list(csv.DictReader(file))
    assert [int(line["step"]) for line in log] == [24, 49, 74, 99, 124, 149]
    counts = np.zeros(3)
    for row in rows:
        np.add.at(counts, row.tasks[row.targets], 1)
    for number, task in enumerate(template.tasks):
        first, last = log[0], log[-1]
        assert float(last[f"loss/{task}"]) < 0.5 * float(first[f"loss/{task}"])
        assert float(last[f"accuracy/{task}"]) > float(first[f"accuracy/{task}"])
        assert float(last[f"share/{task}"]) == pytest.approx(counts[number] / counts.sum(), abs=1e-5)
    assert float(log[-1]["learning_rate"]) < 1e-4 < float(log[0]["learning_rate"])
    ranker = GeneratorRanker(generator, template, index, num_beams=12, max_history=8, batch_size=4)
    items, _ = ranker.rank([np.array([n, n + 1], dtype=np.int32) for n in range(10)], 1, exclude=None)
    assert (items[:, 0] == (np.arange(10) + 2) % 12).mean() >= 0.9


def test_the_meter_weighs_by_tokens_not_by_batches() -> None:
    meter = TaskMeter(["a", "b", "c"])
    zeros = torch.tensor(0.0)
    meter.add(
        LossSums(zeros, torch.tensor([2.0, 3.0, 0.0]), torch.tensor([1.0, 1.0, 0.0]), torch.tensor([0.0, 1.0, 0.0]))
    )
    meter.add(
        LossSums(zeros, torch.tensor([1.0, 0.0, 0.0]), torch.tensor([2.0, 0.0, 0.0]), torch.tensor([1.0, 0.0, 0.0]))
    )
    found = meter.flush()
    wanted = {"loss": 1.5, "share/a": 0.75, "share/b": 0.25, "share/c": 0.0}
    assert found == pytest.approx(wanted | {"loss/a": 1.0, "accuracy/a": 1 / 3, "loss/b": 3.0, "accuracy/b": 1.0})


def test_the_meter_starts_again_after_each_report() -> None:
    meter = TaskMeter(["a"])
    for loss in (2.0, 4.0):
        meter.add(LossSums(torch.tensor(loss), *torch.tensor([[loss], [1.0], [0.0]])))
        assert meter.flush() == {"loss": loss, "share/a": 1.0, "loss/a": loss, "accuracy/a": 0.0}


def test_the_meter_counts_every_token_of_many() -> None:
    """Red: single precision, in which 2^24 and one more are 2^24."""
    meter = TaskMeter(["a"])
    for number in (2.0**24, 1.0):
        meter.add(LossSums(torch.tensor(number), *torch.tensor([[number], [number], [0.0]])))
    total = meter.total()
    assert total is not None
    assert total[:, 0].tolist() == [2**24 + 1, 2**24 + 1, 0]
