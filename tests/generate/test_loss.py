"""The loss by hand, and its denominator: however a step is cut up, its gradient is that of one big batch."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch.nn.parallel import DistributedDataParallel

from tests.tools import catalogue_texts
from trialign.errors import TrainingError
from trialign.generate.loss import autoregressive_loss, scaled_loss, step_totals
from trialign.generate.model import Generator, Predictions
from trialign.generate.task import CatalogueItem, Window
from trialign.generate.template import Template
from trialign.stream.rows import Row, RowBatch, TokenizedExample, fill_row, stack_rows

SEQ_LEN = 24


def make_rows(template: Template) -> list[Row]:
    """Six rows whose target counts differ much: histories, titles, and rows that are nearly empty."""
    draws = np.random.default_rng(0)
    examples: list[list[TokenizedExample]] = []
    for length in (7, 2, 5, 1, 6, 2):
        items = draws.integers(0, 12, size=length)
        examples.append([template.encode(0, Window(items, 0))])
    texts = catalogue_texts(["", "cup", "", "", "blue rug"])
    examples[3] = [
        template.encode(2, CatalogueItem(4, texts)),
        template.encode(1, CatalogueItem(1, texts)),
    ]
    return [fill_row(row, SEQ_LEN, lane=lane, start=0, row=0) for lane, row in enumerate(examples)]


def micro_batches(rows: list[Row], micro_batch_size: int) -> list[RowBatch]:
    targets = sum(int(row.targets.sum()) for row in rows)
    starts = range(0, len(rows), micro_batch_size)
    return [stack_rows(rows[s : s + micro_batch_size], step_targets=targets, first_of_step=s == 0) for s in starts]


def run_step(model: Any, batches: list[RowBatch], world_size: int) -> None:
    """Accumulate the gradients of one step as a trainer does: each micro-batch's loss divided by their number."""
    num_targets, _ = step_totals(batches[0].step_targets, False, torch.device("cpu"))
    for batch in batches:
        sums = autoregressive_loss(model(batch.tokens_RT, batch.positions_RT, batch.targets_RT, batch.tasks_RT), 3)
        loss = scaled_loss(sums.total, num_targets, world_size=world_size, accumulation=len(batches))
        (loss / len(batches)).backward()


def gradients(generator: Generator) -> dict[str, torch.Tensor]:
    return {
        name: parameter.grad.clone() for name, parameter in generator.named_parameters() if parameter.grad is not None
    }


def one_big_batch(generator: Generator, rows: list[Row]) -> dict[str, torch.Tensor]:
    """The definition: mean cross-entropy over all target tokens of the step."""
    (batch,) = micro_batches(rows, len(rows))
    groups = generator(batch.tokens_RT, batch.positions_RT, batch.targets_RT, batch.tasks_RT)
    losses = [torch.nn.functional.cross_entropy(g.logits_MC, g.answers_M, reduction="sum") for g in groups]
    (sum(losses) / batch.targets_RT.sum()).backward()
    return gradients(generator)


def test_a_worked_loss() -> None:
    half, quarter = math.log(0.5), math.log(0.25)
    groups = [
        Predictions(
            torch.tensor([[half, quarter, quarter], [quarter, half, quarter]]),
            torch.tensor([0, 2]),
            torch.tensor([2, 0]),
        ),
        Predictions(torch.tensor([[0.0, 0.0]]), torch.tensor([1]), torch.tensor([2])),
        Predictions(torch.zeros(0, 5), torch.zeros(0, dtype=torch.int64), torch.zeros(0, dtype=torch.int64)),
    ]
    sums = autoregressive_loss(groups, num_tasks=3)
    assert sums.total.item() == pytest.approx(-half - quarter - half)
    assert sums.losses.tolist() == pytest.approx([-quarter, 0, -2 * half])
    assert sums.counts.tolist() == [1, 0, 2]
    assert sums.correct.tolist() == [0, 0, 2]  # a tie for first counts


def test_a_code_competes_with_its_level_and_a_text_token_with_the_text(
    make_generator: Callable[..., Generator], template: Template
) -> None:
    generator = make_generator()
    torch.nn.init.zeros_(generator.items.code_head.weight)
    torch.nn.init.zeros_(generator.backbone.get_output_embeddings().weight)
    (batch,) = micro_batches(make_rows(template), 6)
    groups = generator(batch.tokens_RT, batch.positions_RT, batch.targets_RT, batch.tasks_RT)
    sums = autoregressive_loss(groups, 3)
    means = (sums.losses / sums.counts).tolist()
    # With all logits equal the loss is the log of how many answers there are.
    assert means[:2] == pytest.approx([math.log(5)] * 2, abs=1e-5)
    assert means[2] == pytest.approx(math.log(template.tokenizer.size), abs=1e-5)
    assert sums.counts.sum() == batch.targets_RT.sum()


def test_one_rank_that_was_asked_to_save_and_stop_is_enough() -> None:
    for asked in (True, False):
        num_targets, preempted = step_totals(5, asked, torch.device("cpu"))
        assert (int(num_targets), preempted) == (5, asked)


@pytest.mark.parametrize("micro_batch_size", [1, 2, 3, 4])
def test_accumulation_changes_no_gradient(
    micro_batch_size: int, make_generator: Callable[..., Generator], template: Template
) -> None:
    rows = make_rows(template)
    wanted = one_big_batch(make_generator(), rows)
    generator = make_generator()
    run_step(generator, micro_batches(rows, micro_batch_size), world_size=1)
    torch.testing.assert_close(gradients(generator), wanted, atol=1e-6, rtol=1e-4)


def on_rank(rank: int, folder: Path, generator: Generator, rows: list[Row]) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    model = DistributedDataParallel(generator)
    run_step(model, micro_batches(rows[rank::2], 3), world_size=2)
    if rank == 0:
        torch.save(gradients(generator), folder / "gradients.pt")
    dist.barrier()
    # Destroying a gloo group now and then joins, with the GIL held, a thread that waits for the GIL (seen, torch 2.13).
    os._exit(0)


def test_two_ranks_with_unequal_token_counts_change_no_gradient(
    make_generator: Callable[..., Generator], template: Template, tmp_path: Path
) -> None:
    rows = make_rows(template)
    counts = [sum(int(row.targets.sum()) for row in rows[rank::2]) for rank in range(2)]
    assert counts[0] > 2 * counts[1]
    mp.spawn(on_rank, (tmp_path, make_generator(), rows), nprocs=2)
    wanted = one_big_batch(make_generator(), rows)
    torch.testing.assert_close(torch.load(tmp_path / "gradients.pt"), wanted, atol=1e-6, rtol=1e-4)


def test_a_step_without_targets_is_an_error() -> None:
    with pytest.raises(TrainingError, match="without a single target token"):
        step_totals(0, False, torch.device("cpu"))
